//! Requests that take a right away and are on their way to the log: until this node's own state holds what became of them, it
//! does not act on the right.

use std::collections::BTreeMap;

use crate::error::Refusal;
use crate::id::{ClusterId, Digest, KeyId, KeyVersion, RequestId};
use crate::identity::PublicKey;
use crate::limits;
use crate::request::{Action, RequestBody, SignedRequest, VerifiedRequest, VersionSelector};
use crate::schema::replicated as schema;
use crate::state::records::{self, ClientRecord, KeyRecord, RequestRecord};
use crate::state::{decide_right, unknown_client};
use crate::table::{StoreFault, Tables, read};

/// What a request takes a right away from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subject {
    /// Signing with the current version of a key.
    Key(KeyId),
    /// Everything that a client may do.
    Client(PublicKey),
}

impl Subject {
    /// What a request takes away in the entry that carries it; none where that is nothing that anybody signs with now.
    ///
    /// # Errors
    /// [`StoreFault`] when the state cannot be read.
    pub fn of(tables: &impl Tables, body: &RequestBody) -> Result<Option<Self>, StoreFault> {
        match &body.action {
            Action::SuspendKey | Action::RevokeKey { .. } | Action::DestroyKey { .. } => {
                let key = body.key.map_or(Ok(None), |id| read::<KeyRecord>(tables, &schema::key_record(&id)))?;
                Ok(key.filter(|key| means_current(body.version, key.current)).map(|key| Self::Key(key.id)))
            }
            Action::RemoveClient { name } => {
                let client: Option<ClientRecord> = read(tables, &schema::client(name))?;
                Ok(client.map(|client| Self::Client(client.key)))
            }
            // The old version signs until another entry makes the new one active; of a member nothing is signed by anybody.
            _ => Ok(None),
        }
    }

    /// What a request takes away that is on its way to the log, checked like one that is ordered; none where that is nothing.
    ///
    /// # Errors
    /// Inside: why it is not good. Outside: [`StoreFault`] when the state cannot be read.
    pub fn withdrawn_by(
        tables: &impl Tables,
        cluster: &ClusterId,
        now_ms: u64,
        request: &SignedRequest,
    ) -> Result<Result<Option<(VerifiedRequest, Self)>, Refusal>, StoreFault> {
        let verified = match request.verify(cluster).and_then(|good| good.check_time(now_ms).map(|()| good)) {
            Ok(verified) => verified,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let Some(client) = records::client_of(tables, &verified.body().client)? else {
            return Ok(Err(unknown_client(&verified)));
        };
        if let Err(refusal) = decide_right(tables, &client, verified.body())? {
            return Ok(Err(refusal));
        }
        let subject = Self::of(tables, verified.body())?;
        Ok(Ok(subject.map(|subject| (verified, subject))))
    }

    fn concerns(self, body: &RequestBody) -> bool {
        match self {
            Self::Key(key) => body.key == Some(key),
            Self::Client(client) => body.client == client,
        }
    }
}

pub(super) fn means_current(version: VersionSelector, current: Option<KeyVersion>) -> bool {
    match version {
        VersionSelector::Active | VersionSelector::All => true,
        VersionSelector::Number(number) => current == Some(number),
    }
}

#[derive(Debug)]
struct Withdrawal {
    subject: Subject,
    request: Digest,
    expires_ms: u64,
}

/// The withdrawals that a node knows of and its state does not hold yet.
#[derive(Debug, Default)]
pub struct Withdrawals {
    list: BTreeMap<(PublicKey, RequestId), Withdrawal>,
}

impl Withdrawals {
    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Takes a request that was checked like one that is ordered. Beyond [`limits::WITHDRAWALS`] it is not remembered: the
    /// barrier does not rely on it.
    pub fn note(&mut self, request: &VerifiedRequest, subject: Subject) {
        let body = request.body();
        if self.list.len() < limits::WITHDRAWALS {
            let withdrawal = Withdrawal { subject, request: request.digest(), expires_ms: body.expires_ms };
            self.list.insert((body.client, body.request_id), withdrawal);
        }
    }

    /// Whether a request asks for something that is being taken away. `now_ms` is the node's clock, milliseconds since 1970.
    #[must_use]
    pub fn hit(&self, body: &RequestBody, now_ms: u64) -> bool {
        self.list.values().any(|one| now_ms < one.expires_ms && one.subject.concerns(body))
    }

    /// Forgets what expired, and what the state holds by now, whatever became of it. Only requests that `may_be_there` are looked
    /// up: after an entry the one that it recorded, not all of them. Whether anything was forgotten.
    ///
    /// # Errors
    /// [`StoreFault`] when the state cannot be read.
    pub fn settle(
        &mut self,
        tables: &impl Tables,
        now_ms: u64,
        may_be_there: impl Fn(&PublicKey, &RequestId) -> bool,
    ) -> Result<bool, StoreFault> {
        let mut done = Vec::new();
        for ((client, id), one) in &self.list {
            let settled = || -> Result<bool, StoreFault> {
                let record: Option<RequestRecord> = read(tables, &schema::request(client, id))?;
                Ok(record.is_some_and(|record| record.digest == one.request))
            };
            if now_ms >= one.expires_ms || (may_be_there(client, id) && settled()?) {
                done.push((*client, *id));
            }
        }
        for key in &done {
            self.list.remove(key);
        }
        Ok(!done.is_empty())
    }
}
