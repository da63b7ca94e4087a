//! 32 secret bytes, and the one place that lets them out.

use rand_core::{CryptoRng, RngCore};
use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::error::SealError;
use super::files::random;

/// Length of every secret here, in bytes: AES-256 keys, HMAC keys and the root.
pub(super) const SECRET_LEN: usize = 32;

/// 32 secret bytes: zeroised when dropped, not `Clone`, without `Debug` and `==`.
///
/// Boxed, because a move copies a value and leaves the old bytes behind; of a box only the address moves.
pub(super) struct Secret32(Box<Zeroizing<[u8; SECRET_LEN]>>);

impl Secret32 {
    /// Makes a secret whose bytes are written in place by `fill`.
    ///
    /// # Errors
    /// Whatever `fill` returns.
    pub(super) fn fill(fill: impl FnOnce(&mut [u8; SECRET_LEN]) -> Result<(), SealError>) -> Result<Self, SealError> {
        let mut bytes = Box::new(Zeroizing::new([0; SECRET_LEN]));
        fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// A random secret.
    ///
    /// # Errors
    /// [`SealError::RandomUnavailable`].
    pub(super) fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Result<Self, SealError> {
        Self::fill(|bytes| random(rng, bytes))
    }

    /// A copy of bytes that the caller wipes.
    pub(super) fn copy_of(source: &[u8; SECRET_LEN]) -> Self {
        let mut bytes = Box::new(Zeroizing::new([0; SECRET_LEN]));
        bytes.copy_from_slice(source);
        Self(bytes)
    }

    /// The bytes, for a cipher or a file.
    pub(super) fn expose(&self) -> &[u8; SECRET_LEN] {
        &self.0
    }

    /// Compares in constant time.
    pub(super) fn ct_eq(&self, other: &Self) -> Choice {
        self.expose().ct_eq(other.expose())
    }
}
