//! Lagrange coefficients at zero, remembered for each set of signers: an inversion is a fifth of a signature share.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use curve25519_dalek::Scalar;

use crate::id::NodeId;

/// Sets that are remembered; 4 of 9 have 126.
const SETS: usize = 128;

/// The coefficients of the sets of signers that were seen.
#[derive(Default)]
pub(in crate::sign) struct LagrangeCache(Mutex<BTreeMap<Vec<NodeId>, Arc<Vec<Scalar>>>>);

impl LagrangeCache {
    /// One coefficient for each signer, in their order. No node stands in the list twice.
    pub(super) fn of(&self, signers: Vec<NodeId>) -> Arc<Vec<Scalar>> {
        // A lock whose holder failed protects nothing that a later reader could not use.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&signers) {
            return Arc::clone(found);
        }
        if known.len() >= SETS {
            known.clear();
        }
        let coefficients = Arc::new(coefficients(&signers));
        known.insert(signers, Arc::clone(&coefficients));
        coefficients
    }
}

impl fmt::Debug for LagrangeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("LagrangeCache")
    }
}

/// The FROST identifier of a node: its number as a scalar.
pub(super) fn identifier(node: NodeId) -> Scalar {
    Scalar::from(node.get())
}

/// `derive_interpolating_value` of RFC 9591, section 4.2.
fn coefficients(signers: &[NodeId]) -> Vec<Scalar> {
    let coefficient = |own: &NodeId| {
        let (mut numerator, mut denominator) = (Scalar::ONE, Scalar::ONE);
        for other in signers.iter().filter(|other| *other != own) {
            numerator *= identifier(*other);
            denominator *= identifier(*other) - identifier(*own);
        }
        numerator * denominator.invert()
    };
    signers.iter().map(coefficient).collect()
}
