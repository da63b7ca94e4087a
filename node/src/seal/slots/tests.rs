//! Tests of the slot file: real files, damaged byte by byte.

use std::os::unix::fs::PermissionsExt;

use tempfile::TempDir;

use super::*;
use crate::seal::{KeyFile, open_record, seal_record};

const CLUSTER: [u8; 32] = [0xc1; 32];
const NODE: u16 = 3;

/// A directory with a seal key and a slot file.
struct Bench {
    directory: TempDir,
    seal: SealKey,
    path: PathBuf,
}

impl Bench {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let seal = KeyFile::at(directory.path().join("seal.key")).create(&mut OsRng).unwrap();
        let path = directory.path().join("slots");
        Self { directory, seal, path }
    }

    /// With a slot file that holds the records 0, 1, ... in the slots 0, 1, ...
    fn with_records(count: u8) -> Self {
        let bench = Self::new();
        let mut slots = bench.create().unwrap();
        for number in 0..count {
            slots.write(record(number), &mut OsRng).unwrap();
        }
        bench
    }

    fn create(&self) -> Result<SlotFile, SealError> {
        SlotFile::create(&self.path, &self.seal, CLUSTER, NODE)
    }

    fn open(&self) -> Result<SlotFile, SealError> {
        SlotFile::open(&self.path, &self.seal, CLUSTER, NODE)
    }

    fn bytes(&self) -> Vec<u8> {
        fs::read(&self.path).unwrap()
    }

    /// Changes the bytes of one side of a slot.
    fn damage(&self, side: Side, position: u32) {
        let mut bytes = self.bytes();
        bytes[range(side, position)].fill(0x5a);
        fs::write(&self.path, bytes).unwrap();
    }

    fn put(&self, offset: u64, piece: &[u8]) {
        let file = OpenOptions::new().write(true).open(&self.path).unwrap();
        file.write_all_at(piece, offset).unwrap();
    }
}

fn record(number: u8) -> RecordId {
    [number; 32]
}

fn range(side: Side, position: u32) -> std::ops::Range<usize> {
    let start = usize::try_from(side.slot_offset(position)).unwrap();
    start..start + SLOT_LEN
}

fn contains(haystack: &[u8], needle: &[u8]) -> bool {
    haystack.windows(needle.len()).any(|window| window == needle)
}

fn key_bytes(slots: &SlotFile, record: RecordId) -> [u8; 32] {
    *slots.get(record).unwrap().secret().expose()
}

/// Both sides of every slot open, are equal, and say what memory says.
fn assert_both_sides_equal(bench: &Bench) {
    let slots = bench.open().unwrap();
    let bytes = bench.bytes();
    for position in 0..slots.header.capacity {
        let side = |side| slots.keys.open_slot(side, position, &bytes[range(side, position)]).unwrap();
        let (a, b) = (side(Side::A), side(Side::B));
        assert_eq!(a.generation, b.generation, "slot {position}");
        assert!(a.content.same(&b.content), "slot {position}");
    }
}

impl SlotFile {
    fn flush(&mut self) -> Result<(), SealError> {
        let written = self.changes()?.write();
        self.settle(written)
    }
    /// Adds a record that is on disk afterwards.
    fn write(&mut self, record: RecordId, rng: &mut OsRng) -> Result<WrappingKey, SealError> {
        let key = self.add(record, rng)?;
        self.flush().map(|()| key)
    }
    /// Removes a record that is off the disk afterwards.
    fn erase(&mut self, record: RecordId) -> Result<(), SealError> {
        self.remove(record)?;
        self.flush()
    }
}

#[test]
fn what_was_written_is_there_after_reopening() {
    let bench = Bench::new();
    let mut slots = bench.create().unwrap();
    let first = *slots.write(record(1), &mut OsRng).unwrap().secret().expose();
    let second = *slots.write(record(2), &mut OsRng).unwrap().secret().expose();
    assert_ne!(first, second);
    assert_eq!(key_bytes(&slots, record(1)), first);
    drop(slots);

    let mode = fs::metadata(&bench.path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let slots = bench.open().unwrap();
    assert_eq!(key_bytes(&slots, record(1)), first);
    assert_eq!(key_bytes(&slots, record(2)), second);
    assert!(slots.get(record(3)).is_none());
    assert_eq!(slots.records().collect::<Vec<_>>(), [record(1), record(2)]);
    assert!(!contains(&bench.bytes(), &first));
    assert!(!contains(&bench.bytes(), &record(1)));
}

#[test]
fn a_record_gets_one_slot_and_a_file_is_made_once() {
    let bench = Bench::with_records(1);
    assert!(matches!(bench.create(), Err(SealError::AlreadyExists { .. })));
    let mut slots = bench.open().unwrap();
    let key = key_bytes(&slots, record(0));
    let refused = slots.write(record(0), &mut OsRng);
    assert!(matches!(refused, Err(SealError::RecordPresent { .. })));
    assert_eq!(key_bytes(&slots, record(0)), key);
    assert!(matches!(bench.open(), Err(SealError::FileInUse { .. })));
}

#[test]
fn a_creation_that_was_cut_off_is_started_again() {
    let bench = Bench::new();
    fs::write(bench.directory.path().join("slots.new"), b"half a file").unwrap();
    assert!(matches!(bench.open(), Err(SealError::Missing { .. })));
    drop(bench.create().unwrap());
    bench.open().unwrap();
    assert!(!bench.directory.path().join("slots.new").exists());
}

#[test]
fn erasing_leaves_nothing_of_the_wrapping_key() {
    let bench = Bench::with_records(3);
    let mut slots = bench.open().unwrap();
    let key = slots.get(record(1)).unwrap();
    let sealed = seal_record(&key, b"aad", b"a share", &mut OsRng).unwrap();
    let before = bench.bytes();

    slots.erase(record(1)).unwrap();
    assert!(slots.get(record(1)).is_none());
    drop(slots);
    let after = bench.bytes();

    // Neither image shows the key as such; of its two sealed copies not even a piece is left.
    for image in [&before, &after] {
        assert!(!contains(image, key.secret().expose()));
    }
    for side in Side::BOTH {
        let old = &before[range(side, 1)];
        for piece in old[8..].chunks_exact(12) {
            assert!(contains(&before, piece));
            assert!(!contains(&after, piece));
        }
    }
    // Nothing else changed.
    let mut changed: Vec<usize> = (0..before.len()).filter(|&at| before[at] != after[at]).collect();
    changed.retain(|at| !range(Side::A, 1).contains(at) && !range(Side::B, 1).contains(at));
    assert!(changed.is_empty());

    // Everything that can be unsealed from the file now, tried against the old record.
    let mut slots = bench.open().unwrap();
    assert!(slots.get(record(1)).is_none());
    slots.write(record(1), &mut OsRng).unwrap();
    for number in 0..3 {
        let other = slots.get(record(number)).unwrap();
        assert!(matches!(open_record(&other, b"aad", &sealed), Err(SealError::RecordUnreadable)));
    }
    assert_eq!(open_record(&key, b"aad", &sealed).unwrap().as_slice(), b"a share");
}

#[test]
fn erasing_twice_and_erasing_the_unknown_change_nothing() {
    let bench = Bench::with_records(2);
    let mut slots = bench.open().unwrap();
    slots.erase(record(0)).unwrap();
    let before = bench.bytes();
    slots.erase(record(0)).unwrap();
    slots.erase(record(9)).unwrap();
    assert_eq!(bench.bytes(), before);
    assert_eq!(slots.records().collect::<Vec<_>>(), [record(1)]);
}

#[test]
fn one_torn_side_is_repaired_from_the_other() {
    for torn in Side::BOTH {
        let bench = Bench::with_records(3);
        let key = key_bytes(&bench.open().unwrap(), record(1));
        bench.damage(torn, 1);
        bench.damage(torn, 200);
        let slots = bench.open().unwrap();
        assert_eq!(key_bytes(&slots, record(1)), key);
        assert_eq!(slots.records().count(), 3);
        drop(slots);
        assert_both_sides_equal(&bench);
    }
}

#[test]
fn two_torn_sides_are_an_error_that_names_the_slot() {
    let bench = Bench::with_records(3);
    for side in Side::BOTH {
        bench.damage(side, 2);
    }
    let before = bench.bytes();
    let error = bench.open().unwrap_err();
    assert!(matches!(error, SealError::SlotUnreadable { slot: 2, .. }));
    let text = error.to_string();
    assert!(text.contains("slot 2") && text.contains(&bench.path.display().to_string()), "{text}");
    assert_eq!(bench.bytes(), before);
}

#[test]
fn a_crash_between_the_sides_keeps_the_newer_one() {
    let bench = Bench::with_records(1);
    let old = bench.bytes();
    let mut slots = bench.open().unwrap();
    slots.erase(record(0)).unwrap();
    drop(slots);
    let erased = bench.bytes();

    // Side A of the erasure reached the disk, side B did not; and the other way round, which a rolled-back
    // block could bring about. An erased slot never comes back to life.
    for side in Side::BOTH {
        fs::write(&bench.path, &erased).unwrap();
        bench.put(side.slot_offset(0), &old[range(side, 0)]);
        assert!(bench.open().unwrap().get(record(0)).is_none(), "{side:?}");
        assert!(!contains(&bench.bytes(), &old[range(side, 0)]), "{side:?}");
        assert_both_sides_equal(&bench);
    }
}

#[test]
fn an_erasure_torn_on_its_first_side_did_not_happen_and_can_be_repeated() {
    let bench = Bench::with_records(1);
    let key = key_bytes(&bench.open().unwrap(), record(0));
    bench.damage(Side::A, 0);
    let mut slots = bench.open().unwrap();
    assert_eq!(key_bytes(&slots, record(0)), key);
    slots.erase(record(0)).unwrap();
    drop(slots);
    assert!(bench.open().unwrap().get(record(0)).is_none());
    assert_both_sides_equal(&bench);
}

#[test]
fn slots_that_changed_places_are_refused() {
    let bench = Bench::with_records(2);
    let bytes = bench.bytes();
    for side in Side::BOTH {
        bench.put(side.slot_offset(0), &bytes[range(side, 1)]);
        bench.put(side.slot_offset(1), &bytes[range(side, 0)]);
    }
    assert!(matches!(bench.open(), Err(SealError::SlotUnreadable { slot: 0, .. })));

    // The two sides of one slot exchanged.
    fs::write(&bench.path, &bytes).unwrap();
    bench.put(Side::A.slot_offset(0), &bytes[range(Side::B, 0)]);
    bench.put(Side::B.slot_offset(0), &bytes[range(Side::A, 0)]);
    assert!(matches!(bench.open(), Err(SealError::SlotUnreadable { slot: 0, .. })));
}

#[test]
fn pieces_of_two_histories_are_refused() {
    let bench = Bench::with_records(0);
    let empty = bench.bytes();
    let mut slots = bench.open().unwrap();
    slots.write(record(1), &mut OsRng).unwrap();
    drop(slots);
    let one_history = bench.bytes();
    fs::write(&bench.path, &empty).unwrap();
    let mut slots = bench.open().unwrap();
    slots.write(record(2), &mut OsRng).unwrap();
    drop(slots);

    bench.put(Side::B.slot_offset(0), &one_history[range(Side::B, 0)]);
    assert!(matches!(bench.open(), Err(SealError::SlotContradiction { slot: 0, .. })));
}

#[test]
fn another_seal_key_node_or_cluster_is_refused_and_changes_nothing() {
    let bench = Bench::with_records(2);
    let before = bench.bytes();
    let other = KeyFile::at(bench.directory.path().join("other.key")).create(&mut OsRng).unwrap();
    let error = SlotFile::open(&bench.path, &other, CLUSTER, NODE).unwrap_err();
    assert!(matches!(error, SealError::WrongSealKey { .. }));
    let text = error.to_string();
    assert!(text.contains(&bench.path.display().to_string()) && text.contains("key file or passphrase"), "{text}");

    let other_node = SlotFile::open(&bench.path, &bench.seal, CLUSTER, NODE + 1);
    assert!(matches!(other_node, Err(SealError::SlotFileForeign { node: NODE, .. })));
    let other_cluster = SlotFile::open(&bench.path, &other, [0xc2; 32], NODE);
    assert!(matches!(other_cluster, Err(SealError::SlotFileForeign { .. })));
    assert_eq!(bench.bytes(), before);
}

#[test]
fn a_damaged_header_is_repaired_and_a_newer_format_refused() {
    let bench = Bench::with_records(1);
    let good = bench.bytes();
    for side in Side::BOTH {
        bench.put(side.header_offset() + 45, &[0xff; 4]);
        assert_eq!(bench.open().unwrap().records().count(), 1);
        assert_eq!(bench.bytes(), good, "{side:?}");
    }
    for side in Side::BOTH {
        bench.put(side.header_offset() + 45, &[0xff; 4]);
    }
    assert!(matches!(bench.open(), Err(SealError::SlotFileDamaged { .. })));

    fs::write(&bench.path, &good).unwrap();
    for side in Side::BOTH {
        bench.put(side.header_offset() + 8, &2_u16.to_be_bytes());
    }
    let newer = bench.bytes();
    assert!(matches!(bench.open(), Err(SealError::UnsupportedFormat { found: 2, .. })));
    assert_eq!(bench.bytes(), newer);
}

#[test]
fn the_file_grows_and_uses_freed_slots_again() {
    let bench = Bench::new();
    let mut slots = bench.create().unwrap();
    let small = bench.bytes().len();
    let id = |number: u32| -> RecordId {
        let mut id = [0; 32];
        id[..4].copy_from_slice(&number.to_be_bytes());
        id
    };
    let keys: Vec<_> =
        (0..SLOTS_PER_SEGMENT).map(|number| *slots.write(id(number), &mut OsRng).unwrap().secret().expose()).collect();
    assert_eq!(bench.bytes().len(), small);
    let full = bench.bytes();

    slots.write(id(1000), &mut OsRng).unwrap();
    assert_eq!(bench.bytes().len(), small + 2 * REGION_LEN);
    slots.erase(id(7)).unwrap();
    slots.write(id(1001), &mut OsRng).unwrap();
    assert_eq!(bench.bytes().len(), small + 2 * REGION_LEN);
    drop(slots);

    let slots = bench.open().unwrap();
    assert_eq!(slots.records().count(), 257);
    for (number, key) in (0..).zip(&keys).filter(|(number, _)| *number != 7) {
        assert_eq!(key_bytes(&slots, id(number)), *key);
    }
    drop(slots);
    assert_both_sides_equal(&bench);

    // A crash before the header told of the new segment: it does not count, and growing works again.
    fs::write(&bench.path, full).unwrap();
    bench.put(Side::A.region_offset(1), &[0x5a; 5000]);
    let mut slots = bench.open().unwrap();
    assert_eq!(slots.records().count(), 256);
    slots.write(id(1000), &mut OsRng).unwrap();
    drop(slots);
    assert_eq!(bench.open().unwrap().records().count(), 257);
    assert_both_sides_equal(&bench);
}

#[test]
fn a_file_cut_short_is_refused() {
    let bench = Bench::with_records(1);
    let bytes = bench.bytes();
    fs::write(&bench.path, &bytes[..bytes.len() - SLOT_LEN]).unwrap();
    // Only side B of the last slot is gone: repaired.
    assert_eq!(bench.open().unwrap().records().count(), 1);
    assert_eq!(bench.bytes().len(), bytes.len());
    fs::write(&bench.path, &bytes[..range(Side::A, 100).start]).unwrap();
    assert!(matches!(bench.open(), Err(SealError::SlotUnreadable { slot: 100, .. })));
    fs::write(&bench.path, b"").unwrap();
    assert!(matches!(bench.open(), Err(SealError::SlotFileDamaged { .. })));
}

#[test]
fn the_sequence_number_survives_and_never_falls() {
    let bench = Bench::new();
    let mut slots = bench.create().unwrap();
    assert_eq!(slots.sequence(), 0);
    for value in [5, 6, 6, 1_000_000] {
        slots.set_sequence(value).unwrap();
    }
    let refused = slots.set_sequence(999_999);
    assert!(matches!(refused, Err(SealError::SequenceBackwards { stored: 1_000_000, asked: 999_999, .. })));
    drop(slots);
    let mut slots = bench.open().unwrap();
    assert_eq!(slots.sequence(), 1_000_000);
    slots.set_sequence(u64::MAX).unwrap();
    drop(slots);
    assert_eq!(bench.open().unwrap().sequence(), u64::MAX);
}

#[test]
fn a_torn_sequence_record_leaves_the_one_before() {
    let bench = Bench::new();
    let mut slots = bench.create().unwrap();
    slots.set_sequence(10).unwrap();
    slots.set_sequence(11).unwrap();
    let latest = Side::of_sequence(slots.sequence.generation);
    drop(slots);

    bench.put(latest.sequence_offset() + 20, &[0xff; 4]);
    let mut slots = bench.open().unwrap();
    assert_eq!(slots.sequence(), 10);
    slots.set_sequence(12).unwrap();
    drop(slots);
    assert_eq!(bench.open().unwrap().sequence(), 12);

    // A record moved to the other side does not count there.
    let bytes = bench.bytes();
    let a = usize::try_from(Side::A.sequence_offset()).unwrap();
    bench.put(Side::B.sequence_offset(), &bytes[a..a + PAGE_LEN]);
    bench.put(Side::A.sequence_offset(), &[0; PAGE_LEN]);
    assert!(matches!(bench.open(), Err(SealError::SequenceUnreadable { .. })));
}

#[test]
fn after_a_failed_write_everything_is_refused() {
    let bench = Bench::with_records(1);
    let mut slots = bench.open().unwrap();
    // A handle that cannot write stands in for a failing disk.
    slots.file = Arc::new(File::open(&bench.path).unwrap());
    assert!(matches!(slots.erase(record(0)), Err(SealError::Io { action: "write", .. })));
    slots.file = Arc::new(OpenOptions::new().read(true).write(true).open(&bench.path).unwrap());
    assert!(matches!(slots.erase(record(0)), Err(SealError::SlotFileStopped { .. })));
    assert!(matches!(slots.write(record(5), &mut OsRng), Err(SealError::SlotFileStopped { .. })));
    assert!(matches!(slots.set_sequence(1), Err(SealError::SlotFileStopped { .. })));
    drop(slots);
    let mut slots = bench.open().unwrap();
    assert!(slots.get(record(0)).is_some(), "it was not erased");
    slots.erase(record(0)).unwrap();
}

/// A crash may come before the changes, or after side A of all of them; the last change of a slot counts.
#[test]
fn changes_that_share_their_syncs_are_all_there_or_each_as_before() {
    let bench = Bench::with_records(3);
    let mut slots = bench.open().unwrap();
    let kept = key_bytes(&slots, record(2));
    let before = bench.bytes();
    slots.remove(record(0)).unwrap();
    let added = *slots.add(record(7), &mut OsRng).unwrap().secret().expose();
    slots.remove(record(1)).unwrap();
    assert!(slots.get(record(0)).is_none() && key_bytes(&slots, record(7)) == added, "at once in memory");
    assert!(bench.bytes() == before, "written too early");
    slots.flush().unwrap();
    let after = bench.bytes();
    drop(slots);

    // Side A of every slot is new, side B is not.
    let mut halfway = before.clone();
    for position in 0..3 {
        halfway[range(Side::A, position)].copy_from_slice(&after[range(Side::A, position)]);
    }
    for bytes in [after, halfway] {
        fs::write(&bench.path, bytes).unwrap();
        let slots = bench.open().unwrap();
        assert_eq!(slots.records().collect::<Vec<_>>(), [record(2), record(7)]);
        assert_eq!((key_bytes(&slots, record(2)), key_bytes(&slots, record(7))), (kept, added));
    }
    fs::write(&bench.path, before).unwrap();
    assert_eq!(bench.open().unwrap().records().collect::<Vec<_>>(), [record(0), record(1), record(2)]);
}

#[test]
fn debug_shows_no_secret() {
    let bench = Bench::with_records(1);
    let text = format!("{:?}", bench.open().unwrap());
    assert!(text.contains("used: 1") && !text.contains("key"), "{text}");
}
