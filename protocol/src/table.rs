//! What `apply` reads and writes: ordered tables, and an overlay of writes above a read-only view.
//!
//! The same code runs over RocksDB and over a `BTreeMap`. Reading may fail (a disk does); then nothing is applied and the
//! node stops: there is no answer that would be right.

use std::collections::BTreeMap;
use std::fmt;

use crate::id::Digest;
use crate::wire::{Bytes, Wire, WireError, decode, encode};
use sha2::{Digest as _, Sha256};

/// The store under the tables failed or holds bytes that nobody wrote; the node must stop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoreFault(pub String);

impl fmt::Display for StoreFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the store failed: {}", self.0)
    }
}

impl std::error::Error for StoreFault {}

impl From<WireError> for StoreFault {
    fn from(error: WireError) -> Self {
        Self(format!("a stored record is damaged: {error}"))
    }
}

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// A read-only, ordered key-value view.
pub trait Tables {
    /// The value of a key.
    ///
    /// # Errors
    /// [`StoreFault`] when the store cannot be read.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault>;

    /// At most `limit` pairs whose key starts with `prefix` and is greater than `after`, ascending.
    ///
    /// # Errors
    /// [`StoreFault`] when the store cannot be read.
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault>;
}

impl Tables for BTreeMap<Vec<u8>, Vec<u8>> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        Ok(Self::get(self, key).cloned())
    }
    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        let start = if after < prefix { prefix } else { after };
        Ok(self
            .range(start.to_vec()..)
            .filter(|(key, _)| key.as_slice() > after || (after < prefix && key.as_slice() >= prefix))
            .take_while(|(key, _)| key.starts_with(prefix))
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }
}

/// A decoded record.
///
/// # Errors
/// [`StoreFault`] when the store fails or the record is damaged.
pub fn read<V: Wire>(tables: &impl Tables, key: &[u8]) -> Result<Option<V>, StoreFault> {
    Ok(tables.get(key)?.map(|bytes| decode(&bytes)).transpose()?)
}

/// Ordered writes: value, or none for a removal.
pub type OrderedWrites = BTreeMap<Vec<u8>, Option<Vec<u8>>>;

/// Writes above a view. Writes of the current entry lie above those of the entries before it in the same batch.
pub struct Overlay<'a, T> {
    base: &'a T,
    batch: OrderedWrites,
    entry: OrderedWrites,
}

impl<'a, T: Tables> Overlay<'a, T> {
    /// Nothing written yet.
    pub fn new(base: &'a T) -> Self {
        Self { base, batch: OrderedWrites::new(), entry: OrderedWrites::new() }
    }
    /// Goes on above writes that are not in the base yet.
    pub fn above(base: &'a T, batch: OrderedWrites) -> Self {
        Self { base, batch, entry: OrderedWrites::new() }
    }
    /// Writes a record.
    pub fn put<V: Wire>(&mut self, key: Vec<u8>, value: &V) {
        self.entry.insert(key, Some(encode(value)));
    }
    /// Removes a record.
    pub fn remove(&mut self, key: Vec<u8>) {
        self.entry.insert(key, None);
    }
    /// Forgets the writes of the current entry: a refused request changes nothing.
    pub fn discard_entry(&mut self) {
        self.entry.clear();
    }
    /// The keys with a prefix that the current entry wrote.
    #[must_use]
    pub fn written(&self, prefix: &[u8]) -> Vec<Vec<u8>> {
        let from = self.entry.range(prefix.to_vec()..);
        from.map(|(key, _)| key).take_while(|key| key.starts_with(prefix)).cloned().collect()
    }
    /// SHA-256 over the writes of the current entry, in order.
    #[must_use]
    pub fn entry_digest(&self) -> Digest {
        let list: BTreeMap<Bytes, Option<Bytes>> =
            self.entry.iter().map(|(key, value)| (Bytes(key.clone()), value.clone().map(Bytes))).collect();
        Digest::from_bytes(Sha256::digest(encode(&list)).into())
    }
    /// Ends the current entry: its writes join the batch.
    pub fn seal_entry(&mut self) {
        // One by one: appending a map to a map rebuilds both.
        self.batch.extend(std::mem::take(&mut self.entry));
    }
    /// The writes of the batch, in order.
    #[must_use]
    pub fn into_writes(mut self) -> OrderedWrites {
        self.seal_entry();
        self.batch
    }
}

impl<T: Tables> Tables for Overlay<'_, T> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreFault> {
        match self.entry.get(key).or_else(|| self.batch.get(key)) {
            Some(written) => Ok(written.clone()),
            None => self.base.get(key),
        }
    }

    fn scan(&self, prefix: &[u8], after: &[u8], limit: usize) -> Result<Vec<Pair>, StoreFault> {
        let mut over: OrderedWrites = BTreeMap::new();
        for layer in [&self.batch, &self.entry] {
            for (key, value) in layer.range(prefix.to_vec()..).take_while(|(key, _)| key.starts_with(prefix)) {
                if key.as_slice() > after {
                    over.insert(key.clone(), value.clone());
                }
            }
        }
        // Enough from below that the removals above cannot leave the page short.
        let below = self.base.scan(prefix, after, limit.saturating_add(over.len()))?;
        let mut merged: BTreeMap<Vec<u8>, Option<Vec<u8>>> = below.into_iter().map(|(k, v)| (k, Some(v))).collect();
        merged.append(&mut over);
        Ok(merged.into_iter().filter_map(|(key, value)| value.map(|v| (key, v))).take(limit).collect())
    }
}

/// Applies ordered writes to a map, as a store does.
pub fn write_to(map: &mut BTreeMap<Vec<u8>, Vec<u8>>, writes: OrderedWrites) {
    for (key, value) in writes {
        match value {
            Some(value) => {
                map.insert(key, value);
            }
            None => {
                map.remove(&key);
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_overlay_reads_what_the_map_would_hold() {
        let base = BTreeMap::from([(b"a1".to_vec(), vec![1]), (b"a2".to_vec(), vec![2]), (b"b1".to_vec(), vec![3])]);
        let mut overlay = Overlay::new(&base);
        overlay.remove(b"a1".to_vec());
        overlay.seal_entry();
        overlay.put(b"a3".to_vec(), &9u8);
        let keys: Vec<_> = overlay.scan(b"a", b"", 10).unwrap().into_iter().map(|(k, _)| k).collect();
        assert_eq!(keys, [b"a2".to_vec(), b"a3".to_vec()]);
        assert_eq!(overlay.scan(b"a", b"a2", 10).unwrap().len(), 1);
        assert_eq!(overlay.get(b"a1").unwrap(), None);
        overlay.discard_entry();
        assert_eq!(overlay.get(b"a3").unwrap(), None);
    }

    type Script = Vec<(u8, Option<u8>, bool)>;

    proptest! {
        #[test]
        fn overlay_equals_map(below: BTreeMap<u8, u8>, script: Script, after: u8, limit in 0usize..6) {
            let base: BTreeMap<Vec<u8>, Vec<u8>> = below.into_iter().map(|(k, v)| (vec![b'p', k], encode(&v))).collect();
            let mut overlay = Overlay::new(&base);
            for (key, value, seal) in script {
                match value {
                    Some(value) => overlay.put(vec![b'p', key], &value),
                    None => overlay.remove(vec![b'p', key]),
                }
                if seal {
                    overlay.seal_entry();
                }
            }
            let page = overlay.scan(b"p", &[b'p', after], limit).unwrap();
            let all = overlay.scan(b"p", b"", 1000).unwrap();
            let mut map = base.clone();
            write_to(&mut map, overlay.into_writes());
            prop_assert_eq!(all, map.scan(b"p", b"", 1000).unwrap());
            prop_assert_eq!(page, map.scan(b"p", &[b'p', after], limit).unwrap());
        }
    }
}
