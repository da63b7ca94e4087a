//! Certificates made by hand, good ones and bad ones.

use symbolon_protocol::id::Epoch;
use symbolon_protocol::identity::Domain;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::state::view::SharesView;
use symbolon_protocol::wire::encode;

use super::*;

mod made;

use made::{core, identity, node, view, voted};
pub(crate) use made::{genesis, name};

fn good(key: &str, signer: u8) -> KeyCertificate {
    voted(core(key, signer), identity)
}

/// A checked key `release`, signed for by `identity(signer)`, in a state of its first version.
pub(crate) fn verified(signer: u8, state: KeyState) -> VerifiedKey {
    let mut view = view(good("release", signer));
    view.versions.iter_mut().for_each(|version| version.state = state);
    trust().check_key(view, 1, 1).unwrap()
}

/// A view of the key `release` with certified shares of an epoch.
pub(crate) fn renewed(epoch: u32) -> KeyView {
    let epoch = Epoch::new(epoch).unwrap();
    let mut view = view(voted(CertificateCore { epoch, ..core("release", 50) }, identity));
    for version in &mut view.versions {
        version.shares = Some(SharesView {
            epoch,
            committed_ms: 1,
            holders: version.roster.clone(),
            stale: Vec::new(),
            activated: version.roster.clone(),
            refresh_ms: None,
            out: Vec::new(),
            left: BTreeSet::new(),
        });
    }
    view
}

fn trust() -> Trust {
    Trust::new(genesis(), None)
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
fn right_after_a_change_of_shares_the_certificate_before_is_good() {
    // Moved to two of the three: their certificate does not have its votes yet.
    let mut moved = renewed(1);
    for version in &mut moved.versions {
        version.roster.pop();
        version.shares.as_mut().unwrap().epoch = Epoch::new(2).unwrap();
    }
    let key = trust().check_key(moved.clone(), 1, 1).unwrap();
    assert_eq!(key.public_key(KeyVersion::FIRST), Some(identity(50).public()));
    assert!(!key.is_settled(KeyVersion::FIRST));
    assert!(is_incomplete(&key.demand_settled(KeyVersion::FIRST).unwrap_err()));
    let settled = trust().check_key(renewed(2), 1, 1).unwrap();
    assert!(settled.is_settled(KeyVersion::FIRST) && settled.demand_settled(KeyVersion::FIRST).is_ok());
    // With the shares that it certifies, the roster is the one in it.
    moved.versions.iter_mut().for_each(|version| version.shares = renewed(1).versions.pop().unwrap().shares);
    assert!(refused(moved).contains("other holders"));
}

#[test]
fn the_public_key_of_a_version_never_changes() {
    let epoch = Epoch::new(2).unwrap();
    let other = CertificateCore { epoch, key: KeyId::from_bytes([50; 32]), ..core("release", 51) };
    let other = view(voted(other, identity));
    let trust = trust();
    assert!(trust.check_key(renewed(1), 1, 1).is_ok());
    assert!(trust.check_key(renewed(2), 2, 2).is_ok(), "new shares of the same key");
    // Again and again, although the votes for it are good.
    for _ in 0..2 {
        let refusal = trust.check_key(other.clone(), 3, 3).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::BadCertificate);
        assert!(refusal.message.contains("another public key was certified"), "{refusal}");
    }
    assert!(self::trust().check_key(other, 3, 3).is_ok(), "who never saw the first one cannot tell");
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
fn an_id_counts_only_where_a_version_is_certified() {
    assert_eq!(Trust::certified_id(&verified(50, KeyState::Active)), Ok(KeyId::from_bytes([50; 32])));
    let not_yet = view(KeyCertificate { heads: BTreeMap::new(), ..good("release", 50) });
    // The id of another key, without the certificate that would give the lie away.
    let mut another = KeyView { id: KeyId::from_bytes([51; 32]), ..view(good("release", 50)) };
    another.versions.iter_mut().for_each(|version| version.certificate = None);
    for uncertified in [not_yet, another] {
        let key = trust().check_key(uncertified, 1, 1).unwrap();
        let refusal = Trust::certified_id(&key).unwrap_err();
        assert_eq!(refusal.code, ErrorCode::WrongState);
        assert!(refusal.message.contains("`release`"), "{refusal}");
    }
    let mut caught = view(good("release", 50));
    caught.id = KeyId::from_bytes([51; 32]);
    refused(caught);
}

#[test]
fn a_membership_that_was_seen_here_is_not_gone_back_behind() {
    let directory = tempfile::tempdir().unwrap();
    let trust = || Trust::new(genesis(), Some(directory.path()));
    assert_eq!((trust().behind(), trust().membership().version), (None, 0));
    trust().write(VERSION_FILE, "1\n");
    assert_eq!(trust().behind(), Some(1), "no link leads there yet");
    trust().write(LINKS_FILE, "symbolon-ticket-v1\nno links\n");
    assert_eq!((trust().behind(), trust().membership().version), (Some(1), 0));
    assert_eq!(Trust::new(genesis(), None).behind(), None);
}

#[test]
fn a_certificate_of_a_membership_that_is_not_known_may_be_good_later() {
    let trust = trust();
    let mut certificate = good("release", 50);
    certificate.core.membership = 1;
    certificate.activation.head.membership = 1;
    let core = &certificate.core;
    let refusal = trust.check_certificate(&certificate, &core.key, &core.name, core.version).unwrap_err();
    assert!(is_newer(&refusal) && is_incomplete(&refusal), "{refusal}");
    assert_eq!(refusal.details.get(MEMBERSHIP), Some(&Detail::Number(1)));
}
