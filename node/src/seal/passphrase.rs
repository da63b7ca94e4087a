//! The root from a passphrase: Argon2id, with its parameters and a check value in a small file.
//!
//! Layout of the file, integers big-endian: magic `SYMBSEAL` (8 bytes), format version (u16, 1), memory in
//! KiB (u32), passes (u32), lanes (u32), salt (16 bytes), then a sealed record of a fixed text, under a key
//! derived from the root and bound to all bytes before it. Whoever has this file can try passphrases
//! against it, at 64 MiB and three passes a guess: the passphrase must be long.

use std::fmt;
use std::path::{Path, PathBuf};

use argon2::{Algorithm, Argon2, Block, Params, Version};
use rand_core::{CryptoRng, RngCore};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use super::error::SealError;
use super::files::{io_error, random, read_private, read_public, write_new};
use super::record::{RECORD_OVERHEAD, open_record, seal_record};
use super::root::{Purpose, derive};
use super::secret::Secret32;

/// Name of the parameter file in the data directory.
pub const SEAL_PARAMS_FILE: &str = "seal.params";

/// Longest passphrase, in bytes.
const MAX_PASSPHRASE_LEN: usize = 1024;

/// Memory of Argon2id for new files, in KiB: 64 MiB.
const MEMORY_KIB: u32 = 64 * 1024;
/// Most memory that a file may ask for, in KiB: 2 GiB.
const MAX_MEMORY_KIB: u32 = 2 * 1024 * 1024;
/// Passes for new files.
const PASSES: u32 = 3;
/// Most passes that a file may ask for.
const MAX_PASSES: u32 = 64;
/// Lanes for new files.
const LANES: u32 = 1;
/// Most lanes that a file may ask for.
const MAX_LANES: u32 = 16;

/// Length of the salt, in bytes.
const SALT_LEN: usize = 16;
const MAGIC: &[u8; 8] = b"SYMBSEAL";
const VERSION: u16 = 1;
/// Length of all fields before the check value, in bytes.
const HEADER_LEN: usize = 8 + 2 + 3 * 4 + SALT_LEN;
const CHECK_TEXT: &[u8] = b"symbolon seal key check";
/// Length of the whole file, in bytes.
const FILE_LEN: usize = HEADER_LEN + CHECK_TEXT.len() + RECORD_OVERHEAD;

/// Where a passphrase comes from: never an argument or the environment, which other processes can see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PassphraseSource {
    /// A file with mode 0600 or stricter, of at most 1024 bytes; one newline at its end is not part of the
    /// passphrase.
    File(PathBuf),
    /// Typed on the controlling terminal, without echo.
    Terminal,
}

impl PassphraseSource {
    /// Reads the passphrase; with `confirm` a terminal is asked twice.
    fn read(&self, confirm: bool) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let passphrase = match self {
            Self::File(path) => {
                // One byte or two more than the passphrase itself: the newline.
                let text = read_private(path, "passphrase file", MAX_PASSPHRASE_LEN + 2)?;
                text.map(without_newline)
            }
            Self::Terminal => {
                let first = ask("Passphrase of the seal key: ")?;
                if confirm && !bool::from(first.ct_eq(&ask("Again: ")?)) {
                    return Err(SealError::PassphrasesDiffer);
                }
                Some(first)
            }
        };
        let unusable = |why| SealError::PassphraseUnusable { origin: self.to_string(), why };
        match passphrase {
            Some(bytes) if bytes.is_empty() => Err(unusable("empty")),
            Some(bytes) if bytes.len() <= MAX_PASSPHRASE_LEN => Ok(bytes),
            _ => Err(unusable("too long")),
        }
    }
}

impl fmt::Display for PassphraseSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Terminal => f.write_str("the terminal"),
        }
    }
}

/// Writes a new parameter file and returns the root.
///
/// # Errors
/// See [`SealKey::create_with_passphrase`](super::root::SealKey::create_with_passphrase).
pub(super) fn create(
    path: &Path,
    source: &PassphraseSource,
    rng: &mut (impl RngCore + CryptoRng),
) -> Result<Secret32, SealError> {
    // Before the passphrase is asked for, so that nobody types one in vain; write_new checks for good.
    if path.try_exists().map_err(io_error("examine", path))? {
        return Err(SealError::AlreadyExists { path: path.to_owned() });
    }
    let passphrase = source.read(true)?;
    let mut salt = [0; SALT_LEN];
    random(rng, &mut salt)?;
    let header = Header { memory_kib: MEMORY_KIB, passes: PASSES, lanes: LANES, salt };
    let root = header.stretch(&passphrase)?;
    let mut file = header.encode();
    let check = seal_record(&derive(&root, Purpose::PassphraseCheck)?, &file, CHECK_TEXT, rng)?;
    file.extend_from_slice(&check);
    write_new(path, &file)?;
    Ok(root)
}

/// Reads the parameter file, checks the passphrase and returns the root.
///
/// # Errors
/// See [`SealKey::from_passphrase`](super::root::SealKey::from_passphrase).
pub(super) fn open(path: &Path, source: &PassphraseSource) -> Result<Secret32, SealError> {
    let damaged = || SealError::ParamsDamaged { path: path.to_owned() };
    let file = read_public(path, "passphrase parameter file", FILE_LEN)?.ok_or_else(damaged)?;
    let (fields, check) = file.split_at_checked(HEADER_LEN).ok_or_else(damaged)?;
    let header = Header::decode(fields, path)?;
    let passphrase = source.read(false)?;
    let root = header.stretch(&passphrase)?;
    match open_record(&derive(&root, Purpose::PassphraseCheck)?, fields, check) {
        Ok(text) if text.as_slice() == CHECK_TEXT => Ok(root),
        Err(SealError::RecordFormat { .. }) => Err(damaged()),
        _ => Err(SealError::WrongPassphrase { path: path.to_owned() }),
    }
}

/// The fields before the check value.
struct Header {
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    salt: [u8; SALT_LEN],
}

impl Header {
    fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(FILE_LEN);
        bytes.extend_from_slice(MAGIC);
        bytes.extend_from_slice(&VERSION.to_be_bytes());
        bytes.extend_from_slice(&self.memory_kib.to_be_bytes());
        bytes.extend_from_slice(&self.passes.to_be_bytes());
        bytes.extend_from_slice(&self.lanes.to_be_bytes());
        bytes.extend_from_slice(&self.salt);
        bytes
    }

    /// Checks the bounds too: until the check value has opened, the file is anybody's, and it must not be
    /// able to make the node ask for all memory.
    fn decode(fields: &[u8], path: &Path) -> Result<Self, SealError> {
        let damaged = || SealError::ParamsDamaged { path: path.to_owned() };
        let (magic, rest) = fields.split_first_chunk::<8>().ok_or_else(damaged)?;
        let (version, rest) = rest.split_first_chunk::<2>().ok_or_else(damaged)?;
        let (memory_kib, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (passes, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let (lanes, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
        let salt = *rest.first_chunk::<SALT_LEN>().ok_or_else(damaged)?;
        if magic != MAGIC {
            return Err(damaged());
        }
        let found = u16::from_be_bytes(*version);
        if found != VERSION {
            return Err(SealError::UnsupportedFormat { path: path.to_owned(), found });
        }
        let header = Self {
            memory_kib: u32::from_be_bytes(*memory_kib),
            passes: u32::from_be_bytes(*passes),
            lanes: u32::from_be_bytes(*lanes),
            salt,
        };
        let sane = (MEMORY_KIB..=MAX_MEMORY_KIB).contains(&header.memory_kib)
            && (1..=MAX_PASSES).contains(&header.passes)
            && (1..=MAX_LANES).contains(&header.lanes);
        if sane { Ok(header) } else { Err(damaged()) }
    }

    /// Argon2id version 1.3 (RFC 9106), 32 bytes out.
    fn stretch(&self, passphrase: &[u8]) -> Result<Secret32, SealError> {
        let bug = |_| SealError::Bug { what: "Argon2 refused its parameters" };
        let params = Params::new(self.memory_kib, self.passes, self.lanes, None).map_err(bug)?;
        let mut memory = vec![Block::default(); params.block_count()];
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let root = Secret32::fill(|out| {
            argon2.hash_password_into_with_memory(passphrase, &self.salt, out, memory.as_mut_slice()).map_err(bug)
        });
        // The blocks are as good as the passphrase; the argon2 crate leaves them to its caller.
        memory.iter_mut().zeroize();
        root
    }
}

fn ask(prompt: &str) -> Result<Zeroizing<Vec<u8>>, SealError> {
    rpassword::prompt_password(prompt)
        .map(|text| Zeroizing::new(text.into_bytes()))
        .map_err(|source| SealError::Terminal { source })
}

/// Takes one newline (`\n` or `\r\n`) off the end.
fn without_newline(mut text: Zeroizing<Vec<u8>>) -> Zeroizing<Vec<u8>> {
    let kept = match text.as_slice() {
        [kept @ .., b'\r', b'\n'] | [kept @ .., b'\n'] => kept.len(),
        all => all.len(),
    };
    // The bytes cut off stay within the capacity and are wiped with the rest.
    text.truncate(kept);
    text
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests {
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    use rand_core::OsRng;

    use super::*;

    fn passphrase_file(directory: &Path, name: &str, text: &[u8]) -> PassphraseSource {
        let path = directory.join(name);
        write_new(&path, text).unwrap();
        PassphraseSource::File(path)
    }

    #[test]
    fn the_same_passphrase_gives_the_same_root_and_a_wrong_one_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let params = directory.path().join(SEAL_PARAMS_FILE);
        let right = passphrase_file(directory.path(), "right", b"correct horse battery staple\n");
        let bare = passphrase_file(directory.path(), "bare", b"correct horse battery staple");
        let wrong = passphrase_file(directory.path(), "wrong", b"correct horse battery stable\n");

        let made = create(&params, &right, &mut OsRng).unwrap();
        assert_eq!(fs::metadata(&params).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&params).unwrap().len(), FILE_LEN as u64);
        assert_eq!(made.expose(), open(&params, &right).unwrap().expose());
        assert_eq!(made.expose(), open(&params, &bare).unwrap().expose());

        let error = open(&params, &wrong).err().unwrap();
        assert!(matches!(error, SealError::WrongPassphrase { .. }));
        assert!(error.to_string().contains(&params.display().to_string()));
        assert!(matches!(create(&params, &right, &mut OsRng), Err(SealError::AlreadyExists { .. })));
    }

    #[test]
    fn damaged_foreign_and_greedy_parameters_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let params = directory.path().join(SEAL_PARAMS_FILE);
        let source = passphrase_file(directory.path(), "pass", b"correct horse battery staple");
        assert!(matches!(open(&params, &source), Err(SealError::Missing { .. })));
        create(&params, &source, &mut OsRng).unwrap();
        let good = fs::read(&params).unwrap();
        let opened_with = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut bytes = good.clone();
            change(&mut bytes);
            fs::write(&params, bytes).unwrap();
            open(&params, &source).err().unwrap()
        };
        let damaged = |error: SealError| matches!(error, SealError::ParamsDamaged { .. });
        assert!(damaged(opened_with(&|bytes| bytes[0] ^= 1)));
        assert!(damaged(opened_with(&|bytes| bytes.truncate(HEADER_LEN - 1))));
        assert!(damaged(opened_with(&|bytes| bytes.push(0))));
        assert!(damaged(opened_with(&|bytes| bytes[10..14].fill(0xff))));
        assert!(damaged(opened_with(&|bytes| bytes[14..18].fill(0))));
        let newer = opened_with(&|bytes| bytes[9] = 2);
        assert!(matches!(newer, SealError::UnsupportedFormat { found: 2, .. }));
        let other_salt = opened_with(&|bytes| bytes[HEADER_LEN - 1] ^= 1);
        assert!(matches!(other_salt, SealError::WrongPassphrase { .. }));
    }

    #[test]
    fn passphrase_files_are_checked() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str, text: &[u8]| passphrase_file(directory.path(), name, text).read(false);
        assert_eq!(read("newline", b"a b\n").unwrap().as_slice(), b"a b");
        assert_eq!(read("two newlines", b"a b\n\n").unwrap().as_slice(), b"a b\n");
        assert_eq!(read("windows", b"a b\r\n").unwrap().as_slice(), b"a b");
        assert_eq!(read("longest", &[b'x'; 1024]).unwrap().len(), 1024);
        let unusable: [(&str, &[u8]); 4] =
            [("empty", b""), ("only newline", b"\n"), ("long", &[b'x'; 1025]), ("longer", &[b'x'; 9000])];
        for (name, text) in unusable {
            assert!(matches!(read(name, text), Err(SealError::PassphraseUnusable { .. })), "{name}");
        }
        let open_to_all = passphrase_file(directory.path(), "open", b"a b");
        fs::set_permissions(directory.path().join("open"), fs::Permissions::from_mode(0o644)).unwrap();
        assert!(matches!(open_to_all.read(false), Err(SealError::Permissions { mode: 0o644, .. })));
    }
}
