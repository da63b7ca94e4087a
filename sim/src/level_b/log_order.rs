//! The log-order oracle: whatever clients were answered, and when, follows from the log, read from its beginning to its end.
//!
//! Every change has one place in the log: the first entry that carries its request. An answer must be what a small model says
//! at that place; a change that was answered before another one was asked for must lie before it. Then the changes are
//! linearizable, with the places as their moments. A read names an index: it must show the model at that index or a later one,
//! and nothing that was asked for after it was answered.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;

use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::request::SignedRequest;

use super::types::lock;

/// A change that the model knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Registers a guest.
    Admit(String),
    /// Removes a guest.
    Dismiss(String),
    /// Suspends the key.
    Suspend,
    /// Resumes the key.
    Resume,
}

/// What clients can see of the changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Model {
    guests: BTreeSet<String>,
    suspended: bool,
}

impl Model {
    fn apply(&mut self, step: &Step) -> Result<(), ErrorCode> {
        let allowed = |so: bool, code| if so { Ok(()) } else { Err(code) };
        match step {
            Step::Admit(guest) => allowed(self.guests.insert(guest.clone()), ErrorCode::AlreadyExists),
            Step::Dismiss(guest) => allowed(self.guests.remove(guest), ErrorCode::NotFound),
            Step::Suspend => allowed(!std::mem::replace(&mut self.suspended, true), ErrorCode::WrongState),
            Step::Resume => allowed(std::mem::replace(&mut self.suspended, false), ErrorCode::WrongState),
        }
    }
}

/// What a read showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Glimpse {
    /// The guests that are registered.
    Guests(BTreeSet<String>),
    /// Whether the key is suspended.
    Suspended(bool),
}

impl Glimpse {
    fn is_of(&self, model: &Model) -> bool {
        match self {
            Self::Guests(guests) => *guests == model.guests,
            Self::Suspended(suspended) => *suspended == model.suspended,
        }
    }
}

struct Change {
    step: Step,
    body: Vec<u8>,
    asked: u64,
    /// When it was answered, at which index, and with what.
    answer: Option<(u64, Option<u64>, Result<(), ErrorCode>)>,
}

struct Read {
    asked: u64,
    answered: u64,
    index: u64,
    glimpse: Glimpse,
    /// Whether it must show everything that was answered before it was asked for.
    current: bool,
}

#[derive(Default)]
struct Events {
    /// Questions and answers so far: they are told apart by their order, not by the clock.
    count: u64,
    changes: Vec<Change>,
    reads: Vec<Read>,
}

impl Events {
    fn next(&mut self) -> u64 {
        self.count += 1;
        self.count
    }
}

/// What clients asked and were answered, in the order in which that happened.
#[derive(Default)]
pub struct LogOrder(Mutex<Events>);

impl LogOrder {
    /// A client asks for a change; it may ask again with the same request. Gives the number of the change.
    pub fn asks(&self, step: Step, request: &SignedRequest) -> usize {
        let mut events = lock(&self.0);
        let asked = events.next();
        events.changes.push(Change { step, body: request.body.0.clone(), asked, answer: None });
        events.changes.len() - 1
    }

    /// A change is answered: at which index, where the answer says so, and with what.
    pub fn answered(&self, change: usize, index: Option<u64>, said: Result<(), ErrorCode>) {
        let mut events = lock(&self.0);
        let at = events.next();
        if let Some(change) = events.changes.get_mut(change) {
            change.answer = Some((at, index, said));
        }
    }

    /// A client asks to read. Gives what [`LogOrder::saw`] needs.
    #[must_use]
    pub fn looks(&self) -> u64 {
        lock(&self.0).next()
    }

    /// A read is answered. `current` says that it must show everything that was answered before it was asked for.
    pub fn saw(&self, asked: u64, index: u64, glimpse: Glimpse, current: bool) {
        let mut events = lock(&self.0);
        let answered = events.next();
        events.reads.push(Read { asked, answered, index, glimpse, current });
    }

    /// Changes that were answered, those of them that were refused, and reads.
    #[must_use]
    pub fn count(&self) -> (usize, usize, usize) {
        let events = lock(&self.0);
        let answers = events.changes.iter().filter_map(|change| change.answer.as_ref());
        let refused = answers.clone().filter(|(_, _, said)| said.is_err()).count();
        (answers.count(), refused, events.reads.len())
    }

    /// Compares everything with a log that begins with its first entry: stored entries by index.
    ///
    /// # Errors
    /// What does not follow from the log.
    pub fn check(&self, log: &BTreeMap<u64, Vec<u8>>) -> Result<(), String> {
        let events = lock(&self.0);
        if log.first_key_value().is_none_or(|(first, _)| *first > 1) {
            return Err("the log does not reach back to its beginning".to_owned());
        }
        let mut placed: BTreeMap<u64, &Change> = BTreeMap::new();
        for change in &events.changes {
            match place_of(log, &change.body) {
                Some(index) => {
                    placed.insert(index, change);
                }
                // Asked for, and nobody knows what became of it.
                None if change.answer.is_none() => {}
                None => return Err(format!("{:?} was answered and is not in the log", change.step)),
            }
        }
        check_order(&placed)?;
        let states = check_answers(&placed)?;
        events.reads.iter().try_for_each(|read| check_read(read, &placed, &states))
    }
}

/// The first entry with a request in it.
fn place_of(log: &BTreeMap<u64, Vec<u8>>, body: &[u8]) -> Option<u64> {
    let carries = |entry: &[u8]| entry.windows(body.len()).any(|part| part == body);
    log.iter().find(|(_, entry)| carries(entry)).map(|(index, _)| *index)
}

/// What was answered before something else was asked for lies before it.
fn check_order(placed: &BTreeMap<u64, &Change>) -> Result<(), String> {
    // The latest question so far, and where it lies.
    let mut latest: Option<(u64, u64, &Step)> = None;
    for (index, change) in placed {
        if let (Some((asked, before, earlier)), Some((answered, ..))) = (latest, &change.answer)
            && *answered < asked
        {
            return Err(format!(
                "{:?} at index {index} was answered before {earlier:?} at index {before} was asked for",
                change.step
            ));
        }
        if latest.is_none_or(|(asked, ..)| change.asked > asked) {
            latest = Some((change.asked, *index, &change.step));
        }
    }
    Ok(())
}

/// Replays the log in the model. Gives the state after each change, by its index; before the first one, at 0.
fn check_answers(placed: &BTreeMap<u64, &Change>) -> Result<BTreeMap<u64, Model>, String> {
    let mut model = Model::default();
    let mut states = BTreeMap::from([(0, model.clone())]);
    for (index, change) in placed {
        let before = model.clone();
        let becomes = model.apply(&change.step);
        states.insert(*index, model.clone());
        let Some((_, told, said)) = &change.answer else { continue };
        if *said != becomes {
            return Err(format!("{:?} at index {index} was answered {said:?} where it was {before:?}", change.step));
        }
        if told.is_some_and(|told| told < *index) {
            return Err(format!("{:?} at index {index} was answered with index {told:?}", change.step));
        }
    }
    Ok(states)
}

fn check_read(read: &Read, placed: &BTreeMap<u64, &Change>, states: &BTreeMap<u64, Model>) -> Result<(), String> {
    let answered_before = |change: &Change| change.answer.as_ref().is_some_and(|(at, ..)| *at < read.asked);
    let known = placed.iter().filter(|(_, change)| read.current && answered_before(change)).map(|(index, _)| *index);
    let lowest = known.fold(read.index, u64::max);
    let asked_after = placed.iter().filter(|(_, change)| change.asked > read.answered).map(|(index, _)| *index);
    let end = asked_after.min().unwrap_or(u64::MAX);
    // The state that holds at the lowest index was made at or before it.
    let first = states.range(..=lowest).next_back().map_or(0, |(index, _)| *index);
    let mut possible = states.range(first..).take_while(|(index, _)| **index < end);
    if possible.any(|(_, model)| read.glimpse.is_of(model)) {
        return Ok(());
    }
    let (index, shown) = (read.index, &read.glimpse);
    Err(format!(
        "a read at index {index} showed {shown:?}, which was so at no index from {lowest} on that it can be of"
    ))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use symbolon_protocol::wire::Bytes;

    use super::*;

    fn request(number: u8) -> SignedRequest {
        SignedRequest { body: Bytes(vec![0xb0, number, 0xb1]), signatures: Vec::new() }
    }

    /// A log with these requests in its entries, from index 1 on.
    fn log(numbers: &[u8]) -> BTreeMap<u64, Vec<u8>> {
        let entry = |number: &u8| [&b"before"[..], request(*number).body.0.as_slice(), &b"after"[..]].concat();
        (1..).zip(numbers.iter().map(entry)).collect()
    }

    fn admit(guest: &str) -> Step {
        Step::Admit(guest.to_owned())
    }

    fn guests(names: &[&str]) -> Glimpse {
        Glimpse::Guests(names.iter().map(|name| (*name).to_owned()).collect())
    }

    #[test]
    fn answers_that_follow_from_the_log_pass() {
        let order = LogOrder::default();
        let (a, b) = (order.asks(admit("a"), &request(0)), order.asks(admit("a"), &request(1)));
        order.answered(a, Some(1), Ok(()));
        // Ordered twice: the first time counts.
        order.answered(b, Some(3), Err(ErrorCode::AlreadyExists));
        order.asks(Step::Suspend, &request(9));
        order.saw(order.looks(), 1, guests(&["a"]), true);
        assert_eq!(order.check(&log(&[0, 1, 1])), Ok(()));
        assert_eq!(order.count(), (2, 1, 1));
    }

    #[test]
    fn an_answer_that_the_log_does_not_give_is_found() {
        let taken = Err(ErrorCode::AlreadyExists);
        for (first, second, in_order) in [(Ok(()), taken, true), (taken, Ok(()), false)] {
            let order = LogOrder::default();
            // Both are asked for before one is answered: they may lie in either order.
            let (a, b) = (order.asks(admit("a"), &request(0)), order.asks(admit("a"), &request(1)));
            order.answered(a, None, first);
            order.answered(b, None, second);
            assert_eq!(order.check(&log(&[0, 1])).is_ok(), in_order);
            assert_eq!(order.check(&log(&[1, 0])).is_ok(), !in_order);
        }
        let order = LogOrder::default();
        order.answered(order.asks(Step::Suspend, &request(0)), None, Ok(()));
        assert!(order.check(&log(&[7])).unwrap_err().contains("not in the log"));
        assert!(order.check(&BTreeMap::new()).is_err());
    }

    #[test]
    fn changes_against_real_time_are_found() {
        let order = LogOrder::default();
        order.answered(order.asks(Step::Suspend, &request(0)), None, Ok(()));
        order.answered(order.asks(admit("a"), &request(1)), None, Ok(()));
        assert_eq!(order.check(&log(&[0, 1])), Ok(()));
        assert!(order.check(&log(&[1, 0])).unwrap_err().contains("before"));
    }

    #[test]
    fn reads_out_of_time_are_found() {
        let order = LogOrder::default();
        order.answered(order.asks(admit("a"), &request(0)), Some(1), Ok(()));
        let asked = order.looks();
        order.saw(asked, 0, guests(&[]), false);
        assert_eq!(order.check(&log(&[0])), Ok(()), "it names an index from before");
        order.saw(asked, 0, guests(&[]), true);
        assert!(order.check(&log(&[0])).is_err(), "it was to show what had been answered");

        let order = LogOrder::default();
        order.saw(order.looks(), 0, guests(&["a"]), false);
        order.answered(order.asks(admit("a"), &request(0)), Some(1), Ok(()));
        assert!(order.check(&log(&[0])).is_err(), "it showed what nobody had asked for");
    }
}
