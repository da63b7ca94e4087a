//! Both implementations are RFC 9591, and agree bit for bit, in what they make and in what they refuse.
#![expect(clippy::unwrap_used, reason = "tests")]

use curve25519_dalek::EdwardsPoint;
use curve25519_dalek::constants::EIGHT_TORSION;
use frost_core::round1::NonceCommitment;
use frost_ed25519::Ed25519Sha512;
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::{CryptoRng, RngCore, SeedableRng as _};
use serde_json::Value;
use zeroize::Zeroizing;

use super::testing::{core_of, deal};
use super::*;

const BACKENDS: [Backend; 2] = [Backend::Fast, Backend::FrostCore];

fn id(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

// ---- The vector of the RFC ----

fn field<'a>(value: &'a Value, path: &[&str]) -> &'a Value {
    path.iter().fold(value, |at, name| at.get(name).unwrap())
}

fn bytes<const N: usize>(value: &Value, name: &str) -> [u8; N] {
    hex::decode(field(value, &[name]).as_str().unwrap()).unwrap().try_into().unwrap()
}

fn node_of(value: &Value) -> NodeId {
    id(u16::try_from(field(value, &["identifier"]).as_u64().unwrap()).unwrap())
}

/// Randomness that is given.
struct Given(Vec<[u8; 32]>);

impl RngCore for Given {
    fn next_u32(&mut self) -> u32 {
        0
    }
    fn next_u64(&mut self) -> u64 {
        0
    }
    fn fill_bytes(&mut self, dest: &mut [u8]) {
        dest.copy_from_slice(&self.0.remove(0));
    }
    fn try_fill_bytes(&mut self, dest: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(dest);
        Ok(())
    }
}
impl CryptoRng for Given {}

#[test]
fn the_vector_of_rfc_9591() {
    let vector: Value = serde_json::from_str(include_str!("../../../tests/vectors/rfc9591-ed25519.json")).unwrap();
    let inputs = field(&vector, &["inputs"]);
    let message = hex::decode(field(inputs, &["message"]).as_str().unwrap()).unwrap();
    let dealt = field(inputs, &["participant_shares"]).as_array().unwrap();
    let secrets: BTreeMap<NodeId, [u8; 32]> =
        dealt.iter().map(|share| (node_of(share), bytes(share, "participant_share"))).collect();
    let verifying = |secret| EdwardsPoint::mul_base(&Scalar::from_canonical_bytes(secret).unwrap());
    let verifying: Vec<_> =
        secrets.iter().map(|(node, secret)| (*node, verifying(*secret).compress().to_bytes())).collect();
    let core = core_of(bytes(inputs, "verifying_key_key"), 2, &verifying);
    let first = field(&vector, &["round_one_outputs", "outputs"]).as_array().unwrap();
    let second = field(&vector, &["round_two_outputs", "outputs"]).as_array().unwrap();

    for backend in BACKENDS {
        let group = Arc::new(KeyGroup::with_backend(&core, backend).unwrap());
        let (mut nonces, mut commitments) = (BTreeMap::new(), BTreeMap::new());
        for output in first {
            let node = node_of(output);
            let share = Zeroizing::new(*secrets.get(&node).unwrap());
            let share = HolderShare::of_group(node, share, Arc::clone(&group)).unwrap();
            let mut given =
                Given(vec![bytes(output, "hiding_nonce_randomness"), bytes(output, "binding_nonce_randomness")]);
            let made = backend.commit(&share, &mut given).unwrap();
            assert_eq!(
                made.secret().each_ref().map(Scalar::to_bytes),
                [bytes(output, "hiding_nonce"), bytes(output, "binding_nonce")]
            );
            let pair = CommitmentPair {
                hiding: bytes(output, "hiding_nonce_commitment"),
                binding: bytes(output, "binding_nonce_commitment"),
            };
            assert_eq!(*made.commitment().encoded(), pair);
            commitments.insert(node, Commitment::decode(&pair).unwrap());
            nonces.insert(node, (share, made));
        }
        let factors = fast::binding_factors(&core.public_key, &commitments, &message);
        let expected: Vec<[u8; 32]> = first.iter().map(|output| bytes(output, "binding_factor")).collect();
        assert_eq!(factors.iter().map(Scalar::to_bytes).collect::<Vec<_>>(), expected);

        let package = backend.package(&group, &commitments, &message).unwrap();
        let mut shares = BTreeMap::new();
        for ((node, (share, nonces)), expected) in nonces.into_iter().zip(second) {
            let signed = package.sign(&share, nonces).unwrap();
            assert_eq!((node, signed), (node_of(expected), bytes(expected, "sig_share")));
            let signed = SignatureShare::decode(&signed).unwrap();
            assert_eq!(package.verifies(node, &signed), Some(true));
            shares.insert(node, signed);
        }
        let signature: [u8; 64] = bytes(field(&vector, &["final_output"]), "sig");
        assert_eq!(package.signature(&shares), Some(signature));
    }
}

// ---- Equality ----

/// One key, with both implementations.
struct Both {
    core: CertificateCore,
    /// In the order of [`BACKENDS`].
    groups: [Arc<KeyGroup>; 2],
    shares: [BTreeMap<NodeId, HolderShare>; 2],
}

impl Both {
    fn new(nodes: &[NodeId], threshold: u16, rng: &mut ChaCha20Rng) -> Self {
        let dealt = deal(nodes, threshold, rng);
        let verifying: Vec<_> = dealt.shares.iter().map(|(node, _, verifying)| (*node, *verifying)).collect();
        let core = core_of(dealt.public_key, usize::from(threshold), &verifying);
        let groups = BACKENDS.map(|backend| Arc::new(KeyGroup::with_backend(&core, backend).unwrap()));
        let share = |group: &Arc<KeyGroup>, (node, secret): (NodeId, &Zeroizing<[u8; 32]>)| {
            (node, HolderShare::of_group(node, secret.clone(), Arc::clone(group)).unwrap())
        };
        let shares = groups
            .each_ref()
            .map(|group| dealt.shares.iter().map(|(node, secret, _)| share(group, (*node, secret))).collect());
        Self { core, groups, shares }
    }

    /// Signs with a set of nodes, each implementation for itself and with the same randomness.
    fn sign(&self, signers: &[NodeId], message: &[u8], seed: u64) -> [Transcript; 2] {
        let mut both = self.groups.iter().zip(&self.shares).map(|(group, shares)| {
            let mut rng = ChaCha20Rng::seed_from_u64(seed);
            let (mut nonces, mut commitments) = (Vec::new(), BTreeMap::new());
            for node in signers {
                let made = group.backend().commit(shares.get(node).unwrap(), &mut rng).unwrap();
                commitments.insert(*node, Commitment::decode(made.commitment().encoded()).unwrap());
                nonces.push(made);
            }
            let encoded = commitments.iter().map(|(node, commitment)| (*node, *commitment.encoded())).collect();
            let package = group.backend().package(group, &commitments, message).unwrap();
            let sign = |(node, nonces)| package.sign(shares.get(node).unwrap(), nonces).map_err(|e| e.code);
            let signed: Vec<_> = signers.iter().zip(nonces).map(sign).collect();
            Transcript { commitments: encoded, signed, package }
        });
        [both.next().unwrap(), both.next().unwrap()]
    }
}

struct Transcript {
    commitments: BTreeMap<NodeId, CommitmentPair>,
    signed: Vec<Result<[u8; 32], ErrorCode>>,
    package: Box<dyn Package>,
}

fn subsets(nodes: &[NodeId]) -> impl Iterator<Item = Vec<NodeId>> {
    let all = 1_u32 << nodes.len();
    (1..all).map(move |set| {
        nodes.iter().enumerate().filter(|(at, _)| set & (1 << at) != 0).map(|(_, node)| *node).collect()
    })
}

/// Everything that both make of one set of signers is the same, and so is what they refuse.
fn agree(both: &Both, signers: &[NodeId], message: &[u8], seed: u64) {
    let [fast, reference] = both.sign(signers, message, seed);
    assert_eq!(fast.commitments, reference.commitments);
    assert_eq!(fast.signed, reference.signed);
    let enough = signers.len() >= both.core.threshold.get();
    assert!(fast.signed.iter().all(|signed| signed.is_ok() == enough));
    let decode =
        |(node, signed): (&NodeId, &Result<[u8; 32], _>)| Some((*node, SignatureShare::decode(signed.as_ref().ok()?)?));
    let mut shares: BTreeMap<NodeId, SignatureShare> = signers.iter().zip(&fast.signed).filter_map(decode).collect();
    let signature = fast.package.signature(&shares);
    assert_eq!(signature, reference.package.signature(&shares));
    assert_eq!(signature.is_some(), enough);
    for (node, share) in &shares {
        assert_eq!(fast.package.verifies(*node, share), Some(true));
        assert_eq!(reference.package.verifies(*node, share), Some(true));
        assert!(!is_wrong_share(&both.core, *node, &fast.commitments, message, &share.0.to_bytes()));
    }
    // One share is another scalar, one is missing, one is of a node that does not sign.
    let Some((node, share)) = shares.pop_first() else { return };
    assert_eq!(fast.package.signature(&shares), None);
    assert_eq!(reference.package.signature(&shares), None);
    let wrong = SignatureShare(share.0 + Scalar::ONE);
    shares.insert(node, wrong);
    assert_eq!(fast.package.signature(&shares), None);
    assert_eq!(reference.package.signature(&shares), None);
    assert_eq!(fast.package.verifies(node, &wrong), Some(false));
    assert_eq!(reference.package.verifies(node, &wrong), Some(false));
    assert!(is_wrong_share(&both.core, node, &fast.commitments, message, &wrong.0.to_bytes()));
    for stranger in both.core.roster.iter().chain([&id(999)]).filter(|node| !signers.contains(node)) {
        assert_eq!(fast.package.verifies(*stranger, &share), None);
        assert_eq!(reference.package.verifies(*stranger, &share), None);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn both_make_the_same_of_all_sets_of_signers(
        seed: u64,
        numbers in prop::collection::btree_set(1_u16..=u16::MAX, 2..=7),
        threshold in 2_u16..=7,
        message in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let nodes: Vec<NodeId> = numbers.into_iter().map(id).collect();
        let threshold = threshold.min(u16::try_from(nodes.len()).unwrap());
        let both = Both::new(&nodes, threshold, &mut ChaCha20Rng::seed_from_u64(seed));
        for signers in subsets(&nodes) {
            agree(&both, &signers, &message, seed.wrapping_add(1));
        }
    }

    #[test]
    fn both_take_the_same_random_points_and_scalars(bytes: [u8; 32]) {
        same_point(&bytes);
        same_scalar(&bytes);
    }

    #[test]
    fn both_take_the_same_points_of_mixed_order(seed: [u8; 64]) {
        let good = EdwardsPoint::mul_base(&Scalar::from_bytes_mod_order_wide(&seed));
        for torsion in EIGHT_TORSION {
            let encoded = (good + torsion).compress().to_bytes();
            same_point(&encoded);
            assert_eq!(decode_point(&encoded).is_some(), torsion == EIGHT_TORSION[0]);
        }
    }

    #[test]
    fn eight_forms_of_a_sent_pair_mean_the_same_commitments(seed: u64) {
        let (one, mut rng) = (id(1), ChaCha20Rng::seed_from_u64(seed));
        let both = Both::new(&[one, id(2)], 2, &mut rng);
        let [shares, _] = &both.shares;
        let nonces = Backend::Fast.commit(shares.get(&one).unwrap(), &mut rng).unwrap();
        let expected = *nonces.commitment().encoded();
        let SentPair(CommitmentPair { hiding, binding }) = nonces.sent();
        let (at_hiding, at_binding) = (decode_point(&hiding).unwrap(), decode_point(&binding).unwrap());
        for torsion in EIGHT_TORSION {
            let hiding = (at_hiding + torsion).compress().to_bytes();
            let binding = (at_binding - torsion).compress().to_bytes();
            let commitment = Commitment::decode_sent(&SentPair(CommitmentPair { hiding, binding })).unwrap();
            assert_eq!(*commitment.encoded(), expected);
            // By the rule of the other form it is a good commitment.
            assert!(is_good_pair(commitment.encoded()));
            // Nothing is left of a point that is torsion alone.
            let small = torsion.compress().to_bytes();
            for pair in [CommitmentPair { hiding: small, binding }, CommitmentPair { hiding, binding: small }] {
                assert!(Commitment::decode_sent(&SentPair(pair)).is_none());
            }
        }
    }
}

fn same_point(bytes: &[u8; 32]) {
    let reference = NonceCommitment::<Ed25519Sha512>::deserialize(bytes).ok().map(|point| point.serialize().unwrap());
    let fast = decode_point(bytes).map(|point| point.compress().to_bytes().to_vec());
    assert_eq!(fast, reference, "{}", hex::encode(bytes));
    assert!(fast.is_none_or(|encoded| encoded == bytes), "{}", hex::encode(bytes));
    let good = EdwardsPoint::mul_base(&Scalar::from(3_u8)).compress().to_bytes();
    for pair in [CommitmentPair { hiding: *bytes, binding: good }, CommitmentPair { hiding: good, binding: *bytes }] {
        assert_eq!(Commitment::decode(&pair).is_some(), is_good_pair(&pair));
        assert_eq!(is_good_pair(&pair), reference.is_some());
    }
}

fn same_scalar(bytes: &[u8; 32]) {
    let reference = frost_ed25519::round2::SignatureShare::deserialize(bytes).ok().map(|share| share.serialize());
    let fast = SignatureShare::decode(bytes).map(|share| share.0.to_bytes().to_vec());
    assert_eq!(fast, reference, "{}", hex::encode(bytes));
}

#[test]
fn both_refuse_the_same_odd_points() {
    for torsion in EIGHT_TORSION {
        let mut encoded = torsion.compress().to_bytes();
        same_point(&encoded);
        encoded[31] ^= 0x80;
        same_point(&encoded);
    }
    // Every y that is not reduced, with both signs.
    for low in 0xed..=0xff {
        for high in [0x7f, 0xff] {
            let mut encoded = [0xff; 32];
            encoded[0] = low;
            encoded[31] = high;
            same_point(&encoded);
            assert!(decode_point(&encoded).is_none());
            let good = EdwardsPoint::mul_base(&Scalar::from(3_u8)).compress().to_bytes();
            let sent = SentPair(CommitmentPair { hiding: good, binding: encoded });
            assert!(Commitment::decode_sent(&sent).is_none(), "{low:x} {high:x}");
        }
    }
}

#[test]
fn both_refuse_the_same_scalars() {
    let largest = (-Scalar::ONE).to_bytes();
    for add in 0..=8 {
        let mut around = largest;
        around[0] += add;
        same_scalar(&around);
        assert_eq!(SignatureShare::decode(&around).is_some(), add == 0);
    }
    same_scalar(&[0; 32]);
    same_scalar(&[0xff; 32]);
}

#[test]
fn nonces_are_for_their_own_package_and_key() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let nodes = [id(1), id(2), id(3)];
    let (both, other) = (Both::new(&nodes, 2, &mut rng), Both::new(&nodes, 2, &mut rng));
    for ((group, shares), strangers) in both.groups.iter().zip(&both.shares).zip(&other.shares) {
        let mut commit = |node| group.backend().commit(shares.get(&node).unwrap(), &mut rng).unwrap();
        let (one, again, two) = (commit(id(1)), commit(id(1)), commit(id(2)));
        let third = commit(id(3));
        let commitments = [(id(1), one.commitment().clone()), (id(2), two.commitment().clone())].into();
        let package = group.backend().package(group, &commitments, b"message").unwrap();
        let refused = |share, nonces| package.sign(share, nonces).map_err(|error| error.code);
        assert_eq!(refused(shares.get(&id(1)).unwrap(), again), Err(ErrorCode::Internal));
        assert_eq!(refused(shares.get(&id(3)).unwrap(), third), Err(ErrorCode::Internal));
        assert_eq!(refused(strangers.get(&id(1)).unwrap(), one), Err(ErrorCode::Internal));
        assert!(refused(shares.get(&id(2)).unwrap(), two).is_ok());
    }
}

#[test]
fn many_sets_of_signers_are_remembered_and_forgotten() {
    let cache = LagrangeCache::default();
    let weights = |signers: &[u16]| cache.of(signers.iter().copied().map(id).collect());
    let first = weights(&[1, 3]);
    // 3/(3-1) and 1/(1-3).
    assert_eq!(
        first.iter().map(|weight| weight * Scalar::from(2_u8)).collect::<Vec<_>>(),
        [Scalar::from(3_u8), -Scalar::ONE]
    );
    assert!(Arc::ptr_eq(&first, &weights(&[1, 3])));
    for number in 4..400 {
        assert_eq!(weights(&[1, number]).len(), 2);
    }
    assert!(!Arc::ptr_eq(&first, &weights(&[1, 3])) && first == weights(&[1, 3]));
}
