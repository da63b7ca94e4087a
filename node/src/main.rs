//! symbolond: the node.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use symbolon_node::{daemon, setup};
use symbolon_protocol::id::Name;
use symbolon_protocol::identity::PublicKey;

/// The node of a Symbolon cluster: holds shares of keys, never a whole one.
#[derive(Parser)]
#[command(name = "symbolond", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a node's directory and print its enrolment line
    Init(InitArgs),
    /// Join enrolment lines and administrators to the genesis file of a cluster
    Genesis(GenesisArgs),
    /// Run a node
    Run(RunArgs),
    /// Say what would fail before the node runs
    Check(CheckArgs),
    /// Ask a node on this machine how it is; exit 0 when it is well
    Health(ConfigArgs),
    /// Make and run a whole cluster on this machine, for development
    Dev(DevArgs),
}

#[derive(Args)]
struct ConfigArgs {
    /// The node's configuration
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
}

#[derive(Args)]
struct CheckArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Read the whole store too, and open every share; changes nothing
    #[arg(long)]
    store: bool,
}

#[derive(Args)]
struct RunArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// Join ticket, at the first start of a node that was not a member from the beginning
    #[arg(long, value_name = "FILE")]
    ticket: Option<PathBuf>,
}

#[derive(Args)]
struct InitArgs {
    /// Directory to make
    #[arg(long)]
    dir: PathBuf,
    /// Name of the node
    #[arg(long)]
    name: Name,
    /// Address at which peers reach the node
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,
    /// Address at which clients reach the node
    #[arg(long, value_name = "HOST:PORT")]
    client: String,
    /// Address to listen on for peers [default: 0.0.0.0 and the port of --peer]
    #[arg(long, value_name = "ADDRESS:PORT")]
    peer_bind: Option<String>,
    /// Address to listen on for clients [default: 0.0.0.0 and the port of --client]
    #[arg(long, value_name = "ADDRESS:PORT")]
    client_bind: Option<String>,
    /// Failure domain such as a rack or a site
    #[arg(long, default_value = "")]
    zone: String,
    /// Seal with the passphrase in this file instead of a key file
    #[arg(long, value_name = "FILE")]
    passphrase_file: Option<PathBuf>,
    /// Seal with a passphrase that is asked for at the terminal, now and at every start
    #[arg(long, conflicts_with = "passphrase_file")]
    passphrase: bool,
}

#[derive(Args)]
struct GenesisArgs {
    /// Name of the cluster
    #[arg(long)]
    name: Name,
    /// First administrators; two or more, so that one can be lost
    #[arg(long = "admin", value_name = "NAME=PUBLIC-KEY", required = true)]
    admins: Vec<String>,
    /// Enrolment lines, or files with one line each; the first becomes node 1
    #[arg(long = "enrolment", value_name = "LINE|FILE", required = true, num_args = 1..)]
    enrolments: Vec<String>,
    /// Nodes that follow the log and do not vote
    #[arg(long = "learner", value_name = "NAME")]
    learners: Vec<Name>,
    /// Entries between two checkpoints
    #[arg(long)]
    checkpoint_entries: Option<u64>,
    /// File to write
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

#[derive(Args)]
struct DevArgs {
    /// Only make the cluster, or only run it
    #[arg(value_enum)]
    step: Option<DevStep>,
    /// Directory of the cluster
    #[arg(long)]
    dir: PathBuf,
    /// Number of nodes
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=99))]
    nodes: u16,
    /// Node k listens on this port plus 10·k for peers, one above for clients
    #[arg(long, default_value_t = 7400)]
    base_port: u16,
    /// Host names of the nodes; each then listens everywhere, on 7400 for peers and 7401 for clients
    #[arg(long, value_delimiter = ',')]
    hosts: Vec<String>,
    /// Entries between two checkpoints
    #[arg(long)]
    checkpoint_entries: Option<u64>,
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum DevStep {
    /// Make it
    Init,
    /// Run it
    Run,
}

fn main() -> ExitCode {
    match work(Cli::parse().command) {
        Ok(text) => {
            say(&text);
            ExitCode::SUCCESS
        }
        Err(why) => {
            let _ = writeln!(std::io::stderr(), "symbolond: {why}");
            ExitCode::FAILURE
        }
    }
}

/// Prints, and does not mind when nobody reads.
fn say(text: &str) {
    if !text.is_empty() {
        let mut out = std::io::stdout();
        let _ = writeln!(out, "{text}").and_then(|()| out.flush());
    }
}

fn work(command: Command) -> Result<String, String> {
    match command {
        Command::Init(args) => init(args),
        Command::Genesis(args) => genesis(args),
        Command::Run(args) => {
            say(&cluster_line(&args.config.config)?);
            daemon::run(&args.config.config, args.ticket.as_deref()).map(|()| String::new())
        }
        Command::Check(args) => daemon::check(&args.config.config, args.store),
        Command::Health(args) => daemon::ask_health(&args.config),
        Command::Dev(args) => dev(args),
    }
}

fn cluster_line(config: &Path) -> Result<String, String> {
    let config = symbolon_node::config::Config::load(config).map_err(|e| e.to_string())?;
    let text = std::fs::read_to_string(&config.genesis).map_err(|e| format!("{}: {e}", config.genesis.display()))?;
    let genesis = symbolon_protocol::genesis::Genesis::parse_file(&text);
    let genesis = genesis.map_err(|e| format!("{}: {e}", config.genesis.display()))?;
    Ok(format!("cluster {}", genesis.cluster_id()))
}

fn init(args: InitArgs) -> Result<String, String> {
    let everywhere = |address: &str| match address.rsplit_once(':') {
        Some((_, port)) => format!("0.0.0.0:{port}"),
        None => address.to_owned(),
    };
    let InitArgs { dir, name, peer, client, peer_bind, client_bind, zone, passphrase_file, passphrase } = args;
    setup::init(&setup::Init {
        directory: &dir,
        name,
        peer_bind: peer_bind.unwrap_or_else(|| everywhere(&peer)),
        client_bind: client_bind.unwrap_or_else(|| everywhere(&client)),
        peer,
        client,
        zone,
        passphrase_file,
        ask_passphrase: passphrase,
    })
}

fn genesis(args: GenesisArgs) -> Result<String, String> {
    let mut administrators = BTreeMap::new();
    for admin in &args.admins {
        let pair = admin.split_once('=').ok_or_else(|| format!("`{admin}` is not NAME=PUBLIC-KEY"))?;
        let name = Name::new(pair.0).map_err(|e| e.to_string())?;
        let key: PublicKey = pair.1.parse().map_err(|e| format!("administrator {name}: {e}"))?;
        administrators.insert(name, key);
    }
    if administrators.len() < 2 {
        let _ =
            writeln!(std::io::stderr(), "warning: with one administrator the cluster is lost to its owners with it");
    }
    let mut lines = Vec::new();
    for enrolment in &args.enrolments {
        let is_file = Path::new(enrolment).is_file();
        let read = || std::fs::read_to_string(enrolment).map_err(|e| format!("{enrolment}: {e}"));
        lines.push(if is_file { read()? } else { enrolment.clone() });
    }
    let genesis = setup::genesis(args.name, administrators, &lines, &args.learners, args.checkpoint_entries)?;
    let file = std::fs::File::create_new(&args.out).and_then(|mut f| f.write_all(genesis.to_file().as_bytes()));
    file.map_err(|e| format!("{}: {e}", args.out.display()))?;
    Ok(format!("cluster {}", genesis.cluster_id()))
}

fn dev(args: DevArgs) -> Result<String, String> {
    let DevArgs { step, dir, nodes, base_port, hosts, checkpoint_entries } = args;
    if step != Some(DevStep::Run) {
        setup::dev_init(&setup::Dev { directory: dir.clone(), nodes, base_port, hosts, checkpoint_entries })?;
        say(&format!("source {}", dir.join("env").display()));
    }
    if step != Some(DevStep::Init) {
        daemon::dev_run(&dir, nodes, || say("ready"))?;
    }
    Ok(String::new())
}
