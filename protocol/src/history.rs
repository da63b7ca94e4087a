//! The one history: an RFC 6962 Merkle tree over all log entries, kept in the replicated tables.
//!
//! The entry with index n is the n-th leaf, from 0 on. SHA-256; a leaf is hashed behind a byte 0x00, a node behind 0x01
//! (RFC 6962 section 2.1). Roots of complete subtrees stay for ever, 32 bytes each and less than two for each leaf, so that
//! the path of every leaf can be shown under every later root. The root at an index, with the membership version, is the head.

use sha2::{Digest as _, Sha256};

use crate::id::Digest;
use crate::limits;
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};
use crate::wire::encode;

/// What the history says about one entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaf {
    /// Index of the entry.
    pub index: u64,
    /// Hash of the entry.
    pub entry: Digest,
    /// Digest of its outcome.
    pub outcome: Digest,
    /// Hash of its ordered writes, those of the history itself left out.
    pub writes: Digest,
}
crate::wire_struct!(Leaf { index, entry, outcome, writes });

impl Leaf {
    /// `SHA-256(0x00 || encoding)`; the encoding has 105 bytes.
    #[must_use]
    pub fn hash(&self) -> Digest {
        leaf_hash(&encode(self))
    }
}

/// The state of the history right after an entry: what voters sign, what nodes compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// Index of the entry; the tree has one leaf more.
    pub index: u64,
    /// Root of the tree.
    pub root: Digest,
    /// Version of the membership.
    pub membership: u64,
    /// SHA-256 of the whole ordered key-value stream, at checkpoint indices only.
    pub state: Option<Digest>,
}
crate::wire_struct!(Head { index, root, membership, state });

/// What appending gives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// Root of the tree that ends with the leaf.
    pub root: Digest,
    /// Path of the leaf in that tree, from the leaf up; as many digests as its index has set bits.
    pub path: Vec<Digest>,
}

fn leaf_hash(bytes: &[u8]) -> Digest {
    Digest::from_bytes(Sha256::new().chain_update([0]).chain_update(bytes).finalize().into())
}

fn node_hash(left: &Digest, right: &Digest) -> Digest {
    let hash = Sha256::new().chain_update([1]).chain_update(left.as_bytes()).chain_update(right.as_bytes());
    Digest::from_bytes(hash.finalize().into())
}

/// A path and a root that fit a leaf, whatever came before it; its index is a power of two.
#[cfg(test)]
pub(crate) fn made_up(leaf: &Leaf) -> (Vec<Digest>, Digest) {
    let before = Digest::from_bytes([0x5a; 32]);
    (vec![before], node_hash(&before, &leaf.hash()))
}

/// Root of a complete subtree that must be there: leaves `position << level` up to `(position + 1) << level`.
fn subtree(tables: &impl Tables, level: u8, position: u64) -> Result<Digest, StoreFault> {
    read(tables, &schema::tree(level, position))?
        .ok_or_else(|| StoreFault(format!("the history lacks its node at level {level}, position {position}")))
}

/// Appends the leaf of an entry; its index is the number of leaves before it.
///
/// # Errors
/// [`StoreFault`] when the store fails, when an earlier node is missing or when the leaf is there already: then the history
/// does not end where the caller thinks.
pub fn append<T: Tables>(tables: &mut Overlay<'_, T>, leaf: &Leaf) -> Result<Appended, StoreFault> {
    append_hash(tables, leaf.index, leaf.hash())
}

fn append_hash<T: Tables>(tables: &mut Overlay<'_, T>, index: u64, hash: Digest) -> Result<Appended, StoreFault> {
    if tables.get(&schema::tree(0, index))?.is_some() {
        return Err(StoreFault(format!("the history already has a leaf {index}")));
    }
    tables.put(schema::tree(0, index), &hash);
    let mut root = hash;
    let mut path = Vec::new();
    // While the bits so far are ones, `root` is that of a complete subtree: nothing will ever change it.
    let mut complete = true;
    for level in 0..64u8 {
        let position = index >> level;
        if position == 0 {
            break;
        }
        if position & 1 == 0 {
            complete = false;
            continue;
        }
        let left = subtree(&*tables, level, position - 1)?;
        root = node_hash(&left, &root);
        path.push(left);
        if complete {
            tables.put(schema::tree(level + 1, position >> 1), &root);
        }
    }
    tables.put(schema::root(index), &root);
    if let Some(old) = index.checked_sub(limits::HEADS_KEPT) {
        tables.remove(schema::root(old));
    }
    Ok(Appended { root, path })
}

/// Root right after an index; none when the index is not reached yet or too long ago.
///
/// # Errors
/// [`StoreFault`] when the store fails.
pub fn root_at(tables: &impl Tables, index: u64) -> Result<Option<Digest>, StoreFault> {
    read(tables, &schema::root(index))
}

/// Path of a leaf in the tree of `size` leaves, from the leaf up (RFC 6962 section 2.1.1): at most 64 digests. None when the
/// tree has no such leaf, or was never that large.
///
/// # Errors
/// [`StoreFault`] when the store fails.
pub fn path<T: Tables>(tables: &T, index: u64, size: u64) -> Result<Option<Vec<Digest>>, StoreFault> {
    let Some(last) = size.checked_sub(1) else { return Ok(None) };
    if index > last || tables.get(&schema::tree(0, last))?.is_none() {
        return Ok(None);
    }
    let mut path = Vec::new();
    let (mut start, mut count) = (0u64, size);
    while count > 1 {
        // The largest power of two below `count`.
        let level = 63 - (count - 1).leading_zeros();
        let left = 1u64 << level;
        if index - start < left {
            path.push(range_root(tables, start + left, count - left)?);
            count = left;
        } else {
            path.push(subtree(tables, u8::try_from(level).unwrap_or(u8::MAX), start >> level)?);
            start += left;
            count -= left;
        }
    }
    path.reverse();
    Ok(Some(path))
}

/// Root over `count` leaves from `start` on, where `start` is a multiple of a power of two that is at least `count`.
fn range_root(tables: &impl Tables, start: u64, count: u64) -> Result<Digest, StoreFault> {
    let mut root: Option<Digest> = None;
    for level in 0..64u8 {
        let before = (count >> level) ^ 1;
        if (count >> level) & 1 == 0 {
            continue;
        }
        let complete = subtree(tables, level, (start >> level) + before)?;
        root = Some(match root {
            Some(right) => node_hash(&complete, &right),
            None => complete,
        });
    }
    root.ok_or_else(|| StoreFault("an empty range has no root".to_owned()))
}

/// Whether a path leads from leaf `index` to the root of the tree that ends with it (`index + 1` leaves). The length of the
/// path is checked. That the root belongs to a tree of this size is the caller's knowledge (a head names both).
#[must_use]
pub fn includes_last(leaf_hash: &Digest, index: u64, path: &[Digest], root: &Digest) -> bool {
    usize::try_from(index.count_ones()) == Ok(path.len())
        && path.iter().fold(*leaf_hash, |right, left| node_hash(left, &right)) == *root
}

/// Whether a path leads from leaf `index` to the root of a tree of `size` leaves (RFC 9162 section 2.1.3.2). The length of the
/// path is checked. That the root belongs to a tree of this size is the caller's knowledge.
#[must_use]
pub fn includes(leaf_hash: &Digest, index: u64, size: u64, path: &[Digest], root: &Digest) -> bool {
    if index >= size {
        return false;
    }
    let (mut position, mut last) = (index, size - 1);
    let mut hash = *leaf_hash;
    for sibling in path {
        if last == 0 {
            return false;
        }
        if position & 1 == 1 || position == last {
            hash = node_hash(sibling, &hash);
            // A right edge without a partner on this level moved up unchanged.
            while position & 1 == 0 && position != 0 {
                position >>= 1;
                last >>= 1;
            }
        } else {
            hash = node_hash(&hash, sibling);
        }
        position >>= 1;
        last >>= 1;
    }
    last == 0 && hash == *root
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::table::write_to;

    type Map = BTreeMap<Vec<u8>, Vec<u8>>;

    fn hashes(size: u64) -> Vec<Digest> {
        (0..size).map(|n| leaf_hash(&n.to_be_bytes())).collect()
    }

    /// Appends one by one, each in a batch of its own.
    fn grow(leaves: &[Digest]) -> (Map, Vec<Appended>) {
        let mut map = Map::new();
        let mut all = Vec::new();
        for (index, leaf) in (0u64..).zip(leaves) {
            let mut overlay = Overlay::new(&map);
            all.push(append_hash(&mut overlay, index, *leaf).unwrap());
            let writes = overlay.into_writes();
            write_to(&mut map, writes);
        }
        (map, all)
    }

    /// MTH of RFC 6962 section 2.1, word for word.
    fn naive(leaves: &[Digest]) -> Digest {
        match leaves {
            [] => Digest::from_bytes(Sha256::digest([]).into()),
            [one] => *one,
            _ => {
                let mut split = 1;
                while split * 2 < leaves.len() {
                    split *= 2;
                }
                let (left, right) = leaves.split_at(split);
                node_hash(&naive(left), &naive(right))
            }
        }
    }

    fn bend(digest: &Digest) -> Digest {
        let mut bytes = *digest.as_bytes();
        bytes[7] ^= 0x20;
        Digest::from_bytes(bytes)
    }

    #[test]
    fn known_roots() {
        // The test leaves of the Certificate Transparency reference implementation (merkletree/merkle_tree_test.cc).
        let vectors = [
            ("", "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
            ("00", "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"),
            ("10", "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77"),
            ("2021", "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7"),
            ("3031", "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4"),
            ("40414243", "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef"),
            ("5051525354555657", "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c"),
            ("606162636465666768696a6b6c6d6e6f", "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"),
        ];
        let leaves: Vec<Digest> = vectors.iter().map(|(leaf, _)| leaf_hash(&hex::decode(leaf).unwrap())).collect();
        let (map, all) = grow(&leaves);
        for (index, ((_, root), appended)) in (0u64..).zip(vectors.iter().zip(&all)) {
            assert_eq!(appended.root.to_string(), *root, "size {}", index + 1);
            assert_eq!(root_at(&map, index).unwrap(), Some(appended.root));
        }
        assert_eq!(root_at(&map, 8).unwrap(), None);
    }

    #[test]
    fn a_leaf_hash_covers_every_field() {
        let d = |byte| Digest::from_bytes([byte; 32]);
        let leaf = Leaf { index: 5, entry: d(1), outcome: d(2), writes: d(3) };
        let mut bytes = vec![0, 1, 0, 0, 0, 0, 0, 0, 0, 5];
        for byte in 1..=3 {
            bytes.extend_from_slice(&[byte; 32]);
        }
        assert_eq!(leaf.hash(), Digest::from_bytes(Sha256::digest(bytes).into()));
    }

    #[test]
    fn the_last_leaf_of_every_tree_has_its_path() {
        let leaves = hashes(200);
        let (map, all) = grow(&leaves);
        for (index, (leaf, appended)) in (0u64..).zip(leaves.iter().zip(&all)) {
            let Appended { root, path: found } = appended;
            assert!(includes_last(leaf, index, found, root) && includes(leaf, index, index + 1, found, root));
            assert_eq!(path(&map, index, index + 1).unwrap().as_ref(), Some(found));
            assert!(!includes_last(&bend(leaf), index, found, root));
            let mut longer = found.clone();
            longer.push(*root);
            assert!(!includes_last(leaf, index, &longer, root));
            if let Some((_, shorter)) = found.split_last() {
                assert!(!includes_last(leaf, index, shorter, root));
            }
        }
    }

    #[test]
    fn only_the_right_index_verifies() {
        let leaves = hashes(33);
        let (map, all) = grow(&leaves);
        for (size, appended) in (1u64..).zip(&all) {
            for (index, leaf) in (0..size).zip(&leaves) {
                let found = path(&map, index, size).unwrap().unwrap();
                for claimed in 0..size + 2 {
                    assert_eq!(includes(leaf, claimed, size, &found, &appended.root), claimed == index);
                }
            }
        }
    }

    #[test]
    fn the_history_is_append_only_and_without_gaps() {
        let (map, _) = grow(&hashes(5));
        for index in [0, 4, 7, 1 << 40] {
            assert!(append_hash(&mut Overlay::new(&map), index, bend(&naive(&[]))).is_err(), "{index}");
        }
        assert!(append_hash(&mut Overlay::new(&map), 5, bend(&naive(&[]))).is_ok());
        assert_eq!(path(&map, 0, 6).unwrap(), None);
        assert_eq!(path(&map, 5, 5).unwrap(), None);
        assert_eq!(path(&map, 0, 0).unwrap(), None);
    }

    #[test]
    fn old_roots_are_forgotten_and_leaves_are_not() {
        let mut map = Map::new();
        let mut overlay = Overlay::new(&map);
        for (index, leaf) in (0..limits::HEADS_KEPT + 2).zip(hashes(limits::HEADS_KEPT + 2)) {
            append_hash(&mut overlay, index, leaf).unwrap();
            overlay.seal_entry();
        }
        let writes = overlay.into_writes();
        write_to(&mut map, writes);
        assert_eq!(root_at(&map, 1).unwrap(), None);
        assert!(root_at(&map, 2).unwrap().is_some());
        let size = limits::HEADS_KEPT + 2;
        let found = path(&map, 0, size).unwrap().unwrap();
        assert!(includes(&leaf_hash(&0u64.to_be_bytes()), 0, size, &found, &root_at(&map, size - 1).unwrap().unwrap()));
    }

    proptest! {
        #[test]
        fn every_leaf_has_a_path_and_nothing_else_verifies(size in 1u64..200, choice: u64, at: prop::sample::Index) {
            let leaves = hashes(size);
            let (map, all) = grow(&leaves);
            let root = all.last().unwrap().root;
            prop_assert_eq!(root, naive(&leaves));
            for (index, leaf) in (0..size).zip(&leaves) {
                let found = path(&map, index, size).unwrap().unwrap();
                prop_assert!(includes(leaf, index, size, &found, &root));
                prop_assert!(!includes(&bend(leaf), index, size, &found, &root));
                let mut longer = found.clone();
                longer.push(*leaf);
                prop_assert!(!includes(leaf, index, size, &longer, &root));
                if let Some((_, shorter)) = found.split_last() {
                    prop_assert!(!includes(leaf, index, size, shorter, &root));
                }
                let other = choice % size;
                prop_assert_eq!(includes(leaf, other, size, &found, &root), other == index);
                if !found.is_empty() {
                    let mut bent = found.clone();
                    let bent_at = at.get_mut(&mut bent);
                    *bent_at = bend(bent_at);
                    prop_assert!(!includes(leaf, index, size, &bent, &root));
                }
            }
        }

        #[test]
        fn a_batch_gives_what_single_writes_give(size in 1u64..100) {
            let leaves = hashes(size);
            let (map, _) = grow(&leaves);
            let mut batched = Map::new();
            let mut overlay = Overlay::new(&batched);
            for (index, leaf) in (0u64..).zip(&leaves) {
                append_hash(&mut overlay, index, *leaf).unwrap();
                overlay.seal_entry();
            }
            let writes = overlay.into_writes();
            write_to(&mut batched, writes);
            prop_assert_eq!(batched, map);
        }
    }
}
