//! Which outcome of a request that was ordered is given to whom.

use std::collections::BTreeMap;

use symbolon_protocol::id::RequestId;
use symbolon_protocol::identity::Identity;
use symbolon_protocol::request::{Purpose, VersionSelector};
use symbolon_protocol::wire::encode;

use super::*;
use crate::core::door::bench::{NOW_MS, Voter, voter};
use crate::store::{Batch, Column};

/// A request of a client, both by number; `to` tells bodies apart.
fn request(voter: &Voter, client: u8, id: u8, to: u32) -> VerifiedRequest {
    let identity = Identity::from_seed(&[client; 32]);
    let body = RequestBody {
        cluster: voter.cluster(),
        client: identity.public(),
        request_id: RequestId::from_bytes([id; 16]),
        not_before_ms: NOW_MS,
        expires_ms: NOW_MS + 60_000,
        action: Action::UpgradeCluster { to },
        key: None,
        version: VersionSelector::Active,
        purpose: Purpose::Sign,
        payload_type: "raw".to_owned(),
        context: BTreeMap::new(),
        messages: Vec::new(),
    };
    SignedRequest::sign(&body, &identity).verify(&voter.cluster()).unwrap()
}

/// Puts into a node's tables what became of a request.
fn remember(voter: &Voter, request: &VerifiedRequest, outcome: &Outcome) {
    let body = request.body();
    let record = RequestRecord { digest: request.digest(), expires_ms: body.expires_ms, outcome: outcome.clone() };
    let mut batch = Batch::default();
    batch.put(Column::State, schema::request(&body.client, &body.request_id), encode(&record));
    voter.0.store.write(batch).unwrap();
}

fn refused(message: &str) -> Outcome {
    Outcome::Refused(Refusal::new(ErrorCode::PermissionDenied, message))
}

/// What a leader says became of a request, and no node ever recorded.
const TOLD: Outcome = Outcome::Upgraded { to: 99 };

#[tokio::test]
async fn a_node_tells_what_stands_in_its_own_tables() {
    let voter = voter(2).await;
    let request = request(&voter, 1, 1, 2);
    for stands in [Outcome::Upgraded { to: 2 }, refused("by the cluster")] {
        remember(&voter, &request, &stands);
        for told in [TOLD, refused("by the leader")] {
            assert_eq!(voter.own_outcome(&request, told).await, Ok(stands.clone()));
        }
    }
}

#[tokio::test]
async fn nobody_is_told_what_became_of_another_request() {
    let voter = voter(2).await;
    let asked = request(&voter, 1, 1, 2);
    // One id with two bodies, one id of two clients, two ids of one client.
    for (client, id, to) in [(1, 1, 3), (2, 1, 2), (1, 2, 2)] {
        remember(&voter, &request(&voter, client, id, to), &Outcome::Upgraded { to: 50 });
    }
    // A refusal may have no record: it withholds only.
    let told = refused("by the leader");
    assert_eq!(voter.own_outcome(&asked, told.clone()).await, Ok(told));
    let waiting = tokio::time::timeout(Duration::from_millis(300), voter.own_outcome(&asked, TOLD)).await;
    assert!(waiting.is_err(), "{waiting:?}");
}

#[tokio::test]
async fn a_node_that_lags_waits_for_its_own_record() {
    let voter = voter(2).await;
    let request = request(&voter, 1, 1, 2);
    let stands = Outcome::Upgraded { to: 2 };
    let apply = async {
        // An entry before it is no answer.
        for index in 1..=2 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            if index == 2 {
                remember(&voter, &request, &stands);
            }
            voter.0.applied.send_replace(Some(index));
        }
    };
    let (given, ()) = tokio::join!(voter.own_outcome(&request, TOLD), apply);
    assert_eq!(given, Ok(stands.clone()));
}

#[tokio::test]
async fn a_success_that_is_only_told_is_never_passed_on() {
    let voter = voter(2).await;
    let request = request(&voter, 1, 1, 2);
    let given = voter.own_outcome(&request, TOLD).await;
    assert_eq!(given.unwrap_err().code, ErrorCode::NoQuorum);
}
