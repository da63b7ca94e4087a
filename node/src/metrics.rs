//! What a node counts, and the text in which Prometheus reads it (text exposition format 0.0.4).
//!
//! Counters are fields of one struct that the core owns; everything else is read when it is asked for. Nothing secret and no
//! name of a client is in it. The number of series is bounded: by the calls there are, the table of errors, the members, and
//! for keys by the configuration.
//!
//! [`Counters`] counts, `Exposition` writes; which series there are stands in [`crate::core::series`].

use std::collections::BTreeMap;
use std::fmt::{Display, Write as _};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::outcome::Outcome;

use crate::core::lock;

/// Everything that a node counts since its start.
#[derive(Debug)]
pub struct Counters {
    /// When the node started, milliseconds since 1970.
    pub(crate) started_ms: u64,
    /// Requests of clients that were worked on to their end: the call, and the refusal if there was one.
    pub(crate) requests: Tally<(&'static str, Option<ErrorCode>)>,
    /// Requests that were turned away because too many are worked on.
    pub(crate) turned_away: AtomicU64,
    /// Requests that are worked on now.
    pub(crate) requests_open: Gauge,
    /// Time for a signature that came about, as its coordinator.
    pub(crate) sign_time: Histogram,
    /// Sets of holders that were tried for a signature that came about.
    pub(crate) sign_sessions: Histogram,
    /// Shares asked of this node as a holder: given, or why not.
    pub(crate) shares: Tally<Option<ErrorCode>>,
    /// Nodes that were found to break the protocol.
    pub(crate) blame: Tally<NodeId>,
    /// Attempts of share operations that ended, by how.
    pub(crate) attempts: Tally<&'static str>,
    /// Calls to peers on the work lane that wait for their answer.
    pub(crate) calls_open: Gauge,
    /// Calls of peers on the work lane that are worked on.
    pub(crate) answers_open: Gauge,
}

/// How an attempt of a share operation ends, for [`Counters::attempts`].
pub(crate) const ATTEMPT_ENDS: [&str; 3] = ["committed", "repeated", "failed"];

/// Upper bounds of the time for a signature, microseconds.
const SIGN_TIME: &[u64] =
    &[1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000, 5_000_000];
/// Upper bounds of the sets of holders for a signature.
const SIGN_SESSIONS: &[u64] = &[1, 2, 3, 5, 9];

impl Counters {
    /// Nothing counted yet.
    #[must_use]
    pub fn new(started_ms: u64) -> Self {
        Self {
            started_ms,
            requests: Tally::default(),
            turned_away: AtomicU64::new(0),
            requests_open: Gauge::default(),
            sign_time: Histogram::new(SIGN_TIME, 1_000_000),
            sign_sessions: Histogram::new(SIGN_SESSIONS, 1),
            shares: Tally::default(),
            blame: Tally::default(),
            attempts: Tally::default(),
            calls_open: Gauge::default(),
            answers_open: Gauge::default(),
        }
    }

    /// A request of a client came to its end.
    pub fn request<R>(&self, call: &'static str, result: &Result<R, Refusal>) {
        self.requests.count((call, code_of(result)));
    }

    /// A signature came about, coordinated here.
    pub fn signed(&self, time: Duration, sessions: u32) {
        self.sign_time.observe(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        self.sign_sessions.observe(sessions.into());
    }

    /// A holder was asked for a share.
    pub(crate) fn share<R>(&self, result: &Result<R, Refusal>) {
        self.shares.count(code_of(result));
    }

    /// An entry was applied here.
    pub(crate) fn applied(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Activated { .. } => self.attempts.count("committed"),
            Outcome::AttemptEnded { next: Some(_), .. } => self.attempts.count("repeated"),
            Outcome::AttemptEnded { next: None, .. } => self.attempts.count("failed"),
            _ => {}
        }
    }
}

fn code_of<R>(result: &Result<R, Refusal>) -> Option<ErrorCode> {
    result.as_ref().err().map(|refusal| refusal.code)
}

/// The label for an end: `ok`, or the name of the error.
pub(crate) fn code_name(code: Option<ErrorCode>) -> &'static str {
    code.map_or("ok", |code| code.row().name)
}

/// Counters by a label that takes few values.
#[derive(Debug)]
pub struct Tally<K>(Mutex<BTreeMap<K, u64>>);

impl<K> Default for Tally<K> {
    fn default() -> Self {
        Self(Mutex::new(BTreeMap::new()))
    }
}

impl<K: Ord + Clone> Tally<K> {
    /// Counts one.
    pub fn count(&self, label: K) {
        *lock(&self.0).entry(label).or_insert(0) += 1;
    }
    /// All counts; those of `known` are there even if they are zero, so that their first increase can be seen.
    pub(crate) fn counts(&self, known: impl IntoIterator<Item = K>) -> BTreeMap<K, u64> {
        let mut counts: BTreeMap<K, u64> = known.into_iter().map(|label| (label, 0)).collect();
        counts.extend(lock(&self.0).iter().map(|(label, count)| (label.clone(), *count)));
        counts
    }
}

/// How many there are at the moment.
#[derive(Debug, Default)]
pub struct Gauge(AtomicU64);

/// One of them, until it is dropped.
#[derive(Debug)]
#[must_use = "it counts only while it lives"]
pub struct Entered<'a>(&'a Gauge);

impl Gauge {
    /// One more, for as long as the result lives.
    pub fn enter(&self) -> Entered<'_> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Entered(self)
    }
    /// How many.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Values by size. They are whole numbers; what is written is divided by `unit`.
#[derive(Debug)]
pub struct Histogram {
    bounds: &'static [u64],
    unit: u32,
    /// One for each bound, and one for what is above them all; each value is in one bucket.
    buckets: Vec<AtomicU64>,
    sum: AtomicU64,
}

impl Histogram {
    fn new(bounds: &'static [u64], unit: u32) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self { bounds, unit, buckets, sum: AtomicU64::new(0) }
    }

    /// Counts a value.
    pub fn observe(&self, value: u64) {
        let at = self.bounds.partition_point(|bound| *bound < value);
        if let Some(bucket) = self.buckets.get(at) {
            bucket.fetch_add(1, Ordering::Relaxed);
            self.sum.fetch_add(value, Ordering::Relaxed);
        }
    }

    /// A value as it is written.
    fn shown(&self, value: u64) -> f64 {
        value as f64 / f64::from(self.unit)
    }
}

/// The text, family by family.
#[derive(Debug, Default)]
pub(crate) struct Exposition(String);

impl Exposition {
    /// A family of series begins. `help` is one line without backslashes.
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        // Writing to a string cannot fail.
        let _ = write!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn sample(&mut self, name: &str, labels: &[(&str, &str)], value: impl Display) {
        self.0.push_str(name);
        for (at, (label, text)) in labels.iter().enumerate() {
            let _ = write!(self.0, "{}{label}=\"{}\"", if at == 0 { '{' } else { ',' }, escaped(text));
        }
        let close = if labels.is_empty() { "" } else { "}" };
        let _ = writeln!(self.0, "{close} {value}");
    }

    /// A family of one series without labels.
    pub(crate) fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// A family with one series for each set of labels.
    pub(crate) fn many<V: Display>(
        &mut self,
        (name, kind, help): (&str, &str, &str),
        labels: &[&str],
        series: impl IntoIterator<Item = (Vec<String>, V)>,
    ) {
        self.family(name, kind, help);
        for (texts, value) in series {
            let pairs: Vec<(&str, &str)> = labels.iter().copied().zip(texts.iter().map(String::as_str)).collect();
            self.sample(name, &pairs, value);
        }
    }

    pub(crate) fn histogram(&mut self, name: &str, help: &str, histogram: &Histogram) {
        self.family(name, "histogram", help);
        let mut count = 0;
        let bounds = histogram.bounds.iter().map(|bound| histogram.shown(*bound).to_string());
        for (bucket, bound) in histogram.buckets.iter().zip(bounds.chain(["+Inf".to_owned()])) {
            count += bucket.load(Ordering::Relaxed);
            self.sample(&format!("{name}_bucket"), &[("le", &bound)], count);
        }
        self.sample(&format!("{name}_sum"), &[], histogram.shown(histogram.sum.load(Ordering::Relaxed)));
        self.sample(&format!("{name}_count"), &[], count);
    }

    pub(crate) fn finish(self) -> String {
        self.0
    }
}

/// The value of a label between its quotation marks.
fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_fall_into_the_first_bucket_that_holds_them() {
        let counters = Counters::new(0);
        for micros in [1, 1_000, 1_001, 6_000_000] {
            counters.sign_time.observe(micros);
        }
        let mut text = Exposition::default();
        text.histogram("t_seconds", "Time.", &counters.sign_time);
        let text = text.finish();
        for line in [
            "# TYPE t_seconds histogram",
            "t_seconds_bucket{le=\"0.001\"} 2",
            "t_seconds_bucket{le=\"0.0025\"} 3",
            "t_seconds_bucket{le=\"5\"} 3",
            "t_seconds_bucket{le=\"+Inf\"} 4",
            "t_seconds_sum 6.002002",
            "t_seconds_count 4",
        ] {
            assert!(text.lines().any(|found| found == line), "no line {line} in:\n{text}");
        }
    }

    #[test]
    fn labels_are_escaped() {
        let mut text = Exposition::default();
        text.many(("x", "gauge", "X."), &["a", "b"], [(vec!["q\"\\\n".to_owned(), "2".to_owned()], 7)]);
        assert_eq!(text.finish(), "# HELP x X.\n# TYPE x gauge\nx{a=\"q\\\"\\\\\\n\",b=\"2\"} 7\n");
    }

    #[test]
    fn what_is_known_is_there_before_it_happens() {
        let tally = Tally::default();
        tally.count("failed");
        tally.count("new");
        let counts = tally.counts(ATTEMPT_ENDS);
        assert_eq!(counts, BTreeMap::from([("committed", 0), ("failed", 1), ("new", 1), ("repeated", 0)]));
    }

    #[test]
    fn a_gauge_falls_when_somebody_goes() {
        let gauge = Gauge::default();
        let first = gauge.enter();
        {
            let _second = gauge.enter();
            assert_eq!(gauge.get(), 2);
        }
        drop(first);
        assert_eq!(gauge.get(), 0);
    }
}
