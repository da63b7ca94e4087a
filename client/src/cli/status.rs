//! `symbolon status`.

use super::context::{Context, DEADLINE, node_names};
use super::operation::told;
use super::out::Done;
use super::{json, parse};

const KEY_HEADINGS: [&str; 11] =
    ["KEY", "VERSION", "STATE", "NEEDED", "HOLDERS", "USABLE", "MARGIN", "EPOCH", "AGE", "STALE", "OPEN EPOCHS"];

pub(crate) async fn run(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let (status, lease) = client.status_and_lease().await?;
    let document = json::Status::new(&client, &status, &lease);
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
    if lease.staleness_ms.is_some() {
        let age = lease.age_ms.map_or_else(|| "none".to_owned(), |age| format!("{age} ms old"));
        let counted = node_names(&client, &lease.counted.iter().copied().collect::<Vec<_>>()).join(", ");
        let fresh = if lease.fresh { "fresh" } else { "not fresh" };
        out.line(&format!("{asked} is {fresh}: evidence {age}, counting {counted}; {} needed", lease.needed))?;
    }
    out.line("")?;
    let dash = || "-".to_owned();
    let yes_no = |yes: bool| String::from(if yes { "yes" } else { "no" });
    let nodes = document.nodes().iter().map(|node| {
        let index = node.applied_index.map_or_else(dash, |index| index.to_string());
        vec![node.name.clone(), yes_no(node.reachable), node.role.clone(), index, node.version.clone()]
    });
    out.table(&["NODE", "REACHABLE", "ROLE", "APPLIED", "VERSION"], nodes.collect())?;
    for node in document.nodes() {
        if let Some(blamed) = &node.blamed {
            let last = format!("{} at {}", blamed.kind, blamed.time);
            let times = format!("{} broke the signing protocol {} times", node.name, blamed.count);
            out.line(&format!("{times}, as {asked} can prove; last: {last}"))?;
        }
    }
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
                key.epoch.map_or_else(dash, |epoch| epoch.to_string()),
                key.shares_age_seconds.map_or_else(dash, |seconds| parse::age(seconds.saturating_mul(1000))),
                list(&key.stale_names),
                list(&key.open_epochs),
            ]
        });
        out.table(&KEY_HEADINGS, keys.collect())?;
    }
    let running = status.keys.iter().filter_map(|key| key.running.as_ref());
    for (number, running) in running.enumerate() {
        if number == 0 {
            out.line("")?;
        }
        let why = json::Cause::new(&client, running.trigger).words();
        out.line(&format!("key {} version {}, {why}: {}", running.key, running.version, told(&client, running)))?;
    }
    for warning in &status.warnings {
        out.warn(warning);
    }
    Ok(())
}

fn list<T: ToString>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(ToString::to_string).collect();
    if items.is_empty() { "-".to_owned() } else { items.join(", ") }
}
