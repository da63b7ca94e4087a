//! Schnorr proof of possession of a share, over the transcript of the operation that made it.
//!
//! `R = k·B`, `c = H(tag, Y, R, context)`, `z = k + c·s`; checked as `z·B = R + c·Y`.

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::{EdwardsPoint, Scalar};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroize as _;

/// A proof, 64 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pop {
    /// R, a compressed point.
    pub commitment: [u8; 32],
    /// z, a canonical scalar.
    pub response: [u8; 32],
}
crate::wire_struct!(Pop { commitment, response });

fn challenge(share: &[u8; 32], commitment: &[u8; 32], context: &[u8]) -> Scalar {
    let hash = Sha512::new()
        .chain_update(b"symbolon/possession/v1")
        .chain_update(share)
        .chain_update(commitment)
        .chain_update(context);
    Scalar::from_bytes_mod_order_wide(&hash.finalize().into())
}

impl Pop {
    /// Proves knowledge of `secret`, a canonical scalar. None when it is not canonical.
    #[must_use]
    pub fn prove(secret: &[u8; 32], context: &[u8], rng: &mut (impl RngCore + CryptoRng)) -> Option<Self> {
        let mut s = Option::<Scalar>::from(Scalar::from_canonical_bytes(*secret))?;
        let verifying = EdwardsPoint::mul_base(&s).compress().to_bytes();
        // Hedged: a weak generator alone does not give the share away.
        let mut seed = [0; 32];
        rng.fill_bytes(&mut seed);
        let hash = Sha512::new().chain_update(b"symbolon/possession-nonce/v1").chain_update(seed).chain_update(secret);
        let mut k = Scalar::from_bytes_mod_order_wide(&hash.chain_update(context).finalize().into());
        let commitment = EdwardsPoint::mul_base(&k).compress().to_bytes();
        let response = (k + challenge(&verifying, &commitment, context) * s).to_bytes();
        s.zeroize();
        k.zeroize();
        seed.zeroize();
        Some(Self { commitment, response })
    }

    /// Checks the proof against a verifying share.
    #[must_use]
    pub fn verifies(&self, verifying_share: &[u8; 32], context: &[u8]) -> bool {
        let Some(share) = CompressedEdwardsY(*verifying_share).decompress() else { return false };
        let Some(z) = Option::<Scalar>::from(Scalar::from_canonical_bytes(self.response)) else { return false };
        let c = challenge(verifying_share, &self.commitment, context);
        let expected = EdwardsPoint::vartime_double_scalar_mul_basepoint(&-c, &share, &z);
        expected.compress().to_bytes() == self.commitment
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use rand_chacha::ChaCha20Rng;
    use rand_core::SeedableRng as _;

    #[test]
    fn only_the_holder_of_the_share_proves_it() {
        let mut rng = ChaCha20Rng::seed_from_u64(1);
        let s = Scalar::from(77u64);
        let verifying = EdwardsPoint::mul_base(&s).compress().to_bytes();
        let pop = Pop::prove(s.as_bytes(), b"transcript", &mut rng).unwrap();
        assert!(pop.verifies(&verifying, b"transcript"));
        assert!(!pop.verifies(&verifying, b"another"));
        let other = EdwardsPoint::mul_base(&Scalar::from(78u64)).compress().to_bytes();
        assert!(!pop.verifies(&other, b"transcript"));
        let mut bent = pop;
        bent.response[0] ^= 1;
        assert!(!bent.verifies(&verifying, b"transcript"));
        assert!(Pop::prove(&[0xff; 32], b"", &mut rng).is_none());
    }
}
