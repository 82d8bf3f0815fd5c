//! `wasi:random`: random numbers for those who are granted them, and a fixed hash seed for all.

use wasmtime_wasi::p2::bindings::random;

use super::super::host::{HostFault, HostState};

/// Most bytes of randomness that one call gives.
const MAX_RANDOM_BYTES: u64 = 1024 * 1024;
/// The fixed `insecure-seed`: the digits of pi, since any number will do.
const INSECURE_SEED: (u64, u64) = (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);

/// An instance's source of randomness, made when it is first used.
#[derive(Default)]
pub(in crate::plugin) struct Randomness {
    generator: Option<Box<dyn wasmtime_wasi::Rng + Send>>,
}

impl Randomness {
    fn generator(&mut self) -> &mut (dyn wasmtime_wasi::Rng + Send) {
        self.generator
            .get_or_insert_with(wasmtime_wasi::thread_rng)
            .as_mut()
    }

    fn bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        if len > MAX_RANDOM_BYTES {
            return Err(HostFault::argument(format!(
                "it asked for {len} random bytes, at most {MAX_RANDOM_BYTES} are given at once"
            )));
        }
        let mut bytes = vec![0; len as usize];
        self.generator().fill_bytes(&mut bytes);
        Ok(bytes)
    }
}

impl HostState {
    fn require_random(&self) -> wasmtime::Result<()> {
        self.require(self.grants.random, "wasi:random")
    }
}

impl random::random::Host for HostState {
    fn get_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.require_random()?;
        self.randomness.bytes(len)
    }

    fn get_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.require_random()?;
        Ok(self.randomness.generator().next_u64())
    }
}

impl random::insecure::Host for HostState {
    fn get_insecure_random_bytes(&mut self, len: u64) -> wasmtime::Result<Vec<u8>> {
        self.require_random()?;
        self.randomness.bytes(len)
    }

    fn get_insecure_random_u64(&mut self) -> wasmtime::Result<u64> {
        self.require_random()?;
        Ok(self.randomness.generator().next_u64())
    }
}

impl random::insecure_seed::Host for HostState {
    fn insecure_seed(&mut self) -> wasmtime::Result<(u64, u64)> {
        Ok(INSECURE_SEED)
    }
}
