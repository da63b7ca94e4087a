//! Certificates of an epoch that not the whole roster holds shares of.

use super::*;
use crate::certificate::{Activation, CertificateError, KeyCertificate, Ready};
use crate::genesis::{Member, MemberRole};
use crate::history::{Head, Leaf, made_up};
use crate::identity::{Domain, Signature};
use crate::outcome::Outcome;
use crate::pop::Pop;

/// A 3-of-5 key whose node 4 missed the epoch: READY of the others, ACTIVATED of three, heads of three.
fn certificate() -> (KeyCertificate, Key) {
    let mut key = Key::new(&[1, 2, 3, 4, 5], 3, 1);
    key.core.holders = nodes(&[1, 2, 3, 5]);
    let core = key.core.clone();
    let ready = core.holders.iter().map(|i| (*i, ready(&core, &key, *i))).collect();
    let activated = nodes(&[1, 2, 5]).into_iter().map(|i| (i, activated(&core, i))).collect();
    let (entry, writes) = (Digest::from_bytes([6; 32]), Digest::from_bytes([7; 32]));
    let leaf = Leaf { index: 4, entry, outcome: Outcome::activated(&core).digest(), writes };
    let (path, root) = made_up(&leaf);
    let head = Head { index: 4, root, membership: 0, state: None };
    let sign = |i: NodeId| (i, identity(i).sign(Domain::Head, &core.cluster, &encode(&head)));
    let heads = nodes(&[1, 2, 3]).into_iter().map(sign).collect();
    (KeyCertificate { core, ready, activated, activation: Activation { entry, writes, path, head }, heads }, key)
}

fn ready(core: &CertificateCore, key: &Key, i: NodeId) -> Ready {
    let rng = &mut ChaCha20Rng::seed_from_u64(2);
    let possession = Pop::prove(key.shares[&i].expose(), core.digest().as_bytes(), rng).unwrap();
    let signature = identity(i).sign(Domain::Ready, &core.cluster, &Ready::payload(&core.digest(), &possession));
    Ready { possession, signature }
}

fn activated(core: &CertificateCore, i: NodeId) -> Signature {
    identity(i).sign(Domain::Activated, &core.cluster, core.digest().as_bytes())
}

fn verify(certificate: &KeyCertificate) -> Result<(), CertificateError> {
    let member = |i: u16| Member {
        name: Name::new(&format!("node-{i}")).unwrap(),
        key: identity(node(i)).public(),
        peer_address: String::new(),
        client_address: String::new(),
        zone: String::new(),
        role: MemberRole::Voter,
    };
    let members = (1..=5).map(|i| (node(i), member(i))).collect();
    certificate.verify(&certificate.core.cluster, 0, &members)
}

#[test]
fn ready_is_needed_of_exactly_the_holders() {
    let (good, key) = certificate();
    assert_eq!(verify(&good), Ok(()));
    let mut missing = good.clone();
    missing.ready.remove(&node(5));
    assert_eq!(verify(&missing), Err(CertificateError::Ready(None)));
    // Node 4 knows a share of this epoch, and is not among those who are to have one.
    let mut stranger = good;
    stranger.ready.insert(node(4), ready(&stranger.core, &key, node(4)));
    assert_eq!(verify(&stranger), Err(CertificateError::Ready(Some(node(4)))));
}

#[test]
fn only_holders_activate() {
    let (mut certificate, _) = certificate();
    certificate.activated.remove(&node(5));
    certificate.activated.insert(node(4), activated(&certificate.core, node(4)));
    assert_eq!(verify(&certificate), Err(CertificateError::Activated));
    certificate.activated.insert(node(3), activated(&certificate.core, node(3)));
    assert_eq!(verify(&certificate), Ok(()));
}

#[test]
fn holders_are_enough_of_the_roster_in_its_order() {
    let (good, _) = certificate();
    for holders in [&[1, 2, 3][..], &[1, 2, 5, 3], &[1, 2, 3, 3], &[1, 2, 3, 6], &[]] {
        let mut bent = good.clone();
        bent.core.holders = nodes(holders);
        assert_eq!(verify(&bent), Err(CertificateError::Shape), "{holders:?}");
    }
}
