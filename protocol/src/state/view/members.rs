//! The members as clients are shown them.

use crate::genesis::Member;
use crate::id::{Name, NodeId};
use crate::limits;
use crate::membership::Link;
use crate::state::{links, members, records};
use crate::table::{StoreFault, Tables};

/// A member as the asked node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberView {
    /// Its number.
    pub id: NodeId,
    /// What the membership says of it.
    pub member: Member,
    /// Whether it answers the asked node.
    pub reachable: bool,
    /// What it is in Raft: `leader`, `follower`, `candidate`, `learner`, `waiting` or `unknown`.
    pub raft: String,
    /// Its release; empty where that is not known.
    pub release: String,
    /// What it applied.
    pub applied: Option<u64>,
    /// Key versions that need its shares: it cannot leave before there are none.
    pub needed: u64,
}
crate::wire_struct!(MemberView { id, member, reachable, raft, release, applied, needed });

/// A node that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepartedView {
    /// Its number.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// The version of the membership in which it was a member no more.
    pub version: u64,
    /// State time of its going, milliseconds since 1970.
    pub time_ms: u64,
    /// Key versions that needed its shares then.
    pub leaked: u64,
    /// Those of them of which so many shares may still be out that they are the key.
    pub open: u64,
}
crate::wire_struct!(DepartedView { id, name, version, time_ms, leaked, open });

/// The members, and how they came to be that.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MembersView {
    /// Version of the membership.
    pub version: u64,
    /// Whether Raft was seen to have the voters that it is to have.
    pub settled: bool,
    /// The members.
    pub members: Vec<MemberView>,
    /// Who left.
    pub departed: Vec<DepartedView>,
    /// Complete links after the version that was asked for; at most a page.
    pub links: Vec<Link>,
}
crate::wire_struct!(MembersView { version, settled, members, departed, links });

/// The members by the tables; what only a running node knows of others is left open.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn members_view(tables: &impl Tables, after: u64) -> Result<MembersView, StoreFault> {
    let mut list = Vec::new();
    for (id, member) in records::members(tables)? {
        list.push(MemberView {
            id,
            member,
            reachable: false,
            raft: "unknown".to_owned(),
            release: String::new(),
            applied: None,
            needed: members::needed_shares(tables, id)?,
        });
    }
    let mut departed = Vec::new();
    for (id, gone) in members::departed(tables)? {
        let open = members::needed_shares(tables, id)?;
        departed.push(DepartedView {
            id,
            name: gone.name,
            version: gone.version,
            time_ms: gone.time_ms,
            leaked: gone.leaked,
            open,
        });
    }
    Ok(MembersView {
        version: records::cluster(tables)?.membership,
        settled: members::voter_sets(tables)?.is_settled(),
        members: list,
        departed,
        links: links::links_after(tables, after, limits::LINKS)?,
    })
}
