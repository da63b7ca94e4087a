//! Configuration of a node: TOML, every key documented here and in `docs/operating.md`, unknown keys refused by name.

use std::fmt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use symbolon_protocol::sign::arithmetic::Backend;

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

/// What computes signature shares and signatures; nodes that differ in it sign together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SigningBackend {
    /// Directly on curve25519-dalek.
    #[default]
    Fast,
    /// The crate frost-core, which takes several times as long.
    FrostCore,
}

impl From<SigningBackend> for Backend {
    fn from(backend: SigningBackend) -> Self {
        match backend {
            SigningBackend::Fast => Self::Fast,
            SigningBackend::FrostCore => Self::FrostCore,
        }
    }
}

/// How signatures are made.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SigningConfig {
    /// What computes.
    pub backend: SigningBackend,
}

/// The listener for Prometheus.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MetricsConfig {
    /// Where metrics are served, `address:port`, in the clear and to everybody who reaches it; nowhere without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<String>,
    /// Keys that have a series of their own, those with the smallest margin first.
    pub key_series: usize,
}

impl Default for MetricsConfig {
    fn default() -> Self {
        Self { listen: None, key_series: 100 }
    }
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
    /// Join ticket of a node that was not a member from the beginning; without it the one that an earlier start kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticket: Option<PathBuf>,
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
    /// How signatures are made: a table of its own, and therefore behind what is none.
    #[serde(default, skip_serializing_if = "is_default")]
    pub signing: SigningConfig,
    /// The listener for Prometheus: a table of its own too.
    #[serde(default, skip_serializing_if = "is_default")]
    pub metrics: MetricsConfig,
}

fn is_default<T: Default + PartialEq>(table: &T) -> bool {
    *table == T::default()
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
        let listeners = config.listeners();
        for (at, (key, bind)) in listeners.iter().enumerate() {
            if bind.parse::<std::net::SocketAddr>().is_err() {
                return Err(fail(format!("{key} = \"{bind}\" is no address:port, such as 0.0.0.0:7400")));
            }
            if let Some((other, _)) = listeners.iter().skip(at + 1).find(|(_, address)| address == bind) {
                return Err(fail(format!("{key} and {other} must differ")));
            }
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
        for path in [&mut config.seal_key, &mut config.passphrase_file, &mut config.ticket].into_iter().flatten() {
            *path = base.join(&path);
        }
        Ok(config)
    }

    /// Keys and addresses of everything that listens.
    #[must_use]
    pub fn listeners(&self) -> Vec<(&'static str, &str)> {
        let mut list = vec![("peer_bind", self.peer_bind.as_str()), ("client_bind", self.client_bind.as_str())];
        list.extend(self.metrics.listen.as_deref().map(|listen| ("metrics.listen", listen)));
        list
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
    fn metrics_are_off_until_they_are_asked_for() {
        let config = load(GOOD).unwrap();
        assert_eq!(config.metrics, MetricsConfig { listen: None, key_series: 100 });
        assert!(!config.to_toml().contains("metrics"), "{}", config.to_toml());
        let config = load(&format!("{GOOD}[metrics]\nlisten = \"127.0.0.1:3\"\nkey_series = 5\n")).unwrap();
        assert_eq!(config.metrics, MetricsConfig { listen: Some("127.0.0.1:3".to_owned()), key_series: 5 });
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
        for (wrong, named) in
            [("listen = \"all\"", "all"), ("listen = \"127.0.0.1:2\"", "client_bind"), ("port = 3", "port")]
        {
            let error = load(&format!("{GOOD}[metrics]\n{wrong}\n")).unwrap_err().to_string();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_fast_arithmetic_signs_unless_another_is_chosen() {
        let config = load(GOOD).unwrap();
        assert_eq!(Backend::from(config.signing.backend), Backend::Fast);
        assert!(!config.to_toml().contains("signing"), "{}", config.to_toml());
        let config = load(&format!("{GOOD}signing.backend = \"frost-core\"\n")).unwrap();
        assert_eq!(Backend::from(config.signing.backend), Backend::FrostCore);
        assert_eq!(toml::from_str::<Config>(&config.to_toml()).unwrap(), config);
        assert_eq!(load(&format!("{GOOD}[signing]\nbackend = \"fast\"\n")).unwrap().signing, SigningConfig::default());
        let error = load(&format!("{GOOD}[signing]\nbackend = \"quick\"\n")).unwrap_err().to_string();
        assert!(error.contains("quick") && error.contains("frost-core"), "{error}");
    }

    #[test]
    fn a_bad_address_is_refused_with_its_key() {
        let error = load(&GOOD.replace("127.0.0.1:2", "localhost")).unwrap_err().to_string();
        assert!(error.contains("client_bind") && error.contains("localhost"), "{error}");
        assert!(load(&GOOD.replace("seal_key = \"seal.key\"\n", "")).is_err());
    }
}
