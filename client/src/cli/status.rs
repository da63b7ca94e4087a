//! `symbolon status`.

use super::context::{Context, DEADLINE};
use super::json;
use super::out::Done;

pub(crate) async fn run(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let status = client.status().await?;
    let document = json::Status::new(&client, &status);
    let out = &context.out;
    if out.is_json() {
        return out.json(&document);
    }
    let leader =
        status.leader.map_or_else(|| "no leader".to_owned(), |node| format!("leader {}", client.node_name(node)));
    out.line(&format!("cluster {} {}", status.name, status.cluster))?;
    let asked = client.node_name(status.asked);
    out.line(&format!(
        "{leader}, state version {}, asked {asked}, index {}",
        status.state_version, status.applied_index
    ))?;
    out.line("")?;
    let yes_no = |yes: bool| String::from(if yes { "yes" } else { "no" });
    let nodes = document.nodes().iter().map(|node| {
        let index = node.applied_index.map_or_else(|| "-".to_owned(), |index| index.to_string());
        vec![node.name.clone(), yes_no(node.reachable), node.role.clone(), index, node.version.clone()]
    });
    out.table(&["NODE", "REACHABLE", "ROLE", "APPLIED", "VERSION"], nodes.collect())?;
    if !document.keys().is_empty() {
        out.line("")?;
        let keys = document.keys().iter().map(|key| {
            let of = |count: usize| count.to_string();
            vec![
                key.name.clone(),
                key.version.to_string(),
                key.state.to_owned(),
                of(key.threshold),
                of(key.holders),
                of(key.usable),
                format!("{:+}", key.margin),
            ]
        });
        out.table(&["KEY", "VERSION", "STATE", "NEEDED", "HOLDERS", "USABLE", "MARGIN"], keys.collect())?;
    }
    for warning in &status.warnings {
        out.warn(warning);
    }
    Ok(())
}
