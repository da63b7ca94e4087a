//! Sending one signed request until a node answers well.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use futures::FutureExt as _;
use prost::bytes::Bytes;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::id::{KeyId, RequestId};
use symbolon_protocol::request::SignedRequest;
use symbolon_protocol::wire::{Wire, decode};
use symbolon_rpc::{convert, v1};
use tonic::{Request, Response, Status};

use crate::barrier::Withdrawal;
use crate::client::Client;
use crate::link::{Link, Stub};
use crate::retry::{Attempts, Round};
use crate::trust::{bad, is_incomplete, is_newer};

/// A call of the client service with its message.
pub(crate) trait Rpc: Send + Sync {
    type Reply: Clone + Send;
    fn send(&self, stub: Stub, budget: Duration) -> impl Future<Output = Result<Self::Reply, Status>> + Send;
}

macro_rules! rpcs {
    ($($(#[$doc:meta])* $name:ident($message:ident) => $method:ident -> $reply:ident;)*) => {$(
        $(#[$doc])*
        pub(crate) struct $name(pub(crate) v1::$message);

        impl Rpc for $name {
            type Reply = v1::$reply;
            async fn send(&self, mut stub: Stub, budget: Duration) -> Result<v1::$reply, Status> {
                let mut request = Request::new(self.0.clone());
                // The node stops working for a client that has stopped waiting.
                request.set_timeout(budget);
                contained(stub.$method(request)).await.map(Response::into_inner)
            }
        }
    )*};
}
rpcs! {
    /// Something that changes state.
    Order(Call) => order -> OrderReply;
    /// Threshold signatures.
    Sign(SignCall) => sign -> SignReply;
    /// One key.
    ShowKey(Call) => show_key -> KeyReply;
    /// A page of keys.
    ListKeys(Call) => list_keys -> ListKeysReply;
    /// A page of clients.
    ListClients(Call) => list_clients -> ListClientsReply;
    /// A page of share operations.
    ListOperations(Call) => list_operations -> ListOperationsReply;
    /// The members.
    ListMembers(Call) => list_members -> ListMembersReply;
    /// The cluster.
    ShowStatus(Call) => status -> StatusReply;
    /// The usage log of the asked node.
    Explain(Call) => explain -> ExplainReply;
    /// What the asked node finds when it examines itself.
    Doctor(Call) => doctor -> DoctorReply;
}

/// A node chooses the headers that it answers with, and the library below fails on some. That ends the call, nothing else.
pub(crate) async fn contained<R>(call: impl Future<Output = Result<R, Status>>) -> Result<R, Status> {
    AssertUnwindSafe(call).catch_unwind().await.unwrap_or_else(|_| {
        let message = "the node answered with headers that cannot be read";
        Err(convert::to_status(&Refusal::new(ErrorCode::BadCertificate, message)))
    })
}

/// A request that is ready to be sent.
pub(crate) struct Prepared {
    pub(crate) call: v1::Call,
    pub(crate) id: RequestId,
    /// The id that the key gets when this is a create request.
    pub(crate) new_key: Option<KeyId>,
    /// What its answer is checked by when it takes a right away.
    pub(crate) withdrawal: Option<Withdrawal>,
}

/// A signed request as it travels.
pub(crate) fn to_call(request: SignedRequest) -> v1::Call {
    let signatures = request.signatures.iter().map(|signature| v1::RoleSignature {
        // The codec's tag of `SignatureRole::Requester`, the only role of this version.
        role: 1,
        signer: Bytes::copy_from_slice(signature.signer.as_bytes()),
        signature: Bytes::copy_from_slice(signature.signature.as_bytes()),
    });
    v1::Call { signatures: signatures.collect(), body: request.body.0.into() }
}

/// Reads a canonical value in a reply.
pub(crate) fn read<T: Wire>(what: &str, bytes: &[u8]) -> Result<T, Refusal> {
    decode(bytes).map_err(|error| bad(format!("answers with something that is no {what}: {error}")))
}

/// How far the asking is in one call.
pub(crate) struct Asking {
    turns: Vec<usize>,
    attempts: Attempts,
}

impl Client {
    /// Asks one node after the other until `check` accepts a reply or the deadline is over. Everybody is asked the same, however
    /// often.
    pub(crate) async fn ask<R, T, C>(&self, rpc: R, check: C) -> Result<T, Refusal>
    where
        R: Rpc,
        C: Fn(R::Reply) -> Result<T, Refusal> + Send + Sync,
    {
        self.catch_up().await?;
        let (mut asking, mut asked_anybody) = (self.asking(), false);
        loop {
            match self.ask_everybody(&mut asking, &rpc, &check).await {
                // Nobody who is known is there: perhaps they were all replaced since.
                Some(Err(refusal)) if refusal.code == ErrorCode::Unreachable && !asked_anybody => {
                    asked_anybody = true;
                    if !self.ask_anybody_for_members().await {
                        return Err(refusal);
                    }
                    asking = self.asking();
                }
                Some(result) => return result,
                None => {}
            }
        }
    }

    /// The beginning of a call.
    pub(crate) fn asking(&self) -> Asking {
        let turns = self.turns();
        Asking { attempts: Attempts::new(Instant::now(), self.deadline(), turns.len()), turns }
    }

    /// Asks each node once, until `check` accepts a reply. None when everybody is to be asked again, after the pause before that.
    pub(crate) async fn ask_everybody<R, T, C>(
        &self,
        asking: &mut Asking,
        rpc: &R,
        check: C,
    ) -> Option<Result<T, Refusal>>
    where
        R: Rpc,
        C: Fn(R::Reply) -> Result<T, Refusal> + Send + Sync,
    {
        let Asking { turns, attempts } = asking;
        for index in turns.iter() {
            let Some(link) = self.links().get(*index).cloned() else { continue };
            let link = &*link;
            let Some(budget) = attempts.budget(Instant::now()) else { return Some(Err(attempts.give_up())) };
            let reply = self.attempt(link, rpc, budget).await;
            let refusal = match self.look_twice(link, budget, reply, &check).await {
                Ok(value) => {
                    self.prefer(*index);
                    return Some(Ok(value));
                }
                Err(refusal) => self.told(link, refusal),
            };
            if attempts.is_first_round() && refusal.code == ErrorCode::BadCertificate && !is_incomplete(&refusal) {
                let message = format!("node {} {}", link.label(self.trust()), refusal.message);
                self.report(&Refusal { message, ..refusal.clone() });
            }
            if let Some(refusal) = attempts.note(&link.label(self.trust()), refusal) {
                return Some(Err(refusal));
            }
        }
        match attempts.round_over(Instant::now()) {
            Round::Again(pause) => {
                tokio::time::sleep(pause).await;
                None
            }
            Round::Over(refusal) => Some(Err(refusal)),
        }
    }

    /// Checks a reply; one that names members that are not known here is looked at again when the node showed how they came.
    async fn look_twice<R: Clone, T>(
        &self,
        link: &Link,
        budget: Duration,
        reply: Result<R, Refusal>,
        check: impl Fn(R) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let reply = reply?;
        match check(reply.clone()) {
            Err(refusal) if is_newer(&refusal) => {
                self.follow_at(link, budget).await?;
                check(reply)
            }
            checked => checked,
        }
    }

    /// Asks one node once.
    pub(crate) async fn attempt<R: Rpc>(&self, link: &Link, rpc: &R, budget: Duration) -> Result<R::Reply, Refusal> {
        let exchange = async {
            link.greet(&self.trust().cluster()).await?;
            rpc.send(link.stub(), budget).await.map_err(|status| convert::from_status(&status))
        };
        let result = tokio::time::timeout(budget, exchange).await.unwrap_or_else(|_| {
            let message = format!("no answer within {:.1} s", budget.as_secs_f64());
            Err(Refusal::new(ErrorCode::DeadlineExceeded, message))
        });
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::Unreachable) {
            link.forget_greeting();
        }
        result
    }

    /// A refusal, not longer than one may be, with what only this side knows: who said it, and how far the clocks differ.
    fn told(&self, link: &Link, refusal: Refusal) -> Refusal {
        let refusal = convert::bounded(refusal);
        match refusal.code {
            ErrorCode::BadCertificate => refusal.with("node", Detail::Text(link.name(self.trust()))),
            ErrorCode::RequestExpired | ErrorCode::RequestNotYetValid => match link.ahead_ms() {
                Some(ahead_ms) => with_clocks(refusal, &link.label(self.trust()), ahead_ms),
                None => refusal,
            },
            _ => refusal,
        }
    }
}

/// Says by how many seconds the clocks differ.
fn with_clocks(mut refusal: Refusal, label: &str, ahead_ms: i64) -> Refusal {
    let seconds = (ahead_ms.unsigned_abs() + 500) / 1000;
    let side = if ahead_ms < 0 { "behind" } else { "ahead of" };
    refusal.message = format!("{}; this machine's clock is {seconds} s {side} that of {label}", refusal.message);
    refusal.with("clock_difference_seconds", Detail::Number(seconds))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
