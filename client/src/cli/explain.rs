//! `symbolon request explain`.

use clap::Subcommand;
use symbolon_client::{Error, NodeExplanation};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::id::RequestId;

use super::context::{Context, DEADLINE};
use super::out::{Done, fail};
use super::{json, parse};

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// What each node did for a request and why, from the nodes' usage logs
    Explain {
        /// The request, as receipts and errors name it
        #[arg(value_name = "ID", value_parser = parse::request_id)]
        id: RequestId,
    },
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    let Command::Explain { id } = command;
    let client = context.client(DEADLINE).await?;
    let explained = client.explain(id).await?;
    if explained.iter().all(NodeExplanation::is_silent) {
        return fail(ErrorCode::Unreachable, "no node answers");
    }
    // When nobody that answers gives an account, the first reason is the answer.
    if explained.iter().all(|node| node.result.is_err())
        && let Some(error) =
            explained.iter().filter(|node| !node.is_silent()).find_map(|node| node.result.as_ref().err())
    {
        return Err(error.clone().into());
    }
    let found = explained.iter().filter_map(|node| node.result.as_ref().ok()).any(|records| !records.is_empty());
    if !found {
        let error = Error::new(ErrorCode::NotFound, format!("no node that answers has a record of request {id}"));
        let hint = "usage logs hold sign requests; other people's are shown to auditors of all keys only";
        return Err(error.with_hint(hint).into());
    }
    let nodes: Vec<json::NodeExplained> = explained
        .iter()
        .map(|node| json::NodeExplained {
            node: node.node.clone(),
            error: node
                .result
                .as_ref()
                .err()
                .map(|error| json::NodeError { code: error.code().row().name, message: error.message().to_owned() }),
            records: node.result.iter().flatten().map(|record| json::Decision::new(&client, record)).collect(),
        })
        .collect();
    if context.out.is_json() {
        return context.out.json(&json::Explained { request_id: id.to_string(), nodes });
    }
    context.out.table(&["NODE", "TIME", "ACTION", "CLIENT", "COORDINATOR", "SHARE", "WHY"], rows(&nodes))
}

fn rows(nodes: &[json::NodeExplained]) -> Vec<Vec<String>> {
    let dash = || "-".to_owned();
    let mut rows = Vec::new();
    for node in nodes {
        for record in &node.records {
            rows.push(vec![
                node.node.clone(),
                record.time.clone(),
                record.action.clone(),
                record.client.clone(),
                record.coordinator.clone(),
                String::from(if record.granted { "left" } else { "refused" }),
                record.reason.clone(),
            ]);
        }
        if node.records.is_empty() {
            let why = match &node.error {
                Some(error) => format!("{}: {}", error.code, error.message),
                None => "no record".to_owned(),
            };
            rows.push(vec![node.node.clone(), dash(), dash(), dash(), dash(), dash(), why]);
        }
    }
    rows
}
