//! Files that a node is set up with: identity, seal key, genesis; and whole clusters for development.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rand_core::{OsRng, RngCore as _};
use symbolon_protocol::genesis::{Enrolment, Genesis, Member, MemberRole, NO_CLUSTER, valid_address};
use symbolon_protocol::id::{Name, NodeId, StoreId};
use symbolon_protocol::identity::{Domain, Identity, PublicKey};
use symbolon_protocol::limits;
use zeroize::Zeroizing;

use crate::config::{Config, LogFormat, MetricsConfig, SealMethod, SigningConfig};
use crate::seal::{KeyFile, PassphraseSource, SEAL_PARAMS_FILE, SealKey};

const IDENTITY_HEAD: &str = "symbolon-identity-v1";

/// File in a node's directory with the id of the store that it will make; the first start removes it.
pub const STORE_ID: &str = "store-id";

fn at(path: &Path, what: impl std::fmt::Display) -> String {
    format!("{}: {what}", path.display())
}

/// Writes a new identity; the file is readable by its owner alone and never overwritten.
///
/// # Errors
/// When the file exists or cannot be written.
pub fn write_identity(path: &Path, identity: &Identity) -> Result<(), String> {
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(path).map_err(|e| at(path, e))?;
    let text = Zeroizing::new(format!("{IDENTITY_HEAD}\n{}\n", &*Zeroizing::new(hex::encode(identity.expose_seed()))));
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|e| at(path, e))
}

/// Reads an identity.
///
/// # Errors
/// When others may read the file, or it holds something else.
pub fn read_identity(path: &Path) -> Result<Identity, String> {
    let mode = std::fs::metadata(path).map_err(|e| at(path, e))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(at(path, format!("others may read this file: run chmod 600 {}", path.display())));
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(|e| at(path, e))?);
    let digits = text.strip_prefix(IDENTITY_HEAD).map(str::trim).ok_or_else(|| at(path, "no identity file"))?;
    let mut seed = Zeroizing::new([0; 32]);
    hex::decode_to_slice(digits, seed.as_mut_slice()).map_err(|_| at(path, "no identity file"))?;
    Ok(Identity::from_seed(&seed))
}

/// What `symbolond init` is told.
pub struct Init<'a> {
    /// Directory that is made.
    pub directory: &'a Path,
    /// Name of the node.
    pub name: Name,
    /// Where peers reach it.
    pub peer: String,
    /// Where clients reach it.
    pub client: String,
    /// Where it listens for peers.
    pub peer_bind: String,
    /// Where it listens for clients.
    pub client_bind: String,
    /// Failure domain.
    pub zone: String,
    /// File with a passphrase, or none for a key file.
    pub passphrase_file: Option<PathBuf>,
    /// Whether a passphrase is asked for at the terminal.
    pub ask_passphrase: bool,
}

/// Makes a node's directory: identity, seal, configuration. Gives its enrolment line.
///
/// # Errors
/// When something of it exists or cannot be written, or an argument makes no sense.
pub fn init(init: &Init<'_>) -> Result<String, String> {
    for address in [&init.peer, &init.client] {
        if !valid_address(address) {
            return Err(format!("`{address}` is no host:port that others can reach"));
        }
    }
    let directory = init.directory;
    std::fs::create_dir_all(directory).map_err(|e| at(directory, e))?;
    std::fs::set_permissions(directory, std::fs::Permissions::from_mode(0o700)).map_err(|e| at(directory, e))?;
    if directory.join("identity").exists() {
        return Err(at(directory, "a node was made here already; choose another directory"));
    }
    if init.peer_bind == init.client_bind || init.peer == init.client {
        return Err("peers and clients need two addresses".to_owned());
    }
    // The seal first: what can fail for want of a passphrase fails before anything is there.
    let source = match (&init.passphrase_file, init.ask_passphrase) {
        (Some(file), _) => Some(PassphraseSource::File(file.clone())),
        (None, true) => Some(PassphraseSource::Terminal),
        (None, false) => None,
    };
    match &source {
        Some(source) => {
            let params = directory.join(SEAL_PARAMS_FILE);
            SealKey::create_with_passphrase(&params, source, &mut OsRng).map_err(|e| e.to_string())?;
        }
        None => {
            KeyFile::at(directory.join("seal.key")).create(&mut OsRng).map_err(|e| e.to_string())?;
        }
    }
    let identity = Identity::generate(&mut OsRng);
    write_identity(&directory.join("identity"), &identity)?;
    let config = Config {
        genesis: "genesis".into(),
        identity: "identity".into(),
        data: ".".into(),
        peer_bind: init.peer_bind.clone(),
        client_bind: init.client_bind.clone(),
        seal: if source.is_some() { SealMethod::Passphrase } else { SealMethod::KeyFile },
        seal_key: source.is_none().then(|| "seal.key".into()),
        passphrase_file: init.passphrase_file.as_deref().map(|f| std::path::absolute(f).unwrap_or_else(|_| f.into())),
        ticket: None,
        health_socket: "health.sock".into(),
        max_connections: 4096,
        max_connections_per_address: 1024,
        max_requests: 1024,
        usage_log_max_mib: 16 * 1024,
        log_format: LogFormat::Text,
        log_filter: "info".to_owned(),
        signing: SigningConfig::default(),
        metrics: MetricsConfig::default(),
    };
    let path = directory.join("symbolond.toml");
    write_new(&path, &config.to_toml())?;
    let member = Member {
        name: init.name.clone(),
        key: identity.public(),
        peer_address: init.peer.clone(),
        client_address: init.client.clone(),
        zone: init.zone.clone(),
        role: MemberRole::Voter,
    };
    let mut store = [0; 16];
    OsRng.fill_bytes(&mut store);
    let store = StoreId::from_bytes(store);
    write_new(&directory.join(STORE_ID), &format!("{store}\n"))?;
    let signature = identity.sign(Domain::Enrolment, &NO_CLUSTER, &Enrolment::payload(&member, store));
    Ok(Enrolment { member, store, signature }.to_line())
}

/// The id that was enrolled for the store; none when a store has it already.
///
/// # Errors
/// When the file cannot be read or holds something else.
pub fn read_store_id(path: &Path) -> Result<Option<StoreId>, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => text.trim().parse().map(Some).map_err(|e| at(path, e)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(at(path, error)),
    }
}

/// Writes a file that must not exist yet.
fn write_new(path: &Path, text: &str) -> Result<(), String> {
    let mut file = std::fs::File::create_new(path).map_err(|e| at(path, e))?;
    file.write_all(text.as_bytes()).map_err(|e| at(path, e))
}

/// Joins enrolment lines and administrators to a genesis.
///
/// # Errors
/// When a line is damaged, names repeat, or the cluster would make no sense.
pub fn genesis(
    name: Name,
    administrators: BTreeMap<Name, PublicKey>,
    lines: &[String],
    learners: &[Name],
    checkpoint_entries: Option<u64>,
) -> Result<Genesis, String> {
    let mut members = BTreeMap::new();
    for (line, number) in lines.iter().zip(1u16..) {
        let mut member = Enrolment::parse(line).map_err(|e| format!("enrolment line {number}: {e}"))?.member;
        if learners.contains(&member.name) {
            member.role = MemberRole::Learner;
        }
        let id = NodeId::new(number).ok_or("node numbers begin at 1")?;
        members.insert(id, member);
    }
    let mut salt = [0; 16];
    OsRng.fill_bytes(&mut salt);
    let checkpoint_entries = checkpoint_entries.unwrap_or(limits::CHECKPOINT_ENTRIES);
    let genesis = Genesis { name, members, administrators, checkpoint_entries, salt };
    genesis.check().map_err(|e| e.to_string())?;
    Ok(genesis)
}

/// What `symbolond dev init` is told.
pub struct Dev {
    /// Directory of the cluster.
    pub directory: PathBuf,
    /// Number of nodes.
    pub nodes: u16,
    /// Port 10·k above this one is node k's peer port, the next one its client port.
    pub base_port: u16,
    /// Host names of the nodes; with them every node uses ports 7400 and 7401 and listens everywhere.
    pub hosts: Vec<String>,
    /// Entries between two checkpoints.
    pub checkpoint_entries: Option<u64>,
}

impl Dev {
    fn addresses(&self, number: u16) -> Result<[String; 4], String> {
        if let Some(host) = self.hosts.get(usize::from(number) - 1) {
            return Ok([
                format!("{host}:7400"),
                format!("{host}:7401"),
                "0.0.0.0:7400".to_owned(),
                "0.0.0.0:7401".to_owned(),
            ]);
        }
        let port = number.checked_mul(10).and_then(|offset| self.base_port.checked_add(offset));
        let peer = port.filter(|port| *port < u16::MAX).ok_or("the base port is too high")?;
        let [peer, client] = [format!("127.0.0.1:{peer}"), format!("127.0.0.1:{}", peer + 1)];
        Ok([peer.clone(), client.clone(), peer, client])
    }
}

/// Makes a whole cluster for development: nodes, genesis, one administrator, a file to source. Nothing is made twice.
///
/// # Errors
/// When something cannot be written or an argument makes no sense.
pub fn dev_init(dev: &Dev) -> Result<(), String> {
    if dev.directory.join("env").exists() {
        return Ok(());
    }
    if !dev.hosts.is_empty() && dev.hosts.len() != usize::from(dev.nodes) {
        return Err(format!("{} nodes need {} hosts", dev.nodes, dev.nodes));
    }
    let mut lines = Vec::new();
    for number in 1..=dev.nodes {
        let [peer, client, peer_bind, client_bind] = dev.addresses(number)?;
        let name = Name::new(&format!("node{number}")).map_err(|e| e.to_string())?;
        let directory = dev.directory.join(name.as_str());
        let zone = format!("zone{number}");
        lines.push(init(&Init {
            directory: &directory,
            name,
            peer,
            client,
            peer_bind,
            client_bind,
            zone,
            passphrase_file: None,
            ask_passphrase: false,
        })?);
    }
    let admin = Identity::generate(&mut OsRng);
    let admin_directory = dev.directory.join("admin");
    std::fs::create_dir_all(&admin_directory).map_err(|e| at(&admin_directory, e))?;
    write_identity(&admin_directory.join("identity"), &admin)?;
    let administrators = BTreeMap::from([(Name::new("admin").map_err(|e| e.to_string())?, admin.public())]);
    let name = Name::new("dev").map_err(|e| e.to_string())?;
    let genesis = genesis(name, administrators, &lines, &[], dev.checkpoint_entries)?;
    for member in genesis.members.values() {
        write_new(&dev.directory.join(member.name.as_str()).join("genesis"), &genesis.to_file())?;
    }
    write_new(&admin_directory.join("genesis"), &genesis.to_file())?;
    write_env(dev, &genesis)
}

/// The file to source is written last: with it the cluster is complete.
fn write_env(dev: &Dev, genesis: &Genesis) -> Result<(), String> {
    let directory = std::path::absolute(&dev.directory).map_err(|e| at(&dev.directory, e))?;
    let endpoints: Vec<&str> = genesis.members.values().map(|m| m.client_address.as_str()).collect();
    let quote = |text: String| format!("'{}'", text.replace('\'', "'\\''"));
    let text = format!(
        "export SYMBOLON_GENESIS={}\nexport SYMBOLON_IDENTITY={}\nexport SYMBOLON_ENDPOINTS={}\n",
        quote(directory.join("admin/genesis").display().to_string()),
        quote(directory.join("admin/identity").display().to_string()),
        endpoints.join(","),
    );
    write_new(&dev.directory.join("env"), &text)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_made_once_and_its_files_load() {
        let directory = tempfile::tempdir().unwrap();
        let dev = Dev {
            directory: directory.path().join("c"),
            nodes: 3,
            base_port: 7400,
            hosts: Vec::new(),
            checkpoint_entries: None,
        };
        dev_init(&dev).unwrap();
        let read = |node: &str| std::fs::read_to_string(dev.directory.join(node).join("genesis")).unwrap();
        let genesis = Genesis::parse_file(&read("node1")).unwrap();
        assert_eq!((genesis.members.len(), genesis.voters().len()), (3, 3));
        assert_eq!(read("node1"), read("node3"));
        let config = Config::load(&dev.directory.join("node2/symbolond.toml")).unwrap();
        let identity = read_identity(&config.identity).unwrap();
        assert_eq!(genesis.members.get(&NodeId::new(2).unwrap()).unwrap().key, identity.public());
        dev_init(&dev).unwrap();
        assert_eq!(read("node1"), genesis.to_file());
    }

    #[test]
    fn an_enrolment_names_the_store_that_is_made_of_it() {
        let directory = tempfile::tempdir().unwrap();
        let node = directory.path().join("n");
        let line = init(&Init {
            directory: &node,
            name: Name::new("n").unwrap(),
            peer: "127.0.0.1:7400".to_owned(),
            client: "127.0.0.1:7401".to_owned(),
            peer_bind: "127.0.0.1:7400".to_owned(),
            client_bind: "127.0.0.1:7401".to_owned(),
            zone: String::new(),
            passphrase_file: None,
            ask_passphrase: false,
        });
        let enrolment = Enrolment::parse(&line.unwrap()).unwrap();
        assert_eq!(read_store_id(&node.join(STORE_ID)).unwrap(), Some(enrolment.store));
        assert_eq!(read_store_id(&node.join("nothing")).unwrap(), None);
        assert!(read_store_id(&node.join("identity")).is_err());
    }

    #[test]
    fn an_identity_that_others_may_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        write_identity(&path, &Identity::from_seed(&[1; 32])).unwrap();
        assert!(write_identity(&path, &Identity::from_seed(&[2; 32])).is_err(), "never overwritten");
        assert_eq!(read_identity(&path).unwrap().public(), Identity::from_seed(&[1; 32]).public());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(read_identity(&path).unwrap_err().contains("chmod 600"));
    }
}
