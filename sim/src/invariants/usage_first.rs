//! The usage record of a request is durable before a share for it leaves.

use symbolon_protocol::id::NodeId;
use symbolon_protocol::request::RequestBody;
use symbolon_protocol::wire::decode;

use super::{USAGE_FIRST, Violation, safety};
use crate::disk::{Column, Disk};
use crate::node::{Released, has_usage_record};

pub(super) fn check(node: NodeId, released: &Released, disk: &Disk) -> Result<(), Violation> {
    let body: Option<RequestBody> = decode(&released.request.body.0).ok();
    match body {
        Some(body) if has_usage_record(disk.durable(Column::Usage), &body.request_id) => Ok(()),
        _ => Err(safety(USAGE_FIRST, format!("node {node} gave a share and no durable usage record tells of it"))),
    }
}
