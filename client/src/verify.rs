//! Verifying signatures: arithmetic alone, under public keys whose certificate was checked.

use std::io::{self, Read};

use symbolon_protocol::id::KeyVersion;
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::lifecycle::{Event, KeyState, Verdict, decide};

use crate::format::{FormatError, ParsedSignature, Sshsig};
use crate::trust::VerifiedKey;

/// The version of a key under which a signature verifies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Signer {
    /// The version.
    pub version: KeyVersion,
    /// Its state.
    pub state: KeyState,
    /// Why it was revoked, where it was.
    pub reason: Option<String>,
    /// Its public key.
    pub public_key: PublicKey,
}

impl Signer {
    /// Whether signatures of this version still count: not when it was revoked or its shares are being erased.
    #[must_use]
    pub fn counts(&self) -> bool {
        may_verify(self.state)
    }
}

fn may_verify(state: KeyState) -> bool {
    decide(state, Event::Verify) != Verdict::No
}

/// Finds the version that made a signature over a message: of those that count the newest, else of the others.
#[must_use]
pub fn signer(key: &VerifiedKey, message: &[u8], signature: &Signature) -> Option<Signer> {
    let newest_first = || key.view.versions.iter().rev();
    let counting = newest_first().filter(|version| may_verify(version.state));
    let others = newest_first().filter(|version| !may_verify(version.state));
    counting.chain(others).find_map(|version| {
        let public_key = key.public_key(version.number)?;
        public_key.verifies_raw(message, signature).then(|| Signer {
            version: version.number,
            state: version.state,
            reason: version.reason.clone(),
            public_key,
        })
    })
}

/// What the signature in a file is over, for a message that is read from `reader`: the message itself (up to `limit`
/// bytes), or what SSHSIG makes of its hash, however long it is. None when the message is longer than `limit`.
///
/// # Errors
/// Outside: the reader's. Inside: [`FormatError`] for an SSHSIG that cannot be.
pub fn signed_bytes(
    signature: &ParsedSignature,
    reader: impl Read,
    limit: usize,
) -> io::Result<Result<Option<Vec<u8>>, FormatError>> {
    match signature {
        ParsedSignature::Plain(_) => {
            let mut message = Vec::new();
            let most = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            reader.take(most).read_to_end(&mut message)?;
            Ok(Ok((message.len() <= limit).then_some(message)))
        }
        ParsedSignature::Sshsig(sshsig) => {
            let hash = sshsig.hash_algorithm.hash_reader(reader)?;
            Ok(sshsig.signed_data(&hash).map(Some))
        }
    }
}

/// Whether an SSHSIG names the key that made it. A file that names another one is refused by every other tool.
#[must_use]
pub fn names_signer(sshsig: &Sshsig, public_key: &PublicKey) -> bool {
    sshsig.public == *public_key.as_bytes()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use symbolon_protocol::id::ClusterId;
    use symbolon_protocol::identity::{Domain, Identity};
    use symbolon_protocol::wire::{Wire as _, Writer};

    use super::*;
    use crate::trust::tests::verified;

    /// A message that `payload` is part of, and its signature by the identity with a seed: identities sign nothing else than
    /// such messages.
    pub(crate) fn signed(seed: u8, payload: &[u8]) -> (Vec<u8>, Signature) {
        let cluster = ClusterId::from_bytes([0; 32]);
        let mut message = Writer::default();
        message.bytes(Domain::Request.tag().as_bytes());
        cluster.put(&mut message);
        message.bytes(payload);
        (message.finish(), Identity::from_seed(&[seed; 32]).sign(Domain::Request, &cluster, payload))
    }

    #[test]
    fn a_signature_is_found_under_its_version() {
        let (message, signature) = signed(50, b"payload");
        for (state, counts) in [
            (KeyState::Active, true),
            (KeyState::Suspended, true),
            (KeyState::Rotated, true),
            (KeyState::Expired, true),
            (KeyState::Revoked, false),
            (KeyState::Destroying, false),
            (KeyState::Destroyed, false),
        ] {
            let found = signer(&verified(50, state), &message, &signature).unwrap();
            assert_eq!((found.version.get(), found.state, found.counts()), (1, state, counts));
        }
    }

    #[test]
    fn another_message_or_key_does_not_verify() {
        let (message, signature) = signed(50, b"payload");
        let key = verified(50, KeyState::Active);
        assert_eq!(signer(&key, b"another", &signature), None);
        assert_eq!(signer(&key, &message, &signed(51, b"payload").1), None);
        assert_eq!(signer(&verified(51, KeyState::Active), &message, &signature), None);
    }

    #[test]
    fn a_message_that_no_signature_can_be_over_is_not_read() {
        let plain = ParsedSignature::Plain([0; 64]);
        let read = |message: &[u8]| signed_bytes(&plain, message, 4).unwrap().unwrap();
        assert_eq!(read(b"1234"), Some(b"1234".to_vec()));
        assert_eq!(read(b"12345"), None);
    }
}
