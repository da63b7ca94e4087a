//! The certificate of an attempt that collected every READY vote and was called off.

use symbolon_client::trust::Trust;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::Domain;
use symbolon_protocol::outcome::Outcome;

// What the client's own tests are made of.
#[path = "../../../client/src/trust/tests/made.rs"]
mod made;

use made::{core, first_head, genesis, identity, node, signed, view, voted};

/// The member that lies.
const LIAR: u8 = 3;

/// All READY votes are good; the attempt was called off before anybody activated it.
fn aborted(mut certificate: KeyCertificate) -> KeyCertificate {
    certificate.activated.clear();
    certificate.heads.clear();
    certificate
}

/// Adds what the liar can add by itself.
fn liar_votes(certificate: &mut KeyCertificate) {
    let (cluster, digest) = (certificate.core.cluster, certificate.core.digest());
    let activated = identity(LIAR).sign(Domain::Activated, &cluster, digest.as_bytes());
    certificate.activated.insert(node(LIAR), activated);
    let all = signed(&cluster, &certificate.activation.head, identity);
    certificate.heads.insert(node(LIAR), all[&node(LIAR)]);
}

/// Puts the attempt at the place of the entry that called it off, under the head that every voter signed for it.
fn at_the_abort(certificate: &mut KeyCertificate) {
    let core = &certificate.core;
    let ended = Outcome::AttemptEnded { key: core.key, version: core.version, epoch: core.epoch, next: None };
    certificate.activation.head = first_head(certificate.activation.entry, &ended, certificate.activation.writes);
    certificate.heads = signed(&core.cluster, &certificate.activation.head, identity);
}

/// No public key comes out of it, and it is no certificate for a signature.
#[track_caller]
fn assert_not_believed(what: &str, certificate: &KeyCertificate) {
    let trust = || Trust::new(genesis(), None);
    let core = &certificate.core;
    let refused = trust().check_certificate(certificate, &core.key, &core.name, core.version).expect_err(what);
    assert_eq!(refused.code, ErrorCode::BadCertificate, "{what}: {refused}");
    match trust().check_key(view(certificate.clone()), 1, 1) {
        Ok(key) => assert!(key.current().is_none() && key.public_key(core.version).is_none(), "{what}"),
        Err(refused) => assert_eq!(refused.code, ErrorCode::BadCertificate, "{what}: {refused}"),
    }
}

#[test]
fn an_attempt_that_was_called_off_certifies_nothing() {
    // The same votes with an activation are a good certificate.
    let good = voted(core("release", 50), identity);
    let trust = Trust::new(genesis(), None);
    assert!(trust.check_key(view(good.clone()), 1, 1).unwrap().current().is_some());

    let ready = aborted(good.clone());
    assert_eq!(ready.ready.len(), 3);
    assert_not_believed("READY of all", &ready);
    let mut own = ready.clone();
    liar_votes(&mut own);
    assert_not_believed("READY of all and the liar's word", &own);
    let mut abort = own.clone();
    at_the_abort(&mut abort);
    assert_not_believed("at the place of the abort", &abort);
    // As many liars as the threshold, which no longer protects the key itself: still no place in the history.
    abort.activated = good.activated.clone();
    assert_not_believed("activated by holders, and never ordered", &abort);
    abort.activation.head = good.activation.head;
    assert_not_believed("a head that the voters did not sign", &abort);
    // Heads of another history that were really signed, with an activation that never stood in it.
    let mut moved = good;
    at_the_abort(&mut moved);
    assert_not_believed("under the head of another entry", &moved);
}
