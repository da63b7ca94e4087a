//! When an honest holder says that its share of a version is erased, what is durable of its disk holds none.

use symbolon_protocol::entry::Erasure;
use symbolon_protocol::schema::private;

use super::{Disks, ERASED_GONE, Violation, safety};
use crate::disk::Column;

pub(super) fn check(erasure: &Erasure, disks: &Disks<'_>) -> Result<(), Violation> {
    let Some(disk) = disks.get(&erasure.node) else { return Ok(()) };
    let prefix = private::shares_of(&erasure.key, erasure.version);
    let end = private::share(&erasure.key, erasure.version, erasure.below);
    match disk.durable(Column::Private).range(prefix..end).next() {
        Some(_) => Err(safety(ERASED_GONE, format!("node {} said ERASED and still has the share", erasure.node))),
        None => Ok(()),
    }
}
