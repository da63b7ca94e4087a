//! The file of a client's identity: a line that says what it is, and the 32-byte seed of an Ed25519 key in hexadecimal.
//!
//! ```text
//! symbolon-identity-v1
//! 9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60
//! ```
//!
//! Only its owner may read it: it is made with mode 0600, and refused when others can read it. Beside it stands a file with
//! the public key, which is for everybody.

use std::ffi::OsString;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::identity::Identity;
use zeroize::Zeroizing;

use crate::error::Error;

/// The first line.
pub const HEAD: &str = "symbolon-identity-v1";

/// Longest file, bytes.
const FILE_BYTES: usize = 256;
/// Permissions of anybody but the owner.
const OTHERS: u32 = 0o077;

/// Writes a new file for an identity and one for its public key ([`public_path`]); neither may exist.
///
/// # Errors
/// `local_file` when either exists or cannot be written.
pub fn create(path: &Path, identity: &Identity) -> Result<(), Error> {
    let public = public_path(path);
    if public.try_exists().map_err(|error| Error::file("look at", &public, &error))? {
        let message = format!("{} exists: nothing was made", public.display());
        return Err(Error::new(ErrorCode::LocalFile, message).with_hint("choose another path with --file"));
    }
    if let Some(directory) = path.parent().filter(|d| !d.as_os_str().is_empty()) {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(directory);
        made.map_err(|error| Error::file("make the directory", directory, &error))?;
    }
    let mut digits = Zeroizing::new([0u8; 64]);
    // Cannot fail: 32 bytes are 64 digits.
    let _ = hex::encode_to_slice(identity.expose_seed(), digits.as_mut_slice());
    write_new(path, 0o600, &[HEAD.as_bytes(), b"\n", digits.as_slice(), b"\n"])?;
    write_new(&public, 0o644, &[format!("{}\n", identity.public()).as_bytes()])
}

/// The file with the public key of the identity in `path`: its name with `.pub` behind it.
#[must_use]
pub fn public_path(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".pub");
    name.into()
}

fn write_new(path: &Path, mode: u32, pieces: &[&[u8]]) -> Result<(), Error> {
    let opened = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => {
            let message = format!("{} exists: nothing was made", path.display());
            Error::new(ErrorCode::LocalFile, message).with_hint("choose another path with --file")
        }
        _ => Error::file("make", path, &error),
    })?;
    // Piece by piece, without a buffer that would have to be wiped.
    let written = pieces.iter().try_for_each(|piece| file.write_all(piece)).and_then(|()| file.sync_all());
    written.map_err(|error| {
        // Half a file is worse than none; that it cannot be removed either changes nothing about the error.
        let _ = std::fs::remove_file(path);
        Error::file("write", path, &error)
    })
}

/// Reads an identity.
///
/// # Errors
/// `local_file` when the file cannot be read, can be read by others, or holds something else.
pub fn load(path: &Path) -> Result<Identity, Error> {
    let unreadable = |error: io::Error| {
        let error = Error::file("read the identity", path, &error);
        error.with_hint("name your identity with --identity or SYMBOLON_IDENTITY, or make one: `symbolon identity new`")
    };
    let file = File::open(path).map_err(unreadable)?;
    let mode = file.metadata().map_err(unreadable)?.permissions().mode();
    if mode & OTHERS != 0 {
        let message = format!("others may read the identity {} (mode {:04o})", path.display(), mode & 0o7777);
        return Err(Error::new(ErrorCode::LocalFile, message).with_hint(format!("chmod 600 {}", path.display())));
    }
    // Room from the start, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(2 * FILE_BYTES));
    file.take(FILE_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    parse(&bytes).ok_or_else(|| {
        let message = format!("{} is no identity: `{HEAD}` and 64 hexadecimal digits are expected", path.display());
        Error::new(ErrorCode::LocalFile, message).with_hint("make one with `symbolon identity new`")
    })
}

fn parse(bytes: &[u8]) -> Option<Identity> {
    if bytes.len() > FILE_BYTES {
        return None;
    }
    let mut lines = std::str::from_utf8(bytes).ok()?.trim_end().lines();
    let (head, digits) = (lines.next()?, lines.next()?);
    if head != HEAD || lines.next().is_some() {
        return None;
    }
    let mut seed = Zeroizing::new([0u8; 32]);
    hex::decode_to_slice(digits, seed.as_mut_slice()).ok()?;
    Some(Identity::from_seed(&seed))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::fs::Permissions;

    use super::*;

    /// RFC 8032 section 7.1, test 1.
    const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
    const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

    fn identity() -> Identity {
        let mut seed = [0; 32];
        hex::decode_to_slice(SEED, &mut seed).unwrap();
        Identity::from_seed(&seed)
    }

    fn mode(path: &Path) -> u32 {
        std::fs::metadata(path).unwrap().permissions().mode() & 0o7777
    }

    #[test]
    fn a_file_is_for_its_owner_and_comes_back() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("new/identity");
        create(&path, &identity()).unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), format!("{HEAD}\n{SEED}\n"));
        assert_eq!(std::fs::read_to_string(public_path(&path)).unwrap(), format!("{PUBLIC}\n"));
        assert_eq!(load(&path).unwrap().public().to_string(), PUBLIC);
        assert_eq!(create(&path, &identity()).unwrap_err().code(), ErrorCode::LocalFile);
        std::fs::remove_file(public_path(&path)).unwrap();
        let error = create(&path, &Identity::from_seed(&[1; 32])).unwrap_err();
        assert!(error.message().contains("exists"), "{error}");
        assert_eq!(load(&path).unwrap().public().to_string(), PUBLIC);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        create(&path, &identity()).unwrap();
        for open in [0o640, 0o604, 0o644, 0o620] {
            std::fs::set_permissions(&path, Permissions::from_mode(open)).unwrap();
            let error = load(&path).unwrap_err();
            assert_eq!(error.code(), ErrorCode::LocalFile);
            assert!(error.hint().starts_with("chmod 600 "), "{}", error.hint());
        }
    }

    #[test]
    fn something_else_is_refused() {
        let whole = format!("{HEAD}\n{SEED}\n");
        assert!(parse(whole.as_bytes()).is_some() && parse(whole.trim_end().as_bytes()).is_some());
        for text in [
            "",
            HEAD,
            SEED,
            &format!("{HEAD}\n{SEED}\n{SEED}\n"),
            &format!("{HEAD}\n\n{SEED}\n"),
            &format!("{HEAD}\n{SEED}00\n"),
            &format!("{HEAD}\n{}\n", SEED.replace('9', "g")),
            &format!("symbolon-identity-v2\n{SEED}\n"),
            &format!("{HEAD}\n{SEED}{}", " ".repeat(FILE_BYTES)),
        ] {
            assert!(parse(text.as_bytes()).is_none(), "{text}");
        }
    }
}
