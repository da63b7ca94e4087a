//! A run in which every share operation happens once, and power is lost at one chosen persist point.

use symbolon_protocol::id::Epoch;
use symbolon_protocol::lifecycle::KeyState;

use super::{Violation, World};
use crate::client::Goal;
use crate::invariants::{CONVERGED, liveness};

/// Between two looks whether a step is done, virtual milliseconds.
const LOOK_MS: u64 = 50;
/// How long one step may take, virtual milliseconds.
const STEP_MS: u64 = 90_000;
/// Steps of the script.
const STEPS: u32 = 11;

impl World {
    /// Plays all steps, each once the one before is done.
    pub(super) fn play_script(&mut self) -> Result<(), Violation> {
        for step in 0..STEPS {
            self.play(step)?;
        }
        Ok(())
    }

    /// Asks for a step until it has happened: a crash may cost an attempt, never the step.
    fn play(&mut self, step: u32) -> Result<(), Violation> {
        let end_ms = self.now_ms + STEP_MS;
        let before = self.epoch()?;
        loop {
            let Some(wish) = self.clients.scripted(step) else {
                return Err(liveness(CONVERGED, format!("step {step} of the script has no key")));
            };
            let moves = wish.goal == Goal::Move;
            self.ask(wish);
            while self.clients.first_open().is_some() || self.oracle.reference.running()? > 0 || !self.certified()? {
                if self.now_ms > end_ms {
                    return Err(liveness(CONVERGED, format!("step {step} of the script does not come to an end")));
                }
                self.until(self.now_ms + LOOK_MS)?;
            }
            if !moves || self.epoch()? > before {
                return Ok(());
            }
            self.until(self.now_ms + LOOK_MS)?;
        }
    }

    /// The epoch that signs.
    fn epoch(&self) -> Result<Option<Epoch>, Violation> {
        let keys = self.oracle.reference.keys()?;
        Ok(keys.first().and_then(|(_, version)| version.as_ref()?.core()).map(|core| core.epoch))
    }

    /// Whether the epoch that signs was activated by all of its holders.
    fn certified(&self) -> Result<bool, Violation> {
        let keys = self.oracle.reference.keys()?;
        let versions = keys.iter().filter_map(|(_, version)| version.as_ref());
        let mut alive = versions.filter(|version| matches!(version.state, KeyState::Active | KeyState::Suspended));
        Ok(alive.all(symbolon_protocol::state::records::VersionRecord::is_final))
    }
}
