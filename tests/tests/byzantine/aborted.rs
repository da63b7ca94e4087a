//! The certificate of an attempt that collected every READY vote and was called off.

use std::collections::{BTreeMap, BTreeSet};

use symbolon_client::trust::Trust;
use symbolon_protocol::certificate::{CertificateCore, KeyCertificate};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::genesis::{Genesis, Member, MemberRole};
use symbolon_protocol::history::{Head, Leaf};
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use symbolon_protocol::identity::{Domain, Identity};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Purpose, Suite};
use symbolon_protocol::state::view::{KeyView, VersionView};
use symbolon_protocol::wire::encode;
use symbolon_tests::hostile::certify;

use crate::node;

/// The members; the third one lies.
struct Members(BTreeMap<NodeId, Identity>);

const LIAR: u16 = 3;

impl Members {
    fn new() -> Self {
        Self([1_u8, 2, 3].map(|number| (node(number.into()), Identity::from_seed(&[number; 32]))).into())
    }
    fn genesis(&self) -> Genesis {
        let member = |(id, identity): (&NodeId, &Identity)| {
            let number = id.get();
            let member = Member {
                name: name(&format!("node{number}")),
                key: identity.public(),
                peer_address: format!("127.0.0.1:{}", 7000 + 10 * number),
                client_address: format!("127.0.0.1:{}", 7001 + 10 * number),
                zone: String::new(),
                role: MemberRole::Voter,
            };
            (*id, member)
        };
        Genesis {
            name: name("test"),
            members: self.0.iter().map(member).collect(),
            administrators: BTreeMap::from([(name("admin"), Identity::from_seed(&[99; 32]).public())]),
            checkpoint_entries: 4096,
            salt: [5; 16],
        }
    }
    /// What a holder of the roster voted for; the public key of the attempt is somebody's.
    fn core(&self) -> CertificateCore {
        CertificateCore {
            cluster: self.genesis().cluster_id(),
            key: KeyId::from_bytes([4; 32]),
            name: name("release"),
            version: KeyVersion::FIRST,
            suite: Suite::Ed25519,
            public_key: *Identity::from_seed(&[50; 32]).public().as_bytes(),
            roster: self.0.keys().copied().collect(),
            threshold: Threshold::new(2, 3).unwrap(),
            membership: 0,
            epoch: Epoch::FIRST,
            verifying_shares: Vec::new(),
            transcript: Digest::from_bytes([8; 32]),
            previous: None,
        }
    }
    /// All READY votes are good; the attempt was called off before anybody activated it.
    fn aborted(&self) -> KeyCertificate {
        let mut certificate = certify(self.core(), |id| &self.0[&id]);
        certificate.activated.clear();
        certificate.heads.clear();
        certificate
    }
    /// Adds what the liar can add by itself.
    fn liar_votes(&self, certificate: &mut KeyCertificate) {
        let (own, cluster, digest) = (&self.0[&node(LIAR)], certificate.core.cluster, certificate.core.digest());
        certificate.activated.insert(node(LIAR), own.sign(Domain::Activated, &cluster, digest.as_bytes()));
        certificate.heads.insert(node(LIAR), own.sign(Domain::Head, &cluster, &encode(&certificate.activation.head)));
    }
    /// Puts the attempt at the place of the entry that called it off, under the head that every voter signed for it.
    fn at_the_abort(&self, certificate: &mut KeyCertificate) {
        let core = &certificate.core;
        let ended = Outcome::AttemptEnded { key: core.key, version: core.version, epoch: core.epoch, next: None };
        let (entry, writes) = (certificate.activation.entry, certificate.activation.writes);
        let root = Leaf { index: 0, entry, outcome: ended.digest(), writes }.hash();
        let head = Head { index: 0, root, membership: 0, state: None };
        certificate.activation.head = head;
        let signed =
            |(id, identity): (&NodeId, &Identity)| (*id, identity.sign(Domain::Head, &core.cluster, &encode(&head)));
        certificate.heads = self.0.iter().map(signed).collect();
    }
}

fn name(text: &str) -> Name {
    Name::new(text).unwrap()
}

/// The view in which a liar shows a certificate: as an active key.
fn shown(certificate: KeyCertificate) -> KeyView {
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

/// No public key comes out of it, and it is no certificate for a signature.
#[track_caller]
fn assert_not_believed(members: &Members, what: &str, certificate: &KeyCertificate) {
    let trust = || Trust::new(members.genesis(), None).unwrap();
    let core = &certificate.core;
    let refused = trust().check_certificate(certificate, &core.key, &core.name, core.version).expect_err(what);
    assert_eq!(refused.code, ErrorCode::BadCertificate, "{what}: {refused}");
    match trust().check_key(shown(certificate.clone()), 1, 1) {
        Ok(key) => assert!(key.current().is_none() && key.public_key(core.version).is_none(), "{what}"),
        Err(refused) => assert_eq!(refused.code, ErrorCode::BadCertificate, "{what}: {refused}"),
    }
}

#[test]
fn an_attempt_that_was_called_off_certifies_nothing() {
    let members = Members::new();
    // The same votes with an activation are a good certificate.
    let good = certify(members.core(), |id| &members.0[&id]);
    let trust = Trust::new(members.genesis(), None).unwrap();
    assert!(trust.check_key(shown(good.clone()), 1, 1).unwrap().current().is_some());

    let ready = members.aborted();
    assert_eq!(ready.ready.len(), 3);
    assert_not_believed(&members, "READY of all", &ready);
    let mut own = ready.clone();
    members.liar_votes(&mut own);
    assert_not_believed(&members, "READY of all and the liar's word", &own);
    let mut abort = own.clone();
    members.at_the_abort(&mut abort);
    assert_not_believed(&members, "at the place of the abort", &abort);
    // As many liars as the threshold, which no longer protects the key itself: still no place in the history.
    abort.activated = good.activated.clone();
    assert_not_believed(&members, "activated by holders, and never ordered", &abort);
    abort.activation.head = good.activation.head;
    assert_not_believed(&members, "a head that the voters did not sign", &abort);
    // Heads of another history that were really signed, with an activation that never stood in it.
    let mut moved = good;
    members.at_the_abort(&mut moved);
    assert_not_believed(&members, "under the head of another entry", &moved);
}
