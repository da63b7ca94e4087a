//! What shares of two epochs together say: nothing, below each threshold; and they never sign together.

use rand_core::RngCore as _;

use super::whole_runs::signs;
use super::*;

/// One redistribution by hand: what each dealer drew, and the new shares.
struct Moved {
    old: Key,
    new: Key,
}

fn moved(seed: u64) -> Moved {
    let old = Key::new(&[1, 2, 3, 4, 5], 3, seed);
    let ceremony = old.refresh();
    let mut rng = ChaCha20Rng::seed_from_u64(seed + 1);
    let polys: Vec<(u16, Poly)> = [1, 2, 4].map(|i| (i, old.dealing(i, &ceremony, &mut rng))).to_vec();
    let mut log = Log::new(old, ceremony.clone());
    for (i, poly) in &polys {
        log.take(&dealt(&ceremony, *i, poly.commitments())).unwrap();
    }
    for i in 1..=5 {
        log.take(&acknowledged(&ceremony, i, &[1, 2, 4], &[])).unwrap();
    }
    let core = log.dealings.result.unwrap().core;
    let threshold = log.key.core.threshold;
    let share = |i: &NodeId| {
        let subshares: Vec<_> =
            polys.iter().map(|(d, poly)| (node(*d), ShareSecret::new(poly.at(*i).as_bytes()))).collect();
        let list: Vec<_> = subshares.iter().map(|(d, share)| (*d, share)).collect();
        (*i, bridge::combine(&list, threshold).unwrap())
    };
    let shares: BTreeMap<_, _> = core.holders.iter().map(share).collect();
    for (i, share) in &shares {
        assert_eq!(share.verifying_share().as_ref(), core.verifying_share(*i));
    }
    Moved { old: log.key, new: Key { core, shares } }
}

/// Every mix of old and new shares that is as large as the threshold: no signature. Shares of one epoch sign, since the key is the
/// same, whichever epoch's verifying shares they are checked with in the end.
#[test]
fn old_and_new_shares_together_sign_nothing() {
    let Moved { old, new } = moved(3);
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let all = nodes(&[1, 2, 3, 4, 5]);
    for chosen in (0u8..32).filter(|set| set.count_ones() == 3) {
        let members: Vec<NodeId> = all.iter().copied().filter(|i| chosen >> (i.get() - 1) & 1 == 1).collect();
        for mix in 0u8..8 {
            let pick =
                |(at, i): (usize, &NodeId)| (*i, if mix >> at & 1 == 1 { &new.shares[i] } else { &old.shares[i] });
            let signers: Vec<_> = members.iter().enumerate().map(pick).collect();
            let of_one_epoch = mix == 0 || mix == 7;
            for core in [&old.core, &new.core] {
                assert_eq!(signs(core, &signers, &mut rng), of_one_epoch, "{members:?} {mix:03b}");
            }
            // Nor do they interpolate to the key's secret.
            let sum = bridge::combine(&signers, old.core.threshold).unwrap();
            assert_eq!(sum.verifying_share() == Some(old.core.public_key), of_one_epoch);
        }
    }
}

/// The rank of rows, by elimination.
fn rank(mut rows: Vec<Vec<Scalar>>) -> usize {
    let width = rows.first().map_or(0, Vec::len);
    let mut rank = 0;
    for column in 0..width {
        let Some(pivot) = (rank..rows.len()).find(|row| rows[*row][column] != Scalar::ZERO) else { continue };
        rows.swap(rank, pivot);
        let scale = rows[rank][column].invert();
        let above = rows[rank].clone();
        for row in rows.iter_mut().skip(rank + 1) {
            let factor = row[column] * scale;
            row.iter_mut().zip(&above).for_each(|(cell, above)| *cell -= factor * above);
        }
        rank += 1;
    }
    rank
}

/// What evil nodes know, as linear equations in everything that was drawn at random: the coefficients of the old polynomial, and
/// those of each dealer's polynomial but for its constant term, which is the dealer's old share.
struct Knowledge {
    t: usize,
    new_t: usize,
    dealers: Vec<u16>,
    rows: Vec<Vec<Scalar>>,
}

impl Knowledge {
    fn powers(x: u16, count: usize) -> impl Iterator<Item = Scalar> {
        std::iter::successors(Some(Scalar::ONE), move |power| Some(power * Scalar::from(x))).take(count)
    }

    fn zeros(&self) -> Vec<Scalar> {
        vec![Scalar::ZERO; self.t + self.dealers.len() * (self.new_t - 1)]
    }

    fn old_share(&self, of: u16) -> Vec<Scalar> {
        let mut row = self.zeros();
        row.iter_mut().zip(Self::powers(of, self.t)).for_each(|(cell, power)| *cell = power);
        row
    }

    /// What the dealer at a place gives to a new holder.
    fn subshare(&self, place: usize, to: u16) -> Vec<Scalar> {
        let mut row = self.old_share(self.dealers[place]);
        let own = self.t + place * (self.new_t - 1);
        let powers = Self::powers(to, self.new_t).skip(1);
        row[own..].iter_mut().zip(powers).for_each(|(cell, power)| *cell = power);
        row
    }

    /// An evil old holder knows its share, and all that it drew if it dealt.
    fn corrupt_old(&mut self, i: u16) {
        self.rows.push(self.old_share(i));
        if let Some(place) = self.dealers.iter().position(|dealer| *dealer == i) {
            for k in 0..self.new_t - 1 {
                let mut row = self.zeros();
                row[self.t + place * (self.new_t - 1) + k] = Scalar::ONE;
                self.rows.push(row);
            }
        }
    }

    /// An evil new holder knows what every dealer gave it.
    fn corrupt_new(&mut self, i: u16) {
        for place in 0..self.dealers.len() {
            self.rows.push(self.subshare(place, i));
        }
    }

    /// Whether the key follows from what is known. When it does not, every key is equally likely.
    fn tells_the_key(&self) -> bool {
        let mut secret = self.zeros();
        secret[0] = Scalar::ONE;
        let mut rows = self.rows.clone();
        let without = rank(rows.clone());
        rows.push(secret);
        rank(rows) == without
    }
}

proptest! {
    /// t-1 old holders, some of whom deal, and t'-1 new ones, the same or others: all they know says nothing about the key. One
    /// more of either says everything, so the test can tell.
    #[test]
    fn fewer_than_each_threshold_know_nothing(seed: u64, t in 2usize..5, new_t in 2usize..5) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut draw = |count: usize, from: u16| {
            let mut set = BTreeSet::new();
            while set.len() < count {
                set.insert(from + u16::try_from(rng.next_u32() % 9).unwrap());
            }
            let mut list: Vec<u16> = set.into_iter().collect();
            let turn = rng.next_u32() as usize % list.len();
            list.rotate_left(turn);
            list
        };
        let old_roster = draw(2 * t - 1, 1);
        // Overlapping in part.
        let new_roster = draw(2 * new_t - 1, 4);
        let dealers = old_roster[..t].to_vec();
        let mut known = Knowledge { t, new_t, dealers, rows: Vec::new() };
        for i in old_roster.iter().rev().take(t - 1) {
            known.corrupt_old(*i);
        }
        for i in new_roster.iter().take(new_t - 1) {
            known.corrupt_new(*i);
        }
        prop_assert!(!known.tells_the_key());
        let rows = known.rows.clone();
        known.corrupt_old(old_roster[t - 1]);
        let one_more_old = known.tells_the_key();
        known.rows = rows;
        known.corrupt_new(new_roster[new_t - 1]);
        prop_assert_eq!((one_more_old, known.tells_the_key()), (true, true));
    }
}
