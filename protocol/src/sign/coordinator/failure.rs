//! Why there is no signature, for whoever asked for one.

use std::collections::{BTreeMap, BTreeSet};

use super::Coordinator;
use crate::error::{Detail, ErrorCode, Refusal};
use crate::id::NodeId;

impl Coordinator {
    /// Why no more can be done.
    pub(super) fn reason(&self) -> Refusal {
        let told = self.common_refusal().or_else(|| self.epoch_changed()).or_else(|| self.no_session_left());
        told.unwrap_or_else(|| self.below_threshold())
    }

    /// What so many holders refuse with one code that the others are too few.
    fn common_refusal(&self) -> Option<Refusal> {
        let core = self.plan.group.core();
        let mut by_code: BTreeMap<ErrorCode, Vec<&Refusal>> = BTreeMap::new();
        for refusal in self.failed.values().flatten() {
            by_code.entry(refusal.code).or_default().push(refusal);
        }
        let others_too_few = |refusals: usize| core.holders.len().saturating_sub(refusals) < core.threshold.get();
        by_code.into_values().find(|list| others_too_few(list.len())).and_then(|list| list.first().copied().cloned())
    }

    /// That a holder has, or waits for, the shares of another epoch: with a newer state there may be enough of them.
    fn epoch_changed(&self) -> Option<Refusal> {
        self.failed.values().flatten().find(|refusal| refusal.code == ErrorCode::EpochChanged).cloned()
    }

    /// That a request which began anew has used up its sessions.
    fn no_session_left(&self) -> Option<Refusal> {
        let enough = self.reachable().len() >= self.plan.group.core().threshold.get();
        let message = "no set of holders signed in the sessions that one request may have";
        enough.then(|| Refusal::new(ErrorCode::DeadlineExceeded, message))
    }

    fn reachable(&self) -> BTreeSet<NodeId> {
        self.plan.preference.iter().copied().filter(|node| !self.failed.contains_key(node)).collect()
    }

    fn below_threshold(&self) -> Refusal {
        let core = self.plan.group.core();
        let (needed, reachable) = (core.threshold.get(), self.reachable());
        let refused: Vec<String> = self
            .failed
            .iter()
            .filter_map(|(node, refusal)| refusal.as_ref().map(|refusal| format!("{node}: {}", refusal.code)))
            .collect();
        let is_unreachable = |node: &&NodeId| {
            let said_something = self.failed.get(*node).is_some_and(Option::is_some);
            !reachable.contains(*node) && !said_something && !self.plan.excluded.contains(*node)
        };
        let unreachable: Vec<String> = core.holders.iter().filter(is_unreachable).map(NodeId::to_string).collect();
        let excluded: Vec<String> = self.plan.excluded.iter().map(NodeId::to_string).collect();
        let number = |count: usize| Detail::Number(u64::try_from(count).unwrap_or(u64::MAX));
        let mut message = format!("key `{}` needs {needed} holders and {} can sign", core.name, reachable.len());
        for (what, list) in [("unreachable", &unreachable), ("refused", &refused), ("excluded", &excluded)] {
            if !list.is_empty() {
                message.push_str(&format!("; {what}: {}", list.join(", ")));
            }
        }
        Refusal::new(ErrorCode::BelowThreshold, message)
            .with("reachable", number(reachable.len()))
            .with("needed", number(needed))
            .with("unreachable", Detail::List(unreachable))
            .with("refused", Detail::List(refused))
            .with("excluded", Detail::List(excluded))
    }
}
