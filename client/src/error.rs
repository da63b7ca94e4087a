//! The error of every call: a refusal, and what the caller needs to go on.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;

use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::id::RequestId;

/// Why a call failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    refusal: Refusal,
    request: Option<RequestId>,
    hint: Option<String>,
}

impl Error {
    /// An error without details.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Refusal::new(code, message).into()
    }
    /// A local file that cannot be used; `verb` is what was tried, such as `read`.
    #[must_use]
    pub fn file(verb: &str, path: &Path, error: &io::Error) -> Self {
        Self::new(ErrorCode::LocalFile, format!("cannot {verb} {}: {error}", path.display()))
    }
    /// With a hint of its own in place of the one in the error table.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
    /// As the error of a request.
    #[must_use]
    pub(crate) fn of_request(mut self, id: RequestId) -> Self {
        self.request = Some(id);
        self
    }
    /// What went wrong.
    #[must_use]
    pub fn code(&self) -> ErrorCode {
        self.refusal.code
    }
    /// What went wrong, in words.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.refusal.message
    }
    /// What to do next.
    #[must_use]
    pub fn hint(&self) -> &str {
        self.hint.as_deref().unwrap_or(self.code().row().hint)
    }
    /// The same, to be put in this side's words.
    pub(crate) fn details_mut(&mut self) -> &mut BTreeMap<String, Detail> {
        &mut self.refusal.details
    }
    /// For scripts.
    #[must_use]
    pub fn details(&self) -> &BTreeMap<String, Detail> {
        &self.refusal.details
    }
    /// The request that failed, where one was sent; `symbolon request explain` asks the nodes about it.
    #[must_use]
    pub fn request_id(&self) -> Option<RequestId> {
        self.request
    }
    /// Whether the same call may succeed later without a change.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        self.code().row().retryable
    }
}

impl From<Refusal> for Error {
    fn from(refusal: Refusal) -> Self {
        Self { refusal, request: None, hint: None }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl std::error::Error for Error {}
