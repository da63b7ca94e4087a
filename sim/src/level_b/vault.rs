//! Key slots of a simulated node. They are durable as soon as they are written, as the slot file's are; a share that was sealed
//! under a slot which is gone is noise.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use sha2::{Digest as _, Sha256};
use symbolon_node::core::types::Vault;
use zeroize::Zeroizing;

use super::surroundings::SharedRng;
use super::types::{Life, lock};

/// Record id and key of a slot, as bytes.
const SLOT_BYTES: usize = 64;

/// The vault of one boot; clones are handles to the same one.
#[derive(Clone)]
pub struct SimVault {
    life: Life,
    rng: SharedRng,
    slots: Arc<Mutex<BTreeMap<[u8; 32], [u8; 32]>>>,
}

/// Splits bytes into two fields of 32; none when there are not 64.
fn halves(bytes: &[u8]) -> Option<([u8; 32], [u8; 32])> {
    let (first, second) = bytes.split_at_checked(32)?;
    Some((first.try_into().ok()?, second.try_into().ok()?))
}

/// Adds the key stream of a slot, or takes it away. A slot's key seals once.
fn cover(key: &[u8; 32], text: &[u8; 32]) -> [u8; 32] {
    let stream: [u8; 32] = Sha256::new().chain_update(key).chain_update(0u64.to_be_bytes()).finalize().into();
    let mut covered = *text;
    for (byte, mask) in covered.iter_mut().zip(stream) {
        *byte ^= mask;
    }
    covered
}

impl SimVault {
    /// From what an earlier boot left behind; from nothing for a new node.
    ///
    /// # Errors
    /// When the bytes are no slots.
    pub fn from_bytes(bytes: &[u8], life: Life, rng: SharedRng) -> Result<Self, String> {
        let mut slots = BTreeMap::new();
        for slot in bytes.chunks(SLOT_BYTES) {
            let (record, key) = halves(slot).ok_or("the key slots of a simulated node are damaged")?;
            slots.insert(record, key);
        }
        Ok(Self { life, rng, slots: Arc::new(Mutex::new(slots)) })
    }

    /// What lasts beyond the boot.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        lock(&self.slots).iter().flat_map(|(record, key)| [*record, *key].concat()).collect()
    }

    fn alive(&self) -> Result<(), String> {
        if self.life.lasts() { Ok(()) } else { Err("the node has crashed".to_owned()) }
    }
}

impl Vault for SimVault {
    fn seal(&self, record: [u8; 32], secret: &[u8; 32]) -> Result<Vec<u8>, String> {
        self.alive()?;
        let key = self.rng.bytes();
        let mut slots = lock(&self.slots);
        if slots.contains_key(&record) {
            return Err("the record has a key slot already".to_owned());
        }
        slots.insert(record, key);
        Ok([record, cover(&key, secret)].concat())
    }

    fn open(&self, record: [u8; 32], sealed: &[u8]) -> Result<Zeroizing<[u8; 32]>, String> {
        self.alive()?;
        let key = lock(&self.slots).get(&record).copied().ok_or("its key slot is gone")?;
        match halves(sealed) {
            Some((id, covered)) if id == record => Ok(Zeroizing::new(cover(&key, &covered))),
            _ => Err("the sealed record belongs to another slot".to_owned()),
        }
    }

    fn erase(&self, record: [u8; 32]) -> Result<(), String> {
        self.alive()?;
        lock(&self.slots).remove(&record);
        Ok(())
    }

    fn records(&self) -> Vec<[u8; 32]> {
        lock(&self.slots).keys().copied().collect()
    }
}
