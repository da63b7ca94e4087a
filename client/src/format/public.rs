//! Ed25519 public keys in the forms that other tools read and write.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde_json::{Map, Value};

use super::armor::{self, Armor};
use super::{FormatError, is_text, wire};

/// Everything of an Ed25519 SubjectPublicKeyInfo before the key (RFC 8410 section 4): a SEQUENCE
/// of 42 bytes, the algorithm 1.3.101.112 without parameters, a BIT STRING without unused bits.
/// DER has one encoding of this, so comparing bytes is the whole parser.
const SPKI_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// The first byte of every DER structure that could be a key.
const DER_SEQUENCE: &[u8] = &[0x30];

/// RFC 7468 section 13.
const PEM: Armor = Armor { label: "PUBLIC KEY", width: 64, form: "PEM public key" };

const SSH_FORM: &str = "OpenSSH public key";

/// How the lines of OpenSSH public keys start, whatever their type.
const SSH_TYPES: [&[u8]; 3] = [b"ssh-", b"ecdsa-", b"sk-"];

/// The form a public key is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum PublicFormat {
    /// PEM, as `openssl pkey -pubin` reads it.
    Pem,
    /// DER of the SubjectPublicKeyInfo (RFC 8410), 44 bytes.
    Der,
    /// The line of an OpenSSH .pub or authorized_keys file.
    Ssh,
    /// A JSON Web Key (RFC 8037) on one line.
    Jwk,
    /// The 32 bytes of the key, nothing else.
    Raw,
}

impl PublicFormat {
    /// Writes `key` in this form. `comment` is the comment of an OpenSSH line and the `kid` of a
    /// JWK; the other forms have no place for it. Text ends with a newline.
    #[must_use]
    pub fn encode(self, key: &[u8; 32], comment: &str) -> Vec<u8> {
        match self {
            Self::Pem => to_pem(key).into_bytes(),
            Self::Der => to_spki_der(key).to_vec(),
            Self::Ssh => to_openssh(key, comment).into_bytes(),
            Self::Jwk => format!("{}\n", to_jwk(key, comment)).into_bytes(),
            Self::Raw => key.to_vec(),
        }
    }
}

/// The SubjectPublicKeyInfo of RFC 8410 in DER.
#[must_use]
pub fn to_spki_der(key: &[u8; 32]) -> [u8; 44] {
    let mut der = [0; 44];
    for (to, from) in der.iter_mut().zip(SPKI_PREFIX.iter().chain(key)) {
        *to = *from;
    }
    der
}

/// PEM of [`to_spki_der`], with a newline at its end.
#[must_use]
pub fn to_pem(key: &[u8; 32]) -> String {
    PEM.encode(&to_spki_der(key))
}

/// The line of an OpenSSH public key file, with a newline at its end.
///
/// Control characters in the comment become spaces: a line break there would put a line of
/// someone else's choice into an `authorized_keys` file.
#[must_use]
pub fn to_openssh(key: &[u8; 32], comment: &str) -> String {
    let blob = STANDARD.encode(wire::ed25519_blob(key));
    let comment = comment.replace(char::is_control, " ");
    let line = format!("{} {blob} {}", wire::ED25519, comment.trim());
    format!("{}\n", line.trim_end())
}

/// A JWK (RFC 8037) for verifying signatures, on one line without a newline. An empty `kid` is
/// left out.
#[must_use]
pub fn to_jwk(key: &[u8; 32], kid: &str) -> String {
    let x = URL_SAFE_NO_PAD.encode(key);
    let members =
        [("kty", "OKP"), ("crv", "Ed25519"), ("x", x.as_str()), ("alg", "EdDSA"), ("use", "sig"), ("kid", kid)];
    let jwk: Map<String, Value> = members
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (name.to_owned(), Value::from(value)))
        .collect();
    Value::Object(jwk).to_string()
}

/// The 32 bytes as 64 lower-case hex digits.
#[must_use]
pub fn to_hex(key: &[u8; 32]) -> String {
    hex::encode(key)
}

/// Reads a public key, recognising its form: PEM, DER, an OpenSSH line, 64 hex digits or 32 raw
/// bytes. White space around text is allowed.
///
/// Bytes that are all printable ASCII, or start as the DER of an Ed25519 key does, are never taken
/// for a raw key: text or DER that was cut at 32 bytes is refused. A real raw key looks like that
/// with a probability under 2^-40, and can then still be given as hex.
///
/// # Errors
///
/// [`FormatError`] when the input is in none of these forms, is in one but is not whole, or is
/// a key of another kind.
pub fn parse_public(input: &[u8]) -> Result<[u8; 32], FormatError> {
    let trimmed = input.trim_ascii();
    if trimmed.starts_with(armor::BEGIN) {
        return parse_pem(trimmed);
    }
    // Before asking whether this is ASCII, because the comment need not be.
    if trimmed.starts_with(wire::ED25519.as_bytes()) {
        return parse_openssh(trimmed);
    }
    if is_text(input) {
        return parse_other_text(trimmed);
    }
    parse_binary(input)
}

fn parse_other_text(text: &[u8]) -> Result<[u8; 32], FormatError> {
    if SSH_TYPES.iter().any(|start| text.starts_with(start)) {
        return parse_openssh(text);
    }
    let length = text.len();
    <[u8; 32] as hex::FromHex>::from_hex(text).map_err(|_| FormatError::UnknownPublicKey { length })
}

fn parse_binary(input: &[u8]) -> Result<[u8; 32], FormatError> {
    if input.starts_with(&SPKI_PREFIX) {
        return parse_spki_der(input);
    }
    match <[u8; 32]>::try_from(input) {
        Ok(key) => Ok(key),
        Err(_) if input.starts_with(DER_SEQUENCE) => parse_spki_der(input),
        Err(_) => Err(FormatError::UnknownPublicKey { length: input.len() }),
    }
}

fn parse_spki_der(der: &[u8]) -> Result<[u8; 32], FormatError> {
    let key = der.strip_prefix(&SPKI_PREFIX).ok_or_else(|| FormatError::NotEd25519 {
        found: "a DER structure other than the public key (SubjectPublicKeyInfo) of Ed25519".to_owned(),
    })?;
    <[u8; 32]>::try_from(key)
        .map_err(|_| FormatError::Malformed { form: "DER public key", problem: "it is not 44 bytes long" })
}

fn parse_pem(text: &[u8]) -> Result<[u8; 32], FormatError> {
    let header = text.split(|byte| *byte == b'\n').next().unwrap_or(text);
    if header.trim_ascii_end().ends_with(b"PRIVATE KEY-----") {
        return Err(FormatError::PrivateKey);
    }
    parse_spki_der(&PEM.decode(text)?)
}

fn parse_openssh(line: &[u8]) -> Result<[u8; 32], FormatError> {
    let malformed = |problem| FormatError::Malformed { form: SSH_FORM, problem };
    let line = std::str::from_utf8(line).map_err(|_| malformed("its comment is not UTF-8"))?;
    if line.contains(['\n', '\r']) {
        return Err(malformed("there are several lines and one key is expected"));
    }
    let mut words = line.split_ascii_whitespace();
    let name = words.next().unwrap_or_default();
    if name != wire::ED25519 {
        return Err(wire::other_type(SSH_FORM, name.as_bytes()));
    }
    let digits = words.next().ok_or_else(|| malformed("there is no key after its type"))?;
    let blob = STANDARD.decode(digits).map_err(|_| malformed("its key is not base64"))?;
    wire::parse_ed25519_blob(&blob, SSH_FORM)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::super::testing::{self, Scratch};
    use super::*;

    /// RFC 8410 section 10.1 (the key itself in section 10.3).
    const RFC8410_KEY: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";
    const RFC8410_PEM: &str = "-----BEGIN PUBLIC KEY-----\n\
        MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=\n\
        -----END PUBLIC KEY-----\n";

    /// RFC 8032 section 7.1, test 1; RFC 8037 appendix A.2 has the same key as a JWK, and A.3
    /// its thumbprint, which makes a good `kid`.
    const RFC8032_KEY: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    const RFC8037_X: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    const RFC8037_KID: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

    fn rfc8410() -> [u8; 32] {
        testing::hex_array(RFC8410_KEY)
    }

    #[test]
    fn the_key_of_rfc8410_is_written_and_read() {
        assert_eq!(to_pem(&rfc8410()), RFC8410_PEM);
        assert_eq!(to_hex(&rfc8410()), RFC8410_KEY);
        assert_eq!(parse_public(RFC8410_PEM.as_bytes()).unwrap(), rfc8410());
        assert_eq!(parse_public(RFC8410_KEY.as_bytes()).unwrap(), rfc8410());
        assert_eq!(parse_public(&rfc8410()).unwrap(), rfc8410());
        let padded = format!("\n {}\r\n", RFC8410_KEY.to_uppercase());
        assert_eq!(parse_public(padded.as_bytes()).unwrap(), rfc8410());
    }

    #[test]
    fn the_key_of_rfc8037_is_written_as_a_jwk() {
        let key = testing::hex_array(RFC8032_KEY);
        let written: Value = serde_json::from_str(&to_jwk(&key, RFC8037_KID)).unwrap();
        let expected = serde_json::json!({
            "kty": "OKP", "crv": "Ed25519", "x": RFC8037_X,
            "alg": "EdDSA", "use": "sig", "kid": RFC8037_KID,
        });
        assert_eq!(written, expected);
        assert!(!to_jwk(&key, "").contains("kid"));
        assert!(to_jwk(&key, "a\"b\n").contains(r#""a\"b\n""#));
    }

    #[test]
    fn openssl_reads_the_der_and_writes_the_same_pem() {
        let scratch = Scratch::new("der");
        let der = PublicFormat::Der.encode(&rfc8410(), "");
        scratch.write("key.der", &der);
        let convert = ["pkey", "-pubin", "-inform", "DER", "-in", "key.der"];
        let pem = scratch.run("openssl", &convert, None);
        assert_eq!(pem, PublicFormat::Pem.encode(&rfc8410(), ""));
        assert_eq!(parse_public(&der).unwrap(), rfc8410());
    }

    #[test]
    fn the_line_of_ssh_keygen_is_read_and_written_the_same() {
        let scratch = Scratch::new("line");
        scratch.ssh_key("key");
        let line = scratch.read("key.pub");
        let key = parse_public(&line).unwrap();
        assert_eq!(PublicFormat::Ssh.encode(&key, "tester"), line);
        let bare = to_openssh(&key, "");
        assert_eq!(parse_public(bare.as_bytes()).unwrap(), key);
        testing::assert_prefixes_refused(bare.trim_end().as_bytes(), parse_public);
        let accented = to_openssh(&key, "André's");
        assert_eq!(parse_public(accented.as_bytes()).unwrap(), key);
        scratch.write("written.pub", accented.as_bytes());
        scratch.run("ssh-keygen", &["-l", "-f", "written.pub"], None);
    }

    #[test]
    fn a_comment_cannot_add_a_line() {
        let line = to_openssh(&rfc8410(), "one\nssh-ed25519 AAAA two\r\0 ");
        assert_eq!(line.lines().count(), 1);
        assert!(line.ends_with(" one ssh-ed25519 AAAA two\n"));
    }

    #[test]
    fn keys_cut_anywhere_or_overlong_are_refused() {
        let pem = RFC8410_PEM.trim_end().as_bytes();
        let forms = [pem, &to_spki_der(&rfc8410()), RFC8410_KEY.as_bytes(), &rfc8410()];
        for form in forms {
            testing::assert_prefixes_refused(form, parse_public);
            assert!(parse_public(&[form, b"A"].concat()).is_err());
        }
        let twice = RFC8410_PEM.repeat(2);
        assert!(parse_public(twice.as_bytes()).is_err());
        let lines = to_openssh(&rfc8410(), "").repeat(2);
        assert!(parse_public(lines.as_bytes()).is_err());
    }

    #[test]
    fn keys_of_other_kinds_are_refused_by_name() {
        let scratch = Scratch::new("kinds");
        scratch.ssh_key("key");
        let private = parse_public(&scratch.read("key")).unwrap_err();
        assert_eq!(private, FormatError::PrivateKey);
        scratch.run("openssl", &["genpkey", "-algorithm", "x25519", "-out", "x"], None);
        for form in ["PEM", "DER"] {
            let print = ["pkey", "-in", "x", "-pubout", "-outform", form];
            let other = parse_public(&scratch.run("openssl", &print, None)).unwrap_err();
            assert!(matches!(other, FormatError::NotEd25519 { .. }), "{other}");
        }
        let rsa = parse_public(b"ssh-rsa AAAAB3NzaC1yc2E= me").unwrap_err();
        assert!(rsa.to_string().contains("\"ssh-rsa\""), "{rsa}");
        let unknown = parse_public(b"{}").unwrap_err();
        assert_eq!(unknown, FormatError::UnknownPublicKey { length: 2 });
    }
}
