//! The members: following how they changed, showing them, changing them.
//!
//! Links prove themselves ([`symbolon_protocol::membership`]), so they are taken from whoever shows them. What is followed is
//! kept and never goes back.

use std::time::Duration;

use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::genesis::{Enrolment, Member, MemberRole};
use symbolon_protocol::id::{NodeId, RequestId};
use symbolon_protocol::limits;
use symbolon_protocol::membership::{JoinTicket, Membership};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, VersionSelector};
use symbolon_protocol::state::view::MembersView;
use symbolon_rpc::v1;

use crate::barrier::Enforcement;
use crate::call::{ListMembers, read};
use crate::client::Client;
use crate::error::Error;
use crate::link::Link;

/// Longest time for one node that may not be a member.
const STRANGER: Duration = Duration::from_secs(2);

/// A change of the membership that was made.
#[derive(Debug, Clone)]
pub struct MembershipChange {
    /// Its version from now on.
    pub version: u64,
    /// Index of the entry in the log.
    pub index: u64,
    /// The request.
    pub request_id: RequestId,
    /// For a member that left: how far it is certain that nobody counts on it any more.
    pub enforcement: Option<Enforcement>,
}

impl Client {
    /// The members as the asked node sees them. Who they are is proved, up to the version that the links of this client lead to;
    /// how they are is the node's word.
    ///
    /// # Errors
    /// What the table has for reads.
    pub async fn list_members(&self) -> Result<MembersView, Error> {
        loop {
            let known = self.trust().membership().version;
            let prepared = self.question(known)?;
            let check = |reply: v1::ListMembersReply| self.take_members(&reply);
            let (view, taken) = self
                .ask(ListMembers(prepared.call), check)
                .await
                .map_err(|refusal| Error::from(refusal).of_request(prepared.id))?;
            // A page that is full has another one behind it.
            if taken < limits::LINKS {
                return Ok(view);
            }
        }
    }

    /// Adds a member by its enrolment line, under a number that nobody ever had. The node then starts with the ticket
    /// ([`Client::ticket`]).
    ///
    /// # Errors
    /// `already_exists`, `invalid_argument`, `operation_running` while the change before is not through, and what the table has
    /// for ordered requests.
    pub async fn add_member(
        &self,
        id: NodeId,
        enrolment: &Enrolment,
        role: MemberRole,
    ) -> Result<MembershipChange, Error> {
        let member = Member { role, ..enrolment.member.clone() };
        self.change_membership(Action::AddMember { id, member, store: enrolment.store }).await
    }

    /// Removes a member. With `lost` also one whose shares are needed: it will not come back to erase them.
    ///
    /// # Errors
    /// `still_needed` naming keys, `not_found`, `wrong_state` for the last voter, and as [`Client::add_member`].
    pub async fn remove_member(&self, id: NodeId, lost: bool) -> Result<MembershipChange, Error> {
        self.change_membership(Action::RemoveMember { id, lost }).await
    }

    /// Puts a new member in the place of another, in one change: the number of voters stays.
    ///
    /// # Errors
    /// As [`Client::add_member`] and [`Client::remove_member`].
    pub async fn replace_member(
        &self,
        old: NodeId,
        id: NodeId,
        enrolment: &Enrolment,
        role: MemberRole,
        lost: bool,
    ) -> Result<MembershipChange, Error> {
        let member = Member { role, ..enrolment.member.clone() };
        self.change_membership(Action::ReplaceMember { old, id, member, store: enrolment.store, lost }).await
    }

    /// Gives a member other addresses.
    ///
    /// # Errors
    /// `not_found`, `invalid_argument`, and as [`Client::add_member`].
    pub async fn move_member(&self, id: NodeId, peer: &str, client: &str) -> Result<MembershipChange, Error> {
        let (peer_address, client_address) = (peer.to_owned(), client.to_owned());
        self.change_membership(Action::MoveMember { id, peer_address, client_address }).await
    }

    async fn change_membership(&self, action: Action) -> Result<MembershipChange, Error> {
        let prepared = self.prepare(action, None, VersionSelector::All, Vec::new())?;
        let request_id = prepared.id;
        let ordered = self.order(prepared, None, None).await?;
        let Outcome::MembershipChanged { version, .. } = ordered.outcome else {
            let message = format!("the membership was to change, the outcome is {:?}", ordered.outcome);
            return Err(Error::new(ErrorCode::Internal, message).of_request(request_id));
        };
        Ok(MembershipChange { version, index: ordered.index, request_id, enforcement: ordered.enforcement })
    }

    /// The ticket with which a new node starts: the links up to a version at least.
    ///
    /// # Errors
    /// `deadline_exceeded` when no node shows so many, and what the table has for reads.
    pub async fn ticket(&self, version: u64) -> Result<JoinTicket, Error> {
        let begun = std::time::Instant::now();
        loop {
            let followed = self.trust().followed();
            if followed.version() >= version {
                return Ok(JoinTicket::of(&followed));
            }
            if begun.elapsed() >= self.deadline() {
                let message = format!("no node shows how the membership came to version {version}");
                return Err(Error::new(ErrorCode::DeadlineExceeded, message));
            }
            self.list_members().await?;
            if self.trust().membership().version < version {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// The members whom this client believes, and their version.
    #[must_use]
    pub fn members(&self) -> std::sync::Arc<Membership> {
        self.trust().membership()
    }

    fn question(&self, after_version: u64) -> Result<crate::call::Prepared, Error> {
        self.prepare(Action::ListMembers { after_version }, None, VersionSelector::All, Vec::new())
    }

    /// Takes the links in a reply. Gives how many were new.
    fn take_members(&self, reply: &v1::ListMembersReply) -> Result<(MembersView, usize), Refusal> {
        let view: MembersView = read("list of members", &reply.view)?;
        let taken = self.trust().follow(view.links.clone())?;
        if taken > 0 {
            self.add_links();
        }
        Ok((view, taken))
    }

    /// Asks one node how the members changed, and follows. Gives how many changes were new.
    pub(crate) async fn follow_at(&self, link: &Link, budget: Duration) -> Result<usize, Refusal> {
        let mut all = 0;
        loop {
            let prepared = self.question(self.trust().membership().version);
            let prepared = prepared.map_err(|error| Refusal::new(error.code(), error.message()))?;
            let reply = self.attempt(link, &ListMembers(prepared.call), budget).await?;
            let (_, taken) = self.take_members(&reply)?;
            all += taken;
            if taken < limits::LINKS {
                return Ok(all);
            }
        }
    }

    /// Comes to where this machine was before, when the links to there were lost.
    pub(crate) async fn catch_up(&self) -> Result<(), Refusal> {
        for link in self.links().iter() {
            if self.trust().behind().is_none() {
                return Ok(());
            }
            let _ = self.follow_at(link, STRANGER).await;
        }
        let Some(seen) = self.trust().behind() else { return Ok(()) };
        let message = format!("this machine saw membership {seen} of the cluster, and no node shows how it came about");
        Err(Refusal::new(ErrorCode::VersionUnknown, message).with("membership", Detail::Number(seen)))
    }

    /// Asks whoever answers at the endpoints how the members changed. True when that led further.
    pub(crate) async fn ask_anybody_for_members(&self) -> bool {
        let mut learned = false;
        for link in self.links().iter() {
            let Ok(anybody) = Link::to_anybody(link.address().to_owned()) else { continue };
            learned |= self.follow_at(&anybody, STRANGER).await.is_ok_and(|taken| taken > 0);
        }
        learned
    }
}
