//! Errors, and the table of them.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;
use symbolon_client::Error;
use symbolon_protocol::error::Detail;

/// Every error: `{"error": {...}}`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorDocument {
    error: ErrorBody,
}

#[derive(Debug, Serialize)]
struct ErrorBody {
    /// One of `symbolon help errors`.
    code: &'static str,
    message: String,
    /// What to do next.
    hint: String,
    /// The request, where one was sent.
    request_id: Option<String>,
    /// Whether the same command may succeed later.
    retryable: bool,
    /// For scripts, by code; `below_threshold` has `reachable`, `needed` and `unreachable`. `warnings` where there were any.
    details: BTreeMap<String, Value>,
}

impl ErrorDocument {
    pub(crate) fn new(error: &Error, warnings: Vec<String>) -> Self {
        let value = |detail: &Detail| match detail {
            Detail::Text(text) => Value::from(text.as_str()),
            Detail::Number(number) => Value::from(*number),
            Detail::List(list) => Value::from(list.clone()),
        };
        let mut details: BTreeMap<_, _> = error.details().iter().map(|(k, v)| (k.clone(), value(v))).collect();
        if !warnings.is_empty() {
            details.insert("warnings".to_owned(), Value::from(warnings));
        }
        Self {
            error: ErrorBody {
                code: error.code().row().name,
                message: error.message().to_owned(),
                hint: error.hint().to_owned(),
                request_id: error.request_id().map(|id| id.to_string()),
                retryable: error.is_retryable(),
                details,
            },
        }
    }
}

/// Each row of `help errors`.
#[derive(Debug, Serialize)]
pub(crate) struct ErrorRow {
    pub(crate) code: &'static str,
    pub(crate) exit: u8,
    /// Number of google.rpc.Code.
    pub(crate) grpc: i32,
    /// `caller`, `peer`, `environment` or `bug`.
    pub(crate) fault: &'static str,
    pub(crate) retryable: bool,
    pub(crate) hint: &'static str,
}

#[cfg(test)]
mod tests {
    use symbolon_protocol::error::{ErrorCode, Refusal};

    use super::*;

    #[test]
    fn errors_have_the_shape_that_scripts_rely_on() {
        let refusal = Refusal::new(ErrorCode::BelowThreshold, "2 of 3 needed signers can be reached")
            .with("reachable", Detail::Number(2))
            .with("needed", Detail::Number(3))
            .with("unreachable", Detail::List(vec!["node4".to_owned()]));
        let document = serde_json::to_value(ErrorDocument::new(&Error::from(refusal), Vec::new()));
        let expected = serde_json::json!({"error": {
            "code": "below_threshold",
            "message": "2 of 3 needed signers can be reached",
            "hint": "bring back enough of the unreachable holders",
            "request_id": null,
            "retryable": true,
            "details": {"reachable": 2, "needed": 3, "unreachable": ["node4"]},
        }});
        assert_eq!(document.ok(), Some(expected));
    }
}
