//! `symbolon doctor`.

use symbolon_protocol::error::ErrorCode;

use super::context::{Context, DEADLINE};
use super::json;
use super::out::{Done, Stop};

pub(crate) async fn run(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let examined = client.doctor().await?;
    // When every node that answers refuses the question, the first reason is the answer.
    let refused = examined.iter().filter(|node| !node.is_silent()).find_map(|node| node.result.as_ref().err());
    if let Some(error) = refused.filter(|_| examined.iter().all(|node| node.result.is_err())) {
        return Err(error.clone().into());
    }
    let document = json::Doctor::new(&examined);
    let out = &context.out;
    if out.is_json() {
        out.json(&document)?;
    } else {
        for node in document.nodes() {
            out.line(&node.node)?;
            out.table(&["CHECK", "LEVEL", "FOUND"], rows(node))?;
            out.line("")?;
        }
        out.line(&document.summary())?;
    }
    if document.is_healthy() { Ok(()) } else { Err(Stop::Told(ErrorCode::Unreachable.row().exit)) }
}

/// One row for each check, and one more where something is to be done.
fn rows(node: &json::NodeExamined) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    let mut add = |name: &str, level: &str, detail: &str, advice: Option<&str>| {
        // What a node says must not look like another row.
        let row = |cells: [&str; 3]| cells.map(|cell| cell.replace('\n', " ")).to_vec();
        rows.push(row([name, level, detail]));
        rows.extend(advice.map(|advice| row(["", "", &format!("-> {advice}")])));
    };
    if let Some(error) = &node.error {
        let advice = "look whether it runs and can be reached; its log says why it stopped";
        add("answer", "failure", &format!("{}: {}", error.code, error.message), Some(advice));
    }
    for check in &node.checks {
        add(&check.name, check.level, &check.detail, check.advice.as_deref());
    }
    rows
}

#[cfg(test)]
mod tests {
    use symbolon_client::Examination;
    use symbolon_protocol::id::NodeId;
    use symbolon_protocol::state::view::{Check, DoctorView, Level};

    use super::*;

    #[test]
    fn a_node_cannot_forge_a_row() {
        let checks = vec![Check::new("clock", Level::Warning, "late\nkeys  ok  well", "do\nthis")];
        let view = NodeId::new(1).map(|node| DoctorView { node, checks });
        let examined = view.map(|view| Examination { node: "node1".to_owned(), result: Ok(view) });
        let document = json::Doctor::new(examined.as_slice());
        let printed: Vec<_> = document.nodes().iter().flat_map(rows).collect();
        assert_eq!(printed, [["clock", "warning", "late keys  ok  well"], ["", "", "-> do this"]]);
    }
}
