//! Many runs, on all cores: what they add up to, and how a failure is told.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, mpsc};
use std::thread;

use crate::bugs::Bug;
use crate::count::{Counters, fault, situation};
use crate::options::Options;
use crate::{Report, run_with};

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
    /// Runs that broke an invariant, with what they broke.
    pub failures: Vec<(Options, String)>,
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
            self.failures.push((report.options.clone(), violation.to_string()));
            self.unsafe_seed |= !violation.liveness;
        }
    }

    /// Runs seeds.
    #[must_use]
    pub fn over(seeds: impl Iterator<Item = u64> + Send, bug: Option<Bug>) -> Self {
        let mut sweep = Self::default();
        each(seeds.map(Options::draw), bug, |report| {
            sweep.add(&report);
            true
        });
        sweep.failures.sort_by_key(|(options, _)| options.seed);
        sweep
    }
}

/// Runs everything on all cores, each run on one thread; they know nothing of each other. Reports come as runs end. After the
/// first that is not followed by another one (`take` says no), runs that began before it are still reported.
pub fn each(runs: impl Iterator<Item = Options> + Send, bug: Option<Bug>, mut take: impl FnMut(Report) -> bool) {
    let (runs, over) = (Mutex::new(runs), AtomicBool::new(false));
    let (send, reports) = mpsc::channel();
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            let (send, runs, over) = (send.clone(), &runs, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    let next = runs.lock().ok().and_then(|mut runs| runs.next());
                    let Some(options) = next else { return };
                    if send.send(run_with(options, bug, false)).is_err() {
                        return;
                    }
                }
            });
        }
        drop(send);
        for report in reports {
            if !take(report) {
                over.store(true, Ordering::Relaxed);
            }
        }
    });
}

/// How a run is replayed: by its seed, or by all of its options when they are not those of the seed.
#[must_use]
pub fn replay(options: &Options, bug: Option<Bug>) -> String {
    let planted = bug.map(|bug| format!(" --bug {bug}")).unwrap_or_default();
    let seed = options.seed;
    let run = if *options == Options::draw(seed) {
        format!("--seed {seed}")
    } else {
        format!("--options {}", options.line())
    };
    format!("cargo run --release -p sim -- {run}{planted}")
}

/// The first of some seeds that breaks an invariant with a planted bug, with its report.
#[must_use]
pub fn first_failure(seeds: impl Iterator<Item = u64> + Send, bug: Option<Bug>) -> Option<Report> {
    let mut first: Option<Report> = None;
    each(seeds.map(Options::draw), bug, |report| {
        let earlier = first.as_ref().is_none_or(|first| report.options.seed < first.options.seed);
        if report.violation.is_some() && earlier {
            first = Some(report);
        }
        first.is_none()
    });
    first
}

impl fmt::Display for Sweep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let faults = self.count.all_faults();
        let (hours, tenths) = (self.virtual_ms / 3_600_000, self.virtual_ms / 360_000 % 10);
        writeln!(f, "{} runs, {hours}.{tenths} virtual hours, {faults} faults by class:", self.seeds)?;
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
