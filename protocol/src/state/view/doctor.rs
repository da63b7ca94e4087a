//! What a node finds when it examines itself.

use crate::id::NodeId;
use crate::limits;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// As it should be.
    Ok,
    /// Works, and somebody should look at it.
    Warning,
    /// Does not work, or will soon not.
    Failure,
}
crate::wire_enum!(Level { 1 => Ok, 2 => Warning, 3 => Failure });

impl Level {
    /// Its name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }
}

/// One thing that a node looked at when it examined itself. It holds no secret and no name of a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// What was looked at; scripts rely on it.
    pub name: String,
    /// How it is.
    pub level: Level,
    /// What was found, at most [`limits::CHECK_TEXT_BYTES`] as all texts here.
    pub detail: String,
    /// What to do; empty when nothing is to be done.
    pub advice: String,
}
crate::wire_struct!(Check { name, level, detail, advice });

impl Check {
    /// A finding; texts that are too long are cut.
    #[must_use]
    pub fn new(name: &str, level: Level, detail: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { name: name.to_owned(), level, detail: cut(detail.into()), advice: cut(advice.into()) }
    }
    /// As it should be.
    #[must_use]
    pub fn ok(name: &str, detail: impl Into<String>) -> Self {
        Self::new(name, Level::Ok, detail, "")
    }
}

/// A text within the limit, with a mark where it ends early.
fn cut(mut text: String) -> String {
    const MARK: &str = " ...";
    if text.len() > limits::CHECK_TEXT_BYTES {
        text.truncate(text.floor_char_boundary(limits::CHECK_TEXT_BYTES - MARK.len()));
        text.push_str(MARK);
    }
    text
}

/// What a node finds when it examines itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DoctorView {
    /// The node.
    pub node: NodeId,
    /// What it looked at.
    pub checks: Vec<Check>,
}
crate::wire_struct!(DoctorView { node, checks });

impl DoctorView {
    /// Whether a node that keeps to the limits can have said this.
    #[must_use]
    pub fn is_within_limits(&self) -> bool {
        let fits = |text: &String| text.len() <= limits::CHECK_TEXT_BYTES;
        self.checks.len() <= limits::DOCTOR_CHECKS
            && self.checks.iter().all(|check| [&check.name, &check.detail, &check.advice].into_iter().all(fits))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn texts_of_checks_are_cut_at_a_character() {
        let check = Check::new("peers", Level::Failure, "ß".repeat(limits::CHECK_TEXT_BYTES), "short");
        assert!(check.detail.len() <= limits::CHECK_TEXT_BYTES && check.detail.ends_with("ß ..."), "{}", check.detail);
        assert_eq!(check.advice, "short");
    }

    #[test]
    fn a_view_over_the_limits_is_told_from_one_within() {
        let view = |checks| NodeId::new(1).map(|node| DoctorView { node, checks });
        let good = view(vec![Check::ok("clock", "x"); limits::DOCTOR_CHECKS]);
        assert!(good.as_ref().is_some_and(DoctorView::is_within_limits));
        assert_eq!(good.as_ref().map(|view| decode::<DoctorView>(&encode(view))), good.clone().map(Ok));
        let many = view(vec![Check::ok("clock", "x"); limits::DOCTOR_CHECKS + 1]);
        assert!(many.is_some_and(|view| !view.is_within_limits()));
        let long = Check { detail: "x".repeat(limits::CHECK_TEXT_BYTES + 1), ..Check::ok("clock", "") };
        assert!(view(vec![long]).is_some_and(|view| !view.is_within_limits()));
    }
}
