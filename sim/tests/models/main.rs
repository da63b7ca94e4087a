//! Exhaustive models of decided protocols: every order of events is tried, not a sample of them. `docs/spec/models.md`
//! says what is modelled and what is not.
//!
//! Each rule that a promise rests on is also left out once: the checker must then find a history that breaks the
//! promise, else the model could not have found anything. `-- --nocapture` shows the counts.
#![expect(clippy::indexing_slicing, reason = "tests")]

mod epoch_switch;
mod lease;
mod voters;

use std::fmt::Debug;
use std::hash::Hash;

use stateright::{Checker, Model, Property};

/// Every promise holds in every state, and every situation that the model claims to contain occurs.
#[expect(clippy::print_stdout, reason = "the counts are the result")]
fn holds<M>(name: &str, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let checker = model.checker().threads(2).spawn_bfs().join();
    checker.assert_properties();
    println!("{name} | nothing planted | every promise holds in all {} states", checker.unique_state_count());
}

/// With a planted bug, the promise that rests on the rule is broken. The search ends at the first state that breaks it,
/// and has one thread: so the history is among the shortest, and the count is the same every time.
#[expect(clippy::print_stdout, reason = "the counts are the result")]
fn found<M>(name: &str, promise: &'static str, planted: impl Debug, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let (states, history) = search(promise, model);
    assert!(history.is_some(), "{name} with {planted:?}: `{promise}` holds in all {states} states");
    println!("{promise} | {name} | {planted:?} | found after {states} states");
    println!("    {:?}", history.unwrap_or_default());
}

/// A promise that holds in spite of a planted bug: another rule keeps it, too.
#[expect(clippy::print_stdout, reason = "the counts are the result")]
fn not_found<M>(name: &str, promise: &'static str, planted: impl Debug, model: M)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let (states, history) = search(promise, model);
    assert_eq!(history, None, "{name} with {planted:?}: `{promise}` is broken");
    println!("{promise} | {name} | {planted:?} | holds in all {states} states");
}

/// How many states were seen, and how the promise is broken.
fn search<M>(promise: &'static str, model: M) -> (usize, Option<Vec<M::Action>>)
where
    M: Model + Send + Sync + 'static,
    M::State: Clone + Debug + Hash + PartialEq + Send + Sync,
    M::Action: Clone + Debug + PartialEq,
{
    let checker = Only { model, promise }.checker().spawn_bfs().join();
    (checker.unique_state_count(), checker.discovery(promise).map(|path| path.into_actions()))
}

/// A model of which one promise is asked, so that the search ends where that is broken.
struct Only<M> {
    model: M,
    promise: &'static str,
}

impl<M: Model> Model for Only<M> {
    type State = M::State;
    type Action = M::Action;

    fn init_states(&self) -> Vec<M::State> {
        self.model.init_states()
    }
    fn actions(&self, state: &M::State, actions: &mut Vec<M::Action>) {
        self.model.actions(state, actions);
    }
    fn next_state(&self, last: &M::State, action: M::Action) -> Option<M::State> {
        self.model.next_state(last, action)
    }
    fn properties(&self) -> Vec<Property<Self>> {
        vec![Property::always(self.promise, |only, state| {
            (only.model.property(only.promise).condition)(&only.model, state)
        })]
    }
}
