//! Times of many calls, and their percentiles.

use std::time::Duration;

/// Times of calls.
#[derive(Debug, Default)]
pub(crate) struct Times {
    sorted: Vec<Duration>,
}

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self { sorted: times }
    }

    /// The time that `percent` of the calls did not exceed (nearest rank), milliseconds; zero without calls.
    pub(crate) fn percentile_ms(&self, percent: usize) -> f64 {
        let rank = (self.sorted.len() * percent).div_ceil(100).max(1);
        self.sorted.get(rank - 1).copied().map_or(0.0, milliseconds)
    }

    /// The longest, milliseconds.
    pub(crate) fn max_ms(&self) -> f64 {
        self.sorted.last().copied().map_or(0.0, milliseconds)
    }
}

/// With three decimals.
fn milliseconds(time: Duration) -> f64 {
    rounded(time.as_secs_f64() * 1000.0)
}

/// With three decimals: more would be noise.
pub(crate) fn rounded(number: f64) -> f64 {
    (number * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(found: f64, expected: f64) -> bool {
        (found - expected).abs() < 1e-9
    }

    #[test]
    fn percentiles_by_nearest_rank() {
        let times = Times::new((1..=200).rev().map(Duration::from_millis).collect());
        assert!(
            near(times.percentile_ms(50), 100.0) && near(times.percentile_ms(99), 198.0) && near(times.max_ms(), 200.0)
        );
        let one = Times::new(vec![Duration::from_micros(1500)]);
        assert!(near(one.percentile_ms(50), 1.5) && near(one.percentile_ms(99), 1.5));
        assert!(near(Times::default().percentile_ms(99), 0.0) && near(Times::default().max_ms(), 0.0));
    }
}
