//! `doctor`.

use serde::Serialize;
use symbolon_client::Examination;
use symbolon_protocol::state::view::{Check, Level};

use super::NodeError;

/// `doctor`.
#[derive(Debug, Serialize)]
pub(crate) struct Doctor {
    /// Whether nothing failed; then the exit code is 0, else 4.
    healthy: bool,
    /// Nodes that do not answer, and checks that failed.
    failures: usize,
    warnings: usize,
    /// Every endpoint, also those that do not answer.
    nodes: Vec<NodeExamined>,
}

/// What one node says of itself.
#[derive(Debug, Serialize)]
pub(crate) struct NodeExamined {
    pub(crate) node: String,
    /// Why it does not say anything.
    pub(crate) error: Option<NodeError>,
    pub(crate) checks: Vec<Finding>,
}

/// One thing that a node looked at.
#[derive(Debug, Serialize)]
pub(crate) struct Finding {
    pub(crate) name: String,
    /// `ok`, `warning` or `failure`.
    pub(crate) level: &'static str,
    pub(crate) detail: String,
    pub(crate) advice: Option<String>,
}

impl Doctor {
    pub(crate) fn new(examined: &[Examination]) -> Self {
        let checks = || examined.iter().flat_map(|node| &node.result).flat_map(|view| &view.checks);
        let count = |level: Level| checks().filter(|check| check.level == level).count();
        let silent = examined.iter().filter(|node| node.result.is_err()).count();
        let failures = count(Level::Failure) + silent;
        Self {
            healthy: failures == 0,
            failures,
            warnings: count(Level::Warning),
            nodes: examined.iter().map(NodeExamined::new).collect(),
        }
    }
    pub(crate) fn is_healthy(&self) -> bool {
        self.healthy
    }
    pub(crate) fn nodes(&self) -> &[NodeExamined] {
        &self.nodes
    }
    /// All of it in one line.
    pub(crate) fn summary(&self) -> String {
        let Self { failures, warnings, nodes, .. } = self;
        format!("{} nodes asked: {failures} failures, {warnings} warnings", nodes.len())
    }
}

impl NodeExamined {
    fn new(examined: &Examination) -> Self {
        let error = examined.result.as_ref().err();
        Self {
            node: examined.node.clone(),
            error: error.map(|e| NodeError { code: e.code().row().name, message: e.message().to_owned() }),
            checks: examined.result.iter().flat_map(|view| &view.checks).map(Finding::from).collect(),
        }
    }
}

impl From<&Check> for Finding {
    fn from(check: &Check) -> Self {
        Self {
            name: check.name.clone(),
            level: check.level.name(),
            detail: check.detail.clone(),
            advice: (!check.advice.is_empty()).then(|| check.advice.clone()),
        }
    }
}

#[cfg(test)]
mod tests {
    use symbolon_client::Error;
    use symbolon_protocol::error::ErrorCode;
    use symbolon_protocol::id::NodeId;
    use symbolon_protocol::state::view::DoctorView;

    use super::*;

    fn says(node: &str, checks: Vec<Check>) -> Option<Examination> {
        let view = DoctorView { node: NodeId::new(1)?, checks };
        Some(Examination { node: node.to_owned(), result: Ok(view) })
    }

    #[test]
    fn a_warning_leaves_the_cluster_healthy_and_silence_does_not() {
        let warned = says("node1", vec![Check::ok("clock", "x"), Check::new("keys", Level::Warning, "y", "z")]);
        let silent = Examination { node: "node2".to_owned(), result: Err(Error::new(ErrorCode::Unreachable, "down")) };
        let well = Doctor::new(warned.as_slice());
        assert!(well.is_healthy());
        let expected = serde_json::json!({"healthy": true, "failures": 0, "warnings": 1, "nodes": [
            {"node": "node1", "error": null, "checks": [
                {"name": "clock", "level": "ok", "detail": "x", "advice": null},
                {"name": "keys", "level": "warning", "detail": "y", "advice": "z"}]}]});
        assert_eq!(serde_json::to_value(well).ok(), Some(expected));
        let both: Vec<Examination> = warned.into_iter().chain([silent]).collect();
        let unwell = Doctor::new(&both);
        assert!(!unwell.is_healthy());
        assert_eq!(unwell.summary(), "2 nodes asked: 1 failures, 1 warnings");
        let failed: Vec<Examination> =
            says("node1", vec![Check::new("clock", Level::Failure, "x", "y")]).into_iter().collect();
        assert!(!Doctor::new(&failed).is_healthy());
    }
}
