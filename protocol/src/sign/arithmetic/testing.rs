//! Keys from a dealer, for tests.
#![expect(clippy::unwrap_used, reason = "tests")]

use frost_core::Identifier;
use frost_core::keys::{IdentifierList, generate_with_dealer};
use frost_ed25519::Ed25519Sha512;
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use crate::certificate::CertificateCore;
use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use crate::request::Suite;

/// What a dealer hands out: the public key, and for each node its secret and its verifying share.
pub(crate) struct Dealt {
    pub(crate) public_key: [u8; 32],
    pub(crate) shares: Vec<(NodeId, Zeroizing<[u8; 32]>, [u8; 32])>,
}

pub(crate) fn deal(nodes: &[NodeId], threshold: u16, rng: &mut (impl RngCore + CryptoRng)) -> Dealt {
    let identifier = |node: &NodeId| Identifier::<Ed25519Sha512>::try_from(node.get()).unwrap();
    let numbers: Vec<_> = nodes.iter().map(identifier).collect();
    let size = u16::try_from(nodes.len()).unwrap();
    let (secrets, public) = generate_with_dealer(size, threshold, IdentifierList::Custom(&numbers), rng).unwrap();
    let share = |node: &NodeId| {
        let secret = secrets.get(&identifier(node)).unwrap().signing_share().serialize().try_into().unwrap();
        let verifying = public.verifying_shares().get(&identifier(node)).unwrap().serialize().unwrap();
        (*node, Zeroizing::new(secret), verifying.try_into().unwrap())
    };
    Dealt {
        public_key: public.verifying_key().serialize().unwrap().try_into().unwrap(),
        shares: nodes.iter().map(share).collect(),
    }
}

/// A core with these verifying shares.
pub(crate) fn core_of(public_key: [u8; 32], threshold: usize, shares: &[(NodeId, [u8; 32])]) -> CertificateCore {
    CertificateCore {
        cluster: ClusterId::from_bytes([7; 32]),
        key: KeyId::from_bytes([1; 32]),
        name: Name::new("test").unwrap(),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key,
        roster: shares.iter().map(|(node, _)| *node).collect(),
        holders: shares.iter().map(|(node, _)| *node).collect(),
        threshold: Threshold::new(threshold, shares.len()).unwrap(),
        membership: 1,
        epoch: Epoch::FIRST,
        verifying_shares: shares.iter().map(|(_, share)| *share).collect(),
        transcript: Digest::from_bytes([2; 32]),
        previous: None,
    }
}
