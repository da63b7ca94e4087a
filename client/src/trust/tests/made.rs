//! A cluster, keys and certificates made by hand. The end-to-end tests include this file by its path, so it names nothing but
//! the protocol.

use std::collections::BTreeMap;

use rand_core::OsRng;
use symbolon_protocol::certificate::{Activation, CertificateCore, KeyCertificate, Ready};
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::history::{Head, Leaf};
use symbolon_protocol::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use symbolon_protocol::identity::{Domain, Identity, PublicKey, Signature};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::pop::Pop;
use symbolon_protocol::request::{KeyPolicy, Purpose, Suite};
use symbolon_protocol::state::view::{KeyView, VersionView};
use symbolon_protocol::wire::encode;

/// Verifying shares of nodes 1, 2 and 3, whose shares are the scalars 1, 2 and 3.
const VERIFYING_SHARES: [&str; 3] = [
    "5866666666666666666666666666666666666666666666666666666666666666",
    "c9a3f86aae465f0e56513864510f3997561fa2c9e85ea21dc2292309f3cd6022",
    "d4b4f5784868c3020403246717ec169ff79e26608ea126a1ab69ee77d1b16712",
];

fn members() -> impl Iterator<Item = u8> {
    1..=3
}

pub(crate) fn node(number: u8) -> NodeId {
    NodeId::new(number.into()).unwrap()
}

pub(crate) fn identity(number: u8) -> Identity {
    Identity::from_seed(&[number; 32])
}

pub(crate) fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// Three voters: node1, node2, node3.
pub(crate) fn genesis() -> Genesis {
    let member = |number: u8| Member {
        name: name(&format!("node{number}")),
        key: identity(number).public(),
        peer_address: format!("127.0.0.1:{}", 7100 + u16::from(number)),
        client_address: format!("127.0.0.1:{}", 7200 + u16::from(number)),
        zone: String::new(),
        role: MemberRole::Voter,
    };
    Genesis {
        name: name("test"),
        members: members().map(|number| (node(number), member(number))).collect(),
        administrators: BTreeMap::from([(name("admin"), identity(99).public())]),
        checkpoint_entries: 4096,
        salt: [5; 16],
    }
}

/// The core of the key `key`, held by all three, whose public key is that of `identity(signer)`.
pub(crate) fn core(key: &str, signer: u8) -> CertificateCore {
    CertificateCore {
        cluster: genesis().cluster_id(),
        key: KeyId::from_bytes([signer; 32]),
        name: name(key),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key: *identity(signer).public().as_bytes(),
        roster: members().map(node).collect(),
        holders: members().map(node).collect(),
        threshold: Threshold::new(2, 3).unwrap(),
        membership: 0,
        epoch: Epoch::FIRST,
        verifying_shares: VERIFYING_SHARES.map(|share| *share.parse::<PublicKey>().unwrap().as_bytes()).into(),
        transcript: Digest::from_bytes([8; 32]),
        previous: None,
    }
}

/// The share of a node: its number as a scalar, little-endian as in RFC 8032.
fn share(number: u8) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.iter_mut().take(1).for_each(|first| *first = number);
    bytes
}

/// With every vote, each by the identity that `voter` gives, as the first entry of its history.
pub(crate) fn voted(core: CertificateCore, voter: impl Fn(u8) -> Identity) -> KeyCertificate {
    let (cluster, digest) = (core.cluster, core.digest());
    let (mut ready, mut activated) = (BTreeMap::new(), BTreeMap::new());
    for number in members() {
        let possession = Pop::prove(&share(number), digest.as_bytes(), &mut OsRng).unwrap();
        let signature = voter(number).sign(Domain::Ready, &cluster, &Ready::payload(&digest, &possession));
        ready.insert(node(number), Ready { possession, signature });
        activated.insert(node(number), voter(number).sign(Domain::Activated, &cluster, digest.as_bytes()));
    }
    let (entry, writes) = (Digest::from_bytes([1; 32]), Digest::from_bytes([2; 32]));
    let head = first_head(entry, &Outcome::activated(&core), writes);
    let heads = signed(&cluster, &head, voter);
    KeyCertificate { core, ready, activated, activation: Activation { entry, writes, path: Vec::new(), head }, heads }
}

/// The head of a history that is one entry long: its leaf is its root.
pub(crate) fn first_head(entry: Digest, outcome: &Outcome, writes: Digest) -> Head {
    let root = Leaf { index: 0, entry, outcome: outcome.digest(), writes }.hash();
    Head { index: 0, root, membership: 0, state: None }
}

/// A head with the signature of every voter.
pub(crate) fn signed(cluster: &ClusterId, head: &Head, voter: impl Fn(u8) -> Identity) -> BTreeMap<NodeId, Signature> {
    let sign = |number| (node(number), voter(number).sign(Domain::Head, cluster, &encode(head)));
    members().map(sign).collect()
}

/// A view that shows a certificate, as that of an active key.
pub(crate) fn view(certificate: KeyCertificate) -> KeyView {
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
        shares: None,
        destroy_ms: None,
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
        policy: KeyPolicy::default(),
        versions: vec![version],
    }
}
