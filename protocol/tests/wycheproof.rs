//! Signature verification against the vectors of project Wycheproof: what every authorisation stands on.
#![allow(clippy::unwrap_used, reason = "tests")]

use symbolon_protocol::identity::{PublicKey, Signature};
use wycheproof::TestResult;
use wycheproof::eddsa::{TestName, TestSet};

#[test]
fn ed25519_verification_agrees_with_wycheproof() {
    let set = TestSet::load(TestName::Ed25519).unwrap();
    let (mut valid, mut invalid) = (0, 0);
    for group in set.test_groups {
        let key = PublicKey::from_bytes(group.key.pk.as_slice().try_into().unwrap()).unwrap();
        for test in group.tests {
            let signature = <[u8; 64]>::try_from(test.sig.as_slice()).ok().map(Signature::from_bytes);
            let accepted = signature.is_some_and(|signature| key.verifies_raw(&test.msg, &signature));
            match test.result {
                TestResult::Valid => {
                    assert!(accepted, "case {}: {}", test.tc_id, test.comment);
                    valid += 1;
                }
                TestResult::Invalid => {
                    assert!(!accepted, "case {}: {}", test.tc_id, test.comment);
                    invalid += 1;
                }
                // Either is right.
                TestResult::Acceptable => {}
            }
        }
    }
    assert!(valid > 50 && invalid > 50, "{valid} valid and {invalid} invalid cases");
}

#[test]
fn keys_and_signatures_of_small_order_are_refused() {
    // The eight points of small order (RFC 7748 coordinates on the Edwards curve), canonical encodings.
    let small = [
        "0100000000000000000000000000000000000000000000000000000000000000",
        "0000000000000000000000000000000000000000000000000000000000000000",
        "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
        "0000000000000000000000000000000000000000000000000000000000000080",
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    ];
    for text in small {
        assert!(text.parse::<PublicKey>().is_err(), "{text}");
    }
    // y = 1 written as p + 1: another encoding of the same point.
    assert!("eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f".parse::<PublicKey>().is_err());
}
