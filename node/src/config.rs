//! Configuration of a node: TOML, every key documented here and in `docs/operating.md`, unknown keys refused by name.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// How shares are sealed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SealMethod {
    /// A file of 32 random bytes, readable by the node alone.
    KeyFile,
    /// A passphrase, from a file or typed at start.
    Passphrase,
}

/// Form of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    Text,
    /// One JSON object per line.
    Json,
}

/// The file. Paths are relative to the directory that it lies in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The founding document, the same on all nodes.
    pub genesis: PathBuf,
    /// This node's identity.
    pub identity: PathBuf,
    /// Directory of the store and the key slots.
    pub data: PathBuf,
    /// Where peers are listened to, `address:port`; the address that is advertised stands in genesis.
    pub peer_bind: String,
    /// Where clients are listened to, `address:port`; the address that is advertised stands in genesis.
    pub client_bind: String,
    /// How shares are sealed.
    #[serde(default = "default_seal")]
    pub seal: SealMethod,
    /// File with the seal key (method `key-file`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seal_key: Option<PathBuf>,
    /// File with the passphrase (method `passphrase`); without it the passphrase is asked for at the terminal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub passphrase_file: Option<PathBuf>,
    /// Unix socket on which `symbolond health` asks.
    #[serde(default = "default_health_socket")]
    pub health_socket: PathBuf,
    /// Connections of clients at the same time.
    #[serde(default = "default_max_connections")]
    pub max_connections: usize,
    /// Connections of one client address at the same time.
    #[serde(default = "default_max_per_address")]
    pub max_connections_per_address: usize,
    /// Requests of clients that are worked on at the same time; more are told to try later.
    #[serde(default = "default_max_requests")]
    pub max_requests: usize,
    /// Size at which the usage log stops this node from signing, MiB.
    #[serde(default = "default_usage_mib")]
    pub usage_log_max_mib: u64,
    /// Form of the logs.
    #[serde(default = "default_log_format")]
    pub log_format: LogFormat,
    /// What is logged, as a `tracing` filter such as `info` or `symbolon_node=debug`.
    #[serde(default = "default_log_filter")]
    pub log_filter: String,
}

fn default_seal() -> SealMethod {
    SealMethod::KeyFile
}
fn default_health_socket() -> PathBuf {
    PathBuf::from("health.sock")
}
const fn default_max_connections() -> usize {
    4096
}
const fn default_max_per_address() -> usize {
    1024
}
const fn default_max_requests() -> usize {
    1024
}
const fn default_usage_mib() -> u64 {
    16 * 1024
}
const fn default_log_format() -> LogFormat {
    LogFormat::Text
}
fn default_log_filter() -> String {
    "info".to_owned()
}

/// Why a configuration is not used.
#[derive(Debug)]
pub struct ConfigError(pub String);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

impl Config {
    /// Reads and checks a file; paths in it become absolute.
    ///
    /// # Errors
    /// [`ConfigError`] that names file and key.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let fail = |what: String| ConfigError(format!("{}: {what}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
        let mut config: Self = toml::from_str(&text).map_err(|e| fail(e.message().to_owned()))?;
        for (key, bind) in [("peer_bind", &config.peer_bind), ("client_bind", &config.client_bind)] {
            if bind.parse::<std::net::SocketAddr>().is_err() {
                return Err(fail(format!("{key} = \"{bind}\" is no address:port, such as 0.0.0.0:7400")));
            }
        }
        if config.peer_bind == config.client_bind {
            return Err(fail("peer_bind and client_bind must differ".to_owned()));
        }
        for (key, number) in [
            ("max_connections", config.max_connections as u64),
            ("max_connections_per_address", config.max_connections_per_address as u64),
            ("max_requests", config.max_requests as u64),
            ("usage_log_max_mib", config.usage_log_max_mib),
        ] {
            if number == 0 {
                return Err(fail(format!("{key} = 0 would let nothing through")));
            }
        }
        match (&config.seal, &config.seal_key) {
            (SealMethod::KeyFile, None) => {
                return Err(fail("seal = \"key-file\" needs seal_key = \"FILE\"".to_owned()));
            }
            (SealMethod::Passphrase, Some(_)) => {
                return Err(fail("seal = \"passphrase\" takes no seal_key".to_owned()));
            }
            _ => {}
        }
        let absolute = std::path::absolute(path).map_err(|e| fail(e.to_string()))?;
        let base = absolute.parent().unwrap_or(Path::new("/"));
        for path in [&mut config.genesis, &mut config.identity, &mut config.data, &mut config.health_socket] {
            *path = base.join(&path);
        }
        for path in [&mut config.seal_key, &mut config.passphrase_file].into_iter().flatten() {
            *path = base.join(&path);
        }
        Ok(config)
    }

    /// The file, for `dev` and for people who start from something.
    #[must_use]
    pub fn to_toml(&self) -> String {
        toml::to_string(self).unwrap_or_default()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn load(text: &str) -> Result<Config, ConfigError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("symbolond.toml");
        std::fs::write(&path, text).unwrap();
        Config::load(&path)
    }

    const GOOD: &str = "genesis = \"genesis\"\nidentity = \"identity\"\ndata = \".\"\npeer_bind = \"127.0.0.1:1\"\n\
                        client_bind = \"127.0.0.1:2\"\nseal_key = \"seal.key\"\n";

    #[test]
    fn paths_are_relative_to_the_file() {
        let config = load(GOOD).unwrap();
        assert!(config.genesis.is_absolute() && config.genesis.ends_with("genesis"));
        assert_eq!(config.log_format, LogFormat::Text);
    }

    #[test]
    fn unknown_keys_are_refused_by_name() {
        let error = load(&format!("{GOOD}speed = 3\n")).unwrap_err().to_string();
        assert!(error.contains("speed"), "{error}");
    }

    #[test]
    fn a_bad_address_is_refused_with_its_key() {
        let error = load(&GOOD.replace("127.0.0.1:2", "localhost")).unwrap_err().to_string();
        assert!(error.contains("client_bind") && error.contains("localhost"), "{error}");
        assert!(load(&GOOD.replace("seal_key = \"seal.key\"\n", "")).is_err());
    }
}
