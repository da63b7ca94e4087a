//! Signatures: asked for by name, verified before they are returned.

use std::sync::Arc;

use prost::bytes::Bytes;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{Epoch, KeyId, KeyVersion, Name, NodeId, RequestId};
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::request::{Action, MessageDigest, VersionSelector};
use symbolon_rpc::v1;

use crate::call::{Sign, read};
use crate::client::Client;
use crate::error::Error;
use crate::trust::{Certified, Trust, VerifiedKey, bad};

/// Signatures that verify under a certified key.
#[derive(Debug, Clone)]
pub struct SignOutcome {
    /// One per message, in their order.
    pub signatures: Vec<Signature>,
    /// The key.
    pub key_id: KeyId,
    /// The version that signed.
    pub version: KeyVersion,
    /// Its public key.
    pub public_key: PublicKey,
    /// Epoch of the shares that signed, by the coordinator's word.
    pub epoch: Epoch,
    /// The node that coordinated, by its own word.
    pub coordinator: Option<NodeId>,
    /// The holders that contributed, by the coordinator's word.
    pub holders: Vec<NodeId>,
    /// Sets of holders that were tried.
    pub attempts: u32,
    /// The request.
    pub request_id: RequestId,
}

impl Client {
    /// Signs one message with the active version of a key.
    ///
    /// # Errors
    /// Any code of the error table; `bad_certificate` when every node answers with something that does not verify.
    pub async fn sign(&self, key: &Name, message: &[u8]) -> Result<SignOutcome, Error> {
        self.sign_many(key, vec![message.to_vec()]).await
    }

    /// Signs up to [`limits::MESSAGES_PER_REQUEST`] messages with the active version of a key, in one request.
    ///
    /// # Errors
    /// As [`Client::sign`].
    pub async fn sign_many(&self, key: &Name, messages: Vec<Vec<u8>>) -> Result<SignOutcome, Error> {
        check_sizes(&messages)?;
        let messages: Vec<Bytes> = messages.into_iter().map(Bytes::from).collect();
        let view = self.look_up(key).await?;
        match self.sign_with(&view, &messages).await {
            Err(error) if matches!(error.code(), ErrorCode::NotFound | ErrorCode::WrongState) => {
                self.forget(key);
                let now = self.look_up(key).await?;
                // Only another key of the same name (the first one was never made) gives another answer.
                if now.view.id == view.view.id {
                    return Err(error);
                }
                self.sign_with(&now, &messages).await
            }
            result => result,
        }
    }

    /// The key with a name, from a moment ago or anew.
    async fn look_up(&self, name: &Name) -> Result<Arc<VerifiedKey>, Error> {
        if let Some(key) = self.remembered(name) {
            return Ok(key);
        }
        let key = Arc::new(self.show_key(name).await?);
        self.remember(name, &key);
        Ok(key)
    }

    async fn sign_with(&self, key: &VerifiedKey, messages: &[Bytes]) -> Result<SignOutcome, Error> {
        let digests: Vec<MessageDigest> = messages.iter().map(|message| MessageDigest::of(message)).collect();
        let (id, known) = (Trust::certified_id(key)?, key.current());
        let known_certificate = known.map(|k| Bytes::copy_from_slice(k.digest.as_bytes())).unwrap_or_default();
        let mut asking = self.asking();
        let outcome = loop {
            // A node may need every session that holders give it for one request. So it gets each request once: when
            // everybody is asked again, it is with another one.
            let prepared = self.prepare(Action::Sign, Some(id), VersionSelector::Active, digests.clone())?;
            let rpc = Sign(v1::SignCall {
                call: Some(prepared.call),
                messages: messages.to_vec(),
                known_certificate: known_certificate.clone(),
            });
            let request = prepared.id;
            let check = |reply| self.check_signatures(key, messages, request, reply);
            if let Some(result) = self.ask_everybody(&mut asking, &rpc, check).await {
                break result.map_err(|refusal| Error::from(refusal).of_request(request))?;
            }
        };
        let signs = (outcome.version, outcome.epoch);
        if known.is_none_or(|known| (known.core.version, known.core.epoch) != signs) {
            // Another version signs now, or other shares: the next call is to know their certificate.
            self.forget(&key.view.name);
        }
        Ok(outcome)
    }

    /// Takes a reply only when each signature verifies under the certified key of the version that it names.
    fn check_signatures(
        &self,
        key: &VerifiedKey,
        messages: &[Bytes],
        request_id: RequestId,
        reply: v1::SignReply,
    ) -> Result<SignOutcome, Refusal> {
        let named = (KeyVersion::new(reply.version), Epoch::new(reply.epoch));
        let (Some(version), Some(epoch)) = named else { return Err(bad("names no version and epoch that signed")) };
        // The certificate may be of another epoch, right before or after the shares changed: it certifies the same public key.
        let certified = self.certified_signer(key, version, &reply.certificate)?;
        if reply.signatures.len() != messages.len() {
            let (given, asked) = (reply.signatures.len(), messages.len());
            return Err(bad(format!("gives {given} signatures for {asked} messages")));
        }
        let mut signatures = Vec::with_capacity(messages.len());
        for (bytes, message) in reply.signatures.iter().zip(messages) {
            let signature = <[u8; 64]>::try_from(bytes.as_ref()).map(Signature::from_bytes);
            match signature {
                Ok(good) if certified.public_key.verifies_raw(message, &good) => signatures.push(good),
                _ => return Err(bad(format!("gives a signature that does not verify under version {version}"))),
            }
        }
        Ok(SignOutcome {
            signatures,
            key_id: key.view.id,
            version,
            public_key: certified.public_key,
            epoch,
            coordinator: node_id(reply.coordinator),
            holders: reply.holders.into_iter().filter_map(node_id).collect(),
            attempts: reply.attempts,
            request_id,
        })
    }

    /// The certificate under which a reply is judged: the one in it, or the one that was known.
    fn certified_signer(&self, key: &VerifiedKey, version: KeyVersion, bytes: &[u8]) -> Result<Certified, Refusal> {
        if !bytes.is_empty() {
            let certificate: KeyCertificate = read("key certificate", bytes)?;
            return self.trust().check_certificate(&certificate, &key.view.id, &key.view.name, version);
        }
        let known = key.current().filter(|known| known.core.version == version);
        known
            .cloned()
            .ok_or_else(|| bad(format!("shows no certificate for version {version} of key `{}`", key.view.name)))
    }
}

fn node_id(number: u32) -> Option<NodeId> {
    u16::try_from(number).ok().and_then(NodeId::new)
}

/// Refuses here what no node would take.
fn check_sizes(messages: &[Vec<u8>]) -> Result<(), Error> {
    if messages.is_empty() {
        return Err(Error::new(ErrorCode::InvalidArgument, "there is no message to sign"));
    }
    if messages.len() > limits::MESSAGES_PER_REQUEST {
        let message = format!("a request has at most {} messages", limits::MESSAGES_PER_REQUEST);
        return Err(Error::new(ErrorCode::TooLarge, message).with_hint("sign them in several requests"));
    }
    let total: usize = messages.iter().map(Vec::len).sum();
    if total > limits::MESSAGES_BYTES || messages.iter().any(|message| message.len() > limits::MESSAGE_BYTES) {
        let message = format!("messages of one request have at most {} bytes together", limits::MESSAGES_BYTES);
        return Err(Error::new(ErrorCode::TooLarge, message));
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use symbolon_protocol::identity::Identity;
    use symbolon_protocol::lifecycle::KeyState;

    use super::*;
    use crate::client::Config;
    use crate::trust::tests::{genesis, verified};
    use crate::verify::tests::signed;

    async fn client() -> Client {
        Client::connect(Config::new(genesis(), Identity::from_seed(&[99; 32]))).await.unwrap()
    }

    fn reply(signature: &Signature) -> v1::SignReply {
        v1::SignReply {
            signatures: vec![Bytes::copy_from_slice(signature.as_bytes())],
            version: 1,
            epoch: 1,
            coordinator: 2,
            holders: vec![1, 2],
            attempts: 1,
            certificate: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn only_signatures_under_the_certified_key_are_taken() {
        let (client, key, id) = (client().await, verified(50, KeyState::Active), RequestId::from_bytes([1; 16]));
        let (message, signature) = signed(50, b"payload");
        let messages = [Bytes::from(message)];
        let check = |reply| client.check_signatures(&key, &messages, id, reply);
        let outcome = check(reply(&signature)).unwrap();
        assert_eq!((outcome.version.get(), outcome.holders.len()), (1, 2));
        assert_eq!(outcome.coordinator, NodeId::new(2));
        // The shares changed, the public key did not.
        let renewed = check(v1::SignReply { epoch: 2, ..reply(&signature) }).unwrap();
        assert_eq!((renewed.epoch.get(), renewed.public_key), (2, outcome.public_key));

        let (_, own) = signed(51, b"payload");
        let (_, other) = signed(50, b"other");
        for bad in [
            // By a key of the node's own, and over another message.
            reply(&own),
            reply(&other),
            v1::SignReply { version: 2, ..reply(&signature) },
            v1::SignReply { version: 0, ..reply(&signature) },
            v1::SignReply { epoch: 0, ..reply(&signature) },
            v1::SignReply { signatures: Vec::new(), ..reply(&signature) },
            v1::SignReply { certificate: Bytes::from_static(b"\x01garbage"), ..reply(&signature) },
        ] {
            assert_eq!(check(bad).unwrap_err().code, ErrorCode::BadCertificate);
        }
    }

    #[test]
    fn sizes() {
        assert!(check_sizes(&[vec![0; limits::MESSAGE_BYTES]]).is_ok());
        assert!(check_sizes(&[Vec::new()]).is_ok(), "an empty message is a message");
        let code = |messages: &[Vec<u8>]| check_sizes(messages).unwrap_err().code();
        assert_eq!(code(&[]), ErrorCode::InvalidArgument);
        assert_eq!(code(&[vec![0; limits::MESSAGE_BYTES + 1]]), ErrorCode::TooLarge);
        assert_eq!(code(&vec![Vec::new(); limits::MESSAGES_PER_REQUEST + 1]), ErrorCode::TooLarge);
    }
}
