//! Certificates made by hand, good ones and bad ones.

use frost_ed25519::keys::{SigningShare, VerifyingShare};
use rand_chacha::ChaCha20Rng;
use rand_chacha::rand_core::SeedableRng as _;
use symbolon_protocol::certificate::{Activation, Ready};
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::history::{Head, Leaf};
use symbolon_protocol::id::{Epoch, Threshold};
use symbolon_protocol::identity::{Domain, Identity};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::pop::Pop;
use symbolon_protocol::request::{Purpose, Suite};
use symbolon_protocol::wire::encode;

use super::*;

const NODES: u8 = 3;

fn node(number: u8) -> NodeId {
    NodeId::new(u16::from(number)).unwrap()
}

fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Three voters: node1, node2, node3.
pub(crate) fn genesis() -> Genesis {
    let members = (1..=NODES).map(|number| {
        let member = Member {
            name: name(&format!("node{number}")),
            key: identity(number).public(),
            peer_address: format!("127.0.0.1:{}", 7100 + u16::from(number)),
            client_address: format!("127.0.0.1:{}", 7200 + u16::from(number)),
            zone: String::new(),
            role: MemberRole::Voter,
        };
        (node(number), member)
    });
    let administrators = BTreeMap::from([(name("admin"), identity(99).public())]);
    Genesis { name: name("test"), members: members.collect(), administrators, checkpoint_entries: 4096, salt: [5; 16] }
}

/// The core of the key `name`, whose public key is that of `identity(signer)`.
fn core(key: &str, signer: u8) -> CertificateCore {
    let share = |number: u8| {
        let secret = SigningShare::deserialize(scalar(number).as_slice()).unwrap();
        <[u8; 32]>::try_from(VerifyingShare::from(secret).serialize().unwrap()).unwrap()
    };
    CertificateCore {
        cluster: genesis().cluster_id(),
        key: KeyId::from_bytes([signer; 32]),
        name: name(key),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key: *identity(signer).public().as_bytes(),
        roster: (1..=NODES).map(node).collect(),
        threshold: Threshold::new(2, 3).unwrap(),
        membership: 0,
        epoch: Epoch::FIRST,
        verifying_shares: (1..=NODES).map(share).collect(),
        transcript: Digest::from_bytes([8; 32]),
        previous: None,
    }
}

/// A small scalar, little-endian as in RFC 8032.
fn scalar(number: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    if let Some(first) = bytes.first_mut() {
        *first = number;
    }
    bytes
}

/// With every vote, each by the identity that `voter` gives.
fn voted(core: CertificateCore, voter: impl Fn(u8) -> Identity) -> KeyCertificate {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (cluster, digest) = (core.cluster, core.digest());
    let (entry, writes) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
    // The first leaf of the history is its own root.
    let root = Leaf { index: 0, entry, outcome: Outcome::activated(&core).digest(), writes }.hash();
    let head = Head { index: 0, root, membership: 0, state: None };
    let mut certificate = KeyCertificate {
        core,
        ready: BTreeMap::new(),
        activated: BTreeMap::new(),
        activation: Activation { entry, writes, path: Vec::new(), head },
        heads: BTreeMap::new(),
    };
    for number in 1..=NODES {
        let (id, identity) = (node(number), voter(number));
        let possession = Pop::prove(&scalar(number), digest.as_bytes(), &mut rng).unwrap();
        let signature = identity.sign(Domain::Ready, &cluster, &Ready::payload(&digest, &possession));
        certificate.ready.insert(id, Ready { possession, signature });
        certificate.activated.insert(id, identity.sign(Domain::Activated, &cluster, digest.as_bytes()));
        certificate.heads.insert(id, identity.sign(Domain::Head, &cluster, &encode(&head)));
    }
    certificate
}

fn good(key: &str, signer: u8) -> KeyCertificate {
    voted(core(key, signer), identity)
}

/// A view of the key that a certificate speaks of.
fn view(certificate: KeyCertificate) -> KeyView {
    let core = certificate.core.clone();
    let version = VersionView {
        number: core.version,
        state: KeyState::Active,
        reason: None,
        created_ms: 1,
        expires_ms: None,
        roster: core.roster,
        threshold: core.threshold,
        attempts: Vec::new(),
        running: None,
        destroy_ms: None,
        erased: BTreeSet::new(),
        certificate: Some(certificate),
    };
    KeyView {
        id: core.key,
        name: core.name,
        purpose: Purpose::Sign,
        suite: core.suite,
        tags: BTreeMap::new(),
        created_by: name("admin"),
        created_ms: 1,
        current: Some(core.version),
        versions: vec![version],
    }
}

/// A checked key `release`, signed for by `identity(signer)`, in a state of its first version.
pub(crate) fn verified(signer: u8, state: KeyState) -> VerifiedKey {
    let mut view = view(good("release", signer));
    view.versions.iter_mut().for_each(|version| version.state = state);
    trust().check_key(view, 1, 1).unwrap()
}

fn trust() -> Trust {
    Trust::new(genesis(), None).unwrap()
}

fn refused(view: KeyView) -> String {
    let refusal = trust().check_key(view, 1, 1).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::BadCertificate);
    refusal.message
}

#[test]
fn a_good_certificate_is_believed_and_remembered() {
    let trust = trust();
    let key = trust.check_key(view(good("release", 50)), 7, 9).unwrap();
    assert_eq!(key.public_key(KeyVersion::FIRST), Some(identity(50).public()));
    assert_eq!(key.current().map(|c| c.digest), Some(core("release", 50).digest()));
    assert!(key.demand(KeyVersion::FIRST).is_ok());
    // Proven once, its votes need not be shown again.
    let mut bare = good("release", 50);
    bare.heads.clear();
    assert!(trust.check_key(view(bare), 7, 9).unwrap().current().is_some());
}

#[test]
fn the_certificate_of_another_key_is_caught() {
    // The whole view of another key, under the asked name.
    let mut renamed = view(good("other", 51));
    renamed.name = name("release");
    assert!(refused(renamed).contains("shows the certificate of version 1 of key `other`"));
    // The other key's certificate inside the right view.
    let mut swapped = view(good("release", 50));
    for version in &mut swapped.versions {
        version.certificate = Some(good("other", 51));
    }
    assert!(refused(swapped).contains("for version 1 of key `release`"));
    // A certificate of another version.
    let mut newer = view(good("release", 50));
    for version in &mut newer.versions {
        version.number = KeyVersion::new(2).unwrap();
    }
    newer.current = KeyVersion::new(2);
    refused(newer);
}

#[test]
fn a_node_cannot_certify_a_key_of_its_own() {
    // Its own votes in everybody's name.
    assert!(refused(view(voted(core("release", 52), |_| identity(1)))).contains("READY"));
    // The good votes over another public key.
    let mut changed = good("release", 50);
    changed.core.public_key = *identity(52).public().as_bytes();
    refused(view(changed));
    // A roster of strangers.
    let mut strangers = core("release", 52);
    strangers.roster = (4..=6).map(node).collect();
    let mut certificate = good("release", 52);
    certificate.core = strangers;
    refused(view(certificate));
    // Another cluster's.
    let mut foreign = core("release", 52);
    foreign.cluster = ClusterId::from_bytes([9; 32]);
    assert!(refused(view(voted(foreign, identity))).contains("another cluster"));
}

#[test]
fn holders_other_than_the_certified_ones_are_caught() {
    let mut view = view(good("release", 50));
    for version in &mut view.versions {
        version.roster.pop();
    }
    assert!(refused(view).contains("other holders"));
}

#[test]
fn missing_votes_are_not_believed_but_waited_for() {
    let strip = |change: &dyn Fn(&mut KeyCertificate)| {
        let mut certificate = good("release", 50);
        change(&mut certificate);
        certificate
    };
    let waits = [
        strip(&|c| c.heads.retain(|id, _| *id == node(1))),
        strip(&|c| c.activated.retain(|id, _| *id == node(1))),
        strip(&|c| c.activated.clear()),
    ];
    for certificate in waits {
        let key = trust().check_key(view(certificate), 1, 1).unwrap();
        assert!(key.current().is_none() && key.public_key(KeyVersion::FIRST).is_none());
        assert!(is_incomplete(&key.demand(KeyVersion::FIRST).unwrap_err()));
    }
    // A READY vote is never late.
    assert!(
        refused(view(strip(&|c| {
            let _ = c.ready.pop_first();
        })))
        .contains("READY")
    );
    // Enough of them, but one is not good.
    let forged = strip(&|c| {
        let foreign = identity(77).sign(Domain::Head, &c.core.cluster, &encode(&c.activation.head));
        c.heads.pop_first();
        c.heads.insert(node(1), foreign);
        c.heads.insert(node(2), foreign);
    });
    let refusal = trust().check_key(view(forged), 1, 1).unwrap_err();
    assert!(!is_incomplete(&refusal), "{refusal}");
    // A place that is not in the history.
    refused(view(strip(&|c| c.activation.writes = Digest::from_bytes([3; 32]))));
}

#[test]
fn a_membership_that_cannot_be_followed_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let trust = Trust::new(genesis(), Some(directory.path())).unwrap();
    trust.write_membership(1);
    let error = Trust::new(genesis(), Some(directory.path())).unwrap_err();
    assert_eq!(error.code(), ErrorCode::VersionUnknown);
    assert!(Trust::new(genesis(), None).is_ok());
}
