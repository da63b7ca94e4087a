//! READY votes are gathered for each result, and who votes for another one is named. Everything goes through `apply`.

use std::collections::BTreeMap;

use curve25519_dalek::Scalar;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use crate::certificate::{CertificateCore, Ready};
use crate::entry::{Entry, LogEntry, Payload};
use crate::error::{Detail, ErrorCode};
use crate::generate::{Ceremony, FaultKind, FaultReport, ShareSecret, Vote};
use crate::genesis::{Genesis, Member, MemberRole};
use crate::id::{Digest, Epoch, KeyId, KeyVersion, Name, NodeId, OperationId, RequestId, Threshold};
use crate::identity::{Domain, Identity};
use crate::lifecycle::KeyState;
use crate::limits;
use crate::outcome::Outcome;
use crate::pop::Pop;
use crate::redistribute::Chosen;
use crate::request::{Action, KeyPolicy, Purpose, RequestBody, RosterPlan, SignedRequest, Suite, VersionSelector};
use crate::schema::replicated as schema;
use crate::state::records::{self, ClusterRecord, KeyRecord, OperationRecord, VersionRecord};
use crate::state::{ACTIVATED, apply, next_operations, operation_id};
use crate::table::{Overlay, read, write_to};
use crate::wire::encode;

/// Results of an attempt, told apart by their transcripts.
const A: u8 = 1;
const B: u8 = 2;
const C: u8 = 3;

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn nodes(numbers: impl IntoIterator<Item = u16>) -> Vec<NodeId> {
    numbers.into_iter().map(node).collect()
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

fn identity(number: u16) -> Identity {
    Identity::from_seed(&[u8::try_from(number).unwrap(); 32])
}

fn secret(node: NodeId) -> [u8; 32] {
    Scalar::from(node.get()).to_bytes()
}

fn core(ceremony: &Ceremony, result: u8) -> CertificateCore {
    let share = |node: &NodeId| ShareSecret::new(&secret(*node)).verifying_share().unwrap();
    CertificateCore {
        cluster: ceremony.cluster,
        key: ceremony.key,
        name: ceremony.name.clone(),
        version: ceremony.version,
        suite: ceremony.suite,
        public_key: [9; 32],
        roster: ceremony.roster.clone(),
        threshold: ceremony.threshold,
        holders: ceremony.holders.clone(),
        membership: ceremony.membership,
        epoch: ceremony.epoch,
        verifying_shares: ceremony.holders.iter().map(share).collect(),
        transcript: Digest::from_bytes([result; 32]),
        previous: None,
    }
}

/// A genuine vote for a result of an attempt.
fn ready(ceremony: &Ceremony, by: u16, result: u8) -> Vote {
    let (node, core) = (node(by), core(ceremony, result));
    let digest = core.digest();
    let mut rng = ChaCha20Rng::seed_from_u64(u64::from(by));
    let possession = Pop::prove(&secret(node), digest.as_bytes(), &mut rng).unwrap();
    let signature = identity(by).sign(Domain::Ready, &core.cluster, &Ready::payload(&digest, &possession));
    Vote::Ready { node, core, ready: Ready { possession, signature } }
}

fn genesis(members: u16) -> Genesis {
    let member = |number: u16| Member {
        name: name(&format!("node{number}")),
        key: identity(number).public(),
        peer_address: format!("node{number}:1"),
        client_address: format!("node{number}:2"),
        zone: String::new(),
        role: MemberRole::Voter,
    };
    Genesis {
        name: name("test"),
        members: (1..=members).map(|number| (node(number), member(number))).collect(),
        administrators: BTreeMap::from([(name("admin"), identity(100).public())]),
        checkpoint_entries: limits::CHECKPOINT_ENTRIES,
        salt: [7; 16],
    }
}

/// A cluster in which nodes 1 to n generate the first version of a key; the spares come after them.
struct Bench {
    genesis: Genesis,
    tables: BTreeMap<Vec<u8>, Vec<u8>>,
    index: u64,
    time_ms: u64,
    key: KeyId,
}

impl Bench {
    fn new(n: u16, t: usize, spares: u16) -> Self {
        let genesis = genesis(n + spares);
        let mut tables = records::initial(&genesis);
        let started = ClusterRecord { started: true, ..records::cluster(&tables).unwrap() };
        tables.insert(schema::cluster(), encode(&started));
        let threshold = Threshold::new(t, usize::from(n)).unwrap();
        let plan = RosterPlan { roster: nodes(1..=n), spares: nodes(n + 1..=n + spares), threshold };
        let body = RequestBody {
            cluster: genesis.cluster_id(),
            client: identity(100).public(),
            request_id: RequestId::from_bytes([1; 16]),
            not_before_ms: 1_000,
            expires_ms: 61_000,
            action: Action::CreateKey {
                name: name("release"),
                suite: Suite::Ed25519,
                plan,
                tags: BTreeMap::new(),
                expires_ms: None,
                policy: KeyPolicy::default(),
            },
            key: None,
            version: VersionSelector::Active,
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: Vec::new(),
        };
        let create = SignedRequest::sign(&body, &identity(100));
        let key = create.verify(&genesis.cluster_id()).unwrap().key_id();
        let mut bench = Self { genesis, tables, index: 0, time_ms: 1_000, key };
        let created = bench.order(Payload::Request(create));
        assert_eq!(created, Outcome::Generating { key, version: KeyVersion::FIRST });
        bench
    }

    fn order(&mut self, payload: Payload) -> Outcome {
        let entry = encode(&Entry { time_ms: self.time_ms, payload });
        let mut overlay = Overlay::new(&self.tables);
        let applied = apply(&mut overlay, &self.genesis, self.index, LogEntry::Normal(&entry)).unwrap();
        let writes = overlay.into_writes();
        write_to(&mut self.tables, writes);
        self.index += 1;
        applied.outcome
    }

    /// A vote in the attempt that runs.
    fn ready(&mut self, by: u16, result: u8) -> Outcome {
        let vote = ready(&self.attempt(), by, result);
        self.order(Payload::Generate(vote))
    }

    /// Why something is refused.
    fn refusal(&mut self, payload: Payload) -> ErrorCode {
        match self.order(payload) {
            Outcome::Refused(refusal) => refusal.code,
            outcome => unreachable!("not refused: {outcome:?}"),
        }
    }

    fn running(&self) -> Option<OperationRecord> {
        read(&self.tables, &schema::operation(&operation_id(&self.key, KeyVersion::FIRST))).unwrap()
    }

    fn attempt(&self) -> Ceremony {
        self.running().unwrap().ceremony
    }

    fn version(&self) -> VersionRecord {
        read(&self.tables, &schema::version(&self.key, KeyVersion::FIRST)).unwrap().unwrap()
    }

    /// Attempts that came to nothing.
    fn faults(&self) -> usize {
        self.version().attempts.iter().filter(|attempt| attempt.fault.is_some()).count()
    }

    /// What becomes of a vote that ends the attempt.
    fn ended(&self, attempt: u32, next: Option<u32>) -> Outcome {
        let (epoch, next) = (epoch(attempt), next.map(epoch));
        Outcome::AttemptEnded { key: self.key, version: KeyVersion::FIRST, epoch, next }
    }

    /// Checks that the last attempt ended over its result: in which epoch, among whom, and who is named.
    fn assert_wrong_result(&self, attempt: u32, roster: &[u16], culprits: &[u16]) {
        let record = self.version().attempts.pop().unwrap();
        assert_eq!((record.epoch, record.fault, record.reporter), (epoch(attempt), Some(FaultKind::WrongResult), None));
        assert_eq!((record.roster, record.culprits), (list(roster), list(culprits)));
    }
}

fn epoch(number: u32) -> Epoch {
    Epoch::new(number).unwrap()
}

fn list(numbers: &[u16]) -> Vec<NodeId> {
    nodes(numbers.iter().copied())
}

#[test]
fn one_result_that_all_vote_for_is_the_commit() {
    let mut bench = Bench::new(5, 3, 1);
    let ceremony = bench.attempt();
    let result = core(&ceremony, A);
    // Repeats count once: a node may have its vote ordered more than once.
    for by in [1, 2, 2, 3, 4, 4, 1] {
        assert_eq!(bench.ready(by, A), Outcome::Noted, "node {by}");
        assert_eq!(bench.version().state, KeyState::Pending);
    }
    assert_eq!(bench.ready(5, A), Outcome::activated(&result));
    assert_eq!(bench.running(), None);
    let version = bench.version();
    let certificate = version.certificate.unwrap();
    assert_eq!((version.state, bench.faults()), (KeyState::Active, 0));
    assert_eq!(certificate.core, result);
    assert_eq!(certificate.ready.keys().copied().collect::<Vec<_>>(), ceremony.roster);
    for (node, vote) in &certificate.ready {
        assert!(vote.verifies(&result, *node, &identity(node.get()).public()), "the vote of node {node}");
    }
    let key: KeyRecord = read(&bench.tables, &schema::key_record(&bench.key)).unwrap().unwrap();
    assert_eq!(key.current, Some(KeyVersion::FIRST));
}

/// Three of five suffice to know the honest result when at most two are evil; two do not.
#[test]
fn the_odd_one_is_named_and_replaced_whenever_it_speaks() {
    for order in [[(2, B), (1, A), (3, A), (5, A)], [(1, A), (2, B), (3, A), (5, A)], [(1, A), (3, A), (5, A), (2, B)]]
    {
        let mut bench = Bench::new(5, 3, 1);
        let (last, before) = order.split_last().unwrap();
        for (by, result) in before {
            assert_eq!(bench.ready(*by, *result), Outcome::Noted, "node {by} in {order:?}");
        }
        bench.time_ms = 7_000;
        assert_eq!(bench.ready(last.0, last.1), bench.ended(1, Some(2)), "{order:?}");
        bench.assert_wrong_result(1, &[1, 2, 3, 4, 5], &[2]);
        let version = bench.version();
        assert_eq!((version.state, version.roster), (KeyState::Pending, nodes([1, 6, 3, 4, 5])));
        let next = bench.running().unwrap();
        assert_eq!((next.ceremony.roster, next.ceremony.epoch), (nodes([1, 6, 3, 4, 5]), epoch(2)));
        assert_eq!((next.ready, next.spares, next.attempt), (BTreeMap::new(), vec![], 2));
        assert_eq!(next.deadline_ms, 7_000 + limits::GENERATE_ATTEMPT_MS);
    }
}

#[test]
fn all_odd_ones_are_named_and_without_spares_for_them_the_version_failed() {
    for (spares, next) in [(2, Some(2)), (1, None)] {
        let mut bench = Bench::new(5, 3, spares);
        for (by, result) in [(2, B), (4, C), (1, A), (3, A)] {
            assert_eq!(bench.ready(by, result), Outcome::Noted, "node {by}");
        }
        assert_eq!(bench.ready(5, A), bench.ended(1, next));
        bench.assert_wrong_result(1, &[1, 2, 3, 4, 5], &[2, 4]);
        let state = if next.is_some() { KeyState::Pending } else { KeyState::Failed };
        assert_eq!((bench.version().state, bench.running().is_some()), (state, next.is_some()));
    }
}

#[test]
fn without_a_majority_all_are_heard_and_nobody_is_named() {
    // Of four with t = 2, three make a majority; of five with t = 3 too.
    let halves: &[(u16, u8)] = &[(1, A), (3, B), (2, A), (4, B)];
    let thirds: &[(u16, u8)] = &[(1, A), (3, B), (2, A), (4, B), (5, C)];
    for (n, t, votes) in [(4, 2, halves), (5, 3, thirds)] {
        let mut bench = Bench::new(n, t, 1);
        let roster: Vec<u16> = (1..=n).collect();
        let (last, before) = votes.split_last().unwrap();
        for attempt in 1..=limits::GENERATE_ATTEMPTS {
            for (by, result) in before {
                assert_eq!(bench.ready(*by, *result), Outcome::Noted, "node {by} of {n}, attempt {attempt}");
            }
            // The same nodes try again, the spare is not used up; not for ever.
            let next = Some(attempt + 1).filter(|_| attempt < limits::GENERATE_ATTEMPTS);
            assert_eq!(bench.ready(last.0, last.1), bench.ended(attempt, next));
            bench.assert_wrong_result(attempt, &roster, &[]);
            assert_eq!(bench.running().map(|running| running.spares), next.map(|_| nodes([n + 1])));
        }
        assert_eq!(bench.version().state, KeyState::Failed);
    }
}

#[test]
fn a_late_vote_of_an_ended_attempt_is_refused() {
    let mut bench = Bench::new(5, 3, 1);
    let over = bench.attempt();
    for (by, result) in [(1, A), (2, B), (3, A), (4, A)] {
        bench.ready(by, result);
    }
    let runs = bench.attempt();
    assert_eq!((over.epoch, runs.epoch), (epoch(1), epoch(2)));
    // The new number on the old roster is no vote for the new attempt, and none is taken for one that has not begun.
    let renumbered = Ceremony { epoch: epoch(2), ..over.clone() };
    let ahead = Ceremony { epoch: epoch(3), ..runs.clone() };
    for attempt in [&over, &renumbered, &ahead] {
        let late = Payload::Generate(ready(attempt, 5, A));
        assert_eq!(bench.refusal(late), ErrorCode::WrongState, "{attempt:?}");
    }
    let replaced = Payload::Generate(ready(&runs, 2, A));
    assert_eq!(bench.refusal(replaced), ErrorCode::PermissionDenied);
    // Nor does the old attempt end once more, although by now its time is over.
    bench.time_ms += 10 * limits::GENERATE_ATTEMPT_MS;
    let expire = Payload::Expire { operation: over.operation, epoch: over.epoch };
    assert_eq!(bench.refusal(expire), ErrorCode::WrongState);
    // What was voted in it does not count in the new one.
    for by in [1, 3, 4, 5] {
        assert_eq!(bench.ready(by, A), Outcome::Noted, "node {by}");
    }
    assert_eq!(bench.ready(6, A), Outcome::activated(&core(&runs, A)));
    assert_eq!(bench.faults(), 1);
    let repeated = Payload::Generate(ready(&runs, 1, A));
    assert_eq!(bench.refusal(repeated), ErrorCode::WrongState, "after the commit");
}

/// However many run, each gets its turn: the window goes round.
#[test]
fn the_next_operations_go_round() {
    let bench = Bench::new(3, 2, 0);
    let mut tables = bench.tables.clone();
    let record = bench.running().unwrap();
    tables.remove(&schema::operation(&record.ceremony.operation));
    let ids: Vec<OperationId> = (1..=7).map(|n| OperationId::from_bytes([n; 32])).collect();
    for operation in &ids {
        let ceremony = Ceremony { operation: *operation, ..record.ceremony.clone() };
        tables.insert(schema::operation(operation), encode(&OperationRecord { ceremony, ..record.clone() }));
    }
    let look = |after: Option<&OperationId>, limit| -> Vec<OperationId> {
        let found = next_operations(&tables, after, limit).unwrap();
        found.into_iter().map(|record| record.ceremony.operation).collect()
    };
    let (mut after, mut seen) = (None, Vec::new());
    for _ in 0..7 {
        let found = look(after.as_ref(), 3);
        assert_eq!(found.len(), 3);
        after = found.last().copied();
        seen.extend(found);
    }
    assert_eq!(seen, ids.iter().cycle().take(21).copied().collect::<Vec<_>>());
    // No more than there are, and the one that was looked at last comes last.
    assert_eq!(look(ids.get(2), 100), [ids.get(3..).unwrap(), ids.get(..3).unwrap()].concat());
    // One that is over is no obstacle.
    assert_eq!(look(Some(&OperationId::from_bytes([0xff; 32])), 2), ids.get(..2).unwrap());
}

impl Bench {
    /// The first version as it is once t holders have activated it, in a state.
    fn settled(state: KeyState) -> Self {
        let mut bench = Self::new(5, 3, 0);
        for by in 1..=5 {
            bench.ready(by, A);
        }
        bench.change(|version| {
            let activated = identity(1).sign(Domain::Activated, &version.core().unwrap().cluster, b"");
            let certificate = version.certificate.as_mut().unwrap();
            certificate.activated = nodes(1..=3).into_iter().map(|node| (node, activated)).collect();
            version.state = state;
        });
        bench
    }

    fn change(&mut self, change: impl FnOnce(&mut VersionRecord)) {
        let place = schema::version(&self.key, KeyVersion::FIRST);
        let mut version: VersionRecord = read(&self.tables, &place).unwrap().unwrap();
        change(&mut version);
        self.tables.insert(place, encode(&version));
    }

    fn refresh(&mut self) -> Outcome {
        let body = RequestBody {
            cluster: self.genesis.cluster_id(),
            client: identity(100).public(),
            request_id: RequestId::from_bytes([9; 16]),
            not_before_ms: 1_000,
            expires_ms: 61_000,
            action: Action::RefreshKey { absent: Vec::new() },
            key: Some(self.key),
            version: VersionSelector::Number(KeyVersion::FIRST),
            purpose: Purpose::Sign,
            payload_type: "raw".to_owned(),
            context: BTreeMap::new(),
            messages: Vec::new(),
        };
        self.order(Payload::Request(SignedRequest::sign(&body, &identity(100))))
    }
}

/// A version that only verifies does not hold a machine that has shares of it, and is not renewed by schedule.
#[test]
fn shares_of_a_version_that_only_verifies_can_be_moved() {
    for (state, moves) in [
        (KeyState::Active, true),
        (KeyState::Suspended, true),
        (KeyState::Rotated, true),
        (KeyState::Expired, true),
        (KeyState::Revoked, false),
        (KeyState::Destroyed, false),
    ] {
        let mut bench = Bench::settled(state);
        let outcome = bench.refresh();
        assert_eq!(matches!(outcome, Outcome::Redistributing { .. }), moves, "{state}: {outcome:?}");
        assert_eq!(bench.running().is_some(), moves, "{state}");
        let scheduled = matches!(state, KeyState::Active | KeyState::Suspended);
        let mut bench = Bench::settled(state);
        bench.change(|version| version.refresh_ms = Some(1));
        bench.order(Payload::Refresh { key: bench.key, version: KeyVersion::FIRST });
        assert_eq!(bench.running().is_some(), scheduled, "{state}");
    }
}

/// What passes by itself can be told from what does not.
#[test]
fn a_change_that_is_not_activated_is_refused_with_how_many_have() {
    let mut bench = Bench::settled(KeyState::Active);
    bench.change(|version| {
        version.certificate.as_mut().unwrap().activated.pop_first();
    });
    let outcome = bench.refresh();
    let Outcome::Refused(refusal) = &outcome else { unreachable!("{outcome:?}") };
    assert_eq!(refusal.code, ErrorCode::OperationRunning);
    assert_eq!(refusal.details.get(ACTIVATED), Some(&Detail::Number(2)));
}

/// The word of a holder that lost what it dealt to itself ends the attempt at once, once, and only of such a holder.
#[test]
fn a_lost_own_dealing_ends_the_attempt() {
    let mut bench = Bench::settled(KeyState::Active);
    bench.refresh();
    let report = |bench: &Bench, by: u16, kind| {
        let report = FaultReport::new(kind, []);
        Payload::Generate(Vote::fault(&bench.attempt(), node(by), report, &identity(by)))
    };
    let said = report(&bench, 1, FaultKind::Restarted);
    assert_eq!(bench.refusal(said), ErrorCode::WrongState, "nothing was chosen");
    let mut running = bench.running().unwrap();
    let core = CertificateCore { previous: Some(Digest::from_bytes([0; 32])), ..core(&running.ceremony, B) };
    running.moved.as_mut().unwrap().dealings.result = Some(Chosen { dealers: nodes(1..=3), core });
    bench.tables.insert(schema::operation(&running.ceremony.operation), encode(&running));
    for (by, kind) in [(4, FaultKind::Restarted), (1, FaultKind::WrongResult), (1, FaultKind::BadShare)] {
        let said = report(&bench, by, kind);
        assert!(matches!(bench.order(said), Outcome::Refused(_)), "{by} {kind:?}");
    }
    let (before, said) = (bench.attempt(), report(&bench, 1, FaultKind::Restarted));
    let outcome = bench.order(said.clone());
    assert!(matches!(outcome, Outcome::AttemptEnded { next: Some(_), .. }), "{outcome:?}");
    let next = bench.attempt();
    assert_eq!(next.base.unwrap().dealers, nodes(2..=5), "it deals no more");
    assert_eq!(next.holders, before.holders, "and holds, as all others do");
    let version: VersionRecord = read(&bench.tables, &schema::version(&bench.key, KeyVersion::FIRST)).unwrap().unwrap();
    let ended = version.attempts.last().unwrap();
    assert_eq!((ended.fault, ended.reporter), (Some(FaultKind::Restarted), Some(node(1))));
    assert!(ended.culprits.is_empty());
    assert!(version.shares.iter().any(|set| set.epoch == before.epoch), "its shares may lie on disks");
    assert_eq!(bench.refusal(said), ErrorCode::WrongState, "the attempt is over");
}
