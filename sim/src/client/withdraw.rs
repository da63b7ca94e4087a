//! Rights that clients get and lose, and what a client makes of the report that one is gone.

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::fresh::{Checked, Claim, Expected, Report};
use symbolon_protocol::history::Leaf;
use symbolon_protocol::id::{KeyId, Name};
use symbolon_protocol::identity::{Identity, PublicKey};
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{Action, Grant, KeyPolicy, Role, VersionSelector};

use super::{Clients, Goal, Who, Wish};

/// Longest stalenesses of keys, milliseconds.
const STALENESS_MS: [u32; 5] = [limits::STALENESS_MIN_MS, limits::STALENESS_MS, limits::STALENESS_MS, 2_500, 8_000];

impl Clients {
    /// How stale holders of a key may be.
    pub(super) fn staleness_ms(&mut self) -> u32 {
        self.draw.pick(&STALENESS_MS).unwrap_or(limits::STALENESS_MS)
    }

    /// Another staleness for a key.
    pub(super) fn change_staleness(&mut self, key: KeyId) -> Wish {
        let policy = KeyPolicy { max_staleness_ms: self.staleness_ms(), ..KeyPolicy::default() };
        self.change(Goal::Change, key, Action::SetKeyPolicy { policy })
    }

    /// A guest comes, signs, and goes for ever.
    pub(super) fn guest(&mut self, key: KeyId) -> Option<Wish> {
        let ordered = |action, goal| {
            let version = VersionSelector::Active;
            Wish { goal, who: Who::Admin, action, key: None, version, messages: Vec::new() }
        };
        let name = |number: usize| Name::new(&format!("guest{number}")).ok();
        match self.draw.below(3) {
            _ if self.guest_here => {
                let number = self.guests.len();
                if self.draw.chance(400) {
                    self.guest_here = false;
                    return Some(ordered(Action::RemoveClient { name: name(number)? }, Goal::Change));
                }
                Some(self.signing(Goal::Siege, Who::Guest, key))
            }
            _ => {
                self.guests.push(Identity::generate(self.draw.rng()));
                self.guest_here = true;
                let grant = Grant { role: Role::Signer, keys: "*".to_owned() };
                let key = self.guests.last()?.public();
                Some(ordered(Action::AddClient { name: name(self.guests.len())?, key, grant }, Goal::Register))
            }
        }
    }

    /// The guest with a name.
    pub(crate) fn guest_named(&self, name: &Name) -> Option<PublicKey> {
        let number: usize = name.as_str().strip_prefix("guest")?.parse().ok()?;
        self.guests.get(number.checked_sub(1)?).map(Identity::public)
    }

    /// Somebody who wants signatures with what is about to be taken away.
    pub(crate) fn besieger(&mut self, wish: &Wish) -> Option<Wish> {
        let keys: Vec<KeyId> = self.keys.keys().copied().collect();
        let who = if matches!(wish.action, Action::RemoveClient { .. }) { Who::Guest } else { Who::Signer };
        let key = wish.key.or_else(|| self.draw.pick(&keys))?;
        Some(self.signing(Goal::Siege, who, key))
    }

    /// Checks a report by the code of the real client. `claim` is the certificate of the new version for a rotation, or else
    /// the outcome with its index.
    pub(crate) fn check_report(
        &self,
        ticket: u64,
        claim: Result<&KeyCertificate, (u64, &Outcome)>,
        report: &Report,
    ) -> Result<Checked, String> {
        let op = self.ops.get(&ticket).ok_or("nobody asked")?;
        let claim = match claim {
            Ok(KeyCertificate { core, activation, .. }) => Claim::Leaf(Leaf {
                index: activation.head.index,
                entry: activation.entry,
                outcome: Outcome::activated(core).digest(),
                writes: activation.writes,
            }),
            Err((index, outcome)) => Claim::Request(&op.request, outcome, index),
        };
        report.check(&Expected { cluster: self.cluster, followed: &self.followed, claim })
    }
}
