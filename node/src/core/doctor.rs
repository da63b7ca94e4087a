//! What this node finds when it examines itself, for `symbolon doctor`: the facts of [`super::vitals`] against the limits, the
//! time of a synced write, whether its shares open, and what the machine says. It asks nobody else.

use std::time::Duration;

use openraft::async_runtime::Instant as _;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, SignedRequest};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::decide_right;
use symbolon_protocol::state::records::VersionRecord;
use symbolon_protocol::state::view::{Check, DoctorView, Level};
use symbolon_protocol::table::read;

use super::Core;
use super::types::{NodeTypes, Surroundings, Transport};
use super::vitals::{Freshness, KeptKey, Peer, Vitals};
use crate::store::{Batch, Column, Store};

/// Synced writes of which the median counts.
const SYNCS: usize = 5;
/// Shares that are opened before others may work again.
const SHARES_AT_ONCE: usize = 64;
/// A fuller usage log is warned of, percent.
const USAGE_WARN_PERCENT: u64 = 75;
/// A fuller usage log is a failure, percent: a full one stops the node from signing.
const USAGE_FAIL_PERCENT: u64 = 95;
/// A lease that lapsed is a failure after so many times what it lasts.
const LAPSES: u64 = 10;
/// Names in one list; how many more there are is said.
const NAMES: usize = 8;

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// What this node finds when it examines itself.
    ///
    /// # Errors
    /// `permission_denied`, or what the door says.
    pub async fn doctor(&self, request: &SignedRequest) -> Result<DoctorView, Refusal> {
        let (verified, client) = self.admit_read(request).await?;
        decide_right(&self.tables(), &client, verified.body()).map_err(|e| self.fail(&e))??;
        if verified.body().action != Action::Doctor {
            let message = "the request asks for something else than the call";
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
        let mut checks = judge(&self.vitals().await?);
        checks.push(disk_sync(self.synced_write().await?));
        checks.push(self.own_shares().await?);
        checks.extend(self.0.surroundings.examine());
        checks.truncate(limits::DOCTOR_CHECKS);
        Ok(DoctorView { node: self.0.me, checks })
    }

    /// How long a synced write takes, the median of a few.
    async fn synced_write(&self) -> Result<Duration, Refusal> {
        let mut times = Vec::with_capacity(SYNCS);
        for _ in 0..SYNCS {
            let mut batch = Batch::default();
            batch.put(Column::Private, private::probe(), self.now_ms().to_be_bytes().to_vec());
            let begun = C::now();
            self.0.store.write(batch).map_err(|e| self.fail(&e))?;
            self.0.store.sync().await.map_err(|e| self.fail(&e))?;
            times.push(begun.elapsed());
        }
        times.sort_unstable();
        Ok(times.get(SYNCS / 2).copied().unwrap_or_default())
    }

    /// Whether the shares that this node should have are there and can be unsealed.
    async fn own_shares(&self) -> Result<Check, Refusal> {
        let me = self.0.me;
        let kept = self.kept_keys().await?;
        let named = |key: &&KeptKey| key.name.to_string();
        let stale: Vec<String> =
            kept.keys.iter().filter(|key| key.stale.contains(&me)).map(|key| named(&key)).collect();
        let (mut opened, mut shut) = (0, Vec::new());
        for key in kept.keys.iter().filter(|key| key.holders.contains(&me)).take(limits::DOCTOR_SHARES) {
            if self.share_opens(key)? {
                opened += 1;
            } else {
                shut.push(named(&key));
            }
            if (opened + shut.len()).is_multiple_of(SHARES_AT_ONCE) {
                C::yield_now().await;
            }
        }
        Ok(shares(opened, &shut, &stale))
    }

    fn share_opens(&self, key: &KeptKey) -> Result<bool, Refusal> {
        let version = replicated::version(&key.id, key.version);
        let record: Option<VersionRecord> = read(&self.tables(), &version).map_err(|e| self.fail(&e))?;
        // The share is wiped at once.
        Ok(record.as_ref().and_then(VersionRecord::core).is_none_or(|core| self.read_share(core).is_ok()))
    }
}

/// Everything that follows from the vitals alone.
fn judge(vitals: &Vitals) -> Vec<Check> {
    [clock, peers, releases, members, leader, applied, state_time, keys, usage_log, freshness]
        .map(|check| check(vitals))
        .into()
}

/// How bad a number is that should be small.
fn level(value: u64, warn_above: u64, fail_above: u64) -> Level {
    if value > fail_above {
        Level::Failure
    } else if value > warn_above {
        Level::Warning
    } else {
        Level::Ok
    }
}

/// With advice only where something is to be done.
fn graded(name: &str, level: Level, detail: String, advice: &str) -> Check {
    Check::new(name, level, detail, if level == Level::Ok { "" } else { advice })
}

/// A list for people, bounded.
fn listed(names: &[String]) -> String {
    let shown = names.get(..names.len().min(NAMES)).unwrap_or_default().join(", ");
    match names.len().saturating_sub(NAMES) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn clock(vitals: &Vitals) -> Check {
    let heard = vitals.peers.iter().filter(|peer| peer.reachable);
    let differences: Vec<(u64, String)> = heard
        .filter_map(|peer| {
            let (_, ahead_ms) = peer.said.as_ref()?;
            let seconds = ahead_ms.unsigned_abs() as f64 / 1000.0;
            let side = if *ahead_ms < 0 { "behind" } else { "ahead" };
            Some((ahead_ms.unsigned_abs(), format!("{} is {seconds:.1} s {side}", peer.name)))
        })
        .collect();
    if differences.is_empty() && !vitals.peers.is_empty() {
        return Check::new("clock", Level::Warning, "no peer to compare it with", "");
    }
    let worst = differences.iter().map(|(ms, _)| *ms).max().unwrap_or(0);
    let level = level(worst, limits::CLOCK_WARN_MS, limits::ENTRY_AHEAD_MS);
    if level == Level::Ok {
        return Check::ok("clock", format!("agrees with {} peers within {worst} ms", differences.len()));
    }
    let far: Vec<String> =
        differences.into_iter().filter(|(ms, _)| *ms > limits::CLOCK_WARN_MS).map(|(_, text)| text).collect();
    Check::new("clock", level, listed(&far), "synchronise the clocks of these nodes and of this one")
}

fn peers(vitals: &Vitals) -> Check {
    let count = vitals.peers.len();
    let named = |wanted: &dyn Fn(&Peer) -> bool| -> Vec<String> {
        vitals.peers.iter().filter(|peer| wanted(peer)).map(|peer| peer.name.clone()).collect()
    };
    let (down, quarantined) = (named(&|peer| !peer.reachable), named(&|peer| peer.quarantined));
    let mut detail = format!("{} of {count} can be reached", count - down.len());
    if down.is_empty() && quarantined.is_empty() {
        return Check::ok("peers", detail);
    }
    for (what, names) in [("unreachable", &down), ("quarantined", &quarantined)] {
        if !names.is_empty() {
            detail = format!("{detail}; {what}: {}", listed(names));
        }
    }
    let advice = if quarantined.is_empty() {
        "bring them back, or look at the network between"
    } else {
        "take quarantined nodes out of service: their stores went back in time, or they run twice"
    };
    Check::new("peers", Level::Failure, detail, advice)
}

fn releases(vitals: &Vitals) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    let said = || vitals.peers.iter().filter_map(|peer| Some((peer, &peer.said.as_ref()?.0)));
    let old: Vec<String> = said()
        .filter(|(_, status)| status.state_version < vitals.state_version)
        .map(|(peer, status)| format!("{} ({})", peer.name, status.release))
        .collect();
    let state_version = vitals.state_version;
    if !old.is_empty() {
        let detail = format!("too old for state version {state_version}: {}", listed(&old));
        return Check::new("releases", Level::Failure, detail, "upgrade them");
    }
    let other: Vec<String> = said()
        .filter(|(_, status)| status.release != own)
        .map(|(peer, status)| format!("{} {}", peer.name, status.release))
        .collect();
    if other.is_empty() {
        return Check::ok("releases", format!("{own} everywhere, state version {state_version}"));
    }
    let detail = format!("this node {own}; others: {}; state version {state_version}", listed(&other));
    Check::new("releases", Level::Warning, detail, "finish the upgrade: all nodes should run one release")
}

fn members(vitals: &Vitals) -> Check {
    let part = if vitals.is_voter { "voter" } else { "learner" };
    let detail = format!("{part}; {} voters, membership version {}", vitals.voters, vitals.membership);
    if !vitals.admitted && vitals.started {
        let detail = "this store has no start certificate: the node takes no part";
        return Check::new("members", Level::Failure, detail, "a lost or exchanged disk: see docs/operating.md");
    }
    if !vitals.started {
        let advice = "start every voter of genesis";
        return Check::new("members", Level::Failure, "the cluster has not started", advice);
    }
    if vitals.voters < 3 || vitals.voters.is_multiple_of(2) {
        return Check::new("members", Level::Warning, detail, "three, five or seven voters survive the most");
    }
    Check::ok("members", detail)
}

fn leader(vitals: &Vitals) -> Check {
    match &vitals.leader {
        Some(leader) => Check::ok("leader", format!("{leader} in term {}; this node is {}", vitals.term, vitals.role)),
        None => {
            let Vitals { voters, voters_reachable, role, .. } = vitals;
            let detail = format!("none; {voters_reachable} of {voters} voters can be reached, this node is {role}");
            Check::new("leader", Level::Failure, detail, "bring back a majority of the voters")
        }
    }
}

fn applied(vitals: &Vitals) -> Check {
    let at = format!("index {}", vitals.applied);
    let Some(behind) = vitals.behind else {
        return Check::new("applied", Level::Warning, format!("{at}; no leader to compare it with"), "");
    };
    let level = level(behind, limits::LAG_WARN_ENTRIES, limits::LAG_FAIL_ENTRIES);
    let advice = "look at its disk and its network if it does not catch up";
    graded("applied", level, format!("{at}, {behind} entries behind the leader"), advice)
}

fn state_time(vitals: &Vitals) -> Check {
    let behind = vitals.now_ms.saturating_sub(vitals.state_ms);
    if vitals.started && behind > limits::STATE_BEHIND_MS {
        let detail = format!("{} s behind the clock of this node", behind / 1000);
        let advice = "the leader orders something every minute: look at the leader, and at the clocks";
        return Check::new("state_time", Level::Failure, detail, advice);
    }
    Check::ok("state_time", "replicated time goes on")
}

fn keys(vitals: &Vitals) -> Check {
    let named = |wanted: &dyn Fn(i64) -> bool| -> Vec<String> {
        vitals.margins.iter().filter(|key| wanted(key.margin)).map(|key| key.key.to_string()).collect()
    };
    let (below, at) = (named(&|margin| margin < 0), named(&|margin| margin == 0));
    let mut detail = format!("{} sign or are suspended", vitals.margins.len());
    if !vitals.all_keys {
        detail.push_str(" (the first by name: there are more)");
    }
    for (what, names) in [("below the threshold", &below), ("with no holder to spare", &at)] {
        if !names.is_empty() {
            detail = format!("{detail}; {} {what}: {}", names.len(), listed(names));
        }
    }
    let level = match (below.is_empty(), at.is_empty()) {
        (false, _) => Level::Failure,
        (true, false) => Level::Warning,
        (true, true) => Level::Ok,
    };
    graded("keys", level, detail, "bring back their holders; `symbolon status` names them")
}

fn usage_log(vitals: &Vitals) -> Check {
    let percent = vitals.usage_bytes.saturating_mul(100) / vitals.usage_max_bytes.max(1);
    let detail = format!("{percent} % of {} MiB", vitals.usage_max_bytes >> 20);
    let level = level(percent, USAGE_WARN_PERCENT, USAGE_FAIL_PERCENT);
    graded("usage_log", level, detail, "raise usage_log_max_mib: a full log stops the node from signing")
}

fn freshness(vitals: &Vitals) -> Check {
    let Freshness { age_ms, staleness_ms, fresh, liars } = &vitals.lease;
    if !liars.is_empty() {
        let detail = format!("voters that signed two histories: {}", listed(liars));
        return Check::new("freshness", Level::Failure, detail, "replace them; `symbolon status` shows the proof");
    }
    let Some(allowed) = staleness_ms else {
        return Check::ok("freshness", "this node holds no share, and asks nobody");
    };
    let detail = match age_ms {
        Some(age) => format!("confirmed by a majority {age} ms ago; {allowed} ms are allowed"),
        None => "never confirmed by a majority since the start".to_owned(),
    };
    // A lease that lapsed a moment ago is renewed when a request needs it.
    let lapsed = age_ms.is_some_and(|age| age < allowed.saturating_mul(LAPSES));
    let level = match (*fresh, lapsed) {
        (true, _) => Level::Ok,
        (false, true) => Level::Warning,
        (false, false) => Level::Failure,
    };
    graded("freshness", level, detail, "it gives no share until a majority of the voters answers it")
}

fn disk_sync(took: Duration) -> Check {
    let ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
    let detail = format!("a synced write takes {:.1} ms", took.as_secs_f64() * 1000.0);
    let level = level(ms, limits::SYNC_WARN_MS, limits::SYNC_FAIL_MS);
    graded("disk_sync", level, detail, "the store needs a faster disk, or one with less other work")
}

fn shares(opened: usize, shut: &[String], stale: &[String]) -> Check {
    let detail = format!("{opened} can be opened");
    if !shut.is_empty() {
        let detail = format!("{detail}; {} cannot: {}", shut.len(), listed(shut));
        let advice = "look at the disk and the slot file; without them these keys have one holder less";
        return Check::new("shares", Level::Failure, detail, advice);
    }
    if !stale.is_empty() {
        let detail = format!("{detail}; {} missed a change of shares: {}", stale.len(), listed(stale));
        return Check::new("shares", Level::Warning, detail, "the node asks for new ones by itself");
    }
    Check::ok("shares", detail)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
