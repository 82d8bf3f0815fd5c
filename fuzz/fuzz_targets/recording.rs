//! Bytes as the header of a dead letter that says what a plugin saw: whatever they are, the decoder says so
//! and nothing panics; what it reads can be asked and written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use millstream_fuzz::plugin::recording::check_arbitrary;

fuzz_target!(|data: &[u8]| check_arbitrary(data));
