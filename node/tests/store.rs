//! The RocksDB store: what was synced is there after a crash, and damage is refused, not skipped.
#![cfg(feature = "rocksdb")]
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::path::{Path, PathBuf};

use symbolon_node::store::rocks::RocksStore;
use symbolon_node::store::{Batch, COLUMNS, Change, Column, Store as _};
use symbolon_protocol::table::Tables as _;

fn write(store: &RocksStore, column: Column, key: &[u8], value: &[u8]) {
    let mut batch = Batch::default();
    batch.put(column, key.to_vec(), value.to_vec());
    store.write(batch).unwrap();
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for file in fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        fs::copy(file.path(), to.join(file.file_name())).unwrap();
    }
}

fn log_file(directory: &Path) -> PathBuf {
    let logs = fs::read_dir(directory).unwrap().map(|file| file.unwrap().path());
    logs.filter(|path| path.extension().is_some_and(|e| e == "log"))
        .max_by_key(|p| fs::metadata(p).unwrap().len())
        .unwrap()
}

/// A store with three writes, each synced before the next, as a crash would leave it: the length of the log after each.
async fn crashed(at: &Path) -> [u64; 3] {
    let store = RocksStore::open(at).unwrap();
    let mut lengths = [0; 3];
    for (number, length) in lengths.iter_mut().enumerate() {
        write(&store, COLUMNS[number].0, b"key", &[0xA0 + u8::try_from(number).unwrap(); 200]);
        store.sync().await.unwrap();
        *length = fs::metadata(log_file(at)).unwrap().len();
    }
    // Not synced: nobody was told that it is there.
    write(&store, Column::Private, b"late", b"x");
    copy(at, &at.with_extension("crashed"));
    lengths
}

#[tokio::test]
async fn every_synced_write_survives_wherever_the_tail_is_cut() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("store");
    let [first, second, third] = crashed(&original).await;
    assert!(0 < first && first < second && second < third);
    let crashed = original.with_extension("crashed");
    for cut in (second..=third).step_by(7).chain([third]) {
        let torn = directory.path().join(format!("cut{cut}"));
        copy(&crashed, &torn);
        fs::File::options().write(true).open(log_file(&torn)).unwrap().set_len(cut).unwrap();
        let store = RocksStore::open(&torn).unwrap();
        let has = |column| store.get(column, b"key").unwrap().is_some();
        assert!(has(COLUMNS[0].0) && has(COLUMNS[1].0), "cut at {cut}: a synced write is gone");
        assert_eq!(has(COLUMNS[2].0), cut == third, "cut at {cut}: a torn write is half there");
    }
}

#[tokio::test]
async fn a_damaged_log_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let original = directory.path().join("store");
    crashed(&original).await;
    let damaged = original.with_extension("crashed");
    let log = log_file(&damaged);
    let mut bytes = fs::read(&log).unwrap();
    let value = bytes.windows(8).position(|window| window == [0xA0; 8]).unwrap();
    bytes[value + 4] ^= 1;
    fs::write(&log, bytes).unwrap();
    let error = RocksStore::open(&damaged).err().unwrap().to_string();
    assert!(error.to_lowercase().contains("corruption"), "{error}");
}

#[tokio::test]
async fn a_view_does_not_move_and_ranges_go_as_one() {
    let directory = tempfile::tempdir().unwrap();
    let store = RocksStore::open(&directory.path().join("store")).unwrap();
    for key in [b"a1", b"a2", b"b1"] {
        write(&store, Column::State, key, b"before");
    }
    let view = store.view();
    store.write(Batch(vec![Change::RemoveRange(Column::State, b"a".to_vec(), b"b".to_vec())])).unwrap();
    write(&store, Column::State, b"b1", b"after");
    assert_eq!(view.scan(b"a", b"", 10).unwrap().len(), 2);
    assert_eq!(view.get(b"b1").unwrap().unwrap(), b"before");
    assert_eq!(store.scan(Column::State, b"a", b"", 10).unwrap().len(), 0);
    assert_eq!(store.scan(Column::State, b"", b"", 10).unwrap().len(), 1);
    assert_eq!(store.last(Column::State, b"b").unwrap().unwrap().1, b"after");
    assert_eq!(store.last(Column::State, b"a").unwrap(), None);
}
