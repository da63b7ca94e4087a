//! Random choices: one seed, one stream for each purpose, so that a choice more in one place moves nothing elsewhere.

use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Error, RngCore, SeedableRng as _};
use sha2::{Digest as _, Sha256};

/// The random stream of a seed for a purpose.
pub(crate) fn stream(seed: u64, purpose: &str) -> ChaCha20Rng {
    let hash = Sha256::new().chain_update(b"symbolon/sim/v1").chain_update(seed.to_be_bytes());
    ChaCha20Rng::from_seed(hash.chain_update(purpose.as_bytes()).finalize().into())
}

/// Draws choices from a stream.
pub(crate) struct Draw(ChaCha20Rng);

impl Draw {
    pub(crate) fn new(seed: u64, purpose: &str) -> Self {
        Self(stream(seed, purpose))
    }
    /// From 0 up to below the bound; 0 when the bound is 0.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0.next_u64() % bound.max(1)
    }
    /// From `low` to `high`, both included.
    pub(crate) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.below(high.saturating_sub(low) + 1)
    }
    /// True in so many of a thousand cases.
    pub(crate) fn chance(&mut self, per_mille: u32) -> bool {
        self.below(1000) < u64::from(per_mille)
    }
    /// A place in something that has `length` places.
    pub(crate) fn place(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or(0)
    }
    /// One of a list.
    pub(crate) fn pick<T: Clone>(&mut self, list: &[T]) -> Option<T> {
        let at = self.place(list.len());
        list.get(at).cloned()
    }
    /// Puts a list into a random order.
    pub(crate) fn shuffle<T>(&mut self, list: &mut [T]) {
        for end in (1..list.len()).rev() {
            let other = self.place(end + 1);
            list.swap(end, other);
        }
    }
    pub(crate) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut bytes = [0; N];
        self.0.fill_bytes(&mut bytes);
        bytes
    }
    /// The stream itself, for what wants a generator.
    pub(crate) fn rng(&mut self) -> &mut ChaCha20Rng {
        &mut self.0
    }
}

/// Only for a planted bug: a generator that says the same word for ever.
pub(crate) struct Stuck;

impl RngCore for Stuck {
    fn next_u32(&mut self) -> u32 {
        0x0101_0101
    }
    fn next_u64(&mut self) -> u64 {
        0x0101_0101_0101_0101
    }
    fn fill_bytes(&mut self, bytes: &mut [u8]) {
        bytes.fill(1);
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Error> {
        self.fill_bytes(bytes);
        Ok(())
    }
}

impl CryptoRng for Stuck {}
