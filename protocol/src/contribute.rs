//! The one decision of a share holder: may a share leave for this request?

use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::fresh::Fresh;
use crate::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use crate::lifecycle::{Event, Verdict, decide};
use crate::request::{Action, VerifiedRequest};
use crate::schema::replicated as schema;
use crate::state::records::{self, VersionRecord};
use crate::state::{decide_right, unknown_client};
use crate::table::{StoreFault, Tables, read};

/// Permission for one request with one version and epoch of one key; made only by [`may_contribute`].
#[derive(Debug)]
pub struct Permit {
    request: Digest,
    core: CertificateCore,
}

impl Permit {
    /// The key.
    #[must_use]
    pub fn key(&self) -> KeyId {
        self.core.key
    }
    /// The version.
    #[must_use]
    pub fn version(&self) -> KeyVersion {
        self.core.version
    }
    /// The epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.core.epoch
    }
    /// Digest of the request body.
    #[must_use]
    pub fn request_digest(&self) -> Digest {
        self.request
    }
    /// The certificate core of the version.
    #[must_use]
    pub fn core(&self) -> &CertificateCore {
        &self.core
    }
    /// A permit for tests of the machines behind this door.
    #[cfg(test)]
    pub(crate) fn for_test(request: Digest, core: CertificateCore) -> Self {
        Self { request, core }
    }
}

/// What a decision stands on.
pub struct Grounds<'a, T> {
    /// The node's own replicated state.
    pub tables: &'a T,
    /// The node that decides.
    pub node: NodeId,
    /// Its own clock, milliseconds since 1970: may only make it stricter.
    pub now_ms: u64,
    /// That the state is current.
    pub fresh: &'a Fresh,
}

/// Decides, by this node's own state, whether a request may be signed at all, and with which version.
///
/// # Errors
/// Inside: the refusal, naming the first rule that is broken. Outside: [`StoreFault`] when the state cannot be read.
pub fn may_sign<T: Tables>(
    tables: &T,
    now_ms: u64,
    request: &VerifiedRequest,
) -> Result<Result<CertificateCore, Refusal>, StoreFault> {
    let body = request.body();
    let refuse = |code, message: String| Ok(Err(Refusal::new(code, message)));
    if !matches!(body.action, Action::Sign) {
        return refuse(ErrorCode::InvalidArgument, format!("`{}` is not signed for", body.action.name()));
    }
    let cluster = records::cluster(tables)?;
    // State time lags behind, so it may only say that a request is too old.
    let state_time = cluster.time_ms.max(body.not_before_ms);
    if let Err(refusal) = request.check_time(now_ms).and_then(|()| request.check_time(state_time)) {
        return Ok(Err(refusal));
    }
    let Some(client) = records::client_of(tables, &body.client)? else { return Ok(Err(unknown_client(request))) };
    if let Err(refusal) = decide_right(tables, &client, body)? {
        return Ok(Err(refusal));
    }
    let key = match body.key {
        Some(id) => read::<records::KeyRecord>(tables, &schema::key_record(&id))?,
        None => None,
    };
    let Some(key) = key else { return refuse(ErrorCode::NotFound, "there is no such key".to_owned()) };
    if key.purpose != body.purpose {
        return refuse(ErrorCode::WrongState, format!("key `{}` is not for this purpose", key.name));
    }
    let version = match key.current {
        Some(number) => read::<VersionRecord>(tables, &schema::version(&key.id, number))?,
        None => None,
    };
    let Some(version) = version else {
        return refuse(ErrorCode::WrongState, format!("key `{}` has no active version", key.name));
    };
    let state = version.state_at(cluster.time_ms.max(now_ms));
    if decide(state, Event::Sign) == Verdict::No {
        return refuse(ErrorCode::WrongState, format!("key `{}` is {state}: it does not sign", key.name));
    }
    match version.certificate {
        Some(certificate) => Ok(Ok(certificate.core)),
        None => refuse(ErrorCode::Internal, format!("key `{}` is active without a certificate", key.name)),
    }
}

/// Decides, alone and by this node's own state, whether a share may leave for a request.
///
/// # Errors
/// Inside: the refusal, naming the first rule that is broken. Outside: [`StoreFault`] when the state cannot be read.
pub fn may_contribute<T: Tables>(
    grounds: &Grounds<'_, T>,
    request: &VerifiedRequest,
) -> Result<Result<Permit, Refusal>, StoreFault> {
    let Grounds { tables, node, now_ms, fresh: Fresh { .. } } = grounds;
    Ok(may_sign(*tables, *now_ms, request)?.and_then(|core| {
        if core.roster.contains(node) {
            return Ok(Permit { request: request.digest(), core });
        }
        let message = format!("node {node} holds no share of key `{}`", core.name);
        Err(Refusal::new(ErrorCode::WrongState, message))
    }))
}
