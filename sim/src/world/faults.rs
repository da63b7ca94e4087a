//! Faults that come by themselves: crashes, leaders that go, nodes that are cut off; and the end of them.

use symbolon_protocol::id::NodeId;

use super::{Event, Violation, World};
use crate::count::fault;
use crate::order::Logged;

impl World {
    pub(super) fn begin_faults(&mut self) {
        self.some_time(self.options.crash_ms, Event::CrashSomewhere);
        self.some_time(self.options.leader_ms, Event::LeaderGoes);
        self.some_time(self.options.isolate_ms, Event::CutSomewhere);
    }

    /// Lets something happen after a time with this average; never when it is 0 or faults are over.
    fn some_time(&mut self, average_ms: u64, event: Event) {
        if average_ms > 0 && self.calm_since.is_none() {
            let wait_ms = self.chaos.between(1, 2 * average_ms);
            self.push(self.now_ms + wait_ms, event);
        }
    }

    fn running(&self, honest_only: bool) -> Vec<NodeId> {
        let fits =
            self.slots.iter().filter(|(_, slot)| slot.running.is_some() && !(honest_only && slot.evil.is_some()));
        fits.map(|(id, _)| *id).collect()
    }

    pub(super) fn crash_somewhere(&mut self) -> Result<(), Violation> {
        if self.calm_since.is_some() {
            return Ok(());
        }
        self.some_time(self.options.crash_ms, Event::CrashSomewhere);
        let running = self.running(true);
        match self.chaos.pick(&running) {
            Some(id) => self.crash(id, fault::CRASH),
            None => Ok(()),
        }
    }

    /// A node loses power and with it everything that is not durable.
    pub(super) fn crash(&mut self, id: NodeId, class: &'static str) -> Result<(), Violation> {
        let Some(slot) = self.slots.get_mut(&id) else { return Ok(()) };
        let Some(node) = slot.running.take() else { return Ok(()) };
        let mut disk = node.into_disk();
        let pending = disk.pending();
        let keep = self.chaos.place(pending + 1);
        disk.crash(keep);
        slot.down = Some(disk);
        self.count.fault(class);
        self.count.faults(fault::LOST_WRITES, pending.saturating_sub(keep) as u64);
        let away_ms = self.chaos.between(20, self.options.down_ms);
        self.push(self.now_ms + away_ms, Event::Restart { node: id });
        self.check_disk(id)
    }

    pub(super) fn leader_goes(&mut self) -> Result<(), Violation> {
        if self.calm_since.is_some() {
            return Ok(());
        }
        self.order.leader = None;
        self.count.fault(fault::LEADERLESS);
        let wait_ms = self.chaos.between(150, 3_000);
        self.push(self.now_ms + wait_ms, Event::LeaderComes);
        Ok(())
    }

    pub(super) fn leader_comes(&mut self) -> Result<(), Violation> {
        let able = self.running(self.calm_since.is_some());
        self.order.leader = self.chaos.pick(&able);
        if self.order.leader.is_none() {
            self.push(self.now_ms + 100, Event::LeaderComes);
            return Ok(());
        }
        self.count.fault(fault::NEW_LEADER);
        let index = self.order.append(Logged::Blank);
        self.some_time(self.options.leader_ms, Event::LeaderGoes);
        self.entered(index)
    }

    pub(super) fn cut_somewhere(&mut self) {
        if self.calm_since.is_some() {
            return;
        }
        let running = self.running(false);
        if let Some(node) = self.chaos.pick(&running) {
            let until_ms = self.now_ms + self.chaos.between(500, 4_000);
            self.network.cut(node, until_ms);
            self.count.fault(fault::ISOLATED);
        }
        self.some_time(self.options.isolate_ms, Event::CutSomewhere);
    }

    /// Faults are over: all nodes run, an honest one leads, everything arrives. Evil nodes go on.
    pub(super) fn calm_down(&mut self) -> Result<(), Violation> {
        self.calm_since = Some(self.now_ms);
        self.network.heal();
        let all = self.options.ids();
        for id in all {
            self.restart(id)?;
            self.apply_soon(id);
        }
        self.leader_comes()
    }
}
