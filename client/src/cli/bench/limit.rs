//! The limit that cryptography sets on this machine: `frost-crate-loop-v1`.
//!
//! Signatures in a tight loop with the frost crate, in one process and without a network, a disk or a log, on every core.
//! All holders' work is counted, as if each were its own node and one of them coordinated: t commitments, those of the others
//! encoded and decoded, the signing package encoded once and decoded by each of the others, t shares, the others' shares
//! encoded and decoded, one aggregation, which verifies the signature. The key comes from a distributed key generation in the
//! process, is never joined and never stored.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use frost_ed25519::keys::{KeyPackage, PublicKeyPackage, dkg};
use frost_ed25519::round1::SigningCommitments;
use frost_ed25519::round2::SignatureShare;
use frost_ed25519::{Error, Identifier, SigningPackage, aggregate, round1, round2};
use rand_core::{OsRng, RngCore as _};

use super::cores;

/// Name of this way to measure; another way gets another name.
pub(crate) const METHOD: &str = "frost-crate-loop-v1";
/// How long the loop runs.
const LOOP: Duration = Duration::from_secs(2);

/// A key of the loop.
pub(super) struct Group {
    /// The t that sign; the first of them coordinates.
    pub(super) signers: BTreeMap<Identifier, KeyPackage>,
    pub(super) public: PublicKeyPackage,
}

/// Signatures per second on all cores together.
pub(crate) fn per_second(t: u16, n: u16) -> Result<f64, Error> {
    let group = generate(t, n)?;
    on_all_cores(|message| sign(&group, message))
}

/// Does the work of one signature again and again on every core, each time for another message: how often per second.
pub(super) fn on_all_cores<T, E: Send>(work: impl Fn(&[u8]) -> Result<T, E> + Sync) -> Result<f64, E> {
    let started = Instant::now();
    let until = || {
        let (mut message, mut count) = ([0; 32], 0);
        while started.elapsed() < LOOP {
            OsRng.fill_bytes(&mut message);
            work(&message)?;
            count += 1;
        }
        Ok(count)
    };
    let counts = std::thread::scope(|scope| {
        let loops: Vec<_> = (0..cores()).map(|_| scope.spawn(until)).collect();
        loops.into_iter().map(|one| one.join().unwrap_or(Ok(0))).collect::<Result<Vec<u32>, E>>()
    })?;
    let seconds = started.elapsed().as_secs_f64();
    Ok(counts.into_iter().map(f64::from).sum::<f64>() / seconds)
}

/// One signature with everybody's work.
fn sign(group: &Group, message: &[u8]) -> Result<frost_ed25519::Signature, Error> {
    let coordinator = group.signers.keys().next();
    let (mut nonces, mut commitments) = (BTreeMap::new(), BTreeMap::new());
    for (id, key) in &group.signers {
        let (nonce, commitment) = round1::commit(key.signing_share(), &mut OsRng);
        let seen = if coordinator == Some(id) {
            commitment
        } else {
            SigningCommitments::deserialize(&commitment.serialize()?)?
        };
        nonces.insert(*id, nonce);
        commitments.insert(*id, seen);
    }
    let package = SigningPackage::new(commitments, message);
    let bytes = package.serialize()?;
    let mut shares = BTreeMap::new();
    for (id, key) in &group.signers {
        let Some(nonce) = nonces.remove(id) else { continue };
        let share = if coordinator == Some(id) {
            round2::sign(&package, &nonce, key)?
        } else {
            let share = round2::sign(&SigningPackage::deserialize(&bytes)?, &nonce, key)?;
            SignatureShare::deserialize(&share.serialize())?
        };
        shares.insert(*id, share);
    }
    aggregate(&package, &shares, &group.public)
}

/// A distributed key generation among n in one process.
pub(super) fn generate(t: u16, n: u16) -> Result<Group, Error> {
    let ids = (1..=n).map(Identifier::try_from).collect::<Result<Vec<_>, _>>()?;
    let (mut secrets, mut round1) = (BTreeMap::new(), BTreeMap::new());
    for id in &ids {
        let (secret, package) = dkg::part1(*id, n, t, OsRng)?;
        secrets.insert(*id, secret);
        round1.insert(*id, package);
    }
    let (mut dealt, mut received) = (BTreeMap::new(), BTreeMap::<Identifier, BTreeMap<_, _>>::new());
    for (id, secret) in secrets {
        let (secret, packages) = dkg::part2(secret, &without(&round1, id))?;
        dealt.insert(id, secret);
        for (to, package) in packages {
            received.entry(to).or_default().insert(id, package);
        }
    }
    let (mut signers, mut public) = (BTreeMap::new(), None);
    for (id, secret) in &dealt {
        let round2 = received.remove(id).unwrap_or_default();
        let (key, group) = dkg::part3(secret, &without(&round1, *id), &round2)?;
        if signers.len() < usize::from(t) {
            signers.insert(*id, key);
        }
        public = Some(group);
    }
    public.map(|public| Group { signers, public }).ok_or(Error::InvalidMinSigners)
}

fn without<T: Clone>(all: &BTreeMap<Identifier, T>, own: Identifier) -> BTreeMap<Identifier, T> {
    all.iter().filter(|(id, _)| **id != own).map(|(id, item)| (*id, item.clone())).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_loop_makes_good_signatures() {
        for (t, n) in [(2, 3), (3, 5), (2, 2)] {
            let group = generate(t, n).unwrap();
            assert_eq!(group.signers.len(), usize::from(t));
            let signature = sign(&group, b"message").unwrap();
            assert!(group.public.verifying_key().verify(b"message", &signature).is_ok());
        }
        assert!(generate(4, 3).is_err());
    }
}
