//! Ordered requests about clients.

use std::collections::BTreeSet;

use crate::error::ErrorCode;
use crate::id::Name;
use crate::identity::PublicKey;
use crate::limits;
use crate::outcome::Outcome;
use crate::request::{Grant, Role, VerifiedRequest};
use crate::schema::replicated as schema;
use crate::table::{Overlay, Tables, read};

use super::records::{ClientRecord, ClusterRecord};
use super::{Stop, members, refuse};

/// Registers a client, or adds a grant to one that has the same name and identity.
pub(crate) fn add<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    request: &VerifiedRequest,
    name: &Name,
    key: &PublicKey,
    grant: &Grant,
) -> Result<Outcome, Stop> {
    if let Some(other) = read::<Name>(tables, &schema::client_name(key))?.filter(|other| other != name) {
        return refuse(ErrorCode::AlreadyExists, format!("this identity is registered as client `{other}`"));
    }
    let record = read::<ClientRecord>(tables, &schema::client(name))?;
    let mut client = match record {
        Some(client) if client.key != *key => {
            return refuse(ErrorCode::AlreadyExists, format!("client `{name}` has another identity"));
        }
        Some(client) => client,
        None => ClientRecord { name: name.clone(), key: *key, grants: BTreeSet::new(), added_ms: cluster.time_ms },
    };
    if !client.grants.insert(grant.clone()) {
        let message = format!("client `{name}` has role `{}` on `{}` already", grant.role, grant.keys);
        return refuse(ErrorCode::AlreadyExists, message);
    }
    if client.grants.len() > limits::GRANTS {
        return refuse(ErrorCode::InvalidArgument, format!("a client has at most {} grants", limits::GRANTS));
    }
    tables.put(schema::client(name), &client);
    tables.put(schema::client_name(key), name);
    if grant.role == Role::Admin {
        return members::change(tables, cluster, request);
    }
    Ok(Outcome::ClientChanged { name: name.clone() })
}

/// Removes a client with all of its grants; never the last administrator.
pub(crate) fn remove<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    request: &VerifiedRequest,
    name: &Name,
) -> Result<Outcome, Stop> {
    let Some(client) = read::<ClientRecord>(tables, &schema::client(name))? else {
        return refuse(ErrorCode::NotFound, format!("there is no client `{name}`"));
    };
    tables.remove(schema::client(name));
    tables.remove(schema::client_name(&client.key));
    if client.is_admin() {
        return members::change(tables, cluster, request);
    }
    Ok(Outcome::ClientChanged { name: name.clone() })
}
