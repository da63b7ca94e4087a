//! SSHSIG, the signature file of `ssh-keygen -Y sign` and of git (`gpg.format = ssh`), as
//! OpenSSH's PROTOCOL.sshsig describes it.
//!
//! The Ed25519 signature in such a file is not over the message but over a short blob with a
//! namespace and a hash of the message. So signing a file of any size takes three steps, and the
//! cluster sees 100 bytes or so:
//!
//! 1. [`SshsigHasher::hash_reader`] hashes the message as it streams by;
//! 2. [`signed_data`] makes the blob, which is signed as an ordinary Ed25519 message;
//! 3. [`encode`] writes the file.
//!
//! To verify: [`decode`], compare the public key and the namespace with the expected ones, hash
//! with [`HashAlgorithm::hash_reader`], and verify the signature over [`Sshsig::signed_data`].

use std::io::{self, Read};

use sha2::digest::Output;
use sha2::{Digest, Sha256, Sha512};

use super::FormatError;
use super::armor::Armor;
use super::wire::{self, Reader};

/// What both the file and the signed blob begin with: no SSH login can be mistaken for it.
const MAGIC: &[u8; 6] = b"SSHSIG";
const VERSION: u32 = 1;
/// Bytes read from a message at a time.
const CHUNK: usize = 64 * 1024;

const FORM: &str = "SSH signature";

/// The document says lines of 76, OpenSSH writes 70; files that are the same byte for byte are
/// worth more.
const ARMOR: Armor = Armor { label: "SSH SIGNATURE", width: 70, form: FORM };

/// The hash over the message that an SSHSIG is made with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HashAlgorithm {
    /// SHA-256; read, never written by [`encode`].
    Sha256,
    /// SHA-512, the default of OpenSSH and the one written here.
    Sha512,
}

impl HashAlgorithm {
    /// The name that stands in the file.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of a hash.
    #[must_use]
    pub fn output_len(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// Hashes everything `reader` gives, holding 64 KiB of it at a time.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub fn hash_reader(self, reader: impl Read) -> io::Result<Vec<u8>> {
        match self {
            Self::Sha256 => Ok(digest::<Sha256>(reader)?.to_vec()),
            Self::Sha512 => Ok(digest::<Sha512>(reader)?.to_vec()),
        }
    }

    fn from_name(name: &[u8]) -> Result<Self, FormatError> {
        [Self::Sha256, Self::Sha512]
            .into_iter()
            .find(|algorithm| algorithm.name().as_bytes() == name)
            .ok_or_else(|| FormatError::HashAlgorithm(wire::excerpt(name)))
    }
}

/// Hashes a message with SHA-512 for [`signed_data`], without holding the message.
#[derive(Debug, Clone, Default)]
pub struct SshsigHasher(Sha512);

impl SshsigHasher {
    /// A hasher that has seen nothing, for a message that does not come from a [`Read`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the next piece of the message.
    pub fn update(&mut self, piece: &[u8]) {
        self.0.update(piece);
    }

    /// The hash over all pieces.
    #[must_use]
    pub fn finish(self) -> [u8; 64] {
        self.0.finalize().into()
    }

    /// Hashes everything `reader` gives, holding 64 KiB of it at a time.
    ///
    /// # Errors
    ///
    /// Those of the reader.
    pub fn hash_reader(reader: impl Read) -> io::Result<[u8; 64]> {
        digest::<Sha512>(reader).map(Into::into)
    }
}

fn digest<D: Digest>(mut reader: impl Read) -> io::Result<Output<D>> {
    let mut hash = D::new();
    let mut buffer = vec![0_u8; CHUNK];
    loop {
        let length = match reader.read(&mut buffer) {
            Ok(0) => return Ok(hash.finalize()),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        // A reader that claims more than the buffer holds is broken; a hash over anything but
        // the message must not come out of it.
        let piece =
            buffer.get(..length).ok_or_else(|| io::Error::other("the reader gave more than it was asked for"))?;
        hash.update(piece);
    }
}

/// The bytes to sign with Ed25519 for a message whose SHA-512 is `message_hash`.
///
/// # Errors
///
/// [`FormatError::Namespace`] if the namespace is empty or holds a NUL: OpenSSH refuses both.
pub fn signed_data(namespace: &str, message_hash: &[u8; 64]) -> Result<Vec<u8>, FormatError> {
    blob_to_sign(namespace, HashAlgorithm::Sha512, message_hash)
}

/// The signature file, armored, for a signature over [`signed_data`] with the same namespace
/// (which has been checked there and is not checked again).
#[must_use]
pub fn encode(public: &[u8; 32], namespace: &str, signature: &[u8; 64]) -> String {
    let sshsig = Sshsig {
        public: *public,
        namespace: namespace.to_owned(),
        hash_algorithm: HashAlgorithm::Sha512,
        signature: *signature,
    };
    sshsig.to_armored()
}

/// Reads an armored signature file.
///
/// This is stricter than OpenSSH, which does not read the reserved field. It is required to be
/// empty here: it is not signed (OpenSSH puts an empty one into the blob whatever the file says),
/// so anyone could change it, and no version 1 writer fills it.
///
/// # Errors
///
/// [`FormatError`] if this is not exactly one whole SSHSIG of version 1 by an Ed25519 key, with
/// a namespace, SHA-256 or SHA-512, and nothing after it but white space.
pub fn decode(armored: impl AsRef<[u8]>) -> Result<Sshsig, FormatError> {
    parse_blob(&ARMOR.decode(armored.as_ref())?)
}

/// What an SSHSIG file says. Nothing of it is verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sshsig {
    /// The Ed25519 public key that the file names as the signer's. Whether it is one to trust is
    /// for the verifier to say.
    pub public: [u8; 32],
    /// What the signature is for, such as "file" or "git". Compare it with the expected one.
    pub namespace: String,
    /// The hash over the message.
    pub hash_algorithm: HashAlgorithm,
    /// The Ed25519 signature over [`Sshsig::signed_data`].
    pub signature: [u8; 64],
}

impl Sshsig {
    /// The bytes that the signature is over, for a message with the hash `message_hash` (see
    /// [`HashAlgorithm::hash_reader`]).
    ///
    /// # Errors
    ///
    /// [`FormatError::HashLength`] if this is not a hash by [`Sshsig::hash_algorithm`], and
    /// [`FormatError::Namespace`] as [`signed_data`] has it.
    pub fn signed_data(&self, message_hash: &[u8]) -> Result<Vec<u8>, FormatError> {
        blob_to_sign(&self.namespace, self.hash_algorithm, message_hash)
    }

    /// The file, armored as OpenSSH writes it.
    #[must_use]
    pub fn to_armored(&self) -> String {
        let mut blob = MAGIC.to_vec();
        blob.extend_from_slice(&VERSION.to_be_bytes());
        wire::put_string(&mut blob, &wire::ed25519_blob(&self.public));
        put_context(&mut blob, &self.namespace, self.hash_algorithm);
        wire::put_string(&mut blob, &wire::ed25519_blob(&self.signature));
        ARMOR.encode(&blob)
    }
}

fn blob_to_sign(namespace: &str, algorithm: HashAlgorithm, hash: &[u8]) -> Result<Vec<u8>, FormatError> {
    check_namespace(namespace)?;
    let (expected, found) = (algorithm.output_len(), hash.len());
    if found != expected {
        return Err(FormatError::HashLength { expected, found });
    }
    let mut blob = MAGIC.to_vec();
    put_context(&mut blob, namespace, algorithm);
    wire::put_string(&mut blob, hash);
    Ok(blob)
}

/// The fields that the file and the signed blob share: namespace, reserved, hash algorithm.
fn put_context(blob: &mut Vec<u8>, namespace: &str, algorithm: HashAlgorithm) {
    wire::put_string(blob, namespace.as_bytes());
    wire::put_string(blob, b"");
    wire::put_string(blob, algorithm.name().as_bytes());
}

fn check_namespace(namespace: &str) -> Result<(), FormatError> {
    if namespace.is_empty() {
        return Err(FormatError::Namespace { problem: "is empty" });
    }
    if namespace.contains('\0') {
        return Err(FormatError::Namespace { problem: "contains a NUL byte" });
    }
    Ok(())
}

fn parse_blob(blob: &[u8]) -> Result<Sshsig, FormatError> {
    let malformed = |problem| FormatError::Malformed { form: FORM, problem };
    let body = blob.strip_prefix(MAGIC).ok_or_else(|| malformed("it does not start with SSHSIG"))?;
    let mut fields = Reader::new(body, FORM);
    let version = fields.uint32()?;
    if version != VERSION {
        return Err(FormatError::SshsigVersion(version));
    }
    let public = wire::parse_ed25519_blob(fields.string()?, FORM)?;
    let namespace = parse_namespace(fields.string()?)?;
    if !fields.string()?.is_empty() {
        return Err(malformed("its reserved field is not empty"));
    }
    let hash_algorithm = HashAlgorithm::from_name(fields.string()?)?;
    let signature = wire::parse_ed25519_blob(fields.string()?, FORM)?;
    fields.finish()?;
    Ok(Sshsig { public, namespace, hash_algorithm, signature })
}

fn parse_namespace(bytes: &[u8]) -> Result<String, FormatError> {
    let namespace = std::str::from_utf8(bytes).map_err(|_| FormatError::Namespace { problem: "is not UTF-8" })?;
    check_namespace(namespace)?;
    Ok(namespace.to_owned())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
