//! What `symbolond check --store` finds in the store of a node that does not run. It reads everything and changes nothing.

use symbolon_protocol::table::StoreFault;

use crate::core::shares::check_shares;
use crate::core::types::Vault;
use crate::core::usage::check_chain;
use crate::store::{COLUMNS, Store};

/// Records that are read at once.
const PAGE: usize = 256;

/// Reads every record, the usage log with its chain, and unseals every share.
///
/// # Errors
/// What is damaged, and what to do.
pub(crate) fn examine<S: Store>(store: &S, vault: &impl Vault) -> Result<String, String> {
    let records = read_all(store).map_err(|e| e.to_string())?;
    let decisions = check_chain(store).map_err(|e| e.to_string())?;
    let (opened, shut) = check_shares(store, vault).map_err(|e| e.to_string())?;
    if !shut.is_empty() {
        return Err(format!(
            "{} of {} shares cannot be opened ({}). The node runs without them; `symbolon key refresh` gives it others",
            shut.len(),
            opened + shut.len(),
            shut.join("; ")
        ));
    }
    Ok(format!(
        "{records} records of the store are readable, {decisions} of them in the usage log; {opened} shares open"
    ))
}

fn read_all<S: Store>(store: &S) -> Result<u64, StoreFault> {
    let mut count = 0;
    for (column, _) in COLUMNS {
        let mut after = Vec::new();
        loop {
            let page = store.scan(column, b"", &after, PAGE)?;
            let Some((last, _)) = page.last() else { break };
            after.clone_from(last);
            count += page.len() as u64;
        }
    }
    Ok(count)
}
