//! The series that Prometheus sees: what [`crate::metrics::Counters`] counted, and the vitals at the moment of the question.

use std::sync::atomic::Ordering;

use symbolon_protocol::error::Refusal;

use super::Core;
use super::types::{NodeTypes, Surroundings, Transport};
use super::vitals::Vitals;
use crate::metrics::{ATTEMPT_ENDS, Counters, Exposition, code_name};
use crate::store::Store;

/// Roles in Raft, as [`Vitals::role`] has them.
const ROLES: [&str; 6] = ["leader", "follower", "candidate", "learner", "waiting", "stopped"];

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// All series as text; at most `key_series` keys have one of their own.
    ///
    /// # Errors
    /// `storage_failed`, and the node stops.
    pub async fn series(&self, key_series: usize) -> Result<String, Refusal> {
        let vitals = self.vitals().await?;
        Ok(text(&self.0.counters, &vitals, key_series))
    }
}

fn text(counters: &Counters, vitals: &Vitals, key_series: usize) -> String {
    let mut out = Exposition::default();
    process(&mut out, counters);
    signing(&mut out, counters, vitals);
    raft(&mut out, vitals);
    peers(&mut out, counters, vitals);
    keys(&mut out, vitals, key_series);
    operations(&mut out, counters, vitals);
    out.finish()
}

fn seconds(ms: u64) -> f64 {
    ms as f64 / 1000.0
}

fn process(out: &mut Exposition, counters: &Counters) {
    let build = [(vec![env!("CARGO_PKG_VERSION").to_owned()], 1)];
    out.many(("symbolon_build_info", "gauge", "Release of this node."), &["version"], build);
    let help = "Start of the process, seconds since 1970.";
    out.one("process_start_time_seconds", "gauge", help, seconds(counters.started_ms));
    let counts = counters.requests.counts([]).into_iter();
    out.many(
        ("symbolon_requests_total", "counter", "Requests of clients that were answered, by call and outcome."),
        &["call", "code"],
        counts.map(|((call, code), count)| (vec![call.to_owned(), code_name(code).to_owned()], count)),
    );
    let help = "Requests of clients that were turned away because too many are worked on.";
    out.one("symbolon_requests_turned_away_total", "counter", help, counters.turned_away.load(Ordering::Relaxed));
    let help = "Requests of clients that are worked on.";
    out.one("symbolon_requests_in_flight", "gauge", help, counters.requests_open.get());
    let help = "Calls to peers on the work lane that wait for their answer.";
    out.one("symbolon_work_calls_in_flight", "gauge", help, counters.calls_open.get());
    let help = "Calls of peers on the work lane that are worked on.";
    out.one("symbolon_work_answers_in_flight", "gauge", help, counters.answers_open.get());
}

fn signing(out: &mut Exposition, counters: &Counters, vitals: &Vitals) {
    let help = "Time for a signature that came about, coordinated by this node.";
    out.histogram("symbolon_sign_seconds", help, &counters.sign_time);
    let help = "Sets of holders that were tried for a signature that came about.";
    out.histogram("symbolon_sign_sessions", help, &counters.sign_sessions);
    let counts = counters.shares.counts([None]).into_iter();
    out.many(
        ("symbolon_share_answers_total", "counter", "Shares asked of this node as a holder: given, or why not."),
        &["code"],
        counts.map(|(code, count)| (vec![code_name(code).to_owned()], count)),
    );
    out.one("symbolon_usage_log_bytes", "gauge", "Size of the usage log.", vitals.usage_bytes);
    let help = "Size of the usage log at which this node gives no more shares.";
    out.one("symbolon_usage_log_max_bytes", "gauge", help, vitals.usage_max_bytes);
    if let Some(age_ms) = vitals.lease.age_ms {
        let help = "Time since a majority of the voters confirmed the state of this node.";
        out.one("symbolon_lease_age_seconds", "gauge", help, seconds(age_ms));
    }
    if vitals.lease.staleness_ms.is_some() {
        let help = "Whether that is fresh enough for every key of which this node holds a share.";
        out.one("symbolon_lease_fresh", "gauge", help, u8::from(vitals.lease.fresh));
    }
}

fn raft(out: &mut Exposition, vitals: &Vitals) {
    out.one("symbolon_applied_index", "gauge", "Index of the last entry that was applied.", vitals.applied);
    if let Some(behind) = vitals.behind {
        let help = "Entries that the leader applied and this node did not.";
        out.one("symbolon_applied_lag_entries", "gauge", help, behind);
    }
    let roles = ROLES.map(|role| (vec![role.to_owned()], u8::from(vitals.role == role)));
    out.many(("symbolon_raft_role", "gauge", "Role of this node in Raft: 1 for the one it has."), &["role"], roles);
    out.one("symbolon_raft_term", "gauge", "Term of Raft.", vitals.term);
    let help = "Whether there is a leader with a majority, as far as this node knows.";
    out.one("symbolon_raft_leader_known", "gauge", help, u8::from(vitals.leader.is_some()));
    out.one("symbolon_state_version", "gauge", "Version of the rules of the replicated state.", vitals.state_version);
    let help = "Replicated time, seconds since 1970.";
    out.one("symbolon_state_time_seconds", "gauge", help, seconds(vitals.state_ms));
}

fn peers(out: &mut Exposition, counters: &Counters, vitals: &Vitals) {
    let named = |name: &str| vec![name.to_owned()];
    let reachable = vitals.peers.iter().map(|peer| (named(&peer.name), u8::from(peer.reachable)));
    let family = ("symbolon_peer_reachable", "gauge", "Whether another member can be reached from this node.");
    out.many(family, &["node"], reachable);
    let heard = vitals.peers.iter().filter(|peer| peer.reachable);
    let ahead = heard.filter_map(|peer| Some((named(&peer.name), peer.said.as_ref()?.1 as f64 / 1000.0)));
    let family =
        ("symbolon_peer_clock_ahead_seconds", "gauge", "By how much the clock of another member is certainly ahead.");
    out.many(family, &["node"], ahead);
    let blamed = counters.blame.counts(vitals.peers.iter().map(|peer| peer.id)).into_iter().map(|(node, count)| {
        let peer = vitals.peers.iter().find(|peer| peer.id == node);
        (vec![peer.map_or_else(|| node.to_string(), |peer| peer.name.clone())], count)
    });
    let family = ("symbolon_blame_total", "counter", "Times that a member was found to break the protocol.");
    out.many(family, &["node"], blamed);
}

fn keys(out: &mut Exposition, vitals: &Vitals, key_series: usize) {
    let count = |wanted: &dyn Fn(i64) -> bool| vitals.margins.iter().filter(|key| wanted(key.margin)).count();
    let help = "Keys that sign or are suspended, as far as they are counted.";
    out.one("symbolon_keys", "gauge", help, vitals.margins.len());
    let help = "Such keys with fewer usable holders than their threshold.";
    out.one("symbolon_keys_below_threshold", "gauge", help, count(&|margin| margin < 0));
    let help = "Such keys with no usable holder to spare.";
    out.one("symbolon_keys_at_threshold", "gauge", help, count(&|margin| margin == 0));
    let shown = vitals.margins.iter().take(key_series).map(|key| (vec![key.key.to_string()], key.margin));
    let help = "Holders of a key that may be lost before it does not sign; the smallest, up to the configured number.";
    out.many(("symbolon_key_margin", "gauge", help), &["key"], shown);
}

fn operations(out: &mut Exposition, counters: &Counters, vitals: &Vitals) {
    out.one("symbolon_share_operations_running", "gauge", "Share operations that run.", vitals.operations);
    let ends = counters.attempts.counts(ATTEMPT_ENDS).into_iter();
    let help = "Attempts of share operations that ended: with new shares, with another attempt, or with nothing.";
    let family = ("symbolon_share_attempts_ended_total", "counter", help);
    out.many(family, &["end"], ends.map(|(end, count)| (vec![end.to_owned()], count)));
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};
    use std::time::Duration;

    use symbolon_protocol::error::ErrorCode;

    use super::super::vitals::tests::{margin, well};
    use super::*;

    /// Reads the text as strictly as its format allows, and gives the value of each series.
    fn parse(text: &str) -> BTreeMap<String, f64> {
        let mut series = BTreeMap::new();
        let mut families = BTreeSet::new();
        let (mut family, mut kind) = (String::new(), String::new());
        assert!(text.ends_with('\n'));
        for line in text.lines() {
            if let Some(rest) = line.strip_prefix("# HELP ") {
                family = rest.split_once(' ').unwrap().0.to_owned();
                assert!(families.insert(family.clone()), "{family} begins twice");
                kind.clear();
            } else if let Some(rest) = line.strip_prefix("# TYPE ") {
                let (name, of) = rest.split_once(' ').unwrap();
                assert_eq!(name, family);
                kind = of.to_owned();
            } else {
                let (name, value) = line.rsplit_once(' ').unwrap();
                let base = name.split('{').next().unwrap();
                let suffix = base.strip_prefix(family.as_str()).unwrap_or("in another family");
                let fits = suffix.is_empty() != (kind == "histogram");
                assert!(fits && ["", "_bucket", "_sum", "_count"].contains(&suffix), "{line} in {kind} {family}");
                assert!(kind != "counter" || family.ends_with("_total"), "{family}");
                assert!(series.insert(name.to_owned(), value.parse().unwrap()).is_none(), "{name} is there twice");
            }
        }
        series
    }

    #[test]
    fn what_was_counted_is_shown_once_and_in_form() {
        let counters = Counters::new(1_500);
        counters.request::<()>("sign", &Ok(()));
        counters.request::<()>("sign", &Err(Refusal::new(ErrorCode::NoQuorum, "x")));
        counters.share::<()>(&Err(Refusal::new(ErrorCode::PermissionDenied, "x")));
        counters.signed(Duration::from_millis(20), 2);
        let vitals = well();
        counters.blame.count(vitals.peers.first().unwrap().id);
        let series = parse(&text(&counters, &vitals, 100));
        for (name, value) in [
            ("process_start_time_seconds", 1.5),
            ("symbolon_requests_total{call=\"sign\",code=\"ok\"}", 1.0),
            ("symbolon_requests_total{call=\"sign\",code=\"no_quorum\"}", 1.0),
            ("symbolon_sign_seconds_bucket{le=\"0.01\"}", 0.0),
            ("symbolon_sign_seconds_bucket{le=\"0.025\"}", 1.0),
            ("symbolon_sign_sessions_sum", 2.0),
            ("symbolon_share_answers_total{code=\"ok\"}", 0.0),
            ("symbolon_share_answers_total{code=\"permission_denied\"}", 1.0),
            ("symbolon_blame_total{node=\"node2\"}", 1.0),
            ("symbolon_blame_total{node=\"node3\"}", 0.0),
            ("symbolon_raft_role{role=\"follower\"}", 1.0),
            ("symbolon_raft_role{role=\"leader\"}", 0.0),
            ("symbolon_lease_age_seconds", 0.25),
            ("symbolon_lease_fresh", 1.0),
            ("symbolon_share_attempts_ended_total{end=\"failed\"}", 0.0),
            ("symbolon_key_margin{key=\"release\"}", 1.0),
        ] {
            assert_eq!(series.get(name), Some(&value), "{name} in {series:#?}");
        }
    }

    #[test]
    fn keys_in_danger_have_a_series_and_all_are_counted() {
        let mut vitals = well();
        let mut margins: Vec<_> = (0..500).map(|at| margin(&format!("key{at}"), 2)).collect();
        margins.extend([margin("zero", 0), margin("below", -2)]);
        margins.sort_unstable();
        vitals.margins = margins;
        let shown = |bound| parse(&text(&Counters::new(0), &vitals, bound));
        let per_key = |series: &BTreeMap<String, f64>| {
            series.keys().filter(|name| name.starts_with("symbolon_key_margin{")).count()
        };
        let few = shown(3);
        assert_eq!(per_key(&few), 3);
        assert_eq!(few.get("symbolon_key_margin{key=\"below\"}"), Some(&-2.0));
        assert_eq!(few.get("symbolon_key_margin{key=\"zero\"}"), Some(&0.0));
        assert_eq!(few.get("symbolon_keys"), Some(&502.0));
        assert_eq!(few.get("symbolon_keys_below_threshold"), Some(&1.0));
        assert_eq!(few.get("symbolon_keys_at_threshold"), Some(&1.0));
        assert_eq!(per_key(&shown(0)), 0);
        assert_eq!(per_key(&shown(1_000)), 502);
        assert_eq!(few.len() + 499, shown(1_000).len(), "only series of keys depend on the bound");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let mut vitals = well();
        (vitals.behind, vitals.leader) = (None, None);
        (vitals.lease.age_ms, vitals.lease.staleness_ms) = (None, None);
        let series = parse(&text(&Counters::new(0), &vitals, 100));
        assert!(!series.contains_key("symbolon_applied_lag_entries"));
        assert!(!series.keys().any(|name| name.starts_with("symbolon_lease")));
        assert_eq!(series.get("symbolon_raft_leader_known"), Some(&0.0));
    }
}
