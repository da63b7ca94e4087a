//! The vectors of the specification, computed from it by another program (Python: hashlib, and edwards25519 on integers).

use super::*;
use crate::redistribute::vote::commitments_digest;

/// Scalars of a known polynomial.
fn poly(coefficients: &[u64]) -> Poly {
    Poly(coefficients.iter().copied().map(Scalar::from).collect())
}

/// The key with the polynomial 5 + 7x among nodes 1, 2 and 3; dealers 1 and 3 draw 12 + 11x and 26 + 13x for nodes 3, 2 and 1.
#[test]
fn known_digests() {
    let key = Key::of(&poly(&[5, 7]), &[1, 2, 3]);
    assert_eq!(encode(&key.core).len(), 279);
    assert_eq!(key.core.digest().to_string(), "1988377eb4e383d35e78b16e1df7793a9bfef38bd2989a71bf76008ba75c8c9a");
    let ceremony = key.moves(&[3, 2, 1], &[3, 2, 1], 2);
    let digest = ceremony.digest();
    assert_eq!(encode(&ceremony).len(), 189);
    assert_eq!(digest.to_string(), "5433d7b9179de40e091360049c097ff213626d5d7b6fa0a788567334b278bdb9");

    let (first, third) = (poly(&[12, 11]), poly(&[26, 13]));
    let bound = commitments_digest(&digest, node(1), &first.commitments());
    assert_eq!(bound.to_string(), "d42f076420ec23525e00aa113c15c85325cc51479233fdfaa395f3afa50c7ad4");
    let subshare = ShareSecret::new(first.at(node(2)).as_bytes());
    assert_eq!(subshare.expose()[0], 34);
    let message =
        SubshareMessage::sign(&key.core.cluster, digest, node(1), node(2), bound, &subshare, &identity(node(1)));
    assert_eq!(message.payload().len(), 100);
    assert_eq!(
        hex::encode(&message.payload()[68..]),
        "5a5e278f094303402c7214557477a6a236019a995a5015c6117f8b5cebf6693d"
    );
    let bytes = message.to_bytes();
    let layout = [&[1][..], digest.as_bytes(), &[0, 1, 0, 2], bound.as_bytes(), message.signature.as_bytes()].concat();
    assert_eq!(
        (&bytes[..133], &bytes[133..137], &bytes[137..]),
        (&layout[..], &[0, 0, 0, 32][..], &subshare.expose()[..])
    );

    let mut log = Log::new(key, ceremony.clone());
    log.take(&dealt(&ceremony, 1, first.commitments())).unwrap();
    log.take(&dealt(&ceremony, 3, third.commitments())).unwrap();
    for i in 1..=3 {
        log.take(&acknowledged(&ceremony, i, &[1, 3], &[])).unwrap();
    }
    let core = log.dealings.result.unwrap().core;
    assert_eq!(core.verifying_shares, [35u64, 25, 15].map(|share| point(&Scalar::from(share))));
    assert_eq!(core.transcript.to_string(), "c2df6df4d1a9e4b41f14adc73b838bd25b0de2ec1a066bda5922bc50ce44bea0");
    assert_eq!(core.digest().to_string(), "bc71d2022b4d4c002d3ce58a41c1e12583d0716947c080793d6fcea36d3c46ab");
}

#[test]
fn votes_have_the_layout_and_the_size_of_the_specification() {
    let roster: Vec<u16> = (1..=15).collect();
    let key = Key::new(&roster, 15, 1);
    let ceremony = key.refresh();
    let deal = encode(&dealt(&ceremony, 1, vec![[9; 32]; 15]));
    let head = |tag: u8| [&[1, tag, 0, 1][..], ceremony.operation.as_bytes(), &[0, 0, 0, 2]].concat();
    assert_eq!((deal.len(), &deal[..40]), (588, &head(1)[..]));
    let word = encode(&acknowledged(&ceremony, 1, &roster[..7], &roster[7..]));
    assert_eq!((word.len(), &word[..40]), (142, &head(2)[..]));
    assert_eq!(word[40..46], [0, 0, 0, 7, 0, 1]);
    // What is signed begins with the digest of the attempt.
    let DealingVote::Dealt { signature, .. } = dealt(&ceremony, 1, vec![[9; 32]]) else { unreachable!() };
    let payload = [ceremony.digest().as_bytes(), &[0, 1, 0, 0, 0, 1][..], &[9; 32]].concat();
    let public = identity(node(1)).public();
    assert!(public.verifies(crate::identity::Domain::Dealing, &ceremony.cluster, &payload, &signature));
}

#[test]
fn no_vote_for_a_certificate_core_is_larger_than_the_specification_says() {
    let roster: Vec<u16> = (1..=15).collect();
    let name = Name::new(&"n".repeat(64)).unwrap();
    let core = Key::new(&roster, 15, 1).core;
    let core = CertificateCore { name, previous: Some(core.digest()), ..core };
    let possession = crate::pop::Pop { commitment: [0; 32], response: [0; 32] };
    let signature = crate::identity::Signature::from_bytes([0; 64]);
    let ready = crate::certificate::Ready { possession, signature };
    assert_eq!(encode(&Vote::Ready { node: node(1), core, ready }).len(), 931);
}
