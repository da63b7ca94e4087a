//! How public keys and signatures are written for, and read from, the rest of the world.
//!
//! The cluster speaks in plain Ed25519 values: 32 bytes of public key, 64 bytes of signature
//! (RFC 8032). This module turns them into the files that `openssl`, `ssh-keygen`, `git` and JOSE
//! libraries take, and back:
//!
//! * [`public`]: a public key as PEM, DER, an OpenSSH line, a JWK, raw bytes or hex;
//! * [`sshsig`]: the signature file of `ssh-keygen -Y sign` and `git commit -S`;
//! * [`parse_signature`]: a signature file in any form read here, told apart by its contents.
//!
//! Nothing here does arithmetic on the curve: a parsed key has the right shape, and whether it is
//! a valid point is settled by whoever verifies with it. The parsers are strict (one canonical
//! reading, nothing left over) and take the whole file as a slice; every form is under a few
//! hundred bytes, so a caller should refuse to load a large file in the first place.

mod armor;
pub mod public;
pub mod sshsig;
mod wire;

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod testing;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

pub use public::{PublicFormat, parse_public};
pub use sshsig::Sshsig;

/// Digits of 64 bytes in base64, with its padding.
const SIGNATURE_BASE64: usize = 88;
/// Digits of 64 bytes in hex.
const SIGNATURE_HEX: usize = 128;

/// The form a signature is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum SignatureFormat {
    /// The 64 bytes of the Ed25519 signature in base64, and a newline.
    Base64,
    /// The 64 bytes of the Ed25519 signature, nothing else.
    Raw,
    /// The armored file that `ssh-keygen -Y verify` and git read.
    Sshsig,
}

/// A signature as read from a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ParsedSignature {
    /// An Ed25519 signature over the message itself (it was raw, base64 or hex).
    Plain([u8; 64]),
    /// An SSHSIG file: the signature is over [`Sshsig::signed_data`], not over the message.
    Sshsig(Sshsig),
}

impl ParsedSignature {
    /// The 64 bytes of the Ed25519 signature, whatever it is over.
    #[must_use]
    pub fn bytes(&self) -> &[u8; 64] {
        match self {
            Self::Plain(signature) => signature,
            Self::Sshsig(sshsig) => &sshsig.signature,
        }
    }
}

/// Reads a signature, recognising its form: armored SSHSIG, 64 raw bytes, base64 or hex.
///
/// White space around text and line breaks within it are allowed (`openssl base64` and `base64`
/// break the line). Bytes that are all printable ASCII are always taken for text, so that a
/// signature in text that was cut at 64 characters is refused rather than taken for a raw one; a
/// real raw signature looks like that with a probability under 2^-80.
///
/// # Errors
///
/// [`FormatError`] when the input is in none of these forms, or is in one but is not whole.
pub fn parse_signature(input: &[u8]) -> Result<ParsedSignature, FormatError> {
    let trimmed = input.trim_ascii();
    if trimmed.starts_with(armor::BEGIN) {
        return sshsig::decode(trimmed).map(ParsedSignature::Sshsig);
    }
    let signature = if is_text(input) { signature_from_text(trimmed) } else { <[u8; 64]>::try_from(input).ok() };
    let length = input.len();
    signature.map(ParsedSignature::Plain).ok_or(FormatError::UnknownSignature { length })
}

fn signature_from_text(text: &[u8]) -> Option<[u8; 64]> {
    let digits: Vec<u8> = text.iter().copied().filter(|byte| !matches!(byte, b'\r' | b'\n')).collect();
    let bytes = match digits.len() {
        SIGNATURE_BASE64 => STANDARD.decode(&digits).ok()?,
        SIGNATURE_HEX => hex::decode(&digits).ok()?,
        _ => return None,
    };
    <[u8; 64]>::try_from(bytes).ok()
}

/// Whether every byte is printable ASCII or ASCII white space.
fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| byte.is_ascii_graphic() || byte.is_ascii_whitespace())
}

/// Why a public key or a signature could not be read or written, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum FormatError {
    /// The input is not a public key in a form read here.
    UnknownPublicKey {
        /// Bytes in the input.
        length: usize,
    },
    /// The input is not a signature in a form read here.
    UnknownSignature {
        /// Bytes in the input.
        length: usize,
    },
    /// The input is a private key where a public one is read.
    PrivateKey,
    /// The input is a key or signature, but not of plain Ed25519.
    NotEd25519 {
        /// What it is instead.
        found: String,
    },
    /// The form was recognised, but the input does not keep to it.
    Malformed {
        /// The form.
        form: &'static str,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An SSHSIG namespace that OpenSSH would refuse.
    Namespace {
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An SSHSIG of a version that is not known here.
    SshsigVersion(u32),
    /// An SSHSIG made with a hash that is neither SHA-256 nor SHA-512.
    HashAlgorithm(String),
    /// A message hash whose length is not that of the hash algorithm.
    HashLength {
        /// Bytes the algorithm gives.
        expected: usize,
        /// Bytes given.
        found: usize,
    },
}

impl std::error::Error for FormatError {}

impl fmt::Display for FormatError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownPublicKey { length } => write!(
                f,
                "these {length} bytes are not an Ed25519 public key in a known form; give PEM \
                 (-----BEGIN PUBLIC KEY-----), DER, an OpenSSH line (ssh-ed25519 AAAA...), 64 hex \
                 digits or 32 raw bytes"
            ),
            Self::UnknownSignature { length } => write!(
                f,
                "these {length} bytes are not a signature in a known form; give 64 raw bytes, the \
                 same in base64 (88 characters) or hex (128 digits), or an SSH signature file \
                 (-----BEGIN SSH SIGNATURE-----), whole"
            ),
            Self::PrivateKey => f.write_str(
                "this is a private key; give the public key instead (`ssh-keygen -y -f FILE` or \
                 `openssl pkey -in FILE -pubout` prints it)",
            ),
            Self::NotEd25519 { found } => write!(
                f,
                "this is {found}, and only plain Ed25519 is read (ssh-ed25519, or OID 1.3.101.112); \
                 give the Ed25519 key or a signature by it"
            ),
            Self::Malformed { form, problem } => {
                write!(f, "the {form} is malformed: {problem}; make the file again, or copy it again whole")
            }
            Self::Namespace { problem } => write!(
                f,
                "the namespace of the SSH signature {problem}; name what the signature is for, \
                 such as \"file\" or \"git\""
            ),
            Self::SshsigVersion(version) => write!(
                f,
                "the SSH signature is of version {version} and only version 1 is read; sign again \
                 with a tool that writes version 1"
            ),
            Self::HashAlgorithm(name) => write!(
                f,
                "the SSH signature was made with the hash {name:?}; sign again with sha512 or \
                 sha256 (`ssh-keygen -Y sign -O hashalg=sha512`)"
            ),
            Self::HashLength { expected, found } => write!(
                f,
                "the message hash has {found} bytes and not {expected}; hash the message with the \
                 algorithm that the SSH signature names"
            ),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::testing::{self, Scratch};
    use super::*;

    /// RFC 8032 section 7.1, test 1 (the message is empty).
    const RFC8032_TEST1: &str = "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e06522490155\
                                 5fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b";

    fn rfc8032() -> [u8; 64] {
        testing::hex_array(RFC8032_TEST1)
    }

    #[test]
    fn raw_and_hex_are_recognised() {
        let expected = ParsedSignature::Plain(rfc8032());
        assert_eq!(parse_signature(&rfc8032()).unwrap(), expected);
        assert_eq!(parse_signature(RFC8032_TEST1.as_bytes()).unwrap(), expected);
        let upper = format!("{}\n", RFC8032_TEST1.to_uppercase());
        assert_eq!(parse_signature(upper.as_bytes()).unwrap(), expected);
        assert_eq!(expected.bytes(), &rfc8032());
    }

    #[test]
    fn base64_of_openssl_is_recognised() {
        let scratch = Scratch::new("base64");
        scratch.write("raw", &rfc8032());
        let ways: [&[&str]; 2] = [&["base64", "-A", "-in", "raw"], &["base64", "-in", "raw"]];
        for arguments in ways {
            let text = scratch.run("openssl", arguments, None);
            let expected = ParsedSignature::Plain(rfc8032());
            assert_eq!(parse_signature(&text).unwrap(), expected);
            assert_eq!(parse_signature(text.trim_ascii()).unwrap(), expected);
        }
    }

    #[test]
    fn sshsig_is_recognised() {
        let scratch = Scratch::new("recognise");
        scratch.ssh_key("key");
        scratch.write("message", b"a message");
        let sign = ["-Y", "sign", "-f", "key", "-n", "file", "message"];
        scratch.run("ssh-keygen", &sign, None);
        let file = scratch.read("message.sig");
        let decoded = sshsig::decode(&file).unwrap();
        assert_eq!(parse_signature(&file).unwrap(), ParsedSignature::Sshsig(decoded));
        testing::assert_prefixes_refused(file.trim_ascii(), parse_signature);
    }

    #[test]
    fn truncated_and_overlong_signatures_are_refused() {
        let base64 = STANDARD.encode(rfc8032());
        let forms = [rfc8032().to_vec(), base64.into_bytes(), RFC8032_TEST1.into()];
        for form in forms {
            testing::assert_prefixes_refused(&form, parse_signature);
            let overlong = [form.as_slice(), b"A"].concat();
            assert!(parse_signature(&overlong).is_err());
        }
        // As long as base64, but without its padding it would be 66 bytes.
        let unpadded = "A".repeat(SIGNATURE_BASE64);
        assert!(parse_signature(unpadded.as_bytes()).is_err());
    }

    #[test]
    fn errors_say_what_to_do() {
        let unknown = parse_signature(b"nonsense").unwrap_err();
        assert_eq!(unknown, FormatError::UnknownSignature { length: 8 });
        assert!(unknown.to_string().contains("8 bytes"));
        assert!(unknown.to_string().contains("base64 (88 characters)"));
    }
}
