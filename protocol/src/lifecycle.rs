//! States of a key version and what each allows: one table (`docs/spec/lifecycle.md`), one function.

use std::fmt;

/// State of a key version (NIST SP 800-57 part 1, section 7, in brackets).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum KeyState {
    /// Its generation runs (pre-activation).
    Pending,
    /// Signs and verifies (active).
    Active,
    /// Does not sign for now (suspended).
    Suspended,
    /// A newer version signs; this one verifies (deactivated).
    Rotated,
    /// Past its date; verifies (deactivated).
    Expired,
    /// Withdrawn with a reason (compromised).
    Revoked,
    /// Shares are about to be erased, or are being erased.
    Destroying,
    /// So many shares are proved erased that fewer than the threshold can remain (destroyed).
    Destroyed,
    /// Generation ended without a key.
    Failed,
}
crate::wire_enum!(KeyState {
    1 => Pending, 2 => Active, 3 => Suspended, 4 => Rotated, 5 => Expired, 6 => Revoked, 7 => Destroying, 8 => Destroyed, 9 => Failed,
});

/// Every state, in the order of the table.
pub const STATES: [KeyState; 9] = [
    KeyState::Pending,
    KeyState::Active,
    KeyState::Suspended,
    KeyState::Rotated,
    KeyState::Expired,
    KeyState::Revoked,
    KeyState::Destroying,
    KeyState::Destroyed,
    KeyState::Failed,
];

impl KeyState {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Suspended => "suspended",
            Self::Rotated => "rotated",
            Self::Expired => "expired",
            Self::Revoked => "revoked",
            Self::Destroying => "destroying",
            Self::Destroyed => "destroyed",
            Self::Failed => "failed",
        }
    }
}

impl fmt::Display for KeyState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What may happen to a version or be done with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Its generation succeeded.
    Generated,
    /// Its generation failed for good.
    GenerationFailed,
    /// A newer version became active.
    Superseded,
    /// Suspend.
    Suspend,
    /// Resume.
    Resume,
    /// Its date passed.
    Expire,
    /// Revoke.
    Revoke,
    /// Destroy.
    Destroy,
    /// Call the destruction off; the state before it comes back.
    CancelDestroy,
    /// Enough shares are erased.
    Erased,
    /// Sign with it.
    Sign,
    /// Verify a signature made with it.
    Verify,
    /// Give new shares of it to the same or another roster.
    Redistribute,
}

/// Every event, in the order of the table.
pub const EVENTS: [Event; 13] = [
    Event::Generated,
    Event::GenerationFailed,
    Event::Superseded,
    Event::Suspend,
    Event::Resume,
    Event::Expire,
    Event::Revoke,
    Event::Destroy,
    Event::CancelDestroy,
    Event::Erased,
    Event::Sign,
    Event::Verify,
    Event::Redistribute,
];

/// What the table says of an event in a state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Allowed; the version is in this state afterwards.
    To(KeyState),
    /// Allowed; the version goes back to the state in which it was when destruction was asked for.
    Back,
    /// Refused.
    No,
}

/// The table.
#[must_use]
pub const fn decide(state: KeyState, event: Event) -> Verdict {
    use KeyState as S;
    match (state, event) {
        (S::Pending, Event::Generated) => Verdict::To(S::Active),
        (S::Pending, Event::GenerationFailed) => Verdict::To(S::Failed),
        // Withdrawn before it ever was a key.
        (S::Pending, Event::Revoke) => Verdict::To(S::Failed),
        (S::Active | S::Suspended, Event::Superseded) => Verdict::To(S::Rotated),
        (S::Active, Event::Suspend) => Verdict::To(S::Suspended),
        (S::Suspended, Event::Resume) => Verdict::To(S::Active),
        (S::Active | S::Suspended | S::Rotated, Event::Expire) => Verdict::To(S::Expired),
        // Said again it changes nothing, and can be waited for until everybody knows.
        (S::Active | S::Suspended | S::Rotated | S::Expired | S::Revoked, Event::Revoke) => Verdict::To(S::Revoked),
        (S::Revoked | S::Expired, Event::Destroy) => Verdict::To(S::Destroying),
        (S::Destroying, Event::CancelDestroy) => Verdict::Back,
        (S::Destroying, Event::Erased) => Verdict::To(S::Destroyed),
        (S::Active, Event::Sign) => Verdict::To(S::Active),
        // A suspended key's old signatures are still good; a revoked one's only for a verifier that says it knows.
        (S::Active | S::Suspended | S::Rotated | S::Expired, Event::Verify) => Verdict::To(state),
        // Those that only verify too: a machine that has shares of one may be taken out all the same.
        (S::Active | S::Suspended | S::Rotated | S::Expired, Event::Redistribute) => Verdict::To(state),
        _ => Verdict::No,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table as `docs/spec/lifecycle.md` prints it: one row per state, one letter per event in the order of [`EVENTS`].
    /// Letters: `.` no, `=` stays, `<` back, otherwise the first letters of the next state.
    const TABLE: [(&str, &str); 9] = [
        ("pending", "active failed . . . . failed . . . . . ."),
        ("active", ". . rotated suspended . expired revoked . . . = = ="),
        ("suspended", ". . rotated . active expired revoked . . . . = ="),
        ("rotated", ". . . . . expired revoked . . . . = ="),
        ("expired", ". . . . . . revoked destroying . . . = ="),
        ("revoked", ". . . . . . = destroying . . . . ."),
        ("destroying", ". . . . . . . . < destroyed . . ."),
        ("destroyed", ". . . . . . . . . . . . ."),
        ("failed", ". . . . . . . . . . . . ."),
    ];

    #[test]
    fn every_cell() {
        for (state, (name, row)) in STATES.iter().zip(TABLE) {
            assert_eq!(state.name(), name);
            let cells: Vec<&str> = row.split(' ').collect();
            assert_eq!(cells.len(), EVENTS.len(), "{name}");
            for (event, cell) in EVENTS.iter().zip(cells) {
                let found = match decide(*state, *event) {
                    Verdict::No => ".",
                    Verdict::Back => "<",
                    Verdict::To(next) if next == *state => "=",
                    Verdict::To(next) => next.name(),
                };
                assert_eq!(found, cell, "{name} {event:?}");
            }
        }
    }

    #[test]
    fn the_specification_prints_this_table() {
        let page = include_str!("../../docs/spec/lifecycle.md");
        for (name, row) in TABLE {
            let cells: Vec<String> = row.split(' ').map(|cell| format!(" {cell} ")).collect();
            let line = format!("| {name} |{}|", cells.join("|"));
            assert!(page.contains(&line), "docs/spec/lifecycle.md lacks: {line}");
        }
    }
}
