//! A key as signing needs it: the public side of a version and epoch, and a holder's share of it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, OnceLock};

use curve25519_dalek::{EdwardsPoint, Scalar};
use zeroize::Zeroizing;

use super::arithmetic::{Backend, LagrangeCache, decode_point};
use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::id::{NodeId, Threshold};
use crate::identity::PublicKey;
use crate::request::Suite;

/// A certificate core, ready to sign under. Made once per key version and epoch and kept: it decodes points.
pub struct KeyGroup {
    core: CertificateCore,
    backend: Backend,
    public_key: PublicKey,
    /// Decoded when the first share has to be checked; those that are no points of prime order are left out.
    verifying: OnceLock<BTreeMap<NodeId, EdwardsPoint>>,
    lagrange: LagrangeCache,
}

impl KeyGroup {
    /// From the core of a certificate that was verified; computes with [`Backend::Fast`].
    ///
    /// # Errors
    /// As [`KeyGroup::with_backend`].
    pub fn new(core: &CertificateCore) -> Result<Self, Refusal> {
        Self::with_backend(core, Backend::default())
    }
    /// The same, and what computes.
    ///
    /// # Errors
    /// `bad_certificate` when its parts do not fit together or the public key is no point of prime order.
    pub fn with_backend(core: &CertificateCore, backend: Backend) -> Result<Self, Refusal> {
        let refuse = |what: &str| Refusal::new(ErrorCode::BadCertificate, format!("key `{}`: {what}", core.name));
        match core.suite {
            Suite::Ed25519 => {}
        }
        let nodes = core.roster.len();
        if core.verifying_shares.len() != nodes || Threshold::new(core.threshold.get(), nodes).is_none() {
            return Err(refuse("roster, threshold and verifying shares do not fit together"));
        }
        let public_key = decode_point(&core.public_key).and_then(|_| PublicKey::from_bytes(&core.public_key).ok());
        let public_key = public_key.ok_or_else(|| refuse("its public key is no point of prime order"))?;
        let (verifying, lagrange) = (OnceLock::new(), LagrangeCache::default());
        Ok(Self { core: core.clone(), backend, public_key, verifying, lagrange })
    }
    /// The core.
    #[must_use]
    pub fn core(&self) -> &CertificateCore {
        &self.core
    }
    /// What computes.
    #[must_use]
    pub fn backend(&self) -> Backend {
        self.backend
    }
    /// The public key, for checking signatures.
    #[must_use]
    pub fn public_key(&self) -> &PublicKey {
        &self.public_key
    }
    /// A node's verifying share, if it is a point of prime order.
    pub(super) fn verifying_point(&self, node: NodeId) -> Option<&EdwardsPoint> {
        let decode = |node: &NodeId| Some((*node, decode_point(self.core.verifying_share(*node)?)?));
        self.verifying.get_or_init(|| self.core.roster.iter().filter_map(decode).collect()).get(&node)
    }
    pub(super) fn lagrange(&self) -> &LagrangeCache {
        &self.lagrange
    }
}

impl fmt::Debug for KeyGroup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeyGroup({:?} version {} epoch {})", self.core.name, self.core.version, self.core.epoch)
    }
}

/// A holder's secret share in usable form. Wiped when dropped; never shown, cloned or compared.
pub struct HolderShare {
    node: NodeId,
    group: Arc<KeyGroup>,
    /// Boxed, so that a move leaves no copy.
    secret: Box<Zeroizing<Scalar>>,
}

impl HolderShare {
    /// From a secret share (a canonical scalar, 32 bytes, little-endian) as it was unsealed; computes with [`Backend::Fast`].
    ///
    /// # Errors
    /// As [`HolderShare::of_group`] and [`KeyGroup::new`].
    pub fn new(node: NodeId, secret: Zeroizing<[u8; 32]>, core: &CertificateCore) -> Result<Self, Refusal> {
        Self::of_group(node, secret, Arc::new(KeyGroup::new(core)?))
    }
    /// The same, as a share of a group.
    ///
    /// # Errors
    /// `storage_failed` when the share does not belong to the node's verifying share, `internal` when the node is not in the
    /// roster.
    pub fn of_group(node: NodeId, secret: Zeroizing<[u8; 32]>, group: Arc<KeyGroup>) -> Result<Self, Refusal> {
        let core = group.core();
        let place = || format!("key `{}` version {} epoch {}", core.name, core.version, core.epoch);
        let Some(expected) = core.verifying_share(node) else {
            return Err(Refusal::new(ErrorCode::Internal, format!("node {node} is no holder of {}", place())));
        };
        let broken = || {
            let message = format!("the stored share of node {node} for {} is not the one that was certified", place());
            Refusal::new(ErrorCode::StorageFailed, message)
        };
        let mut scalar = Box::new(Zeroizing::new(Scalar::ZERO));
        **scalar = Option::from(Scalar::from_canonical_bytes(*secret)).ok_or_else(broken)?;
        if **scalar == Scalar::ZERO || EdwardsPoint::mul_base(&scalar).compress().as_bytes() != expected {
            return Err(broken());
        }
        Ok(Self { node, group, secret: scalar })
    }
    /// The holder.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.node
    }
    /// What the share is a share of.
    #[must_use]
    pub fn group(&self) -> &Arc<KeyGroup> {
        &self.group
    }
    pub(super) fn secret(&self) -> &Scalar {
        &self.secret
    }
}

impl fmt::Debug for HolderShare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HolderShare(node {}, {:?}, secret not shown)", self.node, self.group)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::sign::arithmetic::testing::core_of;

    fn secret(number: u64) -> [u8; 32] {
        Scalar::from(number).to_bytes()
    }

    fn verifying(number: u64) -> [u8; 32] {
        EdwardsPoint::mul_base(&Scalar::from(number)).compress().to_bytes()
    }

    #[test]
    fn a_share_must_belong_to_its_holder() {
        let (one, two) = (NodeId::new(1).unwrap(), NodeId::new(2).unwrap());
        let core = core_of(verifying(4), 2, &[(one, verifying(5)), (two, verifying(6))]);
        let new = |node, secret| HolderShare::new(node, Zeroizing::new(secret), &core);
        assert!(new(one, secret(5)).is_ok());
        assert_eq!(new(one, secret(6)).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(one, [0xff; 32]).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(one, [0; 32]).unwrap_err().code, ErrorCode::StorageFailed);
        assert_eq!(new(NodeId::new(3).unwrap(), secret(5)).unwrap_err().code, ErrorCode::Internal);
        assert!(!format!("{:?}", new(one, secret(5)).unwrap()).contains(&hex::encode(secret(5))));
    }

    #[test]
    fn a_public_key_must_be_a_point_of_prime_order() {
        let shares = [(NodeId::new(1).unwrap(), verifying(5)), (NodeId::new(2).unwrap(), verifying(6))];
        let new = |public_key| KeyGroup::new(&core_of(public_key, 2, &shares));
        assert!(new(verifying(4)).is_ok());
        let torsion = curve25519_dalek::constants::EIGHT_TORSION[1];
        let mixed = EdwardsPoint::mul_base(&Scalar::from(4u64)) + torsion;
        for bad in [mixed.compress().to_bytes(), torsion.compress().to_bytes(), [0xff; 32]] {
            assert_eq!(new(bad).unwrap_err().code, ErrorCode::BadCertificate);
        }
    }
}
