//! What refused requests are told in words. Outcomes in the tables have none, so that releases may word things differently; a
//! node says what it found itself when it applied the entry, as long as it remembers.

use std::collections::VecDeque;

use symbolon_protocol::error::Refusal;

use super::raft_state::RequestName;

/// So many refusals are remembered: those whose clients may still be waiting.
const REMEMBERED: usize = 256;

/// The last refusals, by request.
#[derive(Default)]
pub(crate) struct Words(VecDeque<(RequestName, Refusal)>);

impl Words {
    /// A request was refused. The outcome of one that comes again has no words.
    pub(crate) fn note(&mut self, request: RequestName, refusal: &Refusal) {
        if refusal.message.is_empty() {
            return;
        }
        self.0.push_back((request, refusal.clone()));
        if self.0.len() > REMEMBERED {
            self.0.pop_front();
        }
    }

    /// A refusal as its client is told: code and details are given, the words are this node's own.
    pub(crate) fn of(&self, request: &RequestName, refusal: &Refusal) -> Refusal {
        let same = |known: &Refusal| known.code == refusal.code && known.details == refusal.details;
        let own = self.0.iter().rev().find(|(of, known)| of == request && same(known)).map(|(_, known)| known);
        own.unwrap_or(refusal).clone().in_words()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbolon_protocol::error::{Detail, ErrorCode};
    use symbolon_protocol::id::RequestId;
    use symbolon_protocol::identity::Identity;

    #[test]
    fn words_are_those_of_the_same_request_and_refusal() {
        let client = Identity::from_seed(&[1; 32]).public();
        let (mut words, request) = (Words::default(), |n: u8| (client, RequestId::from_bytes([n; 16])));
        let said = Refusal::new(ErrorCode::WrongState, "this and that").with("keys", Detail::Number(1));
        let bare = Refusal { message: String::new(), ..said.clone() };
        words.note(request(1), &said);
        words.note(request(1), &bare);
        assert_eq!(words.of(&request(1), &bare), said);
        let generic = words.of(&request(2), &bare).message;
        assert!(generic.contains("keys: 1") && !generic.contains("this and that"), "{generic}");
        let other = Refusal { code: ErrorCode::NotFound, ..bare.clone() };
        assert_eq!(words.of(&request(1), &other).code, ErrorCode::NotFound);
        let other = Refusal { details: Default::default(), ..bare.clone() };
        assert!(words.of(&request(1), &other).details.is_empty());
        for n in 0..REMEMBERED {
            words.note(request(u8::try_from(2 + n % 200).unwrap_or(2)), &said);
        }
        assert_eq!(words.0.len(), REMEMBERED);
        assert_eq!(words.of(&request(1), &bare).message, generic, "forgotten in time");
    }
}
