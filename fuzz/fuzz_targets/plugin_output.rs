//! Bytes as the columns that a plugin returns: whatever they are, the host's check says so and
//! nothing panics; what passes it can be read.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::plugin::output::check_arbitrary;

fuzz_target!(|data: &[u8]| check_arbitrary(data));
