//! Sealed records: AES-256-GCM under a wrapping key of their own.
//!
//! Layout: format version (1 byte, 1), nonce (12 bytes, random), ciphertext (as long as the plaintext),
//! tag (16 bytes). Associated data: `"symbolon/record"`, the format version, the caller's associated data.

use std::fmt;

use aes_gcm::{AeadInPlace, Aes256Gcm, KeyInit};
use rand_core::{CryptoRng, RngCore};
use zeroize::Zeroizing;

use super::error::SealError;
use super::files::random;
use super::secret::Secret32;

/// Length of a nonce, in bytes.
pub(super) const NONCE_LEN: usize = 12;
/// Length of a tag, in bytes.
pub(super) const TAG_LEN: usize = 16;

/// How much longer a sealed record is than its plaintext, in bytes.
pub const RECORD_OVERHEAD: usize = 1 + NONCE_LEN + TAG_LEN;

const RECORD_VERSION: u8 = 1;
const RECORD_DOMAIN: &[u8] = b"symbolon/record";

/// An AES-256 key that seals records: zeroised when dropped, not `Clone`, redacted `Debug`.
///
/// One key may seal at most 2^32 records, because nonces are random (NIST SP 800-38D, 8.3). A wrapping
/// key from a slot seals one.
pub struct WrappingKey(Secret32);

impl WrappingKey {
    /// A random key.
    ///
    /// # Errors
    /// [`SealError::RandomUnavailable`].
    pub(super) fn generate(rng: &mut (impl RngCore + CryptoRng)) -> Result<Self, SealError> {
        Secret32::generate(rng).map(Self)
    }

    /// From a secret that was derived or unsealed.
    pub(super) const fn from_secret(secret: Secret32) -> Self {
        Self(secret)
    }

    /// The secret itself.
    pub(super) const fn secret(&self) -> &Secret32 {
        &self.0
    }

    /// A second copy, to hand out while the slot file keeps the first.
    pub(super) fn duplicate(&self) -> Self {
        Self(Secret32::copy_of(self.0.expose()))
    }
}

impl fmt::Debug for WrappingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WrappingKey(redacted)")
    }
}

/// Seals `plaintext` under `key`, bound to `aad`. The result is [`RECORD_OVERHEAD`] bytes longer.
///
/// # Errors
/// [`SealError::RandomUnavailable`]; [`SealError::Bug`] for more than 64 GiB.
pub fn seal_record(
    key: &WrappingKey,
    aad: &[u8],
    plaintext: &[u8],
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    random(rng, &mut nonce)?;
    let mut body = Zeroizing::new(plaintext.to_vec());
    let tag = seal_in_place(key, &nonce, &record_aad(aad), &mut body)?;
    let mut sealed = Vec::with_capacity(body.len().saturating_add(RECORD_OVERHEAD));
    sealed.push(RECORD_VERSION);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(&body);
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens what [`seal_record`] made, with the same key and the same `aad`.
///
/// # Errors
/// [`SealError::RecordFormat`] for another format version; [`SealError::RecordUnreadable`] when it is
/// damaged, or the key or `aad` is another one.
pub fn open_record(key: &WrappingKey, aad: &[u8], sealed: &[u8]) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let (version, rest) = sealed.split_first().ok_or(SealError::RecordUnreadable)?;
    if *version != RECORD_VERSION {
        return Err(SealError::RecordFormat { found: *version });
    }
    let (nonce, rest) = rest.split_first_chunk::<NONCE_LEN>().ok_or(SealError::RecordUnreadable)?;
    let (body, tag) = rest.split_last_chunk::<TAG_LEN>().ok_or(SealError::RecordUnreadable)?;
    let mut plaintext = Zeroizing::new(body.to_vec());
    if open_in_place(key, nonce, &record_aad(aad), &mut plaintext, tag) {
        Ok(plaintext)
    } else {
        Err(SealError::RecordUnreadable)
    }
}

/// AES-256-GCM: encrypts `buffer` in place and returns the tag. The caller never repeats a nonce.
///
/// # Errors
/// [`SealError::Bug`] when the buffer is longer than AES-GCM allows.
pub(super) fn seal_in_place(
    key: &WrappingKey,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    buffer: &mut [u8],
) -> Result<[u8; TAG_LEN], SealError> {
    Aes256Gcm::new(key.secret().expose().into())
        .encrypt_in_place_detached(nonce.into(), aad, buffer)
        .map(Into::into)
        .map_err(|_| SealError::Bug { what: "AES-GCM refused to seal" })
}

/// AES-256-GCM: decrypts `buffer` in place; on `false` the buffer is still the ciphertext.
pub(super) fn open_in_place(
    key: &WrappingKey,
    nonce: &[u8; NONCE_LEN],
    aad: &[u8],
    buffer: &mut [u8],
    tag: &[u8; TAG_LEN],
) -> bool {
    Aes256Gcm::new(key.secret().expose().into())
        .decrypt_in_place_detached(nonce.into(), aad, buffer, tag.into())
        .is_ok()
}

fn record_aad(aad: &[u8]) -> Vec<u8> {
    // Only the last part varies in length, so two different inputs never give the same bytes.
    [RECORD_DOMAIN, &[RECORD_VERSION], aad].concat()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use rand_core::OsRng;

    use super::*;

    #[test]
    fn opens_what_it_sealed() {
        let key = WrappingKey::generate(&mut OsRng).unwrap();
        for plaintext in [&b""[..], b"a share", &[7; 5000]] {
            let sealed = seal_record(&key, b"key 1, epoch 2", plaintext, &mut OsRng).unwrap();
            assert_eq!(sealed.len(), plaintext.len() + RECORD_OVERHEAD);
            assert_eq!(open_record(&key, b"key 1, epoch 2", &sealed).unwrap().as_slice(), plaintext);
        }
    }

    #[test]
    fn sealing_twice_gives_different_bytes() {
        let key = WrappingKey::generate(&mut OsRng).unwrap();
        let first = seal_record(&key, b"", b"a share", &mut OsRng).unwrap();
        let second = seal_record(&key, b"", b"a share", &mut OsRng).unwrap();
        assert_ne!(first[1..1 + NONCE_LEN], second[1..1 + NONCE_LEN]);
        assert_ne!(first, second);
    }

    #[test]
    fn refuses_other_key_other_aad_and_every_flipped_bit() {
        let key = WrappingKey::generate(&mut OsRng).unwrap();
        let other = WrappingKey::generate(&mut OsRng).unwrap();
        let sealed = seal_record(&key, b"aad", b"a share", &mut OsRng).unwrap();
        assert!(matches!(open_record(&other, b"aad", &sealed), Err(SealError::RecordUnreadable)));
        assert!(matches!(open_record(&key, b"aae", &sealed), Err(SealError::RecordUnreadable)));
        for bit in 0..sealed.len() * 8 {
            let mut flipped = sealed.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(open_record(&key, b"aad", &flipped).is_err(), "bit {bit}");
        }
        for length in 0..sealed.len() {
            assert!(open_record(&key, b"aad", &sealed[..length]).is_err(), "length {length}");
        }
    }

    #[test]
    fn names_an_unknown_format() {
        let key = WrappingKey::generate(&mut OsRng).unwrap();
        let mut sealed = seal_record(&key, b"", b"a share", &mut OsRng).unwrap();
        sealed[0] = 9;
        assert!(matches!(open_record(&key, b"", &sealed), Err(SealError::RecordFormat { found: 9 })));
    }

    #[test]
    fn debug_shows_nothing() {
        let key = WrappingKey::generate(&mut OsRng).unwrap();
        assert_eq!(format!("{key:?}"), "WrappingKey(redacted)");
    }
}
