//! How the slot file looks on disk: offsets, header, sequence record, slots. No I/O here.
//!
//! Integers are big-endian. Everything is kept twice, as sides A and B, in different 4 KiB pages, so that a
//! write torn by a power cut can damage one side only.
//!
//! ```text
//! 0       header A     4,096 bytes      magic "SYMBSLOT" 8, format version u16, side u8, cluster id 32,
//! 4096    sequence A   4,096 bytes        node id u16, capacity u32, generation u64, key check 16, mac 32
//! 8192    header B     4,096 bytes      magic "SYMBSEQN" 8, format version u16, side u8, generation u64,
//! 12288   sequence B   4,096 bytes        sequence number u64, mac 32
//! 16384   segment 0, then segment 1, ...: each 256 slots side A, then the same 256 slots side B
//!
//! slot, 128 bytes:       generation u64, nonce 12, ciphertext 92, tag 16
//! its plaintext:         state u8 (0 free, 1 used), record id 32, wrapping key 32, generation u64, zeros 19
//! its associated data:   "SYMBSLOT" 8, format version u16, cluster id 32, node id u16, side u8,
//!                        position u32, generation u64
//! ```
//!
//! A slot never moves, because erasing means overwriting the place where it is: a full file grows by a
//! segment at its end.
//!
//! Header and sequence record hold nothing secret. They carry an HMAC-SHA256 (which also covers cluster id
//! and node id) instead of being encrypted, because the sequence record is rewritten so often that random
//! nonces would run out: AES-GCM allows 2^32 under one key. Slots take four for each record that comes and
//! goes.

use hkdf::hmac::{Hmac, Mac};
use rand_core::{CryptoRng, RngCore};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::RecordId;
use crate::seal::error::SealError;
use crate::seal::files::random;
use crate::seal::record::{NONCE_LEN, TAG_LEN, WrappingKey, open_in_place, seal_in_place};
use crate::seal::root::{Purpose, SealKey};
use crate::seal::secret::{SECRET_LEN, Secret32};

/// Length of the parts that are written as one piece before the segments, in bytes.
pub(super) const PAGE_LEN: usize = 4096;
/// Length of a sealed slot, in bytes.
pub(super) const SLOT_LEN: usize = 128;
/// Slots by which the file grows.
pub(super) const SLOTS_PER_SEGMENT: u32 = 256;
/// Most slots of one file (256 MiB with both sides).
pub(super) const MAX_SLOTS: u32 = 1 << 20;
/// Length of one side of a segment, in bytes.
pub(super) const REGION_LEN: usize = SLOTS_PER_SEGMENT as usize * SLOT_LEN;

/// Whole pages, so that no page holds slots of both sides.
const _: () = assert!(REGION_LEN.is_multiple_of(PAGE_LEN));
const _: () = assert!(MAX_SLOTS.is_multiple_of(SLOTS_PER_SEGMENT));
const _: () = assert!(8 + NONCE_LEN + PLAIN_LEN + TAG_LEN == SLOT_LEN);

const FORMAT_VERSION: u16 = 1;
const HEADER_MAGIC: &[u8; 8] = b"SYMBSLOT";
const SEQUENCE_MAGIC: &[u8; 8] = b"SYMBSEQN";
const KEY_CHECK_LABEL: &[u8] = b"SYMBKCHK";
const KEY_CHECK_LEN: usize = 16;
const MAC_LEN: usize = 32;
/// Where the first segment begins, in bytes.
const SEGMENTS_START: u64 = 4 * PAGE_LEN as u64;
const PLAIN_LEN: usize = 92;
const RESERVED_LEN: usize = PLAIN_LEN - 1 - 32 - SECRET_LEN - 8;
const STATE_FREE: u8 = 0;
const STATE_USED: u8 = 1;

/// Which of the two copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Side {
    A,
    B,
}

impl Side {
    /// Both, in the order in which they are written.
    pub(super) const BOTH: [Self; 2] = [Self::A, Self::B];

    const fn number(self) -> u8 {
        match self {
            Self::A => 0,
            Self::B => 1,
        }
    }

    /// Where the header lies, in bytes from the start.
    pub(super) const fn header_offset(self) -> u64 {
        self.number() as u64 * 2 * PAGE_LEN as u64
    }

    /// Where the sequence record lies, in bytes from the start.
    pub(super) const fn sequence_offset(self) -> u64 {
        self.header_offset() + PAGE_LEN as u64
    }

    /// Where this side of a segment begins, in bytes from the start.
    pub(super) const fn region_offset(self, segment: u32) -> u64 {
        SEGMENTS_START + (segment as u64 * 2 + self.number() as u64) * REGION_LEN as u64
    }

    /// Where this side of a slot begins, in bytes from the start.
    pub(super) const fn slot_offset(self, position: u32) -> u64 {
        let within = (position % SLOTS_PER_SEGMENT) as u64;
        self.region_offset(position / SLOTS_PER_SEGMENT) + within * SLOT_LEN as u64
    }

    /// The side that holds a given generation of the sequence record: they alternate, so a torn write
    /// leaves the record before it.
    pub(super) const fn of_sequence(generation: u64) -> Self {
        if generation.is_multiple_of(2) { Self::A } else { Self::B }
    }
}

/// What the header says beyond whose file it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Header {
    /// Slots in the file: a positive multiple of [`SLOTS_PER_SEGMENT`], once the file is made.
    pub(super) capacity: u32,
    /// Raised with every change.
    pub(super) generation: u64,
}

/// What one side of the header turned out to be.
#[derive(Debug)]
pub(super) enum HeaderSide {
    Good(Header),
    /// Of another node or cluster.
    Foreign {
        node: u16,
        cluster: [u8; 32],
    },
    /// Under another seal key.
    OtherKey,
    /// In another format.
    OtherFormat(u16),
    Damaged,
}

/// The sequence record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sequence {
    /// The number that is kept for the caller.
    pub(super) value: u64,
    /// Raised with every change.
    pub(super) generation: u64,
}

/// One slot.
pub(super) struct Slot {
    /// Raised with every change, from 1; the side with the higher one wins.
    pub(super) generation: u64,
    pub(super) content: Content,
}

/// What a slot holds.
pub(super) enum Content {
    Free,
    Used { record: RecordId, key: WrappingKey },
}

impl Content {
    /// Whether both say the same.
    pub(super) fn same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Free, Self::Free) => true,
            (Self::Used { record: a, key: key_a }, Self::Used { record: b, key: key_b }) => {
                a == b && bool::from(key_a.secret().ct_eq(key_b.secret()))
            }
            _ => false,
        }
    }
}

/// The sub-keys and the identity that bind a slot file to its node.
pub(super) struct FileKeys {
    slots: WrappingKey,
    mac: WrappingKey,
    cluster: [u8; 32],
    node: u16,
}

impl FileKeys {
    /// Derives the sub-keys.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn new(seal: &SealKey, cluster: [u8; 32], node: u16) -> Result<Self, SealError> {
        Ok(Self { slots: seal.derive(Purpose::Slots)?, mac: seal.derive(Purpose::SlotFileMac)?, cluster, node })
    }

    /// One side of the header, a page.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn encode_header(&self, side: Side, header: Header) -> Result<Vec<u8>, SealError> {
        let mut page = Vec::with_capacity(PAGE_LEN);
        page.extend_from_slice(HEADER_MAGIC);
        page.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        page.push(side.number());
        page.extend_from_slice(&self.cluster);
        page.extend_from_slice(&self.node.to_be_bytes());
        page.extend_from_slice(&header.capacity.to_be_bytes());
        page.extend_from_slice(&header.generation.to_be_bytes());
        page.extend_from_slice(&self.key_check()?);
        self.finish_page(page)
    }

    /// Reads one side of the header.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn decode_header(&self, side: Side, page: &[u8]) -> Result<HeaderSide, SealError> {
        let Some(fields) = HeaderFields::take(side, page) else { return Ok(HeaderSide::Damaged) };
        if fields.version != FORMAT_VERSION {
            return Ok(HeaderSide::OtherFormat(fields.version));
        }
        // The identity first: with another node's file its seal key is another one too, and that is not the
        // news.
        if fields.cluster != self.cluster || fields.node != self.node {
            return Ok(HeaderSide::Foreign { node: fields.node, cluster: fields.cluster });
        }
        if fields.key_check != self.key_check()? {
            return Ok(HeaderSide::OtherKey);
        }
        let Header { capacity, .. } = fields.header;
        let sane = capacity > 0 && capacity <= MAX_SLOTS && capacity.is_multiple_of(SLOTS_PER_SEGMENT);
        Ok(if self.authentic(page, fields.length)? && sane {
            HeaderSide::Good(fields.header)
        } else {
            HeaderSide::Damaged
        })
    }

    /// One side of the sequence record, a page.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn encode_sequence(&self, side: Side, sequence: Sequence) -> Result<Vec<u8>, SealError> {
        let mut page = Vec::with_capacity(PAGE_LEN);
        page.extend_from_slice(SEQUENCE_MAGIC);
        page.extend_from_slice(&FORMAT_VERSION.to_be_bytes());
        page.push(side.number());
        page.extend_from_slice(&sequence.generation.to_be_bytes());
        page.extend_from_slice(&sequence.value.to_be_bytes());
        self.finish_page(page)
    }

    /// Reads one side of the sequence record; `None` when it is damaged.
    ///
    /// # Errors
    /// [`SealError::Bug`] only.
    pub(super) fn decode_sequence(&self, side: Side, page: &[u8]) -> Result<Option<Sequence>, SealError> {
        let Some((sequence, length)) = take_sequence(side, page) else { return Ok(None) };
        Ok(self.authentic(page, length)?.then_some(sequence))
    }

    /// One side of a slot, [`SLOT_LEN`] bytes, under a fresh nonce.
    ///
    /// # Errors
    /// [`SealError::RandomUnavailable`]; [`SealError::Bug`].
    pub(super) fn seal_slot(
        &self,
        side: Side,
        position: u32,
        slot: &Slot,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<Vec<u8>, SealError> {
        let mut nonce = [0; NONCE_LEN];
        random(rng, &mut nonce)?;
        // With its whole capacity from the start: a growing buffer leaves copies behind.
        let mut body = Zeroizing::new(Vec::with_capacity(PLAIN_LEN));
        match &slot.content {
            Content::Free => {
                body.push(STATE_FREE);
                body.resize(1 + 32 + SECRET_LEN, 0);
            }
            Content::Used { record, key } => {
                body.push(STATE_USED);
                body.extend_from_slice(record);
                body.extend_from_slice(key.secret().expose());
            }
        }
        body.extend_from_slice(&slot.generation.to_be_bytes());
        body.resize(PLAIN_LEN, 0);
        let tag = seal_in_place(&self.slots, &nonce, &self.slot_aad(side, position, slot.generation), &mut body)?;
        let mut sealed = Vec::with_capacity(SLOT_LEN);
        sealed.extend_from_slice(&slot.generation.to_be_bytes());
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&body);
        sealed.extend_from_slice(&tag);
        Ok(sealed)
    }

    /// Opens one side of a slot; `None` when it is damaged or belongs elsewhere.
    pub(super) fn open_slot(&self, side: Side, position: u32, sealed: &[u8]) -> Option<Slot> {
        let mut rest = sealed;
        let generation = u64::from_be_bytes(*take(&mut rest)?);
        let nonce = take::<NONCE_LEN>(&mut rest)?;
        let mut body = Zeroizing::new(*take::<PLAIN_LEN>(&mut rest)?);
        let tag = take::<TAG_LEN>(&mut rest)?;
        let aad = self.slot_aad(side, position, generation);
        if !rest.is_empty() || !open_in_place(&self.slots, nonce, &aad, body.as_mut_slice(), tag) {
            return None;
        }
        let mut plain = body.as_slice();
        let [state] = *take::<1>(&mut plain)?;
        let record = *take::<32>(&mut plain)?;
        let key = take::<SECRET_LEN>(&mut plain)?;
        let inner_generation = u64::from_be_bytes(*take(&mut plain)?);
        if inner_generation != generation || *take::<RESERVED_LEN>(&mut plain)? != [0; RESERVED_LEN] {
            return None;
        }
        let content = match state {
            STATE_FREE => Content::Free,
            STATE_USED => Content::Used { record, key: WrappingKey::from_secret(Secret32::copy_of(key)) },
            _ => return None,
        };
        Some(Slot { generation, content })
    }

    fn slot_aad(&self, side: Side, position: u32, generation: u64) -> Vec<u8> {
        [
            HEADER_MAGIC.as_slice(),
            &FORMAT_VERSION.to_be_bytes(),
            &self.cluster,
            &self.node.to_be_bytes(),
            &[side.number()],
            &position.to_be_bytes(),
            &generation.to_be_bytes(),
        ]
        .concat()
    }

    /// Tells a wrong seal key from damage. Says nothing about the key: it is a PRF output.
    fn key_check(&self) -> Result<[u8; KEY_CHECK_LEN], SealError> {
        let output = self.start_mac(KEY_CHECK_LABEL)?.finalize().into_bytes();
        let check = output.first_chunk::<KEY_CHECK_LEN>();
        check.copied().ok_or(SealError::Bug { what: "a MAC shorter than 16 bytes" })
    }

    /// Appends the MAC over all bytes so far and fills the page with zeros.
    fn finish_page(&self, mut page: Vec<u8>) -> Result<Vec<u8>, SealError> {
        let mac = self.page_mac(&page)?.finalize().into_bytes();
        page.extend_from_slice(&mac);
        page.resize(PAGE_LEN, 0);
        Ok(page)
    }

    /// Whether the MAC that follows the first `length` bytes is right; compared in constant time.
    fn authentic(&self, page: &[u8], length: usize) -> Result<bool, SealError> {
        let Some((fields, rest)) = page.split_at_checked(length) else { return Ok(false) };
        let Some(mac) = rest.first_chunk::<MAC_LEN>() else { return Ok(false) };
        Ok(self.page_mac(fields)?.verify_slice(mac).is_ok())
    }

    /// The MAC of a page, begun. The fields start with their own magic, so a header never passes for a
    /// sequence record.
    fn page_mac(&self, fields: &[u8]) -> Result<Hmac<Sha256>, SealError> {
        let mut mac = self.start_mac(fields)?;
        mac.update(&self.cluster);
        mac.update(&self.node.to_be_bytes());
        Ok(mac)
    }

    fn start_mac(&self, first: &[u8]) -> Result<Hmac<Sha256>, SealError> {
        let mut mac = <Hmac<Sha256> as Mac>::new_from_slice(self.mac.secret().expose())
            .map_err(|_| SealError::Bug { what: "HMAC refused its key" })?;
        mac.update(first);
        Ok(mac)
    }
}

/// The fields of a header as they stand, nothing checked but magic and side.
struct HeaderFields {
    version: u16,
    cluster: [u8; 32],
    node: u16,
    header: Header,
    key_check: [u8; KEY_CHECK_LEN],
    /// Bytes that the MAC covers.
    length: usize,
}

impl HeaderFields {
    fn take(side: Side, page: &[u8]) -> Option<Self> {
        let mut rest = page;
        if take::<8>(&mut rest)? != HEADER_MAGIC {
            return None;
        }
        let version = u16::from_be_bytes(*take(&mut rest)?);
        if *take::<1>(&mut rest)? != [side.number()] {
            return None;
        }
        let cluster = *take::<32>(&mut rest)?;
        let node = u16::from_be_bytes(*take(&mut rest)?);
        let capacity = u32::from_be_bytes(*take(&mut rest)?);
        let generation = u64::from_be_bytes(*take(&mut rest)?);
        let key_check = *take::<KEY_CHECK_LEN>(&mut rest)?;
        let length = page.len().checked_sub(rest.len())?;
        Some(Self { version, cluster, node, header: Header { capacity, generation }, key_check, length })
    }
}

fn take_sequence(side: Side, page: &[u8]) -> Option<(Sequence, usize)> {
    let mut rest = page;
    let expected = take::<8>(&mut rest)? == SEQUENCE_MAGIC
        && *take::<2>(&mut rest)? == FORMAT_VERSION.to_be_bytes()
        && *take::<1>(&mut rest)? == [side.number()];
    if !expected {
        return None;
    }
    let generation = u64::from_be_bytes(*take(&mut rest)?);
    let value = u64::from_be_bytes(*take(&mut rest)?);
    Some((Sequence { value, generation }, page.len().checked_sub(rest.len())?))
}

/// Takes the first `N` bytes off.
fn take<'a, const N: usize>(bytes: &mut &'a [u8]) -> Option<&'a [u8; N]> {
    let (head, tail) = bytes.split_first_chunk::<N>()?;
    *bytes = tail;
    Some(head)
}
