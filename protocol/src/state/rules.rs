//! What each state version knows: the tags of payloads and actions.
//!
//! An older release refuses what it cannot decode. A release that can decode it does the same until the cluster has gone over to
//! the version that brings it; else the two would have different histories at one state version. Words are no part of outcomes
//! for the same reason ([`crate::outcome::Outcome::without_words`]).

use crate::error::Refusal;
use crate::limits;
use crate::request::SignedRequest;
use crate::wire::WireError;

/// Bytes of an entry before the tag of its payload: format version and time.
const PAYLOAD_TAG: usize = 1 + 8;

/// What a state version brings. Never changed once a release has it; what is new goes into the next version.
struct Rules {
    version: u32,
    payloads: &'static [u8],
    actions: &'static [u8],
}

const RULES: [Rules; 1] = [Rules {
    version: 1,
    payloads: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 20],
    actions: &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 30],
}];

fn known(version: u32, tag: u8, tags: impl Fn(&Rules) -> &'static [u8]) -> bool {
    RULES.iter().any(|rules| rules.version <= version && tags(rules).contains(&tag))
}

/// Whether the payload of an entry, in its encoding, may be one of a state version.
pub(super) fn knows_entry(version: u32, entry: &[u8]) -> bool {
    entry.get(PAYLOAD_TAG).is_none_or(|tag| known(version, *tag, |rules| rules.payloads))
}

/// Whether a request may ask for something of a state version. One that is too large is too large for every version.
pub(super) fn knows_request(version: u32, request: &SignedRequest) -> bool {
    let too_large = request.body.0.len() > limits::REQUEST_BODY_BYTES;
    too_large || request.action_tag().is_none_or(|tag| known(version, tag, |rules| rules.actions))
}

/// The refusal of what a state version does not know: that of an entry which does not decode.
pub(super) fn unknown() -> Refusal {
    WireError::Invalid("something that the state version of the cluster does not know").into()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::panic, reason = "tests")]
mod tests;
