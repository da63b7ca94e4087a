//! Shares and share operations as clients see them.

use std::collections::BTreeSet;

use crate::id::{Epoch, KeyVersion, Name, NodeId, OperationId};
use crate::schema::replicated as schema;
use crate::state::may_read_key;
use crate::state::records::{self, ClientRecord, OperationRecord, ShareSet, Trigger, VersionRecord};
use crate::table::{StoreFault, Tables};

/// The shares of a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SharesView {
    /// Their epoch.
    pub epoch: Epoch,
    /// When they were made, state time.
    pub committed_ms: u64,
    /// Who has one.
    pub holders: Vec<NodeId>,
    /// Members of the roster that have none: they were away, or lost it.
    pub stale: Vec<NodeId>,
    /// Holders that activated them.
    pub activated: Vec<NodeId>,
    /// When they are to be renewed by schedule.
    pub refresh_ms: Option<u64>,
    /// Every epoch of which a share may be left, and who proved erasure.
    pub out: Vec<ShareSet>,
    /// Who of these holders is no member any more and will prove nothing.
    pub left: BTreeSet<NodeId>,
}
crate::wire_struct!(SharesView { epoch, committed_ms, holders, stale, activated, refresh_ms, out, left });

impl SharesView {
    pub(super) fn of(tables: &impl Tables, version: &VersionRecord) -> Result<Option<Self>, StoreFault> {
        let Some(certificate) = &version.certificate else { return Ok(None) };
        let core = &certificate.core;
        let stale = |node: &NodeId| !core.holders.contains(node) || version.stale.contains(node);
        Ok(Some(Self {
            epoch: core.epoch,
            committed_ms: version.committed_ms,
            holders: core.holders.clone(),
            stale: core.roster.iter().copied().filter(stale).collect(),
            activated: certificate.activated.keys().copied().collect(),
            refresh_ms: version.refresh_ms,
            out: version.shares.clone(),
            left: records::left(tables, version)?,
        }))
    }
    /// Earlier epochs of which so many shares may be left that they are the key.
    #[must_use]
    pub fn open(&self) -> Vec<&ShareSet> {
        self.out.iter().filter(|set| set.epoch != self.epoch && !self.is_closed(set)).collect()
    }
    /// Whether fewer shares of a set than its threshold can be left.
    #[must_use]
    pub fn is_closed(&self, set: &ShareSet) -> bool {
        set.is_closed(|node| self.left.contains(&node))
    }
}

/// Where a share operation is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum OperationPhase {
    /// A generation: nodes commit to their polynomials.
    Committing,
    /// A generation: nodes compare what they heard.
    Echoing,
    /// A generation: subshares are exchanged.
    Sharing,
    /// A redistribution: holders of the old shares commit to new polynomials.
    Dealing,
    /// A redistribution: subshares are exchanged and acknowledged.
    Acknowledging,
    /// Shares are written to disks, and their holders say so.
    Staging,
}
crate::wire_enum!(OperationPhase {
    1 => Committing, 2 => Echoing, 3 => Sharing, 4 => Dealing, 5 => Acknowledging, 6 => Staging,
});

impl OperationPhase {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Committing => "committing",
            Self::Echoing => "echoing",
            Self::Sharing => "sharing",
            Self::Dealing => "dealing",
            Self::Acknowledging => "acknowledging",
            Self::Staging => "staging",
        }
    }
}

/// A share operation that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationView {
    /// Its id.
    pub id: OperationId,
    /// Name of the key.
    pub key: Name,
    /// The version.
    pub version: KeyVersion,
    /// Why it runs.
    pub trigger: Trigger,
    /// Epoch of the attempt.
    pub epoch: Epoch,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// When the attempt began, state time.
    pub begun_ms: u64,
    /// When it ends for lack of progress, state time.
    pub deadline_ms: u64,
    /// Where it is.
    pub phase: OperationPhase,
    /// Whom it waits for.
    pub waiting: Vec<NodeId>,
}
crate::wire_struct!(OperationView { id, key, version, trigger, epoch, attempt, begun_ms, deadline_ms, phase, waiting });

impl OperationView {
    /// As the log knows it. The rounds of a generation leave no trace there; who takes part in one knows more.
    #[must_use]
    pub fn of(record: &OperationRecord) -> Self {
        let ceremony = &record.ceremony;
        let without = |done: &dyn Fn(&NodeId) -> bool| -> Vec<NodeId> {
            ceremony.holders.iter().copied().filter(|node| !done(node)).collect()
        };
        let unready = || without(&|node| record.ready.contains_key(node));
        let (phase, waiting) = match &record.moved {
            None if record.ready.is_empty() => (OperationPhase::Committing, ceremony.holders.clone()),
            None => (OperationPhase::Staging, unready()),
            Some(moved) if moved.dealings.result.is_some() => (OperationPhase::Staging, unready()),
            Some(moved) => {
                let dealt = |node: &NodeId| moved.dealings.dealt.iter().any(|(dealer, _)| dealer == node);
                let dealers = ceremony.base.as_ref().map(|base| base.dealers.as_slice()).unwrap_or_default();
                if moved.dealings.dealt.len() < moved.base.threshold.get() {
                    (OperationPhase::Dealing, dealers.iter().copied().filter(|node| !dealt(node)).collect())
                } else {
                    let spoke = |node: &NodeId| moved.dealings.acknowledged.contains_key(node);
                    (OperationPhase::Acknowledging, without(&spoke))
                }
            }
        };
        Self {
            id: ceremony.operation,
            key: ceremony.name.clone(),
            version: ceremony.version,
            trigger: record.trigger,
            epoch: ceremony.epoch,
            attempt: record.attempt,
            begun_ms: record.begun_ms,
            deadline_ms: record.deadline_ms,
            phase,
            waiting,
        }
    }
}

/// A page of the share operations of keys that a client may see, by id, and the id to go on after.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn operation_page(
    tables: &impl Tables,
    client: &ClientRecord,
    after: &[u8],
    limit: usize,
) -> Result<(Vec<OperationView>, Vec<u8>), StoreFault> {
    let from = if after.is_empty() { Vec::new() } else { [schema::OPERATIONS, after].concat() };
    let page = tables.scan(schema::OPERATIONS, &from, limit)?;
    let next =
        page.last().filter(|_| page.len() >= limit).and_then(|(key, _)| key.get(1..)).unwrap_or_default().to_vec();
    let mut list = Vec::new();
    for (_, value) in &page {
        let record: OperationRecord = crate::wire::decode(value)?;
        if may_read_key(client, &record.ceremony.name) {
            list.push(OperationView::of(&record));
        }
    }
    Ok((list, next))
}
