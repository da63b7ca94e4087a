//! What every command needs: the output and, when it asks for one, a client.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use symbolon_client::{Client, Config, Name};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;

use super::Global;
use super::out::{Done, Out, fail};

/// Deadline of most calls.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);
/// Deadline where a key is made or shares are moved.
pub(crate) const KEY_DEADLINE: Duration = Duration::from_secs(60);

/// What every command needs.
pub(crate) struct Context {
    /// Where results and errors go.
    pub(crate) out: Arc<Out>,
    global: Global,
}

impl Context {
    pub(crate) fn new(global: Global) -> Self {
        Self { out: Arc::new(Out::new(global.output)), global }
    }

    /// A client with this deadline, unless the user set one.
    pub(crate) async fn client(&self, deadline: Duration) -> Done<Client> {
        let genesis = file(self.global.genesis.as_ref(), "genesis", "--genesis", "SYMBOLON_GENESIS")?;
        let mut config = Config::load(&genesis, &self.identity_path()?)?;
        config.endpoints = self.global.endpoints.iter().filter(|text| !text.is_empty()).cloned().collect();
        config.deadline = self.global.timeout.unwrap_or(deadline);
        config.state = directory("XDG_STATE_HOME", ".local/state");
        let out = Arc::clone(&self.out);
        config.report = Some(Arc::new(move |refusal: &Refusal| {
            out.warn(&format!("{}: {}; going on with another node", refusal.code, refusal.message));
        }));
        Ok(Client::connect(config).await?)
    }

    /// The file of the identity that asks.
    pub(crate) fn identity_path(&self) -> Done<PathBuf> {
        file(self.global.identity.as_ref(), "identity", "--identity", "SYMBOLON_IDENTITY")
    }
}

/// The file that was given, else the one in the user's configuration.
fn file(given: Option<&PathBuf>, name: &str, flag: &str, variable: &str) -> Done<PathBuf> {
    if let Some(path) = given.filter(|path| !path.as_os_str().is_empty()) {
        return Ok(path.clone());
    }
    match directory("XDG_CONFIG_HOME", ".config") {
        Some(directory) => Ok(directory.join(name)),
        None => fail(ErrorCode::LocalFile, format!("no {name} file: name it with {flag} or {variable}")),
    }
}

/// Our part of a directory of the XDG base directory specification.
fn directory(variable: &str, under_home: &str) -> Option<PathBuf> {
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute(variable).or_else(|| Some(absolute("HOME")?.join(under_home))).map(|path| path.join("symbolon"))
}

/// Names of nodes.
pub(crate) fn node_names(client: &Client, nodes: &[NodeId]) -> Vec<String> {
    nodes.iter().map(|node| client.node_name(*node)).collect()
}

/// What keys are called in messages.
pub(crate) fn versioned(key: &Name, version: impl std::fmt::Display) -> String {
    format!("version {version} of key `{key}`")
}
