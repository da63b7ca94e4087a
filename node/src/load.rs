//! What a node reads before it starts anything: configuration, genesis, identity and, when it joined later, its ticket.

use std::collections::BTreeMap;
use std::path::Path;

use symbolon_protocol::genesis::{Genesis, Member};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::Identity;
use symbolon_protocol::membership::{Followed, JoinTicket};

use crate::config::Config;
use crate::link::member_with;
use crate::setup::read_identity;

/// Where the join ticket is kept, in the data directory.
const TICKET: &str = "ticket";

/// Everything that is read before anything is started.
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) genesis: Genesis,
    pub(crate) identity: Identity,
    pub(crate) me: NodeId,
    /// As far as the join ticket leads; genesis without one.
    pub(crate) followed: Followed,
}

impl Loaded {
    /// The members that this node begins with.
    pub(crate) fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.followed.newest().members
    }

    /// Keeps the ticket, so that the next start needs none.
    pub(crate) fn keep_ticket(&self) -> Result<(), String> {
        let path = self.config.data.join(TICKET);
        if self.followed.version() == 0 {
            return Ok(());
        }
        let new = path.with_extension("new");
        let text = JoinTicket::of(&self.followed).to_file();
        let written = std::fs::write(&new, text).and_then(|()| std::fs::rename(&new, &path));
        written.map_err(|e| format!("{}: {e}", path.display()))
    }
}

/// The ticket that was given now, else in the configuration, else at an earlier start.
fn read_ticket(config: &Config, given: Option<&Path>) -> Result<Option<JoinTicket>, String> {
    let kept = config.data.join(TICKET);
    let path = given.or(config.ticket.as_deref()).or_else(|| kept.exists().then_some(kept.as_path()));
    let Some(path) = path else { return Ok(None) };
    let text = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    let ticket = JoinTicket::parse_file(&text).map_err(|e| format!("{}: {e}", path.display()))?;
    Ok(Some(ticket))
}

/// Reads everything; a join ticket is walked from genesis.
///
/// # Errors
/// What the operator should know, with the file.
pub(crate) fn load(path: &Path, ticket: Option<&Path>) -> Result<Loaded, String> {
    let config = Config::load(path).map_err(|e| e.to_string())?;
    let named = |path: &Path, what: String| format!("{}: {what}", path.display());
    let text = std::fs::read_to_string(&config.genesis).map_err(|e| named(&config.genesis, e.to_string()))?;
    let genesis = Genesis::parse_file(&text).map_err(|e| named(&config.genesis, e.to_string()))?;
    let identity = read_identity(&config.identity)?;
    let followed = match read_ticket(&config, ticket)? {
        Some(ticket) => ticket.follow(&genesis)?,
        None => Followed::genesis(&genesis),
    };
    let key = identity.public();
    let joined = member_with(&followed.newest().members, &key);
    let me = joined.or_else(|| member_with(&genesis.members, &key)).ok_or_else(|| {
        let what = "this identity is a member neither in the genesis file nor by a join ticket: a node that joins later is started \
                    with `symbolond run --ticket FILE`, and `symbolon member add` prints the ticket";
        named(&config.identity, what.to_owned())
    })?;
    Ok(Loaded { config, genesis, identity, me, followed })
}
