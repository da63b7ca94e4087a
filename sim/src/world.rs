//! A whole run: nodes, network, log, clients and faults on one line of virtual time, one event after the other.

mod clients;
mod faults;
mod proof;
mod script;
mod setup;
mod withdraw;

use std::collections::BTreeMap;

use symbolon_protocol::history::root_at;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::request::SignedRequest;
use symbolon_protocol::wire::Bytes;

use crate::bugs::Bug;
use crate::byzantine::Evil;
use crate::client::Clients;
use crate::count::{Counters, fault, situation};
use crate::disk::{Column, Disk};
use crate::draw::{Draw, stream};
use crate::invariants::{Disks, NODE_RUNS, Oracle, Violation, safety};
use crate::network::Network;
use crate::node::{Env, Frame, Halt, Node, Out, Reply, Timer};
use crate::options::Options;
use crate::order::{Logged, Order};
use crate::trace::{Trace, digest};

/// Where virtual time begins, milliseconds since 1970.
const START_MS: u64 = 1_700_000_000_000;
/// How long everything may take to come to an end when faults are over, virtual milliseconds.
const SETTLE_MS: u64 = 180_000;
/// How long the last requests may take, virtual milliseconds.
const PROVE_MS: u64 = 120_000;
/// Entries that a node applies at once.
const APPLY: usize = 12;

/// In one of so many seeds secrecy is looked at after every step, and not only when shares change.
const EVERY_STEP: u64 = 50;

/// What can happen.
enum Event {
    Deliver {
        from: NodeId,
        to: NodeId,
        frame: Frame,
    },
    Propose {
        from: NodeId,
        bytes: Vec<u8>,
    },
    Wake {
        node: NodeId,
        boot: u64,
        timer: Timer,
    },
    Apply {
        node: NodeId,
    },
    Restart {
        node: NodeId,
    },
    CrashSomewhere,
    LeaderGoes,
    LeaderComes,
    CutSomewhere,
    Work,
    Ask {
        node: NodeId,
        ticket: u64,
        question: Box<(SignedRequest, Vec<Bytes>)>,
    },
    Told {
        from: NodeId,
        ticket: u64,
        reply: Box<Reply>,
    },
    /// An answer is missing, or was no good.
    Again {
        ticket: u64,
        tries: u32,
    },
}

impl Event {
    /// Whom it is about, of what kind it is, and a digest of the rest.
    fn describe(&self) -> (u16, &'static str, [u8; 32]) {
        let none = [0; 32];
        match self {
            Self::Deliver { from, to, frame } => {
                let kind = if frame.answer { "answer" } else { "call" };
                let head = [u64::from(from.get()).to_be_bytes(), frame.call.to_be_bytes()].concat();
                (to.get(), kind, digest(&[&head[..], &frame.bytes[..]].concat()))
            }
            Self::Propose { from, bytes } => (from.get(), "propose", digest(bytes)),
            Self::Wake { node, boot, timer } => (node.get(), "wake", digest(format!("{boot} {timer:?}").as_bytes())),
            Self::Apply { node } => (node.get(), "apply", none),
            Self::Restart { node } => (node.get(), "restart", none),
            Self::CrashSomewhere => (0, "crash somewhere", none),
            Self::LeaderGoes => (0, "leader goes", none),
            Self::LeaderComes => (0, "leader comes", none),
            Self::CutSomewhere => (0, "cut somewhere", none),
            Self::Work => (0, "work", none),
            Self::Ask { node, question, .. } => (node.get(), "ask", digest(&question.0.body.0)),
            Self::Told { from, ticket, reply } => {
                (from.get(), "told", digest(format!("{ticket} {reply:?}").as_bytes()))
            }
            Self::Again { ticket, tries } => (0, "again", digest(format!("{ticket} {tries}").as_bytes())),
        }
    }
}

/// A place for a node.
struct Slot {
    running: Option<Node>,
    /// The disk while it does not run.
    down: Option<Disk>,
    evil: Option<Evil>,
    boots: u64,
    /// How far its clock is off, milliseconds.
    skew_ms: i64,
    /// Rate of its clock that nobody sets, of a thousand, and where it began, milliseconds.
    rate: u64,
    begun_ms: u64,
    /// The index after the last entry in its log, which it has from before it applies.
    logged: u64,
    /// Whether it is about to apply.
    apply_due: bool,
}

impl Slot {
    fn disk(&self) -> Option<&Disk> {
        self.running.as_ref().map(Node::disk).or(self.down.as_ref())
    }
}

/// What came of a run.
#[derive(Debug, Clone)]
pub struct Report {
    /// Its options.
    pub options: Options,
    /// Hash over everything that happened, hexadecimal.
    pub hash: String,
    /// Events.
    pub steps: u64,
    /// Virtual milliseconds.
    pub virtual_ms: u64,
    /// Persist points of honest nodes.
    pub points: u64,
    /// What happened how often.
    pub count: Counters,
    /// The first invariant that was broken.
    pub violation: Option<Violation>,
    /// The events, where they were asked for.
    pub lines: Vec<String>,
}

/// Runs a seed, with a planted bug or none.
#[must_use]
pub fn run(seed: u64, bug: Option<Bug>, keep_lines: bool) -> Report {
    run_with(Options::draw(seed), bug, keep_lines)
}

/// Runs with given options.
#[must_use]
pub fn run_with(options: Options, bug: Option<Bug>, keep_lines: bool) -> Report {
    match World::new(options.clone(), bug, keep_lines) {
        Some(mut world) => {
            let violation = world.live().err();
            Report {
                options,
                hash: world.trace.hash(),
                steps: world.step,
                virtual_ms: world.now_ms,
                points: world.points,
                count: world.count,
                violation,
                lines: world.trace.into_lines(),
            }
        }
        None => {
            let violation = Some(safety(NODE_RUNS, "the cluster could not be made"));
            let (hash, count) = (String::new(), Counters::default());
            Report { options, hash, steps: 0, virtual_ms: 0, points: 0, count, violation, lines: Vec::new() }
        }
    }
}

struct World {
    options: Options,
    bug: Option<Bug>,
    /// Virtual time since the start, milliseconds.
    now_ms: u64,
    /// Since when faults are over.
    calm_since: Option<u64>,
    step: u64,
    sequence: u64,
    queue: BTreeMap<(u64, u64), Event>,
    slots: BTreeMap<NodeId, Slot>,
    network: Network,
    order: Order,
    clients: Clients,
    oracle: Oracle,
    chaos: Draw,
    siege: Draw,
    siege_until_ms: u64,
    count: Counters,
    trace: Trace,
    work_left: u32,
    points: u64,
    start: Logged,
}

/// A clock that is off.
fn clock(now_ms: u64, skew_ms: i64) -> u64 {
    (START_MS + now_ms).saturating_add_signed(skew_ms)
}

fn honest_disks(slots: &BTreeMap<NodeId, Slot>) -> Disks<'_> {
    let honest = slots.iter().filter(|(_, slot)| slot.evil.is_none());
    honest.filter_map(|(id, slot)| Some((*id, slot.disk()?))).collect()
}

impl World {
    /// From the first start to the last check.
    fn live(&mut self) -> Result<(), Violation> {
        for node in self.options.ids() {
            self.restart(node)?;
        }
        self.order.leader = self.chaos.pick(&self.options.ids());
        self.order.append(Logged::Blank);
        self.order.append(self.start.clone());
        self.entered(0)?;
        self.entered(1)?;
        self.begin_faults();
        if self.options.scripted {
            self.play_script()?;
        } else {
            self.push(200, Event::Work);
            self.until(self.options.chaos_ms)?;
        }
        self.calm_down()?;
        self.settle()?;
        self.prove()?;
        self.oracle.at_end(&honest_disks(&self.slots), &mut self.count)?;
        self.seal_trace();
        Ok(())
    }

    /// The end state of every node becomes part of the hash.
    fn seal_trace(&mut self) {
        for (id, slot) in &self.slots {
            let Some(node) = &slot.running else { continue };
            let next = node.next_index();
            let root = root_at(node.disk().live(Column::State), next.saturating_sub(1));
            let end = format!("{next} {root:?}");
            self.trace.record(self.step, self.now_ms, id.get(), "end", &digest(end.as_bytes()));
        }
    }

    fn push(&mut self, at_ms: u64, event: Event) {
        self.sequence += 1;
        self.queue.insert((at_ms.max(self.now_ms), self.sequence), event);
    }

    /// Lets everything happen up to a time.
    fn until(&mut self, end_ms: u64) -> Result<(), Violation> {
        while self.queue.first_key_value().is_some_and(|((at_ms, _), _)| *at_ms <= end_ms) {
            let Some(((at_ms, _), event)) = self.queue.pop_first() else { break };
            self.now_ms = at_ms;
            self.step += 1;
            let (node, kind, payload) = event.describe();
            self.trace.record(self.step, at_ms, node, kind, &payload);
            self.happen(event)?;
            if self.options.seed.is_multiple_of(EVERY_STEP) {
                self.oracle.keep_secrets(&mut self.count)?;
            }
        }
        self.now_ms = self.now_ms.max(end_ms);
        Ok(())
    }

    fn happen(&mut self, event: Event) -> Result<(), Violation> {
        match event {
            Event::Deliver { from, to, frame } => {
                if let Some(Slot { running: Some(node), evil: Some(evil), .. }) = self.slots.get_mut(&to) {
                    evil.overhear(node, &frame);
                }
                if self.slots.get(&to).is_some_and(|slot| slot.running.is_some()) {
                    self.oracle.received(from, to, &frame);
                }
                self.with_node(to, |node, env| node.hear(env, from, &frame))
            }
            Event::Propose { from, bytes } => self.propose(from, &bytes),
            Event::Wake { node: id, boot, timer } => {
                if self.slots.get(&id).is_none_or(|slot| slot.boots != boot) {
                    return Ok(());
                }
                self.with_node(id, |node, env| node.wake(env, timer))
            }
            Event::Apply { node } => self.apply(node),
            Event::Restart { node } => self.restart(node),
            Event::CrashSomewhere => self.crash_somewhere(),
            Event::LeaderGoes => self.leader_goes(),
            Event::LeaderComes => self.leader_comes(),
            Event::CutSomewhere => {
                self.cut_somewhere();
                Ok(())
            }
            Event::Work => {
                self.work();
                Ok(())
            }
            Event::Ask { node: id, ticket, question } => {
                let (request, messages) = *question;
                self.with_node(id, |node, env| node.ask(env, ticket, &request, &messages))
            }
            Event::Told { from, ticket, reply } => self.told(from, ticket, *reply),
            Event::Again { ticket, tries } => self.again(ticket, tries),
        }
    }

    /// Lets a node that runs handle something, and carries out what it wants.
    fn with_node(
        &mut self,
        id: NodeId,
        act: impl FnOnce(&mut Node, &mut Env<'_>) -> Result<(), Halt>,
    ) -> Result<(), Violation> {
        let leads = self.order.leader == Some(id);
        let calm = self.calm_since.is_some();
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let Some(node) = &mut slot.running else { return Ok(()) };
        let honest = slot.evil.is_none();
        let crash = if honest && !calm { self.options.crash_persist } else { 0 };
        let crash_at = self.options.crash_at;
        let mut env = Env {
            now_ms: clock(self.now_ms, slot.skew_ms),
            boot_ms: slot.begun_ms + self.now_ms * slot.rate / 1000,
            slow_ms: if calm { 0 } else { self.options.slow_ms },
            treason: !honest && self.siege_until_ms > self.now_ms,
            leads,
            bug: self.bug.filter(|_| honest),
            crash,
            points: &mut self.points,
            crash_at,
            chaos: &mut self.chaos,
            count: &mut self.count,
            persisted: false,
            out: Vec::new(),
        };
        let result = act(node, &mut env);
        let Env { persisted, out, .. } = env;
        self.oracle.wants(id, &out);
        let out = match &mut slot.evil {
            Some(evil) => evil.twist(node, &mut self.count, out),
            None => out,
        };
        self.carry(id, honest, out)?;
        match result {
            Ok(()) if persisted && self.after_send(crash) => {
                self.count.situation(situation::AFTER_SEND);
                self.crash(id, fault::CRASH_PERSIST)
            }
            Ok(()) => self.check_disk(id),
            Err(Halt::Crash) => self.crash(id, fault::CRASH_PERSIST),
            Err(Halt::Fault(what)) if honest => Err(safety(NODE_RUNS, format!("node {id} stopped: {what}"))),
            Err(Halt::Fault(_)) => Ok(()),
        }
    }

    /// Whether power is lost after the effects left: a persist point like the others.
    fn after_send(&mut self, crash: u32) -> bool {
        self.points += 1;
        self.points == self.options.crash_at || self.chaos.chance(crash)
    }

    /// Looks at what is durable on an honest node.
    fn check_disk(&mut self, id: NodeId) -> Result<(), Violation> {
        match self.slots.get(&id).filter(|slot| slot.evil.is_none()).and_then(Slot::disk) {
            Some(disk) => self.oracle.disk(id, disk),
            None => Ok(()),
        }
    }

    fn carry(&mut self, id: NodeId, honest: bool, out: Vec<Out>) -> Result<(), Violation> {
        let boot = self.slots.get(&id).map_or(0, |slot| slot.boots);
        for one in out {
            match one {
                Out::Send { to, frame } => {
                    let route = (id, to);
                    for at_ms in self.network.route(&self.options, &mut self.count, self.now_ms, route) {
                        self.push(at_ms, Event::Deliver { from: id, to, frame: frame.clone() });
                    }
                }
                Out::Propose(bytes) => {
                    let route = (id, self.order.leader.unwrap_or(id));
                    for at_ms in self.network.route(&self.options, &mut self.count, self.now_ms, route) {
                        self.push(at_ms, Event::Propose { from: id, bytes: bytes.clone() });
                    }
                }
                Out::Wake { after_ms, timer } => {
                    self.push(self.now_ms + after_ms, Event::Wake { node: id, boot, timer });
                }
                Out::Reply { ticket, reply } => {
                    for at_ms in self.network.arrivals(&self.options, &mut self.count, self.now_ms) {
                        self.push(at_ms, Event::Told { from: id, ticket, reply: reply.clone() });
                    }
                }
                Out::Saw(seen) => {
                    let disk = self.slots.get(&id).filter(|_| honest).and_then(Slot::disk);
                    if let Some(disk) = disk {
                        self.oracle.saw(id, &seen, disk)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// A payload reached whoever leads.
    fn propose(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), Violation> {
        let Some(leader) = self.order.leader else { return Ok(()) };
        let cut = self.network.severed(from, leader, self.now_ms);
        let Some(slot) = self.slots.get(&leader).filter(|slot| slot.running.is_some() && !cut) else { return Ok(()) };
        let mut time_ms = clock(self.now_ms, slot.skew_ms);
        if slot.evil.is_some() {
            // As far from the true time as honest nodes let pass, and any time back.
            let ahead = limits::ENTRY_AHEAD_MS - 2 * self.options.skew_ms;
            time_ms = time_ms.saturating_sub(20_000) + self.chaos.below(20_000 + ahead);
        }
        match self.order.order(time_ms, bytes) {
            Some(index) => self.entered(index),
            None => Ok(()),
        }
    }

    /// An entry got its place: the oracle knows at once, nodes learn of it sooner or later.
    fn entered(&mut self, index: u64) -> Result<(), Violation> {
        let Some(logged) = self.order.get(index) else { return Ok(()) };
        let disks = honest_disks(&self.slots);
        self.oracle.ordered(index, logged, &disks, &mut self.count)?;
        let all: Vec<NodeId> = self.slots.keys().copied().collect();
        for id in all {
            self.apply_soon(id);
        }
        Ok(())
    }

    fn apply_soon(&mut self, id: NodeId) {
        let Some(slot) = self.slots.get_mut(&id).filter(|slot| slot.running.is_some() && !slot.apply_due) else {
            return;
        };
        slot.apply_due = true;
        let most_ms = if self.calm_since.is_some() { 4 } else { self.options.lag_ms };
        let lag_ms = self.chaos.between(1, most_ms);
        if lag_ms > 200 {
            self.count.fault(fault::LAG);
        }
        let from_ms = self.network.behind_until(id, self.order.leader, self.now_ms);
        self.push(from_ms + lag_ms, Event::Apply { node: id });
    }

    /// A node applies what it has not applied yet.
    fn apply(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        slot.apply_due = false;
        let honest = slot.evil.is_none();
        let Some(next) = slot.running.as_ref().map(Node::next_index) else { return Ok(()) };
        slot.logged = self.order.length();
        let entries = self.order.page(next, APPLY);
        let known: Vec<_> = entries.iter().map(|(index, _)| self.oracle.reference.known(*index)).collect();
        let mut roots = Vec::new();
        let result = self.with_node(id, |node, env| {
            for ((index, logged), known) in entries.iter().zip(&known) {
                let applied = node.apply(env, *index, logged.entry(), known.as_deref())?;
                roots.push((*index, applied.root));
            }
            node.lease_applied(env)?;
            node.barriers_applied(env)?;
            node.reconcile(env)
        });
        // A wrong root explains what comes after it.
        for (index, root) in roots.into_iter().filter(|_| honest) {
            self.oracle.applied(id, index, root)?;
        }
        result?;
        let behind = |slot: &Slot| slot.running.as_ref().is_some_and(|node| node.next_index() < self.order.length());
        if self.slots.get(&id).is_some_and(behind) {
            self.apply_soon(id);
        }
        Ok(())
    }

    /// Starts a node from its disk.
    fn restart(&mut self, id: NodeId) -> Result<(), Violation> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let Some(disk) = slot.down.take() else { return Ok(()) };
        slot.boots += 1;
        let boot = slot.boots;
        let rng = stream(self.options.seed, &format!("node {id} start {boot}"));
        let started = Node::start(disk, rng, slot.logged);
        slot.running = Some(started.map_err(|halt| safety(NODE_RUNS, format!("node {id} does not start: {halt:?}")))?);
        self.push(self.now_ms + 1, Event::Wake { node: id, boot, timer: Timer::Reconcile });
        self.apply_soon(id);
        self.check_disk(id)
    }
}
