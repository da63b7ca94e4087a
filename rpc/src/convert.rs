//! A [`Refusal`] as a gRPC status and back.
//!
//! The refusal travels whole and canonical in the status details; code and message are for those who read only these.

use std::error::Error;

use prost::bytes::Bytes;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::wire;
use tonic::{Code, Status, TimeoutExpired};

/// Longest message in a status, bytes. A status travels in headers, of which a client takes 16 KiB.
pub const STATUS_MESSAGE_BYTES: usize = 1024;
/// Longest canonical refusal in a status, bytes. One that is longer travels without its details.
pub const STATUS_DETAILS_BYTES: usize = 4096;

/// A refusal as long as one that travels: whoever made it, people and logs get so much of it and no more.
#[must_use]
pub fn bounded(mut refusal: Refusal) -> Refusal {
    refusal.message.truncate(refusal.message.floor_char_boundary(STATUS_MESSAGE_BYTES));
    if wire::encode(&refusal).len() > STATUS_DETAILS_BYTES {
        refusal.details.clear();
    }
    refusal
}

/// The status that carries a refusal.
#[must_use]
pub fn to_status(refusal: &Refusal) -> Status {
    let refusal = bounded(refusal.clone());
    let encoded = Bytes::from(wire::encode(&refusal));
    Status::with_details(Code::from_i32(refusal.code.row().grpc), refusal.to_string(), encoded)
}

/// The refusal in a status; for a status that carries none, what comes closest.
#[must_use]
pub fn from_status(status: &Status) -> Refusal {
    if let Ok(refusal) = wire::decode(status.details()) {
        return bounded(refusal);
    }
    // A status that came over the wire has no source; one that was made on this side names what broke.
    let here = status.source().is_some();
    let code = match status.code() {
        Code::Unavailable => ErrorCode::Unreachable,
        Code::DeadlineExceeded => ErrorCode::DeadlineExceeded,
        Code::ResourceExhausted => ErrorCode::Overloaded,
        Code::Unimplemented => ErrorCode::VersionUnknown,
        // tonic says "cancelled", on both sides, when the time that a call was given is over.
        Code::Cancelled if !here || causes(status).any(|cause| cause.is::<TimeoutExpired>()) => {
            ErrorCode::DeadlineExceeded
        }
        // The connection broke in the middle of a call.
        Code::Cancelled | Code::Unknown | Code::Internal if here => ErrorCode::Unreachable,
        _ => ErrorCode::Internal,
    };
    bounded(Refusal::new(code, text(status)))
}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn Error + 'static)> {
    std::iter::successors(status.source(), |&cause| cause.source())
}

/// The message with its causes: "transport error" alone helps nobody.
fn text(status: &Status) -> String {
    let mut chain: Vec<String> = causes(status).map(ToString::to_string).collect();
    chain.dedup();
    let chain = chain.join(": ");
    match status.message() {
        message if !chain.is_empty() && chain.contains(message) => chain,
        message if !chain.is_empty() => format!("{message}: {chain}"),
        "" => status.code().description().to_owned(),
        message => message.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use symbolon_protocol::error::{Detail, TABLE};

    use super::*;

    #[test]
    fn every_refusal_comes_back_whole() {
        for row in TABLE {
            let refusal = Refusal::new(row.code, "node 3 \u{2713}")
                .with("node", Detail::Number(3))
                .with("names", Detail::List(vec!["a".to_owned(), "b".to_owned()]));
            let status = to_status(&refusal);
            assert_eq!(i32::from(status.code()), row.grpc, "{}", row.name);
            assert!(status.message().starts_with(row.name), "{}", status.message());
            assert_eq!(from_status(&status), refusal);
        }
    }

    #[test]
    fn a_long_refusal_is_cut_to_what_headers_hold() {
        let long = "\u{e9}".repeat(5000);
        let refusal = Refusal::new(ErrorCode::NotFound, "a".to_owned() + &long).with("text", Detail::Text(long));
        let status = to_status(&refusal);
        assert!(status.details().len() <= STATUS_DETAILS_BYTES);
        let back = from_status(&status);
        assert_eq!((back.code, back.message.len()), (ErrorCode::NotFound, STATUS_MESSAGE_BYTES - 1));
        assert!(refusal.message.starts_with(&back.message) && back.details.is_empty());
    }

    #[test]
    fn what_comes_in_is_cut_too() {
        let exact = Refusal::new(ErrorCode::NotFound, "m".repeat(STATUS_MESSAGE_BYTES));
        assert_eq!(bounded(exact.clone()), exact);
        // As somebody sends it who does not keep to the limit.
        let long = Refusal::new(ErrorCode::NotFound, "m".repeat(STATUS_MESSAGE_BYTES + 1));
        let sent = Status::with_details(Code::NotFound, "", Bytes::from(wire::encode(&long)));
        assert_eq!(from_status(&sent), exact);
        assert_eq!(from_status(&Status::new(Code::NotFound, long.message)).message, exact.message);

        let detailed = |bytes: usize| Refusal::new(ErrorCode::NotFound, "").with("d", Detail::Text("d".repeat(bytes)));
        let room = STATUS_DETAILS_BYTES - wire::encode(&detailed(0)).len();
        assert_eq!(bounded(detailed(room)), detailed(room));
        assert!(bounded(detailed(room + 1)).details.is_empty());
    }

    #[test]
    fn a_status_without_refusal_is_mapped() {
        let expected = [
            (Code::Unavailable, ErrorCode::Unreachable),
            (Code::DeadlineExceeded, ErrorCode::DeadlineExceeded),
            (Code::Cancelled, ErrorCode::DeadlineExceeded),
            (Code::ResourceExhausted, ErrorCode::Overloaded),
            (Code::Unimplemented, ErrorCode::VersionUnknown),
            (Code::Internal, ErrorCode::Internal),
            (Code::PermissionDenied, ErrorCode::Internal),
        ];
        for (code, expected) in expected {
            let bare = from_status(&Status::new(code, "why"));
            assert_eq!((bare.code, bare.message.as_str()), (expected, "why"));
            let foreign = Status::with_details(code, "why", Bytes::from_static(b"\x01\xff"));
            assert_eq!(from_status(&foreign).code, expected, "details that are not ours");
        }
        assert!(!from_status(&Status::new(Code::Internal, "")).message.is_empty());
    }

    #[test]
    fn a_broken_connection_is_not_a_bug() {
        let broken = Status::from_error(io::Error::new(io::ErrorKind::ConnectionReset, "reset").into());
        assert_eq!(from_status(&broken), Refusal::new(ErrorCode::Unreachable, "reset"));
        let late = Status::from_error(Box::new(TimeoutExpired(())));
        assert_eq!(from_status(&late).code, ErrorCode::DeadlineExceeded);
    }
}
