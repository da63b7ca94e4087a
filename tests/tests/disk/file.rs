//! Files that are cut, changed, exchanged or gone.

use std::fs;
use std::path::{Path, PathBuf};

use symbolon_tests::hurt::{check_store, copy, cut, files, flip_bit, log_records};
use symbolon_tests::{Cluster, PATIENCE, Random, assert_signs, eventually, wait_until};

use super::{assert_others_sign, cluster, doctor};

/// Records at the end of a log that are cut off one after the other.
const RECORDS: usize = 40;
/// Cuts in the middle of records.
const MIDDLES: usize = 25;

const LOST: &str = "lost its tail";

/// The newest write-ahead log of a node.
fn newest_log(directory: &Path) -> PathBuf {
    files(&directory.join("store"), "", ".log").pop().unwrap()
}

/// The last write that the node knows to be durable.
fn synced(directory: &Path) -> u64 {
    let mark = fs::read(directory.join("store.synced")).unwrap();
    u64::from_be_bytes(*mark.first_chunk().unwrap())
}

#[track_caller]
fn assert_refused(cluster: &mut Cluster, said: &str) {
    let before = cluster.log(3).matches(said).count();
    cluster.start_node(3);
    let ended = eventually("the node to refuse its store", PATIENCE, || cluster.ended(3));
    assert!(ended.code() == Some(1), "{ended}");
    assert!(cluster.log(3).matches(said).count() > before, "it does not say `{said}`");
}

#[test]
fn a_log_that_ends_too_early_is_noticed() {
    let (mut cluster, two, three) = cluster();
    // A second start: what was written before lies in tables, and the log is new.
    cluster.stop(3);
    cluster.start_node(3);
    cluster.wait_ready();
    let mut last = String::new();
    for _ in 0..8 {
        let answer = assert_signs(cluster.cli(), "three", &three, b"with a record on every holder");
        last = answer["request_id"].as_str().unwrap().to_owned();
    }
    cluster.kill(3);

    let (directory, hurt) = (cluster.node_directory(3), cluster.scratch("hurt"));
    copy(&directory, &hurt);
    let log = newest_log(&hurt);
    let (whole, records, synced) = (fs::read(&log).unwrap(), log_records(&log), synced(&hurt));
    // The record of the share that left last is among what counts as synced, or the cuts below mean nothing.
    let id = hex::decode(&last).unwrap();
    let share = records.iter().rfind(|record| record.bytes.windows(id.len()).any(|part| part == id)).unwrap();
    assert!(share.last_write() <= synced, "a share left, and its record is not known to be durable");
    check_store(&hurt).exits(0);

    let mut random = Random::from_environment("cut logs");
    let mut ends: Vec<u64> = records.iter().rev().take(RECORDS).map(|record| record.begin).collect();
    ends.extend((0..MIDDLES).map(|_| {
        let record = &records[usize::try_from(random.below(records.len() as u64)).unwrap()];
        record.begin + 1 + random.below(record.end - record.begin - 1)
    }));
    ends.sort_unstable();
    let (mut refused, mut opened) = (0, 0);
    for end in ends.into_iter().rev() {
        cut(&log, end);
        let left = records.iter().rfind(|record| record.end <= end).map_or(0, |record| record.last_write());
        let output = check_store(&hurt);
        if left >= synced {
            assert_eq!(output.code, 0, "cut at {end}, which loses nothing that was synced: {output}");
            opened += 1;
        } else {
            assert_eq!(output.code, 1, "cut at {end}, write {left} of {synced} left, and nobody notices: {output}");
            assert!(output.stderr.contains(LOST) && output.stderr.contains("symbolon member replace"), "{output}");
            refused += 1;
        }
    }
    symbolon_tests::say(&format!("cut logs: {refused} refused, {opened} opened"));
    assert!(refused > 0, "{refused} refused, {opened} opened");

    // A record that was being written when the lights went out was never acknowledged.
    let mut torn = whole.clone();
    torn.extend_from_slice(&whole[..32.min(whole.len())]);
    fs::write(&log, &torn).unwrap();
    check_store(&hurt).exits(0);

    // The node itself, as often as it is tried, and the others without it.
    let log = newest_log(&directory);
    cut(&log, share.begin);
    for _ in 0..2 {
        assert_refused(&mut cluster, LOST);
    }
    assert_others_sign(&cluster, &two);
}

#[test]
fn a_log_that_ends_in_a_torn_record_opens() {
    let (mut cluster, _, three) = cluster();
    cluster.kill(3);
    let log = newest_log(&cluster.node_directory(3));
    let whole = fs::read(&log).unwrap();
    fs::write(&log, [whole.as_slice(), &whole[..40]].concat()).unwrap();
    cluster.start_node(3);
    cluster.wait_ready();
    wait_until("all three to sign", PATIENCE, || cluster.cli().sign("three", b"x").code == 0);
    assert_signs(cluster.cli(), "three", &three, b"nothing was lost");
}

/// What a disk changed by itself is refused, with what to do about it.
#[test]
fn a_log_that_is_hurt_in_its_middle_is_refused() {
    let (mut cluster, two, _) = cluster();
    cluster.kill(3);
    let log = newest_log(&cluster.node_directory(3));
    let records = log_records(&log);
    flip_bit(&log, (records[records.len() / 2].begin + 20) * 8);
    assert_refused(&mut cluster, "Corruption");
    assert!(cluster.log(3).contains("symbolon member replace"), "it does not say what to do");
    assert_others_sign(&cluster, &two);
}

#[test]
fn a_slot_file_that_is_not_the_one_is_refused_or_healed() {
    let (mut cluster, two, three) = cluster();
    let directory = cluster.node_directory(3);
    let (slots, yesterday, today) = (directory.join("slots"), cluster.scratch("yesterday"), cluster.scratch("today"));
    cluster.stop(3);
    fs::copy(&slots, &yesterday).unwrap();
    cluster.start_node(3);
    cluster.wait_ready();
    cluster.cli().ok(&["key", "create", "later", "--threshold", "3"]);
    cluster.stop(3);
    fs::copy(&slots, &today).unwrap();

    let length = fs::metadata(&slots).unwrap().len();
    for short in [0, 100, 4096, 8192, 12_288, 16_384, 16_384 + 1000, length / 2, length - 1] {
        fs::copy(&today, &slots).unwrap();
        cut(&slots, short);
        let output = check_store(&directory);
        // The last byte is of a free slot that the other copy repairs.
        assert_eq!(output.code, i32::from(short != length - 1), "cut to {short} of {length} bytes: {output}");
        assert!(output.code == 0 || output.stderr.contains("slots"), "{output}");
    }
    fs::copy(cluster.node_directory(2).join("slots"), &slots).unwrap();
    assert!(check_store(&directory).exits(1).stderr.contains("slots"), "a slot file of another node");
    fs::remove_file(&slots).unwrap();
    assert!(check_store(&directory).exits(1).stderr.contains("slots"), "no slot file");
    assert_refused(&mut cluster, "slots");
    assert_others_sign(&cluster, &two);

    // Yesterday's knows nothing of a share that came later: named before the start, and found by `doctor` after it.
    fs::copy(&yesterday, &slots).unwrap();
    let output = check_store(&directory).exits(1);
    assert!(output.stderr.contains("1 of 3 shares cannot be opened"), "{output}");
    cluster.start_node(3);
    cluster.wait_ready();
    wait_until("the two old keys to sign", PATIENCE, || cluster.cli().sign("three", b"x").code == 0);
    assert_signs(cluster.cli(), "three", &three, b"with a slot that yesterday's file has");
    assert!(cluster.cli().sign("later", b"x").code == 4, "a share without its slot signed");
    let shares = doctor(&cluster, 3, "shares").unwrap();
    assert!(shares["level"] == "failure" && shares["detail"].as_str().unwrap().contains("later"), "{shares}");
}
