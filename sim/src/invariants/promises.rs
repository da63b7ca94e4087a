//! A node votes only for what its own applied state says: READY for an attempt that runs there (so every lower one was ended
//! before), ACTIVATED for what was committed there.

use symbolon_protocol::entry::Payload;
use symbolon_protocol::generate::Vote;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::records::VersionRecord;
use symbolon_protocol::state::running_operations;
use symbolon_protocol::table::read;
use symbolon_protocol::wire::decode;

use super::{VOTES_FOLLOW_LOG, Violation, safety};
use crate::disk::Map;

const GENERATE: u8 = 4;
const WITNESS: u8 = 5;

/// An honest node has a payload ordered; `tables` are what it has applied at this moment.
pub(crate) fn check(node: NodeId, payload: &[u8], tables: &Map) -> Result<(), Violation> {
    if !matches!(payload.get(1), Some(&(GENERATE | WITNESS))) {
        return Ok(());
    }
    match decode(payload) {
        Ok(Payload::Generate(Vote::Ready { core, .. })) => {
            let running = running_operations(tables, usize::MAX).unwrap_or_default();
            if running.iter().any(|operation| operation.ceremony.fits(&core)) {
                return Ok(());
            }
            let what = format!("node {node} says READY for epoch {} of key `{}`", core.epoch, core.name);
            Err(safety(VOTES_FOLLOW_LOG, format!("{what}, which does not run by its own state")))
        }
        Ok(Payload::Witness(witness)) if witness.activated.is_some() => {
            let version: Option<VersionRecord> =
                read(tables, &replicated::version(&witness.key, witness.version)).unwrap_or_default();
            let committed = version.as_ref().and_then(VersionRecord::core).map(|core| core.epoch);
            if committed.is_some_and(|epoch| epoch >= witness.epoch) {
                return Ok(());
            }
            let what = format!("node {node} says ACTIVATED for epoch {} of key {}", witness.epoch, witness.key);
            Err(safety(VOTES_FOLLOW_LOG, format!("{what}, and has not applied its commit")))
        }
        _ => Ok(()),
    }
}
