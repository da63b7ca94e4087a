//! The SSH wire encoding (RFC 4251 section 5), as far as keys and signatures need it: big-endian
//! `uint32`, and `string`, which is a `uint32` length and that many bytes.

use super::FormatError;

/// The name of plain Ed25519, as a key type and as a signature algorithm (RFC 8709).
pub(super) const ED25519: &str = "ssh-ed25519";

/// Longest excerpt of foreign input that an error repeats.
const EXCERPT: usize = 64;

/// Appends `bytes` as a `string`.
pub(super) fn put_string(out: &mut Vec<u8>, bytes: &[u8]) {
    // The strings written here are keys, signatures and namespaces; one over 4 GiB cannot be
    // encoded at all, and with a length that does not match it is at least refused by any reader.
    let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// The encoding shared by Ed25519 keys and signatures: the name, then the bytes.
pub(super) fn ed25519_blob(bytes: &[u8]) -> Vec<u8> {
    let mut blob = Vec::new();
    put_string(&mut blob, ED25519.as_bytes());
    put_string(&mut blob, bytes);
    blob
}

/// Reads what [`ed25519_blob`] writes, of exactly `N` bytes.
pub(super) fn parse_ed25519_blob<const N: usize>(blob: &[u8], form: &'static str) -> Result<[u8; N], FormatError> {
    let mut fields = Reader::new(blob, form);
    let name = fields.string()?;
    if name != ED25519.as_bytes() {
        return Err(other_type(form, name));
    }
    let bytes = fields.string()?;
    fields.finish()?;
    <[u8; N]>::try_from(bytes)
        .map_err(|_| FormatError::Malformed { form, problem: "its Ed25519 bytes are too many or too few" })
}

/// The error for a key or signature of another type.
pub(super) fn other_type(form: &str, name: &[u8]) -> FormatError {
    let found = format!("an {form} of the type {:?}", excerpt(name));
    FormatError::NotEd25519 { found }
}

/// The start of foreign bytes as text, short enough for an error. Print it with `{:?}`, which
/// escapes control characters.
pub(super) fn excerpt(bytes: &[u8]) -> String {
    let start = bytes.get(..EXCERPT).unwrap_or(bytes);
    String::from_utf8_lossy(start).into_owned()
}

/// A cursor over encoded fields.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
    form: &'static str,
}

impl<'a> Reader<'a> {
    /// Reads `bytes`, which errors call `form`.
    pub(super) fn new(bytes: &'a [u8], form: &'static str) -> Self {
        Self { rest: bytes, form }
    }

    /// The next field, a `uint32`.
    pub(super) fn uint32(&mut self) -> Result<u32, FormatError> {
        let (word, rest) = self.rest.split_first_chunk::<4>().ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(u32::from_be_bytes(*word))
    }

    /// The next field, a `string`.
    pub(super) fn string(&mut self) -> Result<&'a [u8], FormatError> {
        // A length that usize cannot hold is one that the input cannot have either.
        let length = usize::try_from(self.uint32()?).unwrap_or(usize::MAX);
        let (bytes, rest) = self.rest.split_at_checked(length).ok_or_else(|| self.truncated())?;
        self.rest = rest;
        Ok(bytes)
    }

    /// Refuses bytes after the last field.
    pub(super) fn finish(self) -> Result<(), FormatError> {
        if self.rest.is_empty() {
            return Ok(());
        }
        Err(FormatError::Malformed { form: self.form, problem: "there are bytes after its end" })
    }

    fn truncated(&self) -> FormatError {
        FormatError::Malformed { form: self.form, problem: "it ends in the middle of a field" }
    }
}
