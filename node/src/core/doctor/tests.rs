//! Each finding at its limits.

use super::super::vitals::tests::{margin, well};
use super::*;

/// A node that is well but for one thing.
fn with(change: impl FnOnce(&mut Vitals)) -> Vitals {
    let mut vitals = well();
    change(&mut vitals);
    vitals
}

fn ahead(ms: i64) -> Vitals {
    with(|vitals| vitals.peers.first_mut().unwrap().said.as_mut().unwrap().1 = ms)
}

#[test]
fn nothing_is_found_where_nothing_is_wrong() {
    let checks = judge(&well());
    let bad: Vec<&Check> = checks.iter().filter(|check| check.level != Level::Ok).collect();
    assert!(bad.is_empty(), "{bad:?}");
    assert!(checks.iter().all(|check| check.advice.is_empty()), "advice where nothing is to be done: {checks:?}");
    let names: std::collections::BTreeSet<&str> = checks.iter().map(|check| check.name.as_str()).collect();
    assert_eq!(names.len(), checks.len(), "two checks of one name: {checks:?}");
}

#[test]
fn clocks_are_judged_by_the_worst() {
    for (ms, level) in [
        (1_000, Level::Ok),
        (-1_000, Level::Ok),
        (1_001, Level::Warning),
        (-10_000, Level::Warning),
        (10_001, Level::Failure),
        (i64::MIN, Level::Failure),
    ] {
        assert_eq!(clock(&ahead(ms)).level, level, "{ms}");
    }
    assert!(clock(&ahead(-2_500)).detail.contains("node2 is 2.5 s behind"), "{:?}", clock(&ahead(-2_500)));
    // What a peer said before it was lost says nothing about its clock now.
    let lost = with(|vitals| {
        let peer = vitals.peers.first_mut().unwrap();
        peer.reachable = false;
        peer.said.as_mut().unwrap().1 = 60_000;
    });
    assert_eq!(clock(&lost).level, Level::Ok);
    assert_eq!(clock(&with(|vitals| vitals.peers.iter_mut().for_each(|p| p.said = None))).level, Level::Warning);
}

#[test]
fn a_peer_that_is_lost_is_named() {
    let check = peers(&with(|vitals| vitals.peers.last_mut().unwrap().reachable = false));
    assert_eq!(check.level, Level::Failure);
    assert!(check.detail.contains("1 of 2") && check.detail.contains("unreachable: node3"), "{check:?}");
    let check = peers(&with(|vitals| vitals.peers.last_mut().unwrap().quarantined = true));
    assert!(check.level == Level::Failure && check.detail.contains("quarantined: node3"), "{check:?}");
}

#[test]
fn releases_may_differ_and_state_versions_must_be_known() {
    let says = |release: &str, state_version| {
        with(|vitals| {
            let said = vitals.peers.first_mut().unwrap().said.as_mut().unwrap();
            (said.0.release, said.0.state_version) = (release.to_owned(), state_version);
        })
    };
    let known = well().state_version;
    assert_eq!(releases(&says("99.0.0", known + 1)).level, Level::Warning);
    let check = releases(&says("0.0.1", known - 1));
    assert!(check.level == Level::Failure && check.detail.contains("node2 (0.0.1)"), "{check:?}");
    // A peer may say what it likes: the text stays within the limit.
    let check = releases(&says(&"x".repeat(1 << 16), known));
    assert!(check.detail.len() <= limits::CHECK_TEXT_BYTES, "{} bytes", check.detail.len());
}

#[test]
fn a_node_without_a_part_says_so() {
    assert_eq!(members(&with(|vitals| vitals.admitted = false)).level, Level::Failure);
    assert_eq!(members(&with(|vitals| vitals.started = false)).level, Level::Failure);
    for (voters, level) in
        [(1, Level::Warning), (2, Level::Warning), (3, Level::Ok), (4, Level::Warning), (5, Level::Ok)]
    {
        assert_eq!(members(&with(|vitals| vitals.voters = voters)).level, level, "{voters}");
    }
    assert_eq!(leader(&with(|vitals| vitals.leader = None)).level, Level::Failure);
}

#[test]
fn lag_is_counted_in_entries_and_time() {
    for (behind, level) in [
        (Some(limits::LAG_WARN_ENTRIES), Level::Ok),
        (Some(limits::LAG_WARN_ENTRIES + 1), Level::Warning),
        (Some(limits::LAG_FAIL_ENTRIES + 1), Level::Failure),
        (None, Level::Warning),
    ] {
        assert_eq!(applied(&with(|vitals| vitals.behind = behind)).level, level, "{behind:?}");
    }
    assert_eq!(state_time(&with(|vitals| vitals.state_ms = vitals.now_ms + 5_000)).level, Level::Ok);
    let old = with(|vitals| vitals.state_ms = vitals.now_ms - limits::STATE_BEHIND_MS - 1);
    assert_eq!(state_time(&old).level, Level::Failure);
}

#[test]
fn freshness_lapses_before_it_fails() {
    let lease = |age_ms, staleness_ms, fresh| {
        freshness(&with(|vitals| vitals.lease = Freshness { age_ms, staleness_ms, fresh, liars: Vec::new() })).level
    };
    assert_eq!(lease(Some(900), Some(1_000), true), Level::Ok);
    assert_eq!(lease(Some(1_000), Some(1_000), false), Level::Warning);
    assert_eq!(lease(Some(10_000), Some(1_000), false), Level::Failure);
    assert_eq!(lease(None, Some(1_000), false), Level::Failure);
    assert_eq!(lease(None, None, false), Level::Ok);
    let check = freshness(&with(|vitals| vitals.lease.liars = vec!["node3".to_owned()]));
    assert!(check.level == Level::Failure && check.detail.contains("node3"), "{check:?}");
}

#[test]
fn keys_fail_below_their_threshold() {
    let check = |margins: &[i64]| {
        let margins: Vec<_> = margins.iter().enumerate().map(|(at, m)| margin(&format!("key{at}"), *m)).collect();
        keys(&with(|vitals| vitals.margins = margins))
    };
    assert_eq!(check(&[]).level, Level::Ok);
    assert_eq!(check(&[2, 1]).level, Level::Ok);
    assert_eq!(check(&[0, 1]).level, Level::Warning);
    let below = check(&[-1, 0, 3]);
    assert_eq!(below.level, Level::Failure);
    assert!(
        below.detail.contains("1 below the threshold: key0") && below.detail.contains("to spare: key1"),
        "{below:?}"
    );
    let many = check(&[-1; 100]);
    assert!(many.detail.contains("key7 and 92 more") && !many.detail.contains("key8"), "{many:?}");
}

#[test]
fn disks_logs_and_shares_have_their_limits() {
    let millis = |ms| disk_sync(Duration::from_millis(ms)).level;
    assert_eq!([millis(100), millis(101), millis(1_001)], [Level::Ok, Level::Warning, Level::Failure]);
    let used = |percent: u64| {
        usage_log(&with(|vitals| vitals.usage_bytes = vitals.usage_max_bytes / 100 * percent + 100)).level
    };
    assert_eq!([used(75), used(76), used(96)], [Level::Ok, Level::Warning, Level::Failure]);
    let names = ["release".to_owned()];
    assert_eq!(shares(3, &[], &[]).level, Level::Ok);
    assert_eq!(shares(2, &[], &names).level, Level::Warning);
    assert_eq!(shares(2, &names, &[]).level, Level::Failure);
}
