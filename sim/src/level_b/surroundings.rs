//! Clock and entropy of a simulated node.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, Error, RngCore, SeedableRng as _};
use symbolon_node::core::types::Surroundings;
use tokio::time::Instant;

use super::types::lock;

/// Where virtual time begins, milliseconds since 1970.
pub const EPOCH_MS: u64 = 1_800_000_000_000;

/// A seeded source of random bytes; clones draw from the same one.
#[derive(Clone)]
pub struct SharedRng(Arc<Mutex<ChaCha20Rng>>);

impl SharedRng {
    /// From a seed.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self(Arc::new(Mutex::new(ChaCha20Rng::from_seed(seed))))
    }
    /// A number between two others, both included.
    #[must_use]
    pub fn between(&self, low: u64, high: u64) -> u64 {
        let drawn = lock(&self.0).next_u64();
        match high.saturating_sub(low).checked_add(1) {
            Some(width) => low + drawn % width,
            None => drawn,
        }
    }
    /// Random bytes.
    #[must_use]
    pub fn bytes<const N: usize>(&self) -> [u8; N] {
        let mut bytes = [0; N];
        lock(&self.0).fill_bytes(&mut bytes);
        bytes
    }
}

impl RngCore for SharedRng {
    fn next_u32(&mut self) -> u32 {
        lock(&self.0).next_u32()
    }
    fn next_u64(&mut self) -> u64 {
        lock(&self.0).next_u64()
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        lock(&self.0).fill_bytes(dest);
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), Error> {
        lock(&self.0).try_fill_bytes(dest)
    }
}

impl CryptoRng for SharedRng {}

/// Virtual time as milliseconds since 1970.
#[must_use]
pub fn clock_ms(origin: Instant) -> u64 {
    EPOCH_MS.saturating_add(u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// How a machine measures time that passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Clock {
    /// Milliseconds that it counts while a thousand pass.
    pub per_mille: u64,
    /// Where it begins, milliseconds.
    pub begins_ms: u64,
}

impl Clock {
    /// One that is right.
    pub const TRUE: Self = Self { per_mille: 1_000, begins_ms: 0 };

    fn read(self, origin: Instant) -> u64 {
        let passed = u64::try_from(origin.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.begins_ms.saturating_add(passed.saturating_mul(self.per_mille) / 1_000)
    }
}

/// How far the time of day of a machine is off, milliseconds; clones are handles to the same one.
#[derive(Clone, Debug, Default)]
pub struct Day(Arc<AtomicI64>);

impl Day {
    /// Somebody sets it, as far off as this.
    pub fn set(&self, off_ms: i64) {
        self.0.store(off_ms, Ordering::Relaxed);
    }

    fn read(&self, origin: Instant) -> u64 {
        clock_ms(origin).saturating_add_signed(self.0.load(Ordering::Relaxed))
    }
}

/// Virtual clocks and seeded entropy of one boot of a node.
#[derive(Clone)]
pub struct SimSurroundings {
    origin: Instant,
    clock: Clock,
    day: Day,
    rng: SharedRng,
}

impl SimSurroundings {
    /// With the beginning of virtual time, the clocks of the machine, and a source of random bytes.
    #[must_use]
    pub fn new(origin: Instant, clock: Clock, day: Day, rng: SharedRng) -> Self {
        Self { origin, clock, day, rng }
    }
}

impl Surroundings for SimSurroundings {
    type Rng = SharedRng;

    fn now_ms(&self) -> u64 {
        self.day.read(self.origin)
    }

    fn boot_ms(&self) -> u64 {
        self.clock.read(self.origin)
    }

    fn rng(&self) -> SharedRng {
        self.rng.clone()
    }
}
