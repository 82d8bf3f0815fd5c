//! `wasi:random`: random numbers for those who are granted them, and a fixed hash seed for all.

use chacha20::ChaCha12Rng;
use chacha20::rand_core::{Rng as _, SeedableRng as _};
use wasmtime_wasi::p2::bindings::random;

use super::super::{
    conditions::Conditions,
    host::{HostFault, HostState},
    recording::SEED_BYTES,
};

/// Most bytes of randomness that one call gives.
const MAX_RANDOM_BYTES: u64 = 1024 * 1024;
/// The fixed `insecure-seed`: the digits of pi, since any number will do.
const INSECURE_SEED: (u64, u64) = (0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344);

/// A seed.
type Seed = [u8; SEED_BYTES];

/// An instance's source of randomness. Each call has a seed, from which all its numbers follow, so that
/// the seed is all that need be kept to draw the same ones again. A new seed is drawn from the system's
/// randomness when a call first asks.
pub(in crate::plugin) struct Randomness {
    seeds: Seeds,
    /// The seed of the current call, once it is known.
    seed: Option<Seed>,
    generator: Option<ChaCha12Rng>,
}

/// Where the seeds of calls come from.
enum Seeds {
    Drawn(Option<Box<dyn wasmtime_wasi::Rng + Send>>),
    /// That of one call, for each.
    Given(Seed),
}

impl Randomness {
    pub(in crate::plugin) fn new(conditions: &Conditions) -> Self {
        let seeds = match conditions {
            Conditions::Live => Seeds::Drawn(None),
            Conditions::Recorded(moment, _) | Conditions::Replayed(moment, _) => {
                Seeds::Given(moment.seed)
            }
        };
        Self {
            seeds,
            seed: None,
            generator: None,
        }
    }

    /// Starts a call; the first one opens the instance.
    pub(in crate::plugin) fn start_call(&mut self, is_opening: bool) {
        self.generator = None;
        self.seed = match &self.seeds {
            Seeds::Drawn(_) => None,
            // Another one, that also follows from it.
            Seeds::Given(seed) if is_opening => Some(seed.map(|byte| !byte)),
            Seeds::Given(seed) => Some(*seed),
        };
    }

    /// The seed of the current call; zeros if it has drawn nothing.
    pub(in crate::plugin) fn seed(&self) -> Seed {
        self.seed.unwrap_or_default()
    }

    fn generator(&mut self) -> &mut ChaCha12Rng {
        let Self {
            seeds,
            seed,
            generator,
        } = self;
        generator.get_or_insert_with(|| {
            let seed = seed.get_or_insert_with(|| match seeds {
                Seeds::Drawn(source) => {
                    let mut drawn = Seed::default();
                    let source = source.get_or_insert_with(wasmtime_wasi::thread_rng);
                    source.fill_bytes(&mut drawn);
                    drawn
                }
                Seeds::Given(seed) => *seed,
            });
            ChaCha12Rng::from_seed(*seed)
        })
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
