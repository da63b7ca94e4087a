//! A client without the client library: it sends what it is told to.

use std::collections::BTreeMap;
use std::time::Duration;

use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{KeyId, RequestId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::request::{
    Action, MessageDigest, Purpose, RequestBody, SignatureRole, SignedRequest, VersionSelector,
};
use symbolon_rpc::v1::symbolon_client::SymbolonClient;
use symbolon_rpc::{convert, serve, tls, v1};
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;
use tonic::transport::Channel;

use crate::now_ms;

/// How long a node may take for an answer.
const ANSWER: Duration = Duration::from_secs(45);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a request is valid unless it says otherwise, milliseconds.
const LIFETIME_MS: u64 = 60_000;

/// A connection to one node.
#[derive(Debug)]
pub struct Raw {
    runtime: Runtime,
    client: SymbolonClient<Channel>,
}

impl Raw {
    /// Connects to a node of a cluster when it is first used.
    ///
    /// # Panics
    /// When no runtime or no TLS configuration can be had.
    #[must_use]
    pub fn connect(genesis: &Genesis, address: &str) -> Self {
        let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let members = tls::only(genesis.members.values().map(|member| member.key));
        let config = tls::client_config(members).expect("a TLS configuration");
        let inside = runtime.enter();
        let client = SymbolonClient::new(serve::channel(address.to_owned(), config, CONNECT));
        drop(inside);
        Self { runtime, client }
    }

    /// Sends an ordered request.
    ///
    /// # Errors
    /// What the node answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn order(&mut self, request: &SignedRequest) -> Result<v1::OrderReply, Refusal> {
        let Self { runtime, client } = self;
        let answer = runtime.block_on(async { timeout(ANSWER, client.order(call(request))).await });
        answer
            .expect("an answer in time")
            .map(tonic::Response::into_inner)
            .map_err(|status| convert::from_status(&status))
    }

    /// Sends a request for signatures with its messages.
    ///
    /// # Errors
    /// What the node answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn sign(&mut self, request: &SignedRequest, messages: &[&[u8]]) -> Result<v1::SignReply, Refusal> {
        let sign = v1::SignCall {
            call: Some(call(request)),
            messages: messages.iter().map(|message| message.to_vec().into()).collect(),
            ..Default::default()
        };
        let Self { runtime, client } = self;
        let answer = runtime.block_on(async { timeout(ANSWER, client.sign(sign)).await });
        answer
            .expect("an answer in time")
            .map(tonic::Response::into_inner)
            .map_err(|status| convert::from_status(&status))
    }

    /// Sends a request to read a key.
    ///
    /// # Errors
    /// What the node answers.
    ///
    /// # Panics
    /// When it does not answer.
    pub fn show_key(&mut self, request: &SignedRequest) -> Result<v1::KeyReply, Refusal> {
        let Self { runtime, client } = self;
        let answer = runtime.block_on(async { timeout(ANSWER, client.show_key(call(request))).await });
        answer
            .expect("an answer in time")
            .map(tonic::Response::into_inner)
            .map_err(|status| convert::from_status(&status))
    }
}

/// A request as it travels.
fn call(request: &SignedRequest) -> v1::Call {
    let signatures = request.signatures.iter().map(|one| v1::RoleSignature {
        role: match one.role {
            SignatureRole::Requester => 1,
            SignatureRole::Approver => 2,
            SignatureRole::SecondFactor => 3,
        },
        signer: one.signer.as_bytes().to_vec().into(),
        signature: one.signature.as_bytes().to_vec().into(),
    });
    v1::Call { signatures: signatures.collect(), body: request.body.0.clone().into() }
}

/// A sound body for an action, valid now and for a minute.
#[must_use]
pub fn body(genesis: &Genesis, client: &Identity, action: Action) -> RequestBody {
    let mut id = [0; 16];
    OsRng.fill_bytes(&mut id);
    let now = now_ms();
    RequestBody {
        cluster: genesis.cluster_id(),
        client: client.public(),
        request_id: RequestId::from_bytes(id),
        not_before_ms: now - 1_000,
        expires_ms: now + LIFETIME_MS,
        action,
        key: None,
        version: VersionSelector::Active,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: vec![],
    }
}

/// A sound body that asks for a signature over one message.
#[must_use]
pub fn sign_body(genesis: &Genesis, client: &Identity, key: KeyId, message: &[u8]) -> RequestBody {
    RequestBody { key: Some(key), messages: vec![MessageDigest::of(message)], ..body(genesis, client, Action::Sign) }
}
