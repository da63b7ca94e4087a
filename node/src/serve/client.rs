//! The client service: decode, ask the core, encode.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::request::{RequestSignature, SignatureRole, SignedRequest};
use symbolon_protocol::state::view::KeyView;
use symbolon_protocol::table::Tables;
use symbolon_protocol::wire::{Bytes, Wire, decode, encode};
use symbolon_rpc::convert::to_status;
use symbolon_rpc::v1::symbolon_server::{Symbolon, SymbolonServer};
use symbolon_rpc::v1::{
    Call, DoctorReply, ExplainReply, HelloReply, HelloRequest, KeyReply, ListClientsReply, ListKeysReply,
    ListMembersReply, ListOperationsReply, OrderReply, SignCall, SignReply, StatusReply,
};
use symbolon_rpc::{PROTOCOL_VERSION_NEWEST, PROTOCOL_VERSION_OLDEST, negotiate};
use tokio::sync::{Semaphore, SemaphorePermit};
use tonic::{Request, Response, Status};

use crate::core::Core;
use crate::core::types::{NodeTypes, Surroundings, Transport};
use crate::metrics::Entered;
use crate::store::Store;

/// One message from a client, bytes: the largest sign request with its framing.
pub const CALL_BYTES: usize = limits::MESSAGES_BYTES + 64 * 1024;

/// The client service.
pub struct ClientService<C: NodeTypes, T: Transport, S: Store, E: Surroundings> {
    core: Core<C, T, S, E>,
    room: Arc<Semaphore>,
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> ClientService<C, T, S, E> {
    /// The service, ready to be served; at most `requests` are worked on at the same time.
    pub fn server(core: Core<C, T, S, E>, requests: usize) -> SymbolonServer<Self> {
        SymbolonServer::new(Self { core, room: Arc::new(Semaphore::new(requests)) })
            .max_decoding_message_size(CALL_BYTES)
    }

    /// A place to work, or "try later" before queues grow.
    fn enter(&self) -> Result<(SemaphorePermit<'_>, Entered<'_>), Status> {
        let counters = self.core.counters();
        match self.room.try_acquire() {
            Ok(place) => Ok((place, counters.requests_open.enter())),
            Err(_) => {
                counters.turned_away.fetch_add(1, Ordering::Relaxed);
                let message = "this node works on as many requests as it may";
                Err(to_status(&Refusal::new(ErrorCode::Overloaded, message)))
            }
        }
    }

    /// Counts and logs the end of a request, with its id, so that it can be followed across nodes.
    fn note<R>(&self, what: &'static str, request: &SignedRequest, result: Result<R, Refusal>) -> Result<R, Status> {
        self.core.counters().request(what, &result);
        let id = || {
            let body = decode::<symbolon_protocol::request::RequestBody>(&request.body.0);
            body.map_or_else(|_| "unreadable".to_owned(), |body| body.request_id.to_string())
        };
        match result {
            Ok(reply) => {
                tracing::debug!(request = %id(), what, "answered");
                Ok(reply)
            }
            Err(refusal) => {
                tracing::info!(request = %id(), what, code = %refusal.code, message = %refusal.message, "refused");
                Err(to_status(&refusal))
            }
        }
    }
}

fn take_request(call: Call) -> Result<SignedRequest, Status> {
    let bad = |what: &str| to_status(&Refusal::new(ErrorCode::InvalidArgument, what));
    if call.body.len() > limits::REQUEST_BODY_BYTES {
        let message = format!("a request body has at most {} bytes", limits::REQUEST_BODY_BYTES);
        return Err(to_status(&Refusal::new(ErrorCode::TooLarge, message)));
    }
    if call.signatures.len() > limits::REQUEST_SIGNATURES {
        return Err(bad("too many signatures beside the request"));
    }
    let mut signatures = Vec::new();
    for signature in call.signatures {
        let role = match signature.role {
            1 => SignatureRole::Requester,
            2 => SignatureRole::Approver,
            3 => SignatureRole::SecondFactor,
            _ => return Err(bad("a signature in a role that does not exist")),
        };
        let signer = signature.signer.as_ref().try_into().ok().and_then(|key| PublicKey::from_bytes(key).ok());
        let bytes: Option<[u8; 64]> = signature.signature.as_ref().try_into().ok();
        let (Some(signer), Some(bytes)) = (signer, bytes) else { return Err(bad("a signature is malformed")) };
        signatures.push(RequestSignature { role, signer, signature: Signature::from_bytes(bytes) });
    }
    Ok(SignedRequest { body: Bytes(call.body.to_vec()), signatures })
}

fn bytes_of(value: &impl Wire) -> prost::bytes::Bytes {
    encode(value).into()
}

fn key_reply(index: u64, key: &KeyView, time_ms: u64) -> KeyReply {
    KeyReply { index, key: bytes_of(key), time_ms }
}

#[tonic::async_trait]
impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Symbolon for ClientService<C, T, S, E> {
    async fn hello(&self, request: Request<HelloRequest>) -> Result<Response<HelloReply>, Status> {
        let theirs = request.into_inner();
        if negotiate(theirs.oldest, theirs.newest).is_none() {
            let message = format!(
                "this node speaks protocol versions {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION_NEWEST} (release {})",
                env!("CARGO_PKG_VERSION")
            );
            return Err(to_status(&Refusal::new(ErrorCode::VersionUnknown, message)));
        }
        Ok(Response::new(HelloReply {
            oldest: PROTOCOL_VERSION_OLDEST,
            newest: PROTOCOL_VERSION_NEWEST,
            cluster_id: self.core.cluster().as_bytes().to_vec().into(),
            time_ms: self.core.clock_ms(),
            release: env!("CARGO_PKG_VERSION").to_owned(),
        }))
    }

    async fn order(&self, request: Request<Call>) -> Result<Response<OrderReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let ordered = self.note("order", &request, self.core.order_request(request.clone()).await)?;
        Ok(Response::new(OrderReply {
            index: ordered.index,
            outcome: bytes_of(&ordered.outcome),
            key: ordered.key.map(|key| key_reply(ordered.index, &key, self.core.clock_ms())),
            barrier: ordered.barrier.map(|report| bytes_of(&report)).unwrap_or_default(),
        }))
    }

    async fn sign(&self, request: Request<SignCall>) -> Result<Response<SignReply>, Status> {
        let _place = self.enter()?;
        let SignCall { call, messages, known_certificate } = request.into_inner();
        let request = take_request(call.unwrap_or_default())?;
        let messages = messages.into_iter().map(|message| Bytes(message.to_vec())).collect();
        let begun = Instant::now();
        let signed = self.note("sign", &request, self.core.coordinate(request.clone(), messages).await)?;
        self.core.counters().signed(begun.elapsed(), signed.attempts);
        let known = known_certificate.as_ref() == signed.core.digest().as_bytes();
        let certificate =
            if known { Vec::new() } else { self.core.certificate_bytes(&signed.core).unwrap_or_default() };
        Ok(Response::new(SignReply {
            signatures: signed.signatures.iter().map(|signature| signature.to_vec().into()).collect(),
            version: signed.core.version.get(),
            epoch: signed.core.epoch.get(),
            coordinator: self.core.me().get().into(),
            holders: signed.holders.iter().map(|node| node.get().into()).collect(),
            attempts: signed.attempts,
            certificate: certificate.into(),
        }))
    }

    async fn show_key(&self, request: Request<Call>) -> Result<Response<KeyReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let (index, key) = self.note("show key", &request, self.core.show_key(&request).await)?;
        Ok(Response::new(key_reply(index, &key, self.core.clock_ms())))
    }

    async fn list_keys(&self, request: Request<Call>) -> Result<Response<ListKeysReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let (index, keys, next) = self.note("list keys", &request, self.core.list_keys(&request).await)?;
        Ok(Response::new(ListKeysReply {
            index,
            keys: keys.iter().map(bytes_of).collect(),
            next: next.unwrap_or_default(),
            time_ms: self.core.clock_ms(),
        }))
    }

    async fn list_clients(&self, request: Request<Call>) -> Result<Response<ListClientsReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let (index, clients, next) = self.note("list clients", &request, self.core.list_clients(&request).await)?;
        let clients = clients.iter().map(bytes_of).collect();
        Ok(Response::new(ListClientsReply { index, clients, next: next.unwrap_or_default() }))
    }

    async fn list_operations(&self, request: Request<Call>) -> Result<Response<ListOperationsReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let (index, operations, next) =
            self.note("list operations", &request, self.core.list_operations(&request).await)?;
        let operations = operations.iter().map(bytes_of).collect();
        Ok(Response::new(ListOperationsReply { index, operations, next: next.into() }))
    }

    async fn list_members(&self, request: Request<Call>) -> Result<Response<ListMembersReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let members = self.note("list members", &request, self.core.list_members(&request).await)?;
        Ok(Response::new(ListMembersReply { view: bytes_of(&members) }))
    }

    async fn status(&self, request: Request<Call>) -> Result<Response<StatusReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let status = self.note("status", &request, self.core.status(&request).await)?;
        let lease = bytes_of(&self.core.lease_view());
        Ok(Response::new(StatusReply { status: bytes_of(&status), lease }))
    }

    async fn explain(&self, request: Request<Call>) -> Result<Response<ExplainReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let records = self.note("explain", &request, self.core.explain(&request).await)?;
        let records = records.iter().map(bytes_of).collect();
        Ok(Response::new(ExplainReply { records, node: self.core.me().get().into() }))
    }

    async fn doctor(&self, request: Request<Call>) -> Result<Response<DoctorReply>, Status> {
        let _place = self.enter()?;
        let request = take_request(request.into_inner())?;
        let view = self.note("doctor", &request, self.core.doctor(&request).await)?;
        Ok(Response::new(DoctorReply { view: bytes_of(&view) }))
    }
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// The certificate of a core, canonical, where the tables have it.
    #[must_use]
    pub fn certificate_bytes(&self, core: &symbolon_protocol::certificate::CertificateCore) -> Option<Vec<u8>> {
        use symbolon_protocol::schema::replicated as schema;
        use symbolon_protocol::state::records;
        let tables = self.state_tables();
        let bytes = tables.get(&schema::version(&core.key, core.version)).ok()??;
        let version = decode(&bytes).ok()?;
        let certificate = records::shown_certificate(&tables, &core.key, &version).ok()??;
        Some(encode(&certificate))
    }
}
