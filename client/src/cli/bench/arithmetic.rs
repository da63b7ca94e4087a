//! The limit that arithmetic alone sets on this machine: `arithmetic-v2`.
//!
//! What everybody who makes such a signature must compute, each part in the fastest form that is known here and only once, on
//! every core: the client signs its request; each of the t holders, of which one coordinates, verifies it, makes nonces, checks
//! those of the others (sent divided by eight) and computes a share; the coordinator adds up and verifies; the client verifies.
//! Nothing is encoded, sent, written or decided, and what holders sign for each other is left out.

use std::collections::BTreeMap;
use std::sync::Arc;

use frost_ed25519::Identifier;
use rand_core::OsRng;
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use symbolon_protocol::identity::{Domain, Identity, Signature};
use symbolon_protocol::request::Suite;
use symbolon_protocol::sign::arithmetic::{Backend, Commitment, Nonces, SignatureShare};
use symbolon_protocol::sign::{HolderShare, KeyGroup};
use zeroize::Zeroizing;

use super::limit;

/// Name of this way to measure; another way gets another name.
pub(crate) const METHOD: &str = "arithmetic-v2";
/// The cluster of a key that no cluster has.
const CLUSTER: ClusterId = ClusterId::from_bytes([0; 32]);

/// Who takes part.
struct Parties {
    client: Identity,
    group: Arc<KeyGroup>,
    /// The t that sign; the first of them coordinates.
    holders: BTreeMap<NodeId, HolderShare>,
}

/// Signatures per second on all cores together.
pub(crate) fn per_second(t: u16, n: u16) -> Result<f64, Refusal> {
    let parties = parties(t, n).ok_or_else(|| failed("no key could be made"))?;
    limit::on_all_cores(|message| sign(&parties, message))
}

fn failed(what: &str) -> Refusal {
    Refusal::new(ErrorCode::Internal, what)
}

/// A distributed key generation among n in one process.
fn parties(t: u16, n: u16) -> Option<Parties> {
    let limit::Group { signers, public } = limit::generate(t, n).ok()?;
    let roster: Vec<NodeId> = (1..=n).map(NodeId::new).collect::<Option<_>>()?;
    let identifier = |node: NodeId| Identifier::try_from(node.get()).ok();
    let verifying =
        |node: &NodeId| public.verifying_shares().get(&identifier(*node)?)?.serialize().ok()?.try_into().ok();
    let core = CertificateCore {
        cluster: CLUSTER,
        key: KeyId::from_bytes([0; 32]),
        name: Name::new("limit").ok()?,
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key: public.verifying_key().serialize().ok()?.try_into().ok()?,
        threshold: Threshold::new(usize::from(t), roster.len())?,
        membership: 1,
        epoch: Epoch::FIRST,
        verifying_shares: roster.iter().map(verifying).collect::<Option<_>>()?,
        transcript: Digest::from_bytes([0; 32]),
        previous: None,
        holders: roster.clone(),
        roster: roster.clone(),
    };
    let group = Arc::new(KeyGroup::with_backend(&core, Backend::Fast).ok()?);
    let mut holders = BTreeMap::new();
    for node in roster {
        if let Some(key) = signers.get(&identifier(node)?) {
            let secret = Zeroizing::new(key.signing_share().serialize());
            let secret = Zeroizing::new(secret.as_slice().try_into().ok()?);
            holders.insert(node, HolderShare::of_group(node, secret, Arc::clone(&group)).ok()?);
        }
    }
    Some(Parties { client: Identity::generate(&mut OsRng), group, holders })
}

/// One signature with everybody's work.
fn sign(parties: &Parties, message: &[u8]) -> Result<[u8; 64], Refusal> {
    let Parties { client, group, holders } = parties;
    let client_key = client.public();
    let request = client.sign(Domain::Request, &CLUSTER, message);
    let mut nonces = BTreeMap::new();
    for (node, share) in holders {
        if !client_key.verifies(Domain::Request, &CLUSTER, message, &request) {
            return Err(failed("the request does not verify"));
        }
        let made = group.backend().commit(share, &mut OsRng)?;
        nonces.insert(*node, (made.sent(), made));
    }
    // What one signer makes of the commitments of all.
    let seen_by = |own: NodeId| {
        let see = |(node, (sent, made)): (&NodeId, &(_, Nonces))| {
            let commitment = if *node == own { Some(made.commitment().clone()) } else { Commitment::decode_sent(sent) };
            Some((*node, commitment?))
        };
        let commitments = nonces.iter().map(see).collect::<Option<_>>();
        group.backend().package(group, &commitments.ok_or_else(|| failed("a commitment is bad"))?, message)
    };
    let mut packages = holders.keys().map(|node| seen_by(*node)).collect::<Result<Vec<_>, _>>()?.into_iter();
    let coordinator = packages.next().ok_or_else(|| failed("nobody signs"))?;
    let mut shares = BTreeMap::new();
    for ((node, share), (_, nonces)) in holders.iter().zip(nonces.into_values()) {
        // The first one is the coordinator: it has its package already.
        let package = if shares.is_empty() { None } else { packages.next() };
        let signed = package.as_ref().unwrap_or(&coordinator).sign(share, nonces)?;
        shares.insert(*node, SignatureShare::decode(&signed).ok_or_else(|| failed("a share is no scalar"))?);
    }
    let signature = coordinator.signature(&shares).ok_or_else(|| failed("the shares add up to no signature"))?;
    let verifies = group.public_key().verifies_raw(message, &Signature::from_bytes(signature));
    if verifies { Ok(signature) } else { Err(failed("the signature does not verify")) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_loop_makes_good_signatures() {
        for (t, n) in [(2, 3), (3, 5), (2, 2)] {
            let parties = parties(t, n).unwrap();
            assert_eq!(parties.holders.len(), usize::from(t));
            let signature = Signature::from_bytes(sign(&parties, b"message").unwrap());
            assert!(parties.group.public_key().verifies_raw(b"message", &signature));
            assert!(!parties.group.public_key().verifies_raw(b"another", &signature));
        }
        assert!(parties(4, 3).is_none());
    }
}
