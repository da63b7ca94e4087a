//! `symbolon member`.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Subcommand;
use symbolon_client::{Client, Error, MembershipChange, Name, roster};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::genesis::{Enrolment, MemberRole};
use symbolon_protocol::id::{KeyVersion, NodeId, Threshold};
use symbolon_protocol::lifecycle::{Event, Verdict, decide};
use symbolon_protocol::limits;
use symbolon_protocol::request::RosterPlan;
use symbolon_protocol::state::view::{KeyView, MemberView, MembersView, VersionView};

use super::context::{Context, DEADLINE, KEY_DEADLINE, node_names};
use super::out::{Done, Stop, fail};
use super::{files, json, parse};

/// How long a change of members waits for nodes, unless `--wait` says otherwise.
const WAIT: Duration = Duration::from_secs(600);
/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(500);

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Add a node by its enrolment line, and print the ticket with which it starts
    Add(Add),
    /// Remove a node
    Remove(Remove),
    /// Put a new node in the place of another: the keys move over. Run it again to go on
    Replace(Replace),
    /// Tell the cluster that a node is reached elsewhere
    Move(Relocate),
    /// List the members, and who left
    List,
}

/// What a new node is made a member with.
#[derive(Debug, clap::Args)]
pub(crate) struct Entry {
    /// What `symbolond init` printed, or a file with it
    #[arg(value_name = "LINE|FILE")]
    line: String,
    /// Its number: one that no node of this cluster ever had
    #[arg(long, value_parser = parse::node)]
    id: NodeId,
    /// It follows the log and does not vote
    #[arg(long)]
    learner: bool,
    /// File for the ticket [default: standard output]
    #[arg(long, value_name = "FILE")]
    ticket: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Add {
    #[command(flatten)]
    entry: Entry,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Remove {
    /// The node, by name or number
    #[arg(value_parser = parse::name)]
    node: Name,
    /// Move its shares to other nodes first
    #[arg(long, conflicts_with = "lost")]
    drain: bool,
    /// It will not come back: its shares count as leaked
    #[arg(long)]
    lost: bool,
    /// How long its shares may take to move, such as 30m [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    wait: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Replace {
    /// The node that leaves, by name or number
    #[arg(value_parser = parse::name)]
    node: Name,
    #[command(flatten)]
    entry: Entry,
    /// It will not come back: it leaves at once, and its shares count as leaked
    #[arg(long)]
    lost: bool,
    /// How long the new node may take to come up, and the shares to move, such as 30m [default: 10m]
    #[arg(long, value_name = "TIME", value_parser = parse::duration)]
    wait: Option<Duration>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Relocate {
    /// The node, by name or number
    #[arg(value_parser = parse::name)]
    node: Name,
    /// Where peers reach it from now on [default: as before]
    #[arg(long, value_name = "HOST:PORT", required_unless_present = "client")]
    peer: Option<String>,
    /// Where clients reach it from now on [default: as before]
    #[arg(long, value_name = "HOST:PORT")]
    client: Option<String>,
}

pub(crate) async fn run(context: &Context, command: Command) -> Done {
    match command {
        Command::Add(args) => add(context, args).await,
        Command::Remove(args) => remove(context, args).await,
        Command::Replace(args) => replace(context, args).await,
        Command::Move(args) => relocate(context, args).await,
        Command::List => list(context).await,
    }
}

impl Entry {
    fn enrolment(&self) -> Done<Enrolment> {
        let path = Path::new(&self.line);
        let is_file = self.line.len() < 1024 && path.is_file();
        let text =
            if is_file { String::from_utf8_lossy(&files::read_small(path)?).into_owned() } else { self.line.clone() };
        let wrong = |error: symbolon_protocol::wire::WireError| {
            let hint = "give the line that `symbolond init` printed, or a file with it";
            Error::new(ErrorCode::InvalidArgument, format!("no enrolment line: {error}")).with_hint(hint)
        };
        Ok(Enrolment::parse(&text).map_err(wrong)?)
    }

    const fn role(&self) -> MemberRole {
        if self.learner { MemberRole::Learner } else { MemberRole::Voter }
    }

    /// Gives the ticket out: to its file, else to standard output. In JSON it stands in the document.
    async fn give_ticket(&self, context: &Context, client: &Client, version: u64) -> Done<String> {
        let ticket = client.ticket(version).await?.to_file();
        match &self.ticket {
            Some(path) => {
                files::write(path, ticket.as_bytes())?;
                context.out.note(&format!("start the node with `symbolond run --ticket {}`", path.display()));
            }
            None if context.out.is_json() => {}
            None => context.out.raw(ticket.as_bytes())?,
        }
        Ok(ticket)
    }
}

async fn add(context: &Context, args: Add) -> Done {
    let entry = &args.entry;
    let enrolment = entry.enrolment()?;
    let client = context.client(DEADLINE).await?;
    let change = client.add_member(entry.id, &enrolment, entry.role()).await?;
    let name = enrolment.member.name.to_string();
    context.out.note(&format!("node {} ({name}) is a member: membership {}", entry.id, change.version));
    let ticket = entry.give_ticket(context, &client, change.version).await?;
    done(context, &client, &name, &change, Some(ticket))
}

/// The document of a change, of which people were told already; and how far it is certain that nobody counts on who left.
fn done(context: &Context, client: &Client, node: &str, change: &MembershipChange, ticket: Option<String>) -> Done {
    let enforcement = change.enforcement.as_ref();
    if context.out.is_json() {
        context.out.json(&json::MemberChanged {
            node: node.to_owned(),
            membership: change.version,
            request_id: change.request_id.to_string(),
            ticket,
            enforcement: json::Enforcement::new(client, enforcement),
        })?;
    }
    super::change::enforced(&context.out, client, enforcement)
}

/// A member by name or number, as the cluster has it now.
async fn member(client: &Client, name: &Name) -> Done<MemberView> {
    let view = client.list_members().await?;
    let known = view.members.iter().map(|member| (member.id, member.member.clone())).collect();
    let id = roster::named(&known, std::slice::from_ref(name))?.into_iter().next();
    let found = view.members.into_iter().find(|member| Some(member.id) == id);
    found.ok_or_else(|| Error::new(ErrorCode::NotFound, format!("there is no node `{name}`")).into())
}

async fn remove(context: &Context, args: Remove) -> Done {
    let client = context.client(KEY_DEADLINE).await?;
    let leaving = member(&client, &args.node).await?;
    let limit = Limit::of(args.wait);
    if args.drain {
        move_shares(context, &client, leaving.id, None, &limit).await?;
        await_unneeded(context, &client, leaving.id, &limit).await?;
    }
    let change = leave(&client, leaving.id, args.lost, &limit).await?;
    let name = leaving.member.name.to_string();
    context.out.note(&format!("{name} left: membership {}", change.version));
    if args.lost && leaving.needed > 0 {
        context
            .out
            .warn(&format!("{} key versions count a share of {name} as leaked: move their shares", leaving.needed));
    }
    done(context, &client, &name, &change, None)
}

async fn relocate(context: &Context, args: Relocate) -> Done {
    let client = context.client(DEADLINE).await?;
    let moving = member(&client, &args.node).await?;
    let peer = args.peer.unwrap_or(moving.member.peer_address);
    let address = args.client.unwrap_or(moving.member.client_address);
    let change = client.move_member(moving.id, &peer, &address).await?;
    let name = moving.member.name.to_string();
    context.out.note(&format!("{name} is at {peer} for peers and at {address} for clients"));
    done(context, &client, &name, &change, None)
}

/// The plan: the new node is a member, its shares are there, the old one leaves. Each step is passed over when it is done.
async fn replace(context: &Context, args: Replace) -> Done {
    let entry = &args.entry;
    let enrolment = entry.enrolment()?;
    let client = context.client(KEY_DEADLINE).await?;
    let limit = Limit::of(args.wait);
    let view = client.list_members().await?;
    let old = old_node(&view, &args.node)?;
    let is_member = |id: NodeId| view.members.iter().any(|member| member.id == id);
    let joined = view.members.iter().find(|member| member.id == entry.id);
    if joined.is_some_and(|joined| joined.member.key != enrolment.member.key) {
        return fail(ErrorCode::AlreadyExists, format!("number {} belongs to another node", entry.id));
    }
    let mut last = None;
    if joined.is_none() {
        let role = view.members.iter().find(|member| member.id == old).map_or(entry.role(), |old| old.member.role);
        let role = if entry.learner { MemberRole::Learner } else { role };
        let change = if args.lost && is_member(old) {
            client.replace_member(old, entry.id, &enrolment, role, true).await?
        } else {
            client.add_member(entry.id, &enrolment, role).await?
        };
        context.out.note(&format!("node {} is a member: membership {}", entry.id, change.version));
        last = Some(change);
    }
    let version = last.as_ref().map_or_else(|| client.members().version, |change| change.version);
    let ticket = entry.give_ticket(context, &client, version).await?;
    await_member(context, &client, entry.id, &limit).await?;
    move_shares(context, &client, old, Some(entry.id), &limit).await?;
    if client.list_members().await?.members.iter().any(|member| member.id == old) {
        await_unneeded(context, &client, old, &limit).await?;
        last = Some(leave(&client, old, args.lost, &limit).await?);
        context.out.note(&format!("{} left", client.node_name(old)));
    }
    match last {
        Some(change) => done(context, &client, &enrolment.member.name.to_string(), &change, Some(ticket)),
        None => Ok(()),
    }
}

/// The node that leaves: a member, or one that left when this command ran before.
fn old_node(view: &MembersView, name: &Name) -> Done<NodeId> {
    let known = view.members.iter().map(|member| (member.id, &member.member.name));
    let gone = view.departed.iter().map(|gone| (gone.id, &gone.name));
    let all: Vec<(NodeId, &Name)> = known.chain(gone).collect();
    let number = name.as_str().parse().ok().and_then(NodeId::new);
    let by_name = all.iter().find(|(_, known)| *known == name);
    match by_name.or_else(|| all.iter().find(|(id, _)| Some(*id) == number)) {
        Some((id, _)) => Ok(*id),
        None => fail(ErrorCode::NotFound, format!("there is and was no node `{name}`")),
    }
}

/// How long a command goes on.
pub(super) struct Limit {
    begun: Instant,
    wait: Duration,
}

impl Limit {
    fn of(wait: Option<Duration>) -> Self {
        Self::new(wait.unwrap_or(WAIT))
    }
    /// From here on for so long.
    pub(super) fn new(wait: Duration) -> Self {
        Self { begun: Instant::now(), wait }
    }
    /// Waits a moment for something.
    pub(super) async fn pause(&self, what: &str) -> Done {
        if self.begun.elapsed() >= self.wait {
            let error = Error::new(ErrorCode::DeadlineExceeded, format!("waited too long for {what}"));
            return Err(error.with_hint("run the same command again to go on").into());
        }
        tokio::time::sleep(LOOK).await;
        Ok(())
    }
}

/// Removes a member, as soon as the change before is through.
async fn leave(client: &Client, id: NodeId, lost: bool, limit: &Limit) -> Done<MembershipChange> {
    loop {
        match client.remove_member(id, lost).await {
            Ok(change) => return Ok(change),
            Err(error) if error.code() == ErrorCode::OperationRunning => limit.pause(error.message()).await?,
            Err(error) => return Err(error.into()),
        }
    }
}

/// Waits until a node is up and, if it votes, Raft has it.
async fn await_member(context: &Context, client: &Client, id: NodeId, limit: &Limit) -> Done {
    let mut told = false;
    loop {
        let view = client.list_members().await?;
        let there = view.members.iter().any(|member| member.id == id && member.reachable && member.applied.is_some());
        if there && view.settled {
            return Ok(());
        }
        if !std::mem::replace(&mut told, true) {
            context.out.note(&format!("waiting for {} to come up and to catch up", client.node_name(id)));
        }
        limit.pause(&format!("{} to come up", client.node_name(id))).await?;
    }
}

/// Waits until no key needs the shares of a node: its holders have erased so many that the old ones are no key.
async fn await_unneeded(context: &Context, client: &Client, id: NodeId, limit: &Limit) -> Done {
    let mut told = u64::MAX;
    loop {
        let view = client.list_members().await?;
        let needed = view.members.iter().find(|member| member.id == id).map_or(0, |member| member.needed);
        if needed == 0 {
            return Ok(());
        }
        if needed != told {
            context.out.note(&format!("{needed} key versions still need the shares of {}", client.node_name(id)));
            told = needed;
        }
        limit.pause(&format!("the erasure of shares that {needed} key versions had before")).await?;
    }
}

/// Moves the shares of every key version whose roster has a node: to the one that is named, else to the next in the key's order.
async fn move_shares(context: &Context, client: &Client, from: NodeId, to: Option<NodeId>, limit: &Limit) -> Done {
    let mut after = String::new();
    loop {
        let page = client.list_keys(&after, limits::PAGE_ITEMS, &std::collections::BTreeMap::new()).await?;
        for key in &page.keys {
            for version in key.view.versions.iter().filter(|version| is_held(version, from)) {
                move_version(context, client, &key.view, version.number, (from, to), limit).await?;
            }
        }
        match page.next {
            Some(next) => after = next,
            None => return Ok(()),
        }
    }
}

/// Whether a version has shares that can be moved, with a node in its roster.
fn is_held(version: &VersionView, node: NodeId) -> bool {
    version.roster.contains(&node) && decide(version.state, Event::Redistribute) != Verdict::No
}

async fn move_version(
    context: &Context,
    client: &Client,
    key: &KeyView,
    version: KeyVersion,
    (from, to): (NodeId, Option<NodeId>),
    limit: &Limit,
) -> Done {
    loop {
        let now = client.show_version(&key.name, version).await?;
        let Some(shown) = now.view.version(version).filter(|shown| is_held(shown, from)) else { return Ok(()) };
        let status = client.list_members().await?;
        let plan = plan_without(&key.name, shown, &status, from, to)?;
        let holders = node_names(client, &plan.roster).join(", ");
        let begun = match client.reshare_key(&key.name, Some(version), plan, None).await {
            Ok(begun) => begun,
            // Another operation, or votes of the last one, may still be on their way.
            Err(error) if error.code() == ErrorCode::OperationRunning => {
                limit.pause(error.message()).await?;
                continue;
            }
            Err(error) => return Err(error.into()),
        };
        client.await_shares(&begun, |_| ()).await?;
        context.out.note(&format!("key {} version {version} is held by {holders}", key.name));
        return Ok(());
    }
}

/// The roster of a version with another node in the place of one; without one when there is no other, and the threshold still fits.
fn plan_without(
    key: &Name,
    version: &VersionView,
    members: &MembersView,
    from: NodeId,
    to: Option<NodeId>,
) -> Done<RosterPlan> {
    let reachable = members.members.iter().filter(|member| member.reachable).map(|member| member.id).collect();
    let free = members.members.iter().map(|member| member.id);
    let free = free.filter(|id| *id != from && !version.roster.contains(id));
    let next = match to {
        Some(to) if version.roster.contains(&to) => None,
        Some(to) => Some(to),
        // One that cannot be reached would take no share.
        None => roster::ordered(key, free, &reachable).into_iter().find(|id| reachable.contains(id)),
    };
    let mut nodes = version.roster.clone();
    match (nodes.iter().position(|node| *node == from), next) {
        (Some(at), Some(next)) => nodes.splice(at..=at, [next]).for_each(drop),
        (Some(at), None) => {
            nodes.remove(at);
        }
        (None, _) => {}
    }
    let Some(threshold) = Threshold::new(version.threshold.get(), nodes.len()) else {
        let message = format!(
            "version {} of key `{key}` needs {} holders and no other node can take the place of node {from}",
            version.number, version.threshold
        );
        let hint = "add a node first, or give the key a lower threshold with `symbolon key reshare`";
        return Err(Stop::from(Error::new(ErrorCode::WrongState, message).with_hint(hint)));
    };
    Ok(RosterPlan { roster: nodes, spares: Vec::new(), threshold })
}

async fn list(context: &Context) -> Done {
    let client = context.client(DEADLINE).await?;
    let view = client.list_members().await?;
    let proved = client.members().version;
    let out = &context.out;
    if out.is_json() {
        return out.json(&json::Members::new(&view, proved));
    }
    out.line(&format!("membership {} ({})", view.version, if view.settled { "settled" } else { "Raft is moving" }))?;
    if proved < view.version {
        out.warn(&format!("only membership {proved} is proved yet"));
    }
    let rows = view.members.iter().map(|member| {
        vec![
            member.id.to_string(),
            member.member.name.to_string(),
            role_name(member.member.role).to_owned(),
            if member.reachable { "yes" } else { "no" }.to_owned(),
            member.raft.clone(),
            member.release.clone(),
            member.member.peer_address.clone(),
            member.member.client_address.clone(),
            member.needed.to_string(),
        ]
    });
    let headings = ["ID", "NODE", "ROLE", "REACHABLE", "RAFT", "VERSION", "PEERS", "CLIENTS", "NEEDED"];
    out.table(&headings, rows.collect())?;
    if view.departed.is_empty() {
        return Ok(());
    }
    out.line("")?;
    let rows = view.departed.iter().map(|gone| {
        let when = parse::rfc3339(gone.time_ms);
        vec![gone.id.to_string(), gone.name.to_string(), when, gone.leaked.to_string(), gone.open.to_string()]
    });
    out.table(&["ID", "LEFT", "WHEN", "LEAKED", "OPEN"], rows.collect())
}

/// What a role is called.
pub(crate) const fn role_name(role: MemberRole) -> &'static str {
    match role {
        MemberRole::Voter => "voter",
        MemberRole::Learner => "learner",
    }
}
