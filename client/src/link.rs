//! One endpoint: its connection, who answers there, and what was said first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::{Member, valid_address};
use symbolon_protocol::id::ClusterId;
use symbolon_protocol::identity::PublicKey;
use symbolon_rpc::v1::HelloRequest;
use symbolon_rpc::v1::symbolon_client::SymbolonClient;
use symbolon_rpc::{PROTOCOL_VERSION_NEWEST, PROTOCOL_VERSION_OLDEST, convert, negotiate, serve, tls};
use tonic::transport::Channel;

use crate::call::contained;
use crate::error::Error;
use crate::trust::Trust;
use crate::{lock, now_ms};

/// The generated stub.
pub(crate) type Stub = SymbolonClient<Channel>;

/// Name resolution, TCP and TLS together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// Longest reply, bytes: a page of keys with many versions, each with its certificate.
const REPLY_BYTES: usize = 32 << 20;

/// What a node said before anything else.
#[derive(Debug, Clone, Copy)]
struct Greeting {
    /// By how much this machine's clock is ahead of the node's, milliseconds.
    ahead_ms: i64,
}

/// An endpoint of the cluster.
#[derive(Debug)]
pub(crate) struct Link {
    address: String,
    stub: Stub,
    /// The identity that was shown in the last handshake.
    identity: Arc<Mutex<Option<PublicKey>>>,
    greeting: Mutex<Option<Greeting>>,
}

impl Link {
    /// A link that connects when it is first used. Only members of the cluster may answer: those of today, in every handshake.
    pub(crate) fn new(address: String, trust: &Trust) -> Result<Self, Error> {
        let followed = trust.following();
        let is_member = move |key: &PublicKey| {
            let newest = Arc::clone(lock(&followed).newest());
            newest.members.values().any(|member| member.key == *key)
        };
        Self::to(address, is_member)
    }

    /// A link on which anybody may answer; for what proves itself, whoever shows it.
    pub(crate) fn to_anybody(address: String) -> Result<Self, Error> {
        Self::to(address, |_| true)
    }

    fn to(address: String, may_answer: impl Fn(&PublicKey) -> bool + Send + Sync + 'static) -> Result<Self, Error> {
        if !valid_address(&address) {
            let message = format!("`{address}` is no endpoint: host:port is expected");
            return Err(Error::new(ErrorCode::InvalidArgument, message));
        }
        let identity = Arc::new(Mutex::new(None));
        let seen = Arc::clone(&identity);
        let allowed: tls::Allowed = Arc::new(move |key: &PublicKey| {
            let allowed = may_answer(key);
            if allowed {
                *lock(&seen) = Some(*key);
            }
            allowed
        });
        let config = tls::client_config(allowed).map_err(|error| Error::new(ErrorCode::Internal, error.to_string()))?;
        let channel = serve::channel(address.clone(), config, CONNECT_TIMEOUT);
        let stub = SymbolonClient::new(channel).max_decoding_message_size(REPLY_BYTES);
        Ok(Self { address, stub, identity, greeting: Mutex::new(None) })
    }

    /// Where it leads.
    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// A handle for one call.
    pub(crate) fn stub(&self) -> Stub {
        self.stub.clone()
    }

    /// The member that answers here, as far as that is known.
    fn member(&self, trust: &Trust) -> Option<Member> {
        let shown = *lock(&self.identity);
        match shown {
            Some(key) => trust.member_of(&key),
            None => trust.membership().members.values().find(|member| member.client_address == self.address).cloned(),
        }
    }

    /// Its name, or its address while nobody has answered there.
    pub(crate) fn name(&self, trust: &Trust) -> String {
        self.member(trust).map_or_else(|| self.address.clone(), |member| member.name.to_string())
    }

    /// How people are told about it.
    pub(crate) fn label(&self, trust: &Trust) -> String {
        match self.member(trust) {
            Some(member) => format!("{} ({})", member.name, self.address),
            None => self.address.clone(),
        }
    }

    /// Exchanges versions before the first use. Again after the connection broke: the node may be another release by then.
    pub(crate) async fn greet(&self, cluster: &ClusterId) -> Result<(), Refusal> {
        if lock(&self.greeting).is_some() {
            return Ok(());
        }
        let hello = HelloRequest { oldest: PROTOCOL_VERSION_OLDEST, newest: PROTOCOL_VERSION_NEWEST };
        let before = now_ms();
        let reply =
            contained(self.stub().hello(hello)).await.map_err(|status| convert::from_status(&status))?.into_inner();
        let here = before.midpoint(now_ms());
        if negotiate(reply.oldest, reply.newest).is_none() {
            let theirs =
                format!("release {} speaks protocol versions {} to {}", reply.release, reply.oldest, reply.newest);
            let ours = format!("this program {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION_NEWEST}");
            return Err(Refusal::new(ErrorCode::VersionUnknown, format!("{theirs}, {ours}")));
        }
        if reply.cluster_id != cluster.as_bytes().as_slice() {
            let theirs = hex::encode(&reply.cluster_id);
            return Err(Refusal::new(
                ErrorCode::WrongCluster,
                format!("belongs to cluster {theirs}, not to {cluster}"),
            ));
        }
        let ahead_ms = i64::try_from(here).unwrap_or(i64::MAX).saturating_sub_unsigned(reply.time_ms);
        *lock(&self.greeting) = Some(Greeting { ahead_ms });
        Ok(())
    }

    /// Forgets what was said: the connection broke.
    pub(crate) fn forget_greeting(&self) {
        *lock(&self.greeting) = None;
    }

    /// By how much this machine's clock is ahead of the node's, milliseconds.
    pub(crate) fn ahead_ms(&self) -> Option<i64> {
        lock(&self.greeting).map(|greeting| greeting.ahead_ms)
    }
}

/// The endpoints where clients reach the members.
pub(crate) fn default_endpoints<K>(members: &BTreeMap<K, Member>) -> Vec<String> {
    members.values().map(|member| member.client_address.clone()).collect()
}
