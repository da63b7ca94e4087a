//! When faults are over, everything comes to an end: no generation and no due destruction is left open, certificates are
//! complete, every honest node has applied the whole log and holds shares of committed versions only.

use symbolon_protocol::id::NodeId;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::schema::private;

use super::{Disks, Oracle, Violation};
use crate::disk::Column;

/// What is not finished, in words; none when everything is.
pub(crate) fn unfinished(
    oracle: &Oracle,
    disks: &Disks<'_>,
    voters: (usize, usize),
) -> Result<Option<String>, Violation> {
    let reference = &oracle.reference;
    if reference.running()? > 0 {
        return Ok(Some("a share operation neither ends nor fails".to_owned()));
    }
    let (honest_voters, all_voters) = voters;
    for core in oracle.committed() {
        let Some(record) = reference.version(&core.key, core.version)? else { continue };
        let name = format!("version {} of key `{}`", core.version, core.name);
        match record.state {
            KeyState::Destroying => return Ok(Some(format!("the destruction of {name} does not end"))),
            KeyState::Destroyed => {}
            _ => {
                let enough = oracle.honest_holders(core) >= core.threshold.get() && honest_voters > all_voters / 2;
                if enough && !reference.is_certified(core)? {
                    return Ok(Some(format!("the certificate of {name} is not completed")));
                }
            }
        }
    }
    Ok(disks.iter().find_map(|(node, disk)| leftover(oracle, *node, disk)))
}

/// A share of nothing that was committed.
fn leftover(oracle: &Oracle, node: NodeId, disk: &crate::disk::Disk) -> Option<String> {
    let committed: Vec<Vec<u8>> = oracle.kept().collect();
    let shares = disk.durable(Column::Private).range(private::SHARES.to_vec()..);
    let mut shares = shares.take_while(|(key, _)| key.starts_with(private::SHARES));
    shares.any(|(key, _)| !committed.contains(key)).then(|| format!("node {node} keeps the share of a failed attempt"))
}
