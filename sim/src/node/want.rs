//! Shares that are wanted of this node. Each waits for a moment where this node is not fresh, and where its disk is slow; it is
//! decided anew whenever it goes on.

use std::sync::Arc;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{KeyId, KeyVersion, NodeId, SigningSession};
use symbolon_protocol::peer::WorkAnswer;
use symbolon_protocol::request::VerifiedRequest;
use symbolon_protocol::sign::coordinator::{Answer, Input};
use symbolon_protocol::sign::{CheckedSigners, Commitments, Round1, Round2, Shares};

use super::{Env, Halt, Node, Stop, Timer, settled};
use crate::count::situation;

/// How long a request waits for a lease that has lapsed, by the clock that nobody sets, milliseconds.
const PATIENCE_MS: u64 = 1_200;
/// While it waits, voters are asked this often at least, milliseconds.
const ASK_MS: u64 = 400;
/// Usage records of a thousand that take a while until they are durable, where the disk is slow.
const SLOW: u32 = 250;

/// Who wants it.
#[derive(Debug, Clone, Copy)]
pub(super) enum Asker {
    Peer { node: NodeId, call: u64 },
    Own { job: u64, session: SigningSession },
}

/// What is wanted.
pub(super) enum Want {
    Commitments(Arc<Round1>),
    Shares(Arc<Round2>, Option<Arc<CheckedSigners>>),
    /// They are made: may they leave?
    Leave(Box<Made>),
}

/// Shares whose usage record is durable.
pub(super) struct Made {
    pub(super) shares: Shares,
    pub(super) signers: Arc<CheckedSigners>,
    pub(super) verified: Arc<VerifiedRequest>,
    pub(super) key: (KeyId, KeyVersion),
}

/// What a holder has for a coordinator.
pub(super) enum Given {
    Commitments(Commitments),
    Shares(Shares),
}

/// Something that waits.
pub(super) struct Waiting {
    asker: Asker,
    want: Want,
    /// Until when it waits to become fresh, boot time; not yet while the disk is busy with it.
    until_ms: Option<u64>,
}

impl Node {
    fn coordinator_of(&self, asker: Asker) -> NodeId {
        match asker {
            Asker::Peer { node, .. } => node,
            Asker::Own { .. } => self.me,
        }
    }

    /// The request behind a want; none where what is wanted cannot be given anyway.
    fn request_behind(&self, env: &Env<'_>, asker: Asker, want: &Want) -> Option<Arc<VerifiedRequest>> {
        match want {
            Want::Commitments(round1) => round1.request.verify(&self.cluster).ok().map(Arc::new),
            Want::Shares(round2, _) => {
                self.holder.request_of(self.coordinator_of(asker), round2.session, env.now_ms).cloned()
            }
            Want::Leave(made) => Some(Arc::clone(&made.verified)),
        }
    }

    /// Gives a share, or lets whoever wants it wait until this node is fresh.
    pub(super) fn want(&mut self, env: &mut Env<'_>, asker: Asker, want: Want) -> Result<(), Halt> {
        let Some(request) = self.request_behind(env, asker, &want) else { return self.give(env, asker, want) };
        let staleness_ms = self.staleness_ms(request.body())?;
        let fresh = self.is_fresh_for(env, request.body(), staleness_ms);
        // As a real node would have done in the background.
        self.ask_voters(env, staleness_ms / 3)?;
        if fresh || self.is_fresh_for(env, request.body(), staleness_ms) {
            return self.give(env, asker, want);
        }
        env.count.situation(situation::LAPSED);
        let until_ms = Some(env.boot_ms + PATIENCE_MS);
        let number = self.next_number();
        self.wanted.insert(number, Waiting { asker, want, until_ms });
        env.wake(staleness_ms.div_ceil(3).min(ASK_MS), Timer::Want(number));
        Ok(())
    }

    /// This node may be fresh now: looks at everything that waits for that.
    pub(super) fn look_wanted(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let waiting = self.wanted.iter().filter(|(_, waiting)| waiting.until_ms.is_some());
        let numbers: Vec<u64> = waiting.map(|(number, _)| *number).collect();
        for number in numbers {
            self.go_on(env, number, false)?;
        }
        Ok(())
    }

    /// Something waited for a while.
    pub(super) fn waited(&mut self, env: &mut Env<'_>, number: u64) -> Result<(), Halt> {
        self.go_on(env, number, true)
    }

    fn go_on(&mut self, env: &mut Env<'_>, number: u64, timer: bool) -> Result<(), Halt> {
        let Some(Waiting { asker, want, until_ms }) = self.wanted.remove(&number) else { return Ok(()) };
        let Some(until_ms) = until_ms else { return self.want(env, asker, want) };
        let Some(request) = self.request_behind(env, asker, &want) else { return self.give(env, asker, want) };
        let staleness_ms = self.staleness_ms(request.body())?;
        if self.is_fresh_for(env, request.body(), staleness_ms) {
            env.count.situation(situation::RENEWED);
            return self.give(env, asker, want);
        }
        if env.boot_ms >= until_ms {
            // Refused, by the decision itself.
            return self.give(env, asker, want);
        }
        self.wanted.insert(number, Waiting { asker, want, until_ms: Some(until_ms) });
        if timer {
            let again_ms = staleness_ms.div_ceil(3).min(ASK_MS);
            env.wake(again_ms, Timer::Want(number));
            self.ask_voters(env, again_ms)?;
        }
        Ok(())
    }

    fn give(&mut self, env: &mut Env<'_>, asker: Asker, want: Want) -> Result<(), Halt> {
        let coordinator = self.coordinator_of(asker);
        let result = match want {
            Want::Commitments(round1) => settled(self.sign_round1(env, coordinator, &round1))?.map(Given::Commitments),
            Want::Shares(round2, checked) => match settled(self.sign_round2(env, coordinator, &round2, checked))? {
                Ok(Ok(repeated)) => Ok(Given::Shares(repeated)),
                Ok(Err(made)) => return self.leave_later(env, asker, made),
                Err(refusal) => Err(refusal),
            },
            Want::Leave(made) => settled(self.let_go(env, coordinator, *made))?.map(Given::Shares),
        };
        self.deliver(env, asker, result)
    }

    /// A slow disk: the record is durable, and that is told a while later.
    fn leave_later(&mut self, env: &mut Env<'_>, asker: Asker, made: Made) -> Result<(), Halt> {
        let want = Want::Leave(Box::new(made));
        if env.slow_ms == 0 || !env.chaos.chance(SLOW) {
            return self.want(env, asker, want);
        }
        let number = self.next_number();
        self.wanted.insert(number, Waiting { asker, want, until_ms: None });
        let wait_ms = env.chaos.between(1, env.slow_ms);
        env.wake(wait_ms, Timer::Want(number));
        Ok(())
    }

    fn deliver(&mut self, env: &mut Env<'_>, asker: Asker, result: Result<Given, Refusal>) -> Result<(), Halt> {
        if result.as_ref().is_err_and(|refusal| refusal.code == ErrorCode::NotFresh) {
            env.count.situation(situation::NOT_FRESH);
        }
        match asker {
            Asker::Peer { node, call } => {
                let answer = match result {
                    Ok(Given::Commitments(commitments)) => WorkAnswer::Commitments(commitments),
                    Ok(Given::Shares(shares)) => WorkAnswer::Shares(shares),
                    Err(refusal) => WorkAnswer::Refused(refusal),
                };
                env.answer(node, call, &answer);
                Ok(())
            }
            Asker::Own { job, session } => {
                let answer = match result {
                    // Its own points need no check.
                    Ok(Given::Commitments(commitments)) => match self.holder.own_pairs(self.me, session, env.now_ms) {
                        Some(pairs) => Answer::Own(commitments, pairs),
                        None => Answer::Commitments(commitments),
                    },
                    Ok(Given::Shares(shares)) => Answer::Shares(shares),
                    Err(refusal) => Answer::Refused(refusal),
                };
                self.tell(env, job, Input::Answer { from: self.me, session, answer })
            }
        }
    }

    /// The last question before shares leave.
    fn let_go(&mut self, env: &mut Env<'_>, coordinator: NodeId, made: Made) -> Result<Shares, Stop> {
        self.permit(env, &made.verified)?.covers(made.key.1)?;
        self.release(env, coordinator, &made)?;
        Ok(made.shares)
    }
}
