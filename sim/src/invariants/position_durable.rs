//! An honest node signs where it is only from what a crash cannot take, and after a start only once it knows what its log holds.

use symbolon_protocol::fresh::Position;
use symbolon_protocol::history::root_at;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::table::read;

use super::{POSITION_DURABLE, Violation, safety};
use crate::disk::{Column, Disk};
use crate::node::APPLIED;

/// `log_end` is the index after the last entry of its log at the start, where nobody else found it current.
pub(super) fn check(node: NodeId, position: &Position, log_end: u64, disk: &Disk) -> Result<(), Violation> {
    let applied: Option<u64> = read(disk.durable(Column::Position), APPLIED).ok().flatten();
    let root = root_at(disk.durable(Column::State), position.applied).ok().flatten();
    if applied.is_none_or(|applied| applied < position.applied) || root != Some(position.head) {
        let what =
            format!("node {node} signed that it is at {}; a crash would put it at {applied:?}", position.applied);
        return Err(safety(POSITION_DURABLE, what));
    }
    if position.applied + 1 < log_end {
        let what = format!("node {node} said that it is at {} and has a log up to {log_end}", position.applied);
        return Err(safety(POSITION_DURABLE, what));
    }
    Ok(())
}
