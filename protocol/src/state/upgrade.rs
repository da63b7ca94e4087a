//! The version of the rules: which member knows which, and when the cluster goes over to a higher one.
//!
//! `apply` chooses its rules by the state version in the tables, never by the program that runs it, so nodes of two releases apply
//! the same entries to the same tables. The switch is an administrator's request, refused as long as one member has not said,
//! signed for its boot, that it knows the new rules.

use crate::entry::Support;
use crate::error::{Detail, ErrorCode, Refusal};
use crate::genesis::Member;
use crate::id::{BootId, NodeId};
use crate::identity::Domain;
use crate::outcome::Outcome;
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};

use super::records::{self, ClusterRecord};
use super::{Stop, refuse};

/// The detail that names who does not know the version that an upgrade asks for.
pub const LACKING: &str = "lacking";

/// What a member last said of the rules that it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SupportRecord {
    /// The boot for which it said so.
    pub boot: BootId,
    /// The highest state version by whose rules it can apply.
    pub highest: u32,
}
crate::wire_struct!(SupportRecord { boot, highest });

/// Takes a member's word; the one of a later boot stands.
pub(crate) fn supports<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    support: &Support,
) -> Result<Outcome, Stop> {
    let Some(member) = read::<Member>(tables, &schema::member(support.node))? else {
        return refuse(ErrorCode::NotFound, format!("node {} is no member of the cluster", support.node));
    };
    let payload = Support::payload(support.node, support.boot, support.highest);
    if !member.key.verifies(Domain::Supports, &cluster.cluster, &payload, &support.signature) {
        return refuse(ErrorCode::BadSignature, "a word on known rules that its node did not sign");
    }
    let known: Option<SupportRecord> = read(tables, &schema::support(support.node))?;
    if known.is_some_and(|known| known.boot.counter > support.boot.counter) {
        return refuse(ErrorCode::WrongState, "a word on known rules of a boot that is over");
    }
    tables.put(schema::support(support.node), &SupportRecord { boot: support.boot, highest: support.highest });
    Ok(Outcome::Noted)
}

/// Goes over to higher rules from the next entry on. Asked for what is so already, it changes nothing.
pub(crate) fn upgrade(tables: &impl Tables, cluster: &ClusterRecord, to: u32) -> Result<Outcome, Stop> {
    let now = cluster.state_version;
    if to == now {
        return Ok(Outcome::Noted);
    }
    if to != now.saturating_add(1) {
        let message = format!("the cluster is at state version {now}: it goes to {} next", now.saturating_add(1));
        return refuse(ErrorCode::WrongState, message);
    }
    let mut lacking = Vec::new();
    for (id, member) in records::members(tables)? {
        let record: Option<SupportRecord> = read(tables, &schema::support(id))?;
        if record.is_none_or(|record| record.highest < to) {
            lacking.push(member.name.to_string());
        }
    }
    if lacking.is_empty() {
        return Ok(Outcome::Upgraded { to });
    }
    let message =
        format!("state version {to} is not known to {}: install a release that knows it there", lacking.join(", "));
    Err(Refusal::new(ErrorCode::VersionUnknown, message).with(LACKING, Detail::List(lacking)).into())
}

/// What a member last said, for its reconciler.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn support_of(tables: &impl Tables, node: NodeId) -> Result<Option<SupportRecord>, StoreFault> {
    read(tables, &schema::support(node))
}
