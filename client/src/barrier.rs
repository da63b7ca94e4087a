//! Whether a right that was taken away is gone: what a node reports of it, checked (`docs/spec/fresh.md`).

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::fresh::{Claim, Enforced, Expected, Report};
use symbolon_protocol::history::Leaf;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, SignedRequest};

use crate::call::read;
use crate::trust::{Trust, VerifiedKey, bad, newer};

/// How far a right is gone that a request took away.
///
/// That the change stands in the history of the voters, with its outcome, and who of them confirmed it, is proved by their
/// signatures. That the node waited for what is left, and who holds shares, is its word.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Enforcement {
    /// How far.
    pub enforced: Enforced,
    /// Voters and holders that did not confirm.
    pub missing: Vec<NodeId>,
    /// Index of the entry that took it away.
    pub index: u64,
}

impl Enforcement {
    /// Whether it may become more when the same request is sent again.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.enforced == Enforced::No
    }
}

/// A request that takes a right away, as it was signed.
#[derive(Debug)]
pub(crate) struct Withdrawal {
    request: SignedRequest,
    rotates: bool,
}

impl Withdrawal {
    /// None for a request that takes nothing away.
    pub(crate) fn of(action: &Action, request: &SignedRequest) -> Option<Self> {
        let rotates = matches!(action, Action::RotateKey { .. });
        action.takes_away().then(|| Self { request: request.clone(), rotates })
    }

    /// Checks the report beside an outcome; `key` is the key in the reply, its certificates checked.
    pub(crate) fn check(
        &self,
        trust: &Trust,
        (index, report): (u64, &[u8]),
        outcome: &Outcome,
        key: Option<&VerifiedKey>,
    ) -> Result<Enforcement, Refusal> {
        let report: Report = read("report of a barrier", report)?;
        let claim = if self.rotates {
            Claim::Leaf(activation(outcome, key)?)
        } else {
            Claim::Request(&self.request, outcome, index)
        };
        let followed = trust.followed();
        let named = report.positions.iter().map(|signed| signed.position.membership).max();
        if let Some(version) = named.filter(|version| *version > followed.version()) {
            return Err(newer(version));
        }
        let expected = Expected { cluster: trust.cluster(), followed: &followed, claim };
        let checked =
            report.check(&expected).map_err(|what| bad(format!("answers with a report of a barrier {what}")))?;
        let missing = checked.missing.into_iter().collect();
        Ok(Enforcement { enforced: checked.enforced, missing, index: checked.index })
    }
}

/// The entry from which on the version before does not sign, by the certificate of the new one.
fn activation(outcome: &Outcome, key: Option<&VerifiedKey>) -> Result<Leaf, Refusal> {
    let (Outcome::Generating { version, .. } | Outcome::Activated { version, .. }) = outcome else {
        return Err(bad("answers with an outcome that is no rotation"));
    };
    let key = key.ok_or_else(|| bad("answers without the key that it rotated"))?;
    key.demand(*version)?;
    let shown = key.view.version(*version).and_then(|shown| shown.certificate.as_ref());
    let certificate = shown.ok_or_else(|| bad("shows a key without its certificate"))?;
    let KeyCertificate { core, activation, .. } = certificate;
    let outcome = Outcome::activated(core).digest();
    Ok(Leaf { index: activation.head.index, entry: activation.entry, outcome, writes: activation.writes })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use symbolon_protocol::error::ErrorCode;
    use symbolon_protocol::fresh::{Place, Position, SignedPosition};
    use symbolon_protocol::history::Head;
    use symbolon_protocol::id::{BootId, Digest, KeyId, KeyVersion};
    use symbolon_protocol::identity::Identity;
    use symbolon_protocol::lifecycle::KeyState;
    use symbolon_protocol::wire::encode;

    use super::*;
    use crate::trust::is_incomplete;
    use crate::trust::tests::{genesis, verified};

    /// Of the entry right before a head, confirmed with that head by these of the three voters.
    fn report(trust: &Trust, head: &Head, enforced: Enforced, nodes: &[u16]) -> Report {
        let sign = |number: &u16| -> SignedPosition {
            let (boot, node) = (BootId { counter: 1, random: [1; 16] }, NodeId::new(*number).unwrap());
            let position = Position { node, boot, nonce: [0; 16], applied: head.index, head: head.root, membership: 0 };
            position.sign(&Identity::from_seed(&[u8::try_from(*number).unwrap(); 32]), &trust.cluster())
        };
        let positions = nodes.iter().map(sign).collect();
        // The certificates of these tests are the first entries of their histories.
        let paths = BTreeMap::from([(head.index, Vec::new())]);
        let place = Some(Place { time_ms: 0, writes: Digest::from_bytes([0; 32]), paths });
        Report {
            index: head.index,
            enforced,
            positions,
            holders: BTreeSet::new(),
            staleness_ms: 0,
            place,
            endorsements: Vec::new(),
        }
    }

    fn no_request(rotates: bool) -> Withdrawal {
        Withdrawal { request: SignedRequest { body: Vec::new().into(), signatures: Vec::new() }, rotates }
    }

    #[test]
    fn a_rotation_is_measured_by_the_certificate_of_the_new_version() {
        let trust = Trust::new(genesis(), None);
        let key = verified(50, KeyState::Active);
        let head = key.view.versions.first().unwrap().certificate.as_ref().unwrap().activation.head;
        let outcome = Outcome::Generating { key: key.view.id, version: KeyVersion::FIRST };
        let withdrawal = no_request(true);
        let check = |report: &Report, key| withdrawal.check(&trust, (1, &encode(report)), &outcome, key);

        let good = report(&trust, &head, Enforced::Byzantine, &[1, 2, 3]);
        let enforcement = check(&good, Some(&key)).unwrap();
        assert_eq!((enforcement.enforced, enforcement.is_open()), (Enforced::Byzantine, false));
        let crash = check(&report(&trust, &head, Enforced::Crash, &[1, 3]), Some(&key)).unwrap();
        assert_eq!(crash.missing, [NodeId::new(2).unwrap()]);
        let elsewhere = Head { root: Digest::from_bytes([9; 32]), ..head };
        for (what, lie) in [
            ("two of three", report(&trust, &head, Enforced::Byzantine, &[1, 2])),
            ("one of three", report(&trust, &head, Enforced::Crash, &[1])),
            ("another history", report(&trust, &elsewhere, Enforced::Byzantine, &[1, 2, 3])),
            ("another entry", report(&trust, &Head { index: 1, ..head }, Enforced::Byzantine, &[1, 2, 3])),
        ] {
            assert_eq!(check(&lie, Some(&key)).unwrap_err().code, ErrorCode::BadCertificate, "{what}");
        }
        assert!(check(&good, None).is_err());
        let mut view = key.view.clone();
        view.versions.iter_mut().for_each(|version| version.certificate = None);
        let uncertified = trust.check_key(view, 1, 1).unwrap();
        assert!(is_incomplete(&check(&good, Some(&uncertified)).unwrap_err()), "votes may still come");
    }

    #[test]
    fn a_node_cannot_pass_off_what_was_not_ordered() {
        let trust = Trust::new(genesis(), None);
        let key = verified(50, KeyState::Active);
        let head = key.view.versions.first().unwrap().certificate.as_ref().unwrap().activation.head;
        // Every signature in it is good; the entry is another one.
        let report = report(&trust, &head, Enforced::Byzantine, &[1, 2, 3]);
        for outcome in [
            Outcome::KeyChanged { key: KeyId::from_bytes([1; 32]), versions: Vec::new() },
            // The outcome of a rotation does not help a node that answers a revocation.
            Outcome::Generating { key: key.view.id, version: KeyVersion::FIRST },
        ] {
            let checked = no_request(false).check(&trust, (head.index, &encode(&report)), &outcome, Some(&key));
            let refusal = checked.unwrap_err();
            assert_eq!(refusal.code, ErrorCode::BadCertificate);
            assert!(refusal.message.contains("in their history"), "{}", refusal.message);
        }
        let garbage = no_request(false).check(&trust, (7, b""), &Outcome::Noted, None).unwrap_err();
        assert_eq!(garbage.code, ErrorCode::BadCertificate, "a reply without a report");
    }
}
