//! Many seeds, one after the other: what they add up to, and how a failure is told.

use std::fmt;

use crate::bugs::Bug;
use crate::count::{Counters, fault, situation};
use crate::{Report, run};

/// What many runs add up to.
#[derive(Debug, Clone, Default)]
pub struct Sweep {
    /// Runs.
    pub seeds: u64,
    /// Virtual milliseconds of all runs.
    pub virtual_ms: u64,
    /// Events of all runs.
    pub steps: u64,
    /// What happened how often.
    pub count: Counters,
    /// Seeds that broke an invariant, with what they broke.
    pub failures: Vec<(u64, String)>,
    /// Whether one of them broke safety.
    pub unsafe_seed: bool,
}

impl Sweep {
    /// Adds a run.
    pub fn add(&mut self, report: &Report) {
        self.seeds += 1;
        self.virtual_ms += report.virtual_ms;
        self.steps += report.steps;
        self.count.add(&report.count);
        if let Some(violation) = &report.violation {
            self.failures.push((report.options.seed, violation.to_string()));
            self.unsafe_seed |= !violation.liveness;
        }
    }

    /// Runs seeds in order.
    #[must_use]
    pub fn over(seeds: impl IntoIterator<Item = u64>, bug: Option<Bug>) -> Self {
        let mut sweep = Self::default();
        for seed in seeds {
            sweep.add(&run(seed, bug, false));
        }
        sweep
    }
}

/// How a seed is replayed.
#[must_use]
pub fn replay(seed: u64, bug: Option<Bug>) -> String {
    let planted = bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default();
    format!("cargo run --release -p sim -- --seed {seed}{planted}")
}

/// The first of some seeds that breaks an invariant with a planted bug, with its report.
#[must_use]
pub fn first_failure(seeds: impl IntoIterator<Item = u64>, bug: Option<Bug>) -> Option<Report> {
    seeds.into_iter().map(|seed| run(seed, bug, false)).find(|report| report.violation.is_some())
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.count.all_faults();
        writeln!(f, "{} seeds, {} virtual seconds, {faults} faults by class:", self.seeds, self.virtual_ms / 1000)?;
        for class in fault::ALL {
            writeln!(f, "  {:>9}  {class}", self.count.faults_of(class))?;
        }
        writeln!(f, "situations that were met:")?;
        for what in situation::ALL {
            writeln!(f, "  {:>9}  {what}", self.count.times(what))?;
        }
        writeln!(f, "{} key versions, {} signatures, {} events", self.count.keys, self.count.signatures, self.steps)?;
        write!(f, "{} seeds failed", self.failures.len())
    }
}
