//! Every signature that leaves verifies for the requested message under the key that was certified.

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::id::KeyId;
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::wire::Bytes;

use super::key_usable::Usable;
use super::{SIGNATURE_VALID, Violation, safety};

pub(super) fn check(
    usable: &Usable,
    key: Option<KeyId>,
    messages: &[Bytes],
    signatures: &[[u8; 64]],
    shown: &CertificateCore,
) -> Result<(), Violation> {
    if !usable.is_committed(shown) || Some(shown.key) != key {
        let what = format!("a signature came with another key than the one certified as `{}`", shown.name);
        return Err(safety(SIGNATURE_VALID, what));
    }
    let core = shown;
    let verifies = |public: &PublicKey, (message, bytes): (&Bytes, &[u8; 64])| {
        public.verifies_raw(&message.0, &Signature::from_bytes(*bytes))
    };
    let all = |public: PublicKey| messages.iter().zip(signatures).all(|pair| verifies(&public, pair));
    let good = PublicKey::from_bytes(&core.public_key).is_ok_and(all);
    if good && messages.len() == signatures.len() {
        return Ok(());
    }
    Err(safety(SIGNATURE_VALID, format!("a signature of key `{}` does not verify for what was asked", core.name)))
}
