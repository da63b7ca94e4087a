//! What a client believes, and why: public keys whose certificate verifies against the members of the genesis file.
//!
//! Nothing that a node says about a key counts by itself. A certificate is believed when the cluster's members voted for it
//! ([`KeyCertificate::verify`]) and when it speaks of the key, the name and the version that were asked for. So one lying
//! node can withhold a key, never put another in its place.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use symbolon_protocol::certificate::{CertificateCore, CertificateError, KeyCertificate};
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::genesis::{Genesis, Member};
use symbolon_protocol::id::{ClusterId, Digest, KeyId, KeyVersion, Name, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::state::view::{KeyView, VersionView};

use crate::error::Error;
use crate::lock;

/// The version of the membership that genesis gives; the only one that this release can follow.
const GENESIS_MEMBERSHIP: u64 = 0;
/// Certificates that are remembered as proven; then the memory starts anew.
const PROVEN: usize = 4096;
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

/// Why a certificate was not taken.
enum Flaw {
    Incomplete,
    False(Refusal),
}

/// What certificates are checked against.
#[derive(Debug)]
pub struct Trust {
    cluster: ClusterId,
    genesis: Genesis,
    voters: usize,
    /// Highest version of the membership that was proved to this machine.
    membership: AtomicU64,
    memory: Option<PathBuf>,
    /// Digests of certificate cores that were proved.
    proven: Mutex<HashSet<Digest>>,
}

impl Trust {
    /// Trust in the members of a genesis file. `state` is a directory for what has to outlive the process: the highest
    /// version of the membership that was seen.
    ///
    /// # Errors
    /// `version_unknown` when this machine saw a membership that is newer than genesis, which this release cannot follow.
    pub fn new(genesis: Genesis, state: Option<&Path>) -> Result<Self, Error> {
        let cluster = genesis.cluster_id();
        let memory = state.map(|directory| directory.join(cluster.to_string()).join("membership"));
        let remembered = memory.as_ref().and_then(|path| std::fs::read_to_string(path).ok());
        let remembered = remembered.and_then(|text| text.trim().parse().ok()).unwrap_or(GENESIS_MEMBERSHIP);
        if remembered > GENESIS_MEMBERSHIP {
            let message = format!("the members of cluster {cluster} changed (version {remembered} was seen here)");
            let hint = "use a release that follows changes of the membership";
            return Err(Error::new(ErrorCode::VersionUnknown, message).with_hint(hint));
        }
        let voters = genesis.voters().len();
        let (membership, proven) = (AtomicU64::new(remembered), Mutex::default());
        Ok(Self { cluster, genesis, voters, membership, memory, proven })
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
    /// The members by whose votes certificates are judged.
    #[must_use]
    pub fn members(&self) -> &BTreeMap<NodeId, Member> {
        &self.genesis.members
    }
    /// The member with an identity.
    #[must_use]
    pub fn member_of(&self, key: &PublicKey) -> Option<&Member> {
        self.members().values().find(|member| member.key == *key)
    }
    /// The name of a node; its number when it is no member.
    #[must_use]
    pub fn node_name(&self, node: NodeId) -> String {
        self.members().get(&node).map_or_else(|| format!("node {node}"), |member| member.name.to_string())
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
        if core.roster != version.roster || core.threshold != version.threshold || core.suite != view.suite {
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
            if let Err(error) = certificate.verify(&self.cluster, GENESIS_MEMBERSHIP, self.members()) {
                // Votes of READY are there from the beginning; the others arrive one by one.
                let waits = matches!(error, CertificateError::Activated | CertificateError::Heads);
                let waits = waits && !certificate.is_complete(self.voters);
                return Err(if waits { Flaw::Incomplete } else { false_certificate(&error.to_string()) });
            }
            self.remember(digest, core.membership);
        }
        let public_key =
            PublicKey::from_bytes(&core.public_key).map_err(|error| false_certificate(&error.to_string()))?;
        Ok(Certified { core: core.clone(), digest, public_key })
    }

    fn remember(&self, digest: Digest, membership: u64) {
        let mut proven = lock(&self.proven);
        if proven.len() >= PROVEN {
            proven.clear();
        }
        proven.insert(digest);
        drop(proven);
        if self.membership.fetch_max(membership, Ordering::Relaxed) < membership {
            self.write_membership(membership);
        }
    }

    /// A machine without a place to remember is no less safe than one that starts for the first time: failures are passed over.
    fn write_membership(&self, membership: u64) {
        let Some(path) = &self.memory else { return };
        let Some(directory) = path.parent() else { return };
        let new = path.with_extension("new");
        let _ = std::fs::create_dir_all(directory)
            .and_then(|()| std::fs::write(&new, format!("{membership}\n")))
            .and_then(|()| std::fs::rename(&new, path));
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests;
