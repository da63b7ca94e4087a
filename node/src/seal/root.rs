//! The root of sealing: one 32-byte key for each node, and the keys derived from it.

use std::fmt;
use std::path::{Path, PathBuf};

use hkdf::Hkdf;
use rand_core::{CryptoRng, RngCore};
use sha2::Sha256;

use super::error::SealError;
use super::files::{read_private, write_new};
use super::passphrase::{self, PassphraseSource};
use super::record::WrappingKey;
use super::secret::{SECRET_LEN, Secret32};

/// HKDF salt of every sub-key; fixed, it separates this use of the root from any other.
const HKDF_SALT: &[u8] = b"symbolon/seal/v1";

/// What a sub-key is for; each purpose has its own label and so its own key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Purpose {
    /// Proves a passphrase before anything else is opened.
    PassphraseCheck,
    /// Seals records that need no erasure of their own.
    Records,
    /// Authenticates header and sequence record of the slot file.
    SlotFileMac,
    /// Seals the slots.
    Slots,
}

impl Purpose {
    const fn label(self) -> &'static [u8] {
        match self {
            Self::PassphraseCheck => b"passphrase check",
            Self::Records => b"records",
            Self::SlotFileMac => b"slot file mac",
            Self::Slots => b"slots",
        }
    }
}

/// The root under which a node seals what it keeps: 32 bytes, zeroised when dropped, not `Clone`,
/// redacted `Debug`. It is used only to derive sub-keys (HKDF-SHA256, one label for each purpose).
pub struct SealKey(Secret32);

impl SealKey {
    /// Reads the root from a key file.
    ///
    /// # Errors
    /// [`SealError::Missing`], [`SealError::Permissions`], [`SealError::NotAFile`],
    /// [`SealError::KeyFileLength`], [`SealError::Io`].
    pub fn from_key_file(file: &KeyFile) -> Result<Self, SealError> {
        let wrong_length = || SealError::KeyFileLength { path: file.path.clone() };
        let bytes = read_private(&file.path, "key file", SECRET_LEN)?.ok_or_else(wrong_length)?;
        let bytes = bytes.first_chunk::<SECRET_LEN>().ok_or_else(wrong_length)?;
        Ok(Self(Secret32::copy_of(bytes)))
    }

    /// Derives the root from a passphrase and the parameters that
    /// [`create_with_passphrase`](Self::create_with_passphrase) wrote to `params`. Takes a fraction of a
    /// second and 64 MiB.
    ///
    /// # Errors
    /// [`SealError::WrongPassphrase`]; [`SealError::Missing`], [`SealError::ParamsDamaged`] or
    /// [`SealError::UnsupportedFormat`] for `params`; what the source returns.
    pub fn from_passphrase(params: &Path, source: &PassphraseSource) -> Result<Self, SealError> {
        passphrase::open(params, source).map(Self)
    }

    /// Chooses Argon2id parameters and a random salt, writes them with a sealed check value to the new
    /// file `params` (mode 0600, synced), and derives the root. A terminal is asked twice.
    ///
    /// # Errors
    /// [`SealError::AlreadyExists`] when `params` is there; [`SealError::PassphrasesDiffer`]; what the
    /// source returns; [`SealError::RandomUnavailable`]; [`SealError::Io`].
    pub fn create_with_passphrase(
        params: &Path,
        source: &PassphraseSource,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Self, SealError> {
        passphrase::create(params, source, rng).map(Self)
    }

    /// The key for records that need no erasure of their own (they live as long as the node), such as its
    /// identity key. Shares are sealed under a wrapping key from a slot instead.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub fn records_key(&self) -> Result<WrappingKey, SealError> {
        derive(&self.0, Purpose::Records)
    }

    /// The sub-key for a purpose.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn derive(&self, purpose: Purpose) -> Result<WrappingKey, SealError> {
        derive(&self.0, purpose)
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(redacted)")
    }
}

/// A key file: exactly 32 random bytes, mode 0600, written once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyFile {
    path: PathBuf,
}

impl KeyFile {
    /// The key file at `path`, which need not exist yet. Nothing is read.
    #[must_use]
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into() }
    }

    /// Writes 32 new random bytes, synced, and returns the root they are.
    ///
    /// # Errors
    /// [`SealError::AlreadyExists`] (an existing key file is never overwritten);
    /// [`SealError::RandomUnavailable`]; [`SealError::Io`].
    pub fn create(&self, rng: &mut (impl RngCore + CryptoRng)) -> Result<SealKey, SealError> {
        let root = Secret32::generate(rng)?;
        write_new(&self.path, root.expose())?;
        Ok(SealKey(root))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// HKDF-SHA256 (RFC 5869) with the fixed salt and the label of the purpose.
///
/// # Errors
/// [`SealError::Bug`] only: 32 bytes are always within the limit of HKDF.
pub(super) fn derive(root: &Secret32, purpose: Purpose) -> Result<WrappingKey, SealError> {
    let hkdf = Hkdf::<Sha256>::new(Some(HKDF_SALT), root.expose());
    Secret32::fill(|bytes| {
        hkdf.expand(purpose.label(), bytes).map_err(|_| SealError::Bug { what: "HKDF refused to derive a sub-key" })
    })
    .map(WrappingKey::from_secret)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rand_core::OsRng;
    use subtle::ConstantTimeEq;

    use super::*;

    fn same(a: &SealKey, b: &SealKey) -> bool {
        bool::from(a.0.expose().ct_eq(b.0.expose()))
    }

    #[test]
    fn a_key_file_is_written_once_and_read_back() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::at(directory.path().join("seal.key"));
        let made = file.create(&mut OsRng).unwrap();
        assert_eq!(fs::metadata(file.path()).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(file.path()).unwrap().len(), 32);
        assert!(same(&made, &SealKey::from_key_file(&file).unwrap()));

        let before = fs::read(file.path()).unwrap();
        assert!(matches!(file.create(&mut OsRng), Err(SealError::AlreadyExists { .. })));
        assert_eq!(fs::read(file.path()).unwrap(), before);
    }

    #[test]
    fn a_key_file_open_to_group_or_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let file = KeyFile::at(directory.path().join("seal.key"));
        file.create(&mut OsRng).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o644] {
            fs::set_permissions(file.path(), fs::Permissions::from_mode(mode)).unwrap();
            let error = SealKey::from_key_file(&file).unwrap_err();
            assert!(matches!(error, SealError::Permissions { mode: found, .. } if found == mode));
            assert!(error.to_string().contains(&format!("chmod 600 {}", file.path().display())));
        }
        fs::set_permissions(file.path(), fs::Permissions::from_mode(0o400)).unwrap();
        SealKey::from_key_file(&file).unwrap();
    }

    #[test]
    fn a_key_file_of_another_length_or_none_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        for length in [0, 31, 33, 4096] {
            let path = directory.path().join(length.to_string());
            write_new(&path, &vec![1; length]).unwrap();
            let refused = SealKey::from_key_file(&KeyFile::at(path));
            assert!(matches!(refused, Err(SealError::KeyFileLength { .. })), "{length}");
        }
        let absent = SealKey::from_key_file(&KeyFile::at(directory.path().join("absent")));
        assert!(matches!(absent, Err(SealError::Missing { .. })));
        let folder = directory.path().join("folder");
        fs::create_dir(&folder).unwrap();
        assert!(matches!(SealKey::from_key_file(&KeyFile::at(folder)), Err(SealError::NotAFile { .. })));
    }

    #[test]
    fn every_purpose_has_its_own_key() {
        let root = SealKey(Secret32::generate(&mut OsRng).unwrap());
        let purposes = [Purpose::PassphraseCheck, Purpose::Records, Purpose::SlotFileMac, Purpose::Slots];
        for a in purposes {
            for b in purposes {
                let (key_a, key_b) = (root.derive(a).unwrap(), root.derive(b).unwrap());
                assert_eq!(bool::from(key_a.secret().ct_eq(key_b.secret())), a == b, "{a:?} {b:?}");
            }
            assert_ne!(root.derive(a).unwrap().secret().expose(), root.0.expose());
        }
    }

    #[test]
    fn debug_shows_nothing() {
        let root = SealKey(Secret32::generate(&mut OsRng).unwrap());
        assert_eq!(format!("{root:?}"), "SealKey(redacted)");
    }
}
