//! What a run is like, drawn from its seed: size, faults, evil nodes. Every class of faults is off in some seeds.

use std::collections::BTreeSet;
use std::fmt;

use symbolon_protocol::id::NodeId;

use crate::draw::Draw;

/// Options of one run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// The seed that everything is drawn from.
    pub seed: u64,
    /// Nodes of the cluster, numbered from 1.
    pub nodes: u16,
    /// Nodes that say what they like.
    pub evil: BTreeSet<NodeId>,
    /// Evil messages of a thousand.
    pub malice: u32,
    /// How long faults go on, virtual milliseconds.
    pub chaos_ms: u64,
    /// Operations of clients in that time.
    pub operations: u32,
    /// Lost messages of a thousand.
    pub drop: u32,
    /// Doubled messages of a thousand.
    pub duplicate: u32,
    /// Ordinary delay of a message, at most, milliseconds.
    pub delay_ms: u64,
    /// Messages of a thousand that are held back for up to four seconds.
    pub spike: u32,
    /// Crashes of a thousand persist points.
    pub crash_persist: u32,
    /// Between two crashes at any time, on average, milliseconds; 0 for none.
    pub crash_ms: u64,
    /// How long a crashed node stays away, at most, milliseconds.
    pub down_ms: u64,
    /// How far appliers lag behind, at most, milliseconds.
    pub lag_ms: u64,
    /// Between two changes of the leader, on average, milliseconds; 0 for none. Between two leaders there is none for a while.
    pub leader_ms: u64,
    /// Between two cuts of a node from the others, on average, milliseconds; 0 for none.
    pub isolate_ms: u64,
    /// How far clocks differ from the true time, at most, milliseconds.
    pub skew_ms: u64,
    /// How far the rates of the clocks that nobody sets differ from the true one, at most, per mille.
    pub drift: u64,
    /// How long a slow disk takes for a usage record, at most, milliseconds.
    pub slow_ms: u64,
    /// Withdrawals of a thousand of which some nodes are kept from hearing, while clients ask them.
    pub siege: u32,
    /// Every share operation once, one after the other, in the place of random requests.
    pub scripted: bool,
    /// The one persist point of the run at which its node loses power, from 1; 0 for none.
    pub crash_at: u64,
}

impl Options {
    /// Draws the options of a seed.
    #[must_use]
    pub fn draw(seed: u64) -> Self {
        let mut draw = Draw::new(seed, "options");
        let nodes = draw.pick(&[2, 3, 3, 3, 3, 4, 4, 5]).unwrap_or(3);
        let mut ids: Vec<NodeId> = (1..=nodes).filter_map(NodeId::new).collect();
        draw.shuffle(&mut ids);
        // Heads need a majority of the voters, so an honest one must be left.
        let most = u64::from((nodes - 1) / 2);
        let count = if draw.chance(450) { draw.between(1, most.max(1)).min(most) } else { 0 };
        let evil = ids.into_iter().take(usize::try_from(count).unwrap_or(0)).collect();
        let mut some = |per_mille: u32, low: u64, high: u64| {
            let amount = draw.between(low, high);
            if draw.chance(per_mille) { amount } else { 0 }
        };
        let small = |amount: u64| u32::try_from(amount).unwrap_or(0);
        Self {
            seed,
            nodes,
            evil,
            malice: small(some(1000, 80, 700)),
            chaos_ms: some(1000, 12_000, 24_000),
            operations: small(some(1000, 8, 18)),
            drop: small(some(600, 5, 200)),
            duplicate: small(some(600, 5, 250)),
            delay_ms: some(700, 2, 80).max(2),
            spike: small(some(400, 2, 30)),
            crash_persist: small(some(550, 2, 18)),
            crash_ms: some(550, 2_500, 12_000),
            down_ms: some(1000, 300, 4_000),
            lag_ms: some(600, 5, 1_500).max(2),
            leader_ms: some(500, 3_000, 12_000),
            isolate_ms: some(350, 4_000, 15_000),
            skew_ms: some(600, 1, 1_500),
            // Within a twentieth of each other.
            drift: some(700, 12, 24),
            slow_ms: some(500, 50, 2_500),
            siege: small(some(850, 500, 1_000)),
            scripted: false,
            crash_at: 0,
        }
    }

    /// Every share operation once, on a quiet network, with one loss of power at a chosen persist point.
    #[must_use]
    pub fn script(nodes: u16, crash_at: u64) -> Self {
        Self {
            seed: u64::from(nodes),
            nodes,
            evil: BTreeSet::new(),
            malice: 0,
            chaos_ms: 0,
            operations: u32::MAX,
            drop: 0,
            duplicate: 0,
            delay_ms: 4,
            spike: 0,
            crash_persist: 0,
            crash_ms: 0,
            down_ms: 900,
            lag_ms: 8,
            leader_ms: 0,
            isolate_ms: 0,
            skew_ms: 0,
            drift: 0,
            slow_ms: 0,
            siege: 0,
            scripted: true,
            crash_at,
        }
    }

    /// All nodes.
    #[must_use]
    pub fn ids(&self) -> Vec<NodeId> {
        (1..=self.nodes).filter_map(NodeId::new).collect()
    }

    /// Nodes that are not evil.
    #[must_use]
    pub fn honest(&self) -> Vec<NodeId> {
        self.ids().into_iter().filter(|node| !self.evil.contains(node)).collect()
    }
}

/// Every number of [`Options`] by its name on the command line.
macro_rules! numbers {
    ($($field:ident),* $(,)?) => {
        impl Options {
            /// All options in one line, which [`Options::parse`] reads.
            #[must_use]
            pub fn line(&self) -> String {
                let mut parts = Vec::new();
                $(parts.push(format!("{}={}", stringify!($field), self.$field));)*
                let evil: Vec<String> = self.evil.iter().map(NodeId::to_string).collect();
                parts.push(format!("evil={}", evil.join("+")));
                parts.join(",")
            }

            fn set(&mut self, name: &str, value: &str) -> Result<(), String> {
                let wrong = || format!("`{value}` is no value of the option `{name}`");
                match name {
                    $(stringify!($field) => self.$field = value.parse().map_err(|_| wrong())?,)*
                    "evil" => {
                        let nodes = value.split('+').filter(|node| !node.is_empty());
                        let nodes: Option<_> = nodes.map(|node| NodeId::new(node.parse().ok()?)).collect();
                        self.evil = nodes.ok_or_else(wrong)?;
                    }
                    _ => return Err(format!("there is no option `{name}`; `sim --seed N --shrink` prints a line of all")),
                }
                Ok(())
            }
        }
    };
}
numbers!(
    seed,
    nodes,
    malice,
    chaos_ms,
    operations,
    drop,
    duplicate,
    delay_ms,
    spike,
    crash_persist,
    crash_ms,
    down_ms,
    lag_ms,
    leader_ms,
    isolate_ms,
    skew_ms,
    scripted,
    crash_at,
);

impl Options {
    /// Options from a line of [`Options::line`]; what is left out is drawn from the seed, which must be named.
    ///
    /// # Errors
    /// What is wrong with the line, in words.
    pub fn parse(line: &str) -> Result<Self, String> {
        let pairs: Option<Vec<(&str, &str)>> = line.split(',').map(|part| part.split_once('=')).collect();
        let pairs = pairs.ok_or("options are NAME=VALUE, separated by commas")?;
        let seed = pairs.iter().find(|(name, _)| *name == "seed").ok_or("the option `seed` is missing")?;
        let mut options = Self::draw(seed.1.parse().map_err(|_| "the seed is no number")?);
        pairs.iter().try_for_each(|(name, value)| options.set(name, value))?;
        Ok(options)
    }
}

impl fmt::Display for Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let evil: Vec<String> = self.evil.iter().map(NodeId::to_string).collect();
        let evil = if evil.is_empty() { "none".to_owned() } else { evil.join(",") };
        writeln!(f, "seed {}: {} nodes, evil: {evil} (malice {} ‰)", self.seed, self.nodes, self.malice)?;
        writeln!(f, "  {} ms of faults, {} operations of clients", self.chaos_ms, self.operations)?;
        writeln!(
            f,
            "  network: drop {} ‰, duplicate {} ‰, delay up to {} ms, held back {} ‰, a node cut off every {} ms",
            self.drop, self.duplicate, self.delay_ms, self.spike, self.isolate_ms
        )?;
        writeln!(
            f,
            "  nodes: crash at {} ‰ of persist points and every {} ms, away up to {} ms, clocks off by {} ms",
            self.crash_persist, self.crash_ms, self.down_ms, self.skew_ms
        )?;
        writeln!(
            f,
            "  rates of clocks differ by {} ‰, disks take up to {} ms, {} ‰ of withdrawals are besieged",
            self.drift, self.slow_ms, self.siege
        )?;
        write!(f, "  log: appliers lag up to {} ms, another leader every {} ms", self.lag_ms, self.leader_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_everything() {
        for seed in 0..40 {
            let options = Options { scripted: seed % 2 == 0, crash_at: seed, ..Options::draw(seed) };
            assert_eq!(Options::parse(&options.line()), Ok(options));
        }
        assert!(Options::parse("seed=1,speed=2").is_err());
        assert!(Options::parse("nodes=3").is_err());
    }
}
