//! Rules of a request that the codec cannot express.

use std::collections::BTreeMap;

use super::{Action, Grant, RequestBody, Role, VersionSelector};
use crate::error::{ErrorCode, Refusal};
use crate::genesis::valid_address;
use crate::id::NodeId;
use crate::limits;

/// Rules of the body that the codec cannot express.
pub(super) fn check_body(body: &RequestBody) -> Result<(), Refusal> {
    let invalid = |message: &str| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    match body.expires_ms.checked_sub(body.not_before_ms) {
        None | Some(0) => return invalid("the request expires before it becomes valid"),
        Some(ms) if ms > limits::REQUEST_LIFETIME_MS => return invalid("a request lives at most five minutes"),
        Some(_) => {}
    }
    if body.payload_type != "raw" {
        let message = format!("payload type `{}` is not supported by this version; use `raw`", body.payload_type);
        return Err(Refusal::new(ErrorCode::Unsupported, message));
    }
    if !body.context.is_empty() {
        return Err(Refusal::new(ErrorCode::Unsupported, "a request context is not supported by this version"));
    }
    let is_sign = matches!(body.action, Action::Sign);
    if is_sign == body.messages.is_empty() {
        return invalid("a sign request names at least one message, every other request none");
    }
    if body.messages.len() > limits::MESSAGES_PER_REQUEST {
        let message = format!("a request has at most {} messages", limits::MESSAGES_PER_REQUEST);
        return Err(Refusal::new(ErrorCode::TooLarge, message));
    }
    if is_sign && body.version != VersionSelector::Active {
        return Err(Refusal::new(ErrorCode::Unsupported, "only the active version signs; leave the version out"));
    }
    check_key_field(body)?;
    check_action(&body.action)
}

fn check_key_field(body: &RequestBody) -> Result<(), Refusal> {
    let needs_key = matches!(
        body.action,
        Action::RotateKey { .. }
            | Action::SuspendKey
            | Action::ResumeKey
            | Action::RevokeKey { .. }
            | Action::DestroyKey { .. }
            | Action::CancelDestroyKey
            | Action::RefreshKey { .. }
            | Action::ReshareKey { .. }
            | Action::SetKeyPolicy { .. }
            | Action::Sign
    );
    if needs_key == body.key.is_some() {
        return Ok(());
    }
    let verb = if needs_key { "needs" } else { "takes no" };
    Err(Refusal::new(ErrorCode::InvalidArgument, format!("`{}` {verb} key id", body.action.name())))
}

fn check_action(action: &Action) -> Result<(), Refusal> {
    let invalid = |message: String| Err(Refusal::new(ErrorCode::InvalidArgument, message));
    match action {
        Action::CreateKey { plan, tags, policy, .. } => {
            plan.check()?;
            policy.check()?;
            check_tags(tags)
        }
        Action::RotateKey { plan, .. } => plan.check(),
        Action::RefreshKey { absent } => check_absent(absent),
        Action::ReshareKey { plan, .. } if !plan.spares.is_empty() => {
            invalid("shares are moved to the roster that is named: it has no spares".to_owned())
        }
        Action::ReshareKey { plan, absent } => {
            plan.check()?;
            check_absent(absent)
        }
        Action::SetKeyPolicy { policy } => policy.check(),
        Action::ListOperations { after, .. } if !matches!(after.len(), 0 | 32) => {
            invalid("a page of operations goes on after an operation's id".to_owned())
        }
        Action::ListOperations { limit, .. } => check_page(*limit, ""),
        Action::RevokeKey { reason } if reason.is_empty() || reason.len() > limits::REASON_BYTES => {
            invalid(format!("a reason of 1 to {} bytes is needed", limits::REASON_BYTES))
        }
        Action::DestroyKey { wait_ms, .. } if *wait_ms > limits::DESTROY_WAIT_MS => {
            invalid("a destruction waits at most 365 days".to_owned())
        }
        Action::AddClient { grant: Grant { role: Role::Admin, keys }, .. } if keys != "*" => {
            invalid(format!("an administrator has every right: the role `admin` is given on `*`, not on `{keys}`"))
        }
        Action::AddClient { grant, .. } => grant.check(),
        Action::ListKeys { limit, after, tags } => {
            check_tags(tags)?;
            check_page(*limit, after)
        }
        Action::ListClients { limit, after } => check_page(*limit, after),
        Action::AddMember { member, .. } | Action::ReplaceMember { member, .. } => {
            check_addresses(&member.peer_address, &member.client_address)?;
            if member.zone.len() <= limits::NAME_BYTES {
                return Ok(());
            }
            invalid(format!("a zone has at most {} bytes", limits::NAME_BYTES))
        }
        Action::MoveMember { peer_address, client_address, .. } => check_addresses(peer_address, client_address),
        Action::RevokeKey { .. }
        | Action::DestroyKey { .. }
        | Action::SuspendKey
        | Action::ResumeKey
        | Action::CancelDestroyKey
        | Action::Sign
        | Action::ShowKey { .. }
        | Action::Status
        | Action::Explain { .. }
        | Action::Doctor
        | Action::RemoveClient { .. }
        | Action::RemoveMember { .. }
        | Action::ListMembers { .. }
        | Action::UpgradeCluster { .. } => Ok(()),
    }
}

fn check_addresses(peer: &str, client: &str) -> Result<(), Refusal> {
    for address in [peer, client] {
        if !valid_address(address) {
            let message = format!("`{address}` is no address of a node: host:port is expected");
            return Err(Refusal::new(ErrorCode::InvalidArgument, message));
        }
    }
    if peer != client {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::InvalidArgument, "peers and clients need two addresses"))
}

fn check_absent(absent: &[NodeId]) -> Result<(), Refusal> {
    if absent.len() <= 2 * limits::ROSTER_NODES && absent.is_sorted_by(|a, b| a < b) {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::InvalidArgument, "absent nodes are named once each, ascending"))
}

fn check_page(limit: u32, after: &str) -> Result<(), Refusal> {
    if (1..=limits::PAGE_ITEMS).contains(&limit) && after.len() <= limits::NAME_BYTES {
        return Ok(());
    }
    Err(Refusal::new(ErrorCode::InvalidArgument, format!("a page has 1 to {} items", limits::PAGE_ITEMS)))
}

fn check_tags(tags: &BTreeMap<String, String>) -> Result<(), Refusal> {
    let fits = |text: &str| text.len() <= limits::TAG_BYTES;
    if tags.len() <= limits::TAGS && tags.iter().all(|(k, v)| !k.is_empty() && fits(k) && fits(v)) {
        return Ok(());
    }
    let message = format!("at most {} tags, names and values of at most {} bytes", limits::TAGS, limits::TAG_BYTES);
    Err(Refusal::new(ErrorCode::InvalidArgument, message))
}
