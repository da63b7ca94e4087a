//! Clients, the cluster's status, its upgrades, and what nodes say about a request.

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::LeaseView;
use symbolon_protocol::id::{Name, RequestId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, Grant, VersionSelector};
use symbolon_protocol::state::records::ClientRecord;
use symbolon_protocol::state::view::{DoctorView, ExplainView, StatusView};
use symbolon_rpc::convert::bounded;
use symbolon_rpc::v1;

use crate::barrier::Enforcement;
use crate::call::{Doctor, Explain, ListClients, ShowStatus, read};
use crate::client::Client;
use crate::error::Error;
use crate::keys::page_end;
use crate::link::Link;
use crate::trust::bad;

/// A page of clients.
#[derive(Debug, Clone)]
pub struct ClientPage {
    /// The clients, by name.
    pub clients: Vec<ClientRecord>,
    /// The name to go on after.
    pub next: Option<String>,
    /// Index of the state that they were read from.
    pub index: u64,
}

/// What one node says about a request.
#[derive(Debug)]
pub struct NodeExplanation {
    /// The node, or its endpoint when it could not be reached.
    pub node: String,
    /// What its usage log says, or why it does not answer.
    pub result: Result<Vec<ExplainView>, Error>,
}

/// What one node finds when it examines itself.
#[derive(Debug)]
pub struct Examination {
    /// The node, or its endpoint when it could not be reached.
    pub node: String,
    /// What it looked at, or why it does not answer.
    pub result: Result<DoctorView, Error>,
}

/// An upgrade of the rules by which the cluster goes.
#[derive(Debug, Clone)]
pub struct Upgrade {
    /// The state version that the cluster has.
    pub state_version: u32,
    /// Whether it had another one before this request.
    pub changed: bool,
    /// The request.
    pub request_id: RequestId,
}

impl Client {
    /// Raises the state version by one, for good, once every member has said that it knows the next one. A version that the
    /// cluster has already changes nothing.
    ///
    /// # Errors
    /// `version_unknown` whose detail `lacking` names the members that do not know it, `wrong_state` for any other version than
    /// the next, and what the table has for ordered requests.
    pub async fn upgrade_cluster(&self, to: u32) -> Result<Upgrade, Error> {
        let prepared = self.prepare(Action::UpgradeCluster { to }, None, VersionSelector::All, Vec::new())?;
        let request_id = prepared.id;
        match self.order(prepared, None, None).await?.outcome {
            Outcome::Upgraded { to } => Ok(Upgrade { state_version: to, changed: true, request_id }),
            Outcome::Noted => Ok(Upgrade { state_version: to, changed: false, request_id }),
            other => {
                let message = format!("an upgrade was asked for, the outcome is {other:?}");
                Err(Error::new(ErrorCode::Internal, message).of_request(request_id))
            }
        }
    }

    /// The cluster as the asked node sees it. Nothing in it is proved.
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn status(&self) -> Result<StatusView, Error> {
        Ok(self.status_and_lease().await?.0)
    }

    /// The same, and whether that node knows its state to be current. Nothing in it is proved but the equivocations
    /// ([`symbolon_protocol::fresh::Equivocation::proves`]).
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn status_and_lease(&self) -> Result<(StatusView, LeaseView), Error> {
        let prepared = self.prepare(Action::Status, None, VersionSelector::All, Vec::new())?;
        let check = |reply: v1::StatusReply| {
            let status: StatusView = read("status", &reply.status)?;
            if status.cluster == self.trust().cluster() {
                return Ok((status, read("lease", &reply.lease)?));
            }
            Err(bad(format!("shows the status of cluster {}", status.cluster)))
        };
        self.ask(ShowStatus(prepared.call), check).await.map_err(|refusal| Error::from(refusal).of_request(prepared.id))
    }

    /// Registers a client under a name, or adds a grant to it. Returns the request.
    ///
    /// # Errors
    /// `already_exists` when the name or the key is somebody else's, and what the table has for ordered requests.
    pub async fn add_client(&self, name: &Name, key: PublicKey, grant: Grant) -> Result<RequestId, Error> {
        self.order_client(Action::AddClient { name: name.clone(), key, grant }).await.map(|(request, _)| request)
    }

    /// Removes a client. Returns the request, and how far the client's rights are gone.
    ///
    /// # Errors
    /// `not_found`, `last_administrator`, and what the table has for ordered requests.
    pub async fn remove_client(&self, name: &Name) -> Result<(RequestId, Option<Enforcement>), Error> {
        self.order_client(Action::RemoveClient { name: name.clone() }).await
    }

    async fn order_client(&self, action: Action) -> Result<(RequestId, Option<Enforcement>), Error> {
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let id = prepared.id;
        self.order(prepared, None, None).await.map(|ordered| (id, ordered.enforcement))
    }

    /// A page of clients.
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn list_clients(&self, after: &str, limit: u32) -> Result<ClientPage, Error> {
        let action = Action::ListClients { after: after.to_owned(), limit };
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let check = |reply: v1::ListClientsReply| {
            let clients =
                reply.clients.iter().map(|bytes| read::<ClientRecord>("client", bytes)).collect::<Result<_, _>>()?;
            Ok(ClientPage { clients, next: page_end(after, reply.next)?, index: reply.index })
        };
        self.ask(ListClients(prepared.call), check)
            .await
            .map_err(|refusal| Error::from(refusal).of_request(prepared.id))
    }

    /// What each node did for a request and why, from the usage logs of all endpoints, asked at the same time.
    ///
    /// # Errors
    /// `invalid_argument` when the question cannot be signed for; what a node answers is in the list.
    pub async fn explain(&self, request: RequestId) -> Result<Vec<NodeExplanation>, Error> {
        let prepared = self.prepare(Action::Explain { request }, None, VersionSelector::All, Vec::new())?;
        let rpc = Explain(prepared.call);
        let links = self.links();
        let asked = links.iter().map(|link| self.explain_at(link, &rpc, request, prepared.id));
        Ok(futures::future::join_all(asked).await)
    }

    /// What each node finds when it examines itself: all endpoints, one after the other, so that none disturbs another's
    /// measurements. Each has the deadline of a call.
    ///
    /// # Errors
    /// `invalid_argument` when the question cannot be signed for; what a node answers is in the list.
    pub async fn doctor(&self) -> Result<Vec<Examination>, Error> {
        let mut examined = Vec::new();
        for link in self.links().iter() {
            // Signed anew for each: a long list of silent nodes would outlive one request.
            let prepared = self.prepare(Action::Doctor, None, VersionSelector::All, Vec::new())?;
            let rpc = Doctor(prepared.call);
            let result = self.attempt(link, &rpc, self.deadline()).await.and_then(|reply| self.own_view(link, &reply));
            let result = result.map_err(|refusal| Error::from(bounded(refusal)).of_request(prepared.id));
            examined.push(Examination { node: link.name(self.trust()), result });
        }
        Ok(examined)
    }

    /// A node speaks for itself and for nobody else.
    fn own_view(&self, link: &Link, reply: &v1::DoctorReply) -> Result<DoctorView, Refusal> {
        let view: DoctorView = read("examination", &reply.view)?;
        let name = link.name(self.trust());
        if !view.is_within_limits() || self.node_name(view.node) != name {
            return Err(bad(format!("{name} answers with an examination that cannot be its own")));
        }
        Ok(view)
    }

    async fn explain_at(&self, link: &Link, rpc: &Explain, request: RequestId, id: RequestId) -> NodeExplanation {
        let result = self.attempt(link, rpc, self.deadline()).await.and_then(|reply| {
            let mut records = Vec::new();
            for bytes in &reply.records {
                let record: ExplainView = read("usage record", bytes)?;
                if record.request != request {
                    return Err(bad("answers with a record of another request"));
                }
                records.push(record);
            }
            Ok(records)
        });
        let result = result.map_err(|refusal| Error::from(refusal).of_request(id));
        NodeExplanation { node: link.name(self.trust()), result }
    }
}

impl NodeExplanation {
    /// Whether the node did not answer at all.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        is_silence(&self.result)
    }
}

impl Examination {
    /// Whether the node did not answer at all.
    #[must_use]
    pub fn is_silent(&self) -> bool {
        is_silence(&self.result)
    }
}

fn is_silence<T>(result: &Result<T, Error>) -> bool {
    result.as_ref().is_err_and(|error| matches!(error.code(), ErrorCode::Unreachable | ErrorCode::DeadlineExceeded))
}
