//! What the arithmetic of one signature costs, operation by operation, with both implementations:
//! `cargo bench -p symbolon-protocol --bench signing`. The least of many rounds, microseconds, on one core: what else the
//! machine does can only add to a round.
#![expect(clippy::unwrap_used, reason = "a benchmark")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Instant;

use curve25519_dalek::{EdwardsPoint, Scalar};
use rand_core::OsRng;
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use symbolon_protocol::request::Suite;
use symbolon_protocol::sign::arithmetic::{Backend, Commitment, Nonces, SentPair, SignatureShare};
use symbolon_protocol::sign::{HolderShare, KeyGroup};
use zeroize::Zeroizing;

/// Rounds of each measurement.
const ROUNDS: usize = 400;
/// What is signed, bytes.
const MESSAGE: [u8; 32] = [7; 32];

/// A key whose polynomial lies open: nothing but a benchmark may use one.
fn deal(t: u16, n: u16) -> (CertificateCore, Vec<(NodeId, [u8; 32])>) {
    let polynomial: Vec<Scalar> = (0..t).map(|_| Scalar::random(&mut OsRng)).collect();
    let at =
        |x: u16| polynomial.iter().rev().fold(Scalar::ZERO, |sum, coefficient| sum * Scalar::from(x) + coefficient);
    let public = |secret: Scalar| EdwardsPoint::mul_base(&secret).compress().to_bytes();
    let nodes: Vec<NodeId> = (1..=n).map(|number| NodeId::new(number).unwrap()).collect();
    let core = CertificateCore {
        cluster: ClusterId::from_bytes([7; 32]),
        key: KeyId::from_bytes([1; 32]),
        name: Name::new("bench").unwrap(),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key: public(at(0)),
        roster: nodes.clone(),
        holders: nodes.clone(),
        threshold: Threshold::new(usize::from(t), nodes.len()).unwrap(),
        membership: 1,
        epoch: Epoch::FIRST,
        verifying_shares: (1..=n).map(|number| public(at(number))).collect(),
        transcript: Digest::from_bytes([2; 32]),
        previous: None,
    };
    let shares = nodes.iter().map(|node| (*node, at(node.get()).to_bytes())).collect();
    (core, shares)
}

/// The least time of `work` over inputs that are made beforehand.
fn least<T, R>(mut input: impl FnMut() -> T, mut work: impl FnMut(T) -> R) -> f64 {
    let round = |_| {
        let input = input();
        let started = Instant::now();
        let result = work(input);
        let time = started.elapsed().as_secs_f64() * 1e6;
        drop(black_box(result));
        time
    };
    (0..ROUNDS).map(round).fold(f64::INFINITY, f64::min)
}

/// Rows of name and time, and the sum over all nodes: t commitments, the others' commitments checked by each of the t, t
/// packages and shares, one aggregation.
fn measure(backend: Backend, t: u16, n: u16) -> Vec<(&'static str, f64)> {
    let (core, secrets) = deal(t, n);
    let group = Arc::new(KeyGroup::with_backend(&core, backend).unwrap());
    let share = |(node, secret): (NodeId, [u8; 32])| {
        (node, HolderShare::of_group(node, Zeroizing::new(secret), Arc::clone(&group)).unwrap())
    };
    let shares: BTreeMap<NodeId, HolderShare> = secrets.into_iter().take(usize::from(t)).map(share).collect();
    let (own, holder) = shares.first_key_value().unwrap();
    let commit = |share: &HolderShare| backend.commit(share, &mut OsRng).unwrap();
    let all = || -> (BTreeMap<NodeId, Nonces>, BTreeMap<NodeId, Commitment>) {
        let nonces: BTreeMap<_, _> = shares.iter().map(|(node, share)| (*node, commit(share))).collect();
        let commitments = nonces.iter().map(|(node, nonces)| (*node, nonces.commitment().clone())).collect();
        (nonces, commitments)
    };
    let packaged = || {
        let (nonces, commitments) = all();
        (nonces, group.backend().package(&group, &commitments, &MESSAGE).unwrap())
    };
    let signed = || {
        let (nonces, package) = packaged();
        let sign = |(node, nonces)| package.sign(shares.get(&node).unwrap(), nonces).unwrap();
        let signed: BTreeMap<_, _> = nonces
            .into_iter()
            .map(|(node, nonces)| (node, SignatureShare::decode(&sign((node, nonces))).unwrap()))
            .collect();
        (package, signed)
    };
    let other = commit(holder);
    let (pair, sent): (_, SentPair) = (*other.commitment().encoded(), other.sent());

    let makes = least(|| (), |()| commit(holder));
    let checks = least(|| (), |()| Commitment::decode(black_box(&pair)).unwrap());
    let checks_sent = least(|| (), |()| Commitment::decode_sent(black_box(&sent)).unwrap());
    let packages = least(|| all().1, |list| group.backend().package(&group, &list, &MESSAGE).unwrap());
    let first = |(mut nonces, package): (BTreeMap<NodeId, Nonces>, _)| (nonces.remove(own).unwrap(), package);
    let signs = least(
        || first(packaged()),
        |(nonces, package)| {
            let share = package.sign(holder, nonces).unwrap();
            (share, package)
        },
    );
    let verifies = least(signed, |(package, shares)| {
        assert_eq!(package.verifies(*own, shares.get(own).unwrap()), Some(true));
        (package, shares)
    });
    let aggregates = least(signed, |(package, shares)| {
        let signature = package.signature(&shares).unwrap();
        (signature, package, shares)
    });
    let t = f64::from(t);
    let sum = |checks: f64| t * (makes + packages + signs) + t * (t - 1.0) * checks + aggregates;
    vec![
        ("commit", makes),
        ("check a commitment", checks),
        ("check a commitment sent as an eighth", checks_sent),
        ("package (once per signer)", packages),
        ("sign", signs),
        ("verify a share", verifies),
        ("aggregate and verify", aggregates),
        ("sum over all nodes", sum(checks)),
        ("sum with eighths", sum(checks_sent)),
    ]
}

fn main() -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    for (t, n) in [(2, 3), (3, 5)] {
        let [fast, reference] = [Backend::Fast, Backend::FrostCore].map(|backend| measure(backend, t, n));
        writeln!(out, "{t} of {n}, microseconds{:>24}{:>12}", "fast", "frost-core")?;
        for ((name, fast), (_, reference)) in fast.into_iter().zip(reference) {
            writeln!(out, "  {name:<38}{fast:>8.1}{reference:>12.1}")?;
        }
    }
    Ok(())
}
