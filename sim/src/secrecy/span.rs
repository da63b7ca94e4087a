//! Linear algebra of the rank test: sparse rows over a prime field, and what they span.
//!
//! The numbers in the rows are powers of node numbers and Lagrange weights, all of them small fractions. Whether one row follows
//! from others is the same over every field whose prime divides none of the determinants that they make, so a prime of one
//! machine word stands here for the order of the curve.

use std::collections::BTreeMap;

/// The Mersenne prime 2^61 - 1.
const PRIME: u64 = (1 << 61) - 1;

/// A linear combination of unknowns: number of the unknown, factor (never 0).
pub(crate) type Row = BTreeMap<u32, u64>;

fn times(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b) % u128::from(PRIME);
    u64::try_from(product).unwrap_or(0)
}

fn power(base: u64, mut exponent: u64) -> u64 {
    let (mut square, mut result) = (base % PRIME, 1);
    while exponent > 0 {
        if exponent & 1 == 1 {
            result = times(result, square);
        }
        square = times(square, square);
        exponent >>= 1;
    }
    result
}

/// The inverse, by Fermat; 0 of 0.
fn inverse(a: u64) -> u64 {
    power(a, PRIME - 2)
}

/// Adds a multiple of a row to another one.
pub(crate) fn add(to: &mut Row, row: &Row, factor: u64) {
    for (unknown, value) in row {
        let sum = to.get(unknown).map_or(0, |old| *old) + times(*value, factor);
        match sum % PRIME {
            0 => to.remove(unknown),
            sum => to.insert(*unknown, sum),
        };
    }
}

/// A polynomial with rows for coefficients, constant term first, at a place (Horner).
pub(crate) fn evaluate(coefficients: &[Row], at: u16) -> Row {
    coefficients.iter().rev().fold(Row::new(), |sum, coefficient| {
        let mut next = Row::new();
        add(&mut next, &sum, u64::from(at));
        add(&mut next, coefficient, 1);
        next
    })
}

/// The Lagrange weight at 0 of one place among others.
pub(crate) fn weight(place: u16, all: &[u16]) -> u64 {
    let others = all.iter().filter(|other| **other != place);
    others.fold(1, |weight, other| {
        let distance = (PRIME + u64::from(*other) - u64::from(place)) % PRIME;
        times(weight, times(u64::from(*other), inverse(distance)))
    })
}

/// Everything that follows from some rows, in echelon form.
#[derive(Debug, Clone, Default)]
pub(crate) struct Span {
    /// By the first unknown, whose factor is 1.
    basis: BTreeMap<u32, Row>,
}

impl Span {
    fn reduced(&self, row: &Row) -> Row {
        let mut row = row.clone();
        let mut from = 0;
        while let Some((unknown, value)) = row.range(from..).next().map(|(unknown, value)| (*unknown, *value)) {
            if let Some(pivot) = self.basis.get(&unknown) {
                add(&mut row, pivot, PRIME - value);
            }
            from = unknown + 1;
        }
        row
    }

    /// Adds a row.
    pub(crate) fn insert(&mut self, row: &Row) {
        let row = self.reduced(row);
        let Some((pivot, value)) = row.first_key_value().map(|(pivot, value)| (*pivot, *value)) else { return };
        let mut scaled = Row::new();
        add(&mut scaled, &row, inverse(value));
        self.basis.insert(pivot, scaled);
    }

    /// Whether a row follows from those that were added.
    pub(crate) fn contains(&self, row: &Row) -> bool {
        self.reduced(row).is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A line through two unknown coefficients: one point tells nothing of the constant term, two tell everything.
    #[test]
    fn two_points_tell_a_line_and_one_does_not() {
        let line = [Row::from([(0, 1)]), Row::from([(1, 1)])];
        let mut span = Span::default();
        span.insert(&evaluate(&line, 3));
        assert!(!span.contains(&Row::from([(0, 1)])));
        span.insert(&evaluate(&line, 5));
        assert!(span.contains(&Row::from([(0, 1)])));
    }

    #[test]
    fn the_weights_give_the_constant_term() {
        let cubic: Vec<Row> = (0..4).map(|k| Row::from([(k, 1)])).collect();
        let places = [2, 3, 5, 7];
        let mut sum = Row::new();
        for place in places {
            add(&mut sum, &evaluate(&cubic, place), weight(place, &places));
        }
        assert_eq!(sum, Row::from([(0, 1)]));
    }
}
