//! What a client believes, and why: public keys whose certificate verifies against the members, who are known from the genesis
//! file and from the changes that administrators and a majority of the voters signed since.
//!
//! Nothing that a node says about a key counts by itself. A certificate is believed when the cluster's members voted for it
//! ([`KeyCertificate::verify`]) and when it speaks of the key, the name and the version that were asked for. So one lying
//! node can withhold a key, never put another in its place.
//!
//! A change of shares makes a new certificate for the same public key. Until that has all of its votes, nodes show the one
//! before. A public key that was certified once is remembered for as long as the process lives: no later certificate of the
//! same version may name another.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use symbolon_protocol::certificate::{CertificateCore, CertificateError, KeyCertificate};
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::genesis::{Genesis, Member};
use symbolon_protocol::id::{ClusterId, Digest, KeyId, KeyVersion, Name, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::membership::{Followed, JoinTicket, Link as SignedLink, Membership};
use symbolon_protocol::state::view::{KeyView, VersionView};

use crate::lock;

/// Certificates that are remembered as proven; then the memory starts anew.
const PROVEN: usize = 4096;
/// Versions whose public key is remembered; then the memory starts anew.
const PUBLIC_KEYS: usize = 65_536;
/// Where the links are kept, in the form of a join ticket.
const LINKS_FILE: &str = "links";
/// Where the highest version of the membership is kept.
const VERSION_FILE: &str = "membership";
/// Marks a refusal over something that names a membership which is not known here yet.
const MEMBERSHIP: &str = "membership";
/// Marks a refusal over a certificate that does not have all of its votes yet.
const INCOMPLETE: &str = "incomplete";

/// A version of a key whose certificate was checked.
#[derive(Debug, Clone)]
pub struct Certified {
    /// What the members voted for.
    pub core: CertificateCore,
    /// Its digest.
    pub digest: Digest,
    /// The public key.
    pub public_key: PublicKey,
}

/// A key as a node showed it, with the versions whose certificate was checked. States, tags and dates are the node's word.
#[derive(Debug, Clone)]
pub struct VerifiedKey {
    /// What the node showed.
    pub view: KeyView,
    /// Index of the state that it was read from.
    pub index: u64,
    /// State time of the reading, milliseconds since 1970.
    pub time_ms: u64,
    certified: BTreeMap<KeyVersion, Certified>,
}

impl VerifiedKey {
    /// A version that is certified.
    #[must_use]
    pub fn certified(&self, version: KeyVersion) -> Option<&Certified> {
        self.certified.get(&version)
    }
    /// The public key of a version; none unless it is certified.
    #[must_use]
    pub fn public_key(&self, version: KeyVersion) -> Option<PublicKey> {
        self.certified(version).map(|certified| certified.public_key)
    }
    /// The certified current version.
    #[must_use]
    pub fn current(&self) -> Option<&Certified> {
        self.view.current.and_then(|version| self.certified(version))
    }
    /// Whether a version is certified with the shares that it has now. Right after they changed the certificate is the one
    /// before, and who holds them is the node's word.
    #[must_use]
    pub fn is_settled(&self, version: KeyVersion) -> bool {
        let shares = self.view.version(version).and_then(|shown| shown.shares.as_ref());
        let certified = self.certified(version).map(|certified| certified.core.epoch);
        certified.is_some() && shares.is_none_or(|shares| Some(shares.epoch) <= certified)
    }
    /// Demands the certificate of the shares that a version has now.
    pub(crate) fn demand_settled(&self, version: KeyVersion) -> Result<(), Refusal> {
        self.demand(version)?;
        if self.is_settled(version) {
            return Ok(());
        }
        let name = &self.view.name;
        Err(incomplete(format!("shows new shares of version {version} of key `{name}` that are not certified yet")))
    }
    /// Demands the certificate of a version.
    pub(crate) fn demand(&self, version: KeyVersion) -> Result<(), Refusal> {
        if self.certified.contains_key(&version) {
            return Ok(());
        }
        let name = &self.view.name;
        Err(incomplete(format!("shows no complete certificate for version {version} of key `{name}`")))
    }
}

/// A certificate that does not have all of its votes yet, which passes by itself, or is kept back, which does not.
fn incomplete(message: String) -> Refusal {
    Refusal::new(ErrorCode::BadCertificate, message).with(INCOMPLETE, Detail::Number(1))
}

/// Whether waiting may help against a refusal that was made here.
pub(crate) fn is_incomplete(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::BadCertificate && refusal.details.contains_key(INCOMPLETE)
}

/// A reply that does not verify or does not even decode.
pub(crate) fn bad(message: impl Into<String>) -> Refusal {
    Refusal::new(ErrorCode::BadCertificate, message)
}

/// Something that was made under a membership that is not known here yet.
pub(crate) fn newer(version: u64) -> Refusal {
    let message = format!("names membership {version}, to which no node led this client yet");
    incomplete(message).with(MEMBERSHIP, Detail::Number(version))
}

/// Whether a refusal that was made here may go once the membership is followed.
pub(crate) fn is_newer(refusal: &Refusal) -> bool {
    refusal.code == ErrorCode::BadCertificate && refusal.details.contains_key(MEMBERSHIP)
}

/// Why a certificate was not taken.
enum Flaw {
    Incomplete,
    Newer(u64),
    False(Refusal),
}

/// What certificates are checked against.
#[derive(Debug)]
pub struct Trust {
    cluster: ClusterId,
    genesis: Genesis,
    /// The membership, as far as links led.
    followed: Arc<Mutex<Followed>>,
    /// Highest version of the membership that was seen on this machine.
    membership: AtomicU64,
    /// Where this outlives the process.
    memory: Option<PathBuf>,
    /// Digests of certificate cores that were proved.
    proven: Mutex<HashSet<Digest>>,
    /// Public keys that were proved.
    public_keys: Mutex<HashMap<(KeyId, KeyVersion), [u8; 32]>>,
}

impl Trust {
    /// Trust in the members of a genesis file, and in those to whom links led from there. `state` is a directory for what has to
    /// outlive the process: the links, and the highest version of the membership that was seen.
    #[must_use]
    pub fn new(genesis: Genesis, state: Option<&Path>) -> Self {
        let cluster = genesis.cluster_id();
        let memory = state.map(|directory| directory.join(cluster.to_string()));
        let read =
            |file: &str| memory.as_ref().and_then(|directory| std::fs::read_to_string(directory.join(file)).ok());
        // Links prove themselves: a file that is damaged leads less far, never elsewhere.
        let kept = read(LINKS_FILE).and_then(|text| JoinTicket::parse_file(&text).ok());
        let kept = kept.and_then(|kept| kept.follow(&genesis).ok());
        let followed = kept.unwrap_or_else(|| Followed::genesis(&genesis));
        let seen =
            read(VERSION_FILE).and_then(|text| text.trim().parse::<u64>().ok()).unwrap_or(0).max(followed.version());
        let followed = Arc::new(Mutex::new(followed));
        let (membership, proven, public_keys) = (AtomicU64::new(seen), Mutex::default(), Mutex::default());
        Self { cluster, genesis, followed, membership, memory, proven, public_keys }
    }

    /// The cluster.
    #[must_use]
    pub fn cluster(&self) -> ClusterId {
        self.cluster
    }
    /// The founding document.
    #[must_use]
    pub fn genesis(&self) -> &Genesis {
        &self.genesis
    }
    /// Who belongs to the cluster, as far as links led.
    #[must_use]
    pub fn membership(&self) -> Arc<Membership> {
        Arc::clone(lock(&self.followed).newest())
    }
    /// Every membership so far.
    #[must_use]
    pub fn followed(&self) -> Followed {
        lock(&self.followed).clone()
    }
    /// The same, as it is at any later time.
    pub(crate) fn following(&self) -> Arc<Mutex<Followed>> {
        Arc::clone(&self.followed)
    }
    /// The member with an identity.
    #[must_use]
    pub fn member_of(&self, key: &PublicKey) -> Option<Member> {
        self.membership().members.values().find(|member| member.key == *key).cloned()
    }
    /// The name of a node that is or was a member; its number when it never was.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        lock(&self.followed).member(node).map_or_else(|| format!("node {node}"), |member| member.name.to_string())
    }

    /// The version of the membership that was seen on this machine, where links do not lead there yet.
    pub(crate) fn behind(&self) -> Option<u64> {
        let seen = self.membership.load(Ordering::Relaxed);
        (seen > lock(&self.followed).version()).then_some(seen)
    }

    /// Follows links that a node showed; those that are known already are passed over. Gives how many were new.
    ///
    /// # Errors
    /// `bad_certificate` when one does not hold; those before it count.
    pub fn follow(&self, links: Vec<SignedLink>) -> Result<usize, Refusal> {
        let (before, result, after) = {
            let mut followed = lock(&self.followed);
            let before = followed.version();
            let result = followed.take_all(links);
            (before, result, followed.clone())
        };
        if after.version() > before {
            self.keep(&after);
        }
        result.map_err(|error| bad(format!("shows a change of the members that does not hold: {error}")))
    }

    /// A machine without a place to remember is no less safe than one that starts for the first time: failures are passed over.
    fn keep(&self, followed: &Followed) {
        self.write(LINKS_FILE, &JoinTicket::of(followed).to_file());
        if self.membership.fetch_max(followed.version(), Ordering::Relaxed) < followed.version() {
            self.write(VERSION_FILE, &format!("{}\n", followed.version()));
        }
    }

    fn write(&self, file: &str, text: &str) {
        let Some(directory) = &self.memory else { return };
        let (path, new) = (directory.join(file), directory.join(format!("{file}.new")));
        let _ = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&new, text))
            .and_then(|()| std::fs::rename(&new, path));
    }

    /// The id of a key that a node showed, as far as it is certified that a key of this name has it. A node could otherwise
    /// show the id of another key, and the client would sign a request about that one.
    ///
    /// # Errors
    /// `wrong_state` when no version is certified yet.
    pub fn certified_id(key: &VerifiedKey) -> Result<KeyId, Refusal> {
        if key.certified.is_empty() {
            let message =
                format!("no version of key `{}` is certified yet: there is nothing to use or change", key.view.name);
            return Err(Refusal::new(ErrorCode::WrongState, message));
        }
        Ok(key.view.id)
    }

    /// Checks every certificate of a key that a node showed. A certificate that lacks votes counts as none; one that is
    /// false condemns the whole answer.
    ///
    /// # Errors
    /// `bad_certificate` with what does not verify.
    pub fn check_key(&self, view: KeyView, index: u64, time_ms: u64) -> Result<VerifiedKey, Refusal> {
        let numbers: BTreeSet<KeyVersion> = view.versions.iter().map(|version| version.number).collect();
        if numbers.len() != view.versions.len() || view.current.is_some_and(|current| !numbers.contains(&current)) {
            return Err(bad(format!("shows versions of key `{}` that do not fit together", view.name)));
        }
        let mut certified = BTreeMap::new();
        for version in &view.versions {
            let Some(certificate) = &version.certificate else { continue };
            match self.check_version(&view, version, certificate) {
                Ok(good) => drop(certified.insert(version.number, good)),
                Err(Flaw::Incomplete) => {}
                Err(Flaw::Newer(version)) => return Err(newer(version)),
                Err(Flaw::False(refusal)) => return Err(refusal),
            }
        }
        Ok(VerifiedKey { view, index, time_ms, certified })
    }

    fn check_version(
        &self,
        view: &KeyView,
        version: &VersionView,
        certificate: &KeyCertificate,
    ) -> Result<Certified, Flaw> {
        let core = &certificate.core;
        let what = format!("version {} of key `{}`", version.number, view.name);
        // The certificate of the shares before may name another roster and threshold.
        let earlier = version.shares.as_ref().is_some_and(|shares| core.epoch < shares.epoch);
        let holders = earlier || (core.roster == version.roster && core.threshold == version.threshold);
        if !holders || core.suite != view.suite {
            return Err(Flaw::False(bad(format!("shows {what} with other holders than its certificate names"))));
        }
        self.check(certificate, &view.id, &view.name, version.number)
    }

    /// Checks the certificate of one version of a key.
    ///
    /// # Errors
    /// `bad_certificate` with what does not verify.
    pub fn check_certificate(
        &self,
        certificate: &KeyCertificate,
        key: &KeyId,
        name: &Name,
        version: KeyVersion,
    ) -> Result<Certified, Refusal> {
        self.check(certificate, key, name, version).map_err(|flaw| match flaw {
            Flaw::False(refusal) => refusal,
            Flaw::Newer(version) => newer(version),
            Flaw::Incomplete => {
                incomplete(format!("shows an incomplete certificate for version {version} of key `{name}`"))
            }
        })
    }

    fn check(
        &self,
        certificate: &KeyCertificate,
        key: &KeyId,
        name: &Name,
        version: KeyVersion,
    ) -> Result<Certified, Flaw> {
        let core = &certificate.core;
        let what = format!("version {version} of key `{name}`");
        // A good certificate of another key is the easiest lie.
        if core.name != *name || core.key != *key || core.version != version {
            let of = format!("version {} of key `{}` ({})", core.version, core.name, core.key);
            return Err(Flaw::False(bad(format!("shows the certificate of {of} for {what} ({key})"))));
        }
        let false_certificate = |why: &str| Flaw::False(bad(format!("shows a false certificate for {what}: {why}")));
        let digest = core.digest();
        // The digest binds everything that was voted for, so one set of votes proves every copy.
        if !lock(&self.proven).contains(&digest) {
            let (followed, head) = (self.followed(), &certificate.activation.head);
            let members = |version| followed.at(version).map(|membership| &membership.members);
            if let Err(error) = certificate.verify_under(&self.cluster, members) {
                if let CertificateError::Membership(version) = error {
                    return Err(Flaw::Newer(version));
                }
                // Votes of READY are there from the beginning; the others arrive one by one.
                let waits = matches!(error, CertificateError::Activated | CertificateError::Heads);
                let voters = followed.at(head.membership).map_or(0, |membership| membership.voters().len());
                let waits = waits && !certificate.is_complete(voters);
                return Err(if waits { Flaw::Incomplete } else { false_certificate(&error.to_string()) });
            }
            if !followed.spans(head) {
                return Err(false_certificate("its head lies outside of the membership that it names"));
            }
            self.remember(digest);
        }
        let public_key =
            PublicKey::from_bytes(&core.public_key).map_err(|error| false_certificate(&error.to_string()))?;
        if !self.is_the_same(core) {
            return Err(false_certificate("another public key was certified for it before"));
        }
        Ok(Certified { core: core.clone(), digest, public_key })
    }

    /// Whether a proven certificate names the public key that was proved for its version before, if one was.
    fn is_the_same(&self, core: &CertificateCore) -> bool {
        let mut public_keys = lock(&self.public_keys);
        let version = (core.key, core.version);
        if public_keys.len() >= PUBLIC_KEYS && !public_keys.contains_key(&version) {
            public_keys.clear();
        }
        *public_keys.entry(version).or_insert(core.public_key) == core.public_key
    }

    fn remember(&self, digest: Digest) {
        let mut proven = lock(&self.proven);
        if proven.len() >= PROVEN {
            proven.clear();
        }
        proven.insert(digest);
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests;
