//! What happened how often: faults by class, and situations that a sweep of seeds must meet to be worth something.

use std::collections::BTreeMap;

/// Classes of faults.
pub mod fault {
    /// A message was lost.
    pub const DROP: &str = "message dropped";
    /// A message was delivered twice.
    pub const DUPLICATE: &str = "message duplicated";
    /// A message was held back for seconds.
    pub const SPIKE: &str = "message held back";
    /// A node crashed at a persist point.
    pub const CRASH_PERSIST: &str = "crash at a persist point";
    /// A node crashed at some moment.
    pub const CRASH: &str = "crash at any time";
    /// Unsynced writes were lost in a crash.
    pub const LOST_WRITES: &str = "unsynced batches lost";
    /// A node applied late.
    pub const LAG: &str = "applier behind";
    /// Nobody led for a while.
    pub const LEADERLESS: &str = "no leader";
    /// Another node led.
    pub const NEW_LEADER: &str = "leader changed";
    /// A node was cut off.
    pub const ISOLATED: &str = "node cut off";
    /// An evil node sent something else than it should.
    pub const EVIL: &str = "evil message";
    /// Some nodes were cut off together.
    pub const PARTED: &str = "network parted";
    /// Entries were withheld from some nodes.
    pub const WITHHELD: &str = "log withheld";
    /// All.
    pub const ALL: [&str; 13] = [
        DROP,
        DUPLICATE,
        SPIKE,
        CRASH_PERSIST,
        CRASH,
        LOST_WRITES,
        LAG,
        LEADERLESS,
        NEW_LEADER,
        ISOLATED,
        EVIL,
        PARTED,
        WITHHELD,
    ];
}

/// Situations that are interesting.
pub mod situation {
    /// A crash before a sync.
    pub const BEFORE_SYNC: &str = "crash before a sync";
    /// A crash after a sync and before what may follow it.
    pub const AFTER_SYNC: &str = "crash between sync and send";
    /// A crash after the effects were released.
    pub const AFTER_SEND: &str = "crash after the effects left";
    /// A crash between the staging of a share and the vote.
    pub const STAGED: &str = "crash between stage and vote";
    /// A node restarted in an attempt that it took part in.
    pub const RESTARTED: &str = "restart within an attempt";
    /// A message of an older attempt reached a node that runs another.
    pub const OLD_ATTEMPT: &str = "message of another attempt";
    /// A version came to life after an attempt that failed.
    pub const SECOND_ATTEMPT: &str = "key made after a failed attempt";
    /// A spare stepped in.
    pub const SPARE: &str = "attempt with a spare";
    /// A generation failed for good.
    pub const FAILED: &str = "generation failed for good";
    /// A signature came about after a holder was left out.
    pub const WITHOUT_CHEAT: &str = "signature without an excluded holder";
    /// A holder repeated its answer for a repeated package.
    pub const REPEATED_SHARE: &str = "share repeated for a repeated package";
    /// A second package for used nonces was refused.
    pub const REUSE_REFUSED: &str = "second use of nonces refused";
    /// A request was refused for what a coordinator changed.
    pub const CHANGED_REFUSED: &str = "changed request refused by a holder";
    /// A split view was proved.
    pub const SPLIT_PROVED: &str = "split view proved";
    /// An evil node accused an honest one without proof.
    pub const ACCUSED: &str = "accusation without proof";
    /// A share was erased for a destruction.
    pub const ERASED: &str = "share erased for a destruction";
    /// A share of a failed attempt was erased.
    pub const ORPHAN: &str = "orphaned share erased";
    /// A new version took over.
    pub const ROTATED: &str = "rotation finished";
    /// A request was ordered twice.
    pub const ORDERED_TWICE: &str = "request ordered twice";
    /// Shares were moved: an epoch after the first signs.
    pub const MOVED: &str = "redistribution committed";
    /// Shares went to another roster or threshold.
    pub const RESHARED: &str = "roster or threshold changed";
    /// An attempt to move shares ended, and another began.
    pub const MOVED_AGAIN: &str = "redistribution tried again";
    /// An operation that moves shares ended without a result.
    pub const NOT_MOVED: &str = "redistribution given up";
    /// A dealing was accused.
    pub const DEALING_ACCUSED: &str = "dealing accused";
    /// A node asked for a share that it lacks.
    pub const NEEDED: &str = "share asked for";
    /// A node repeated a vote that it made before it restarted.
    pub const STOOD_BY: &str = "vote repeated after a restart";
    /// Shares of an epoch that is over were erased.
    pub const OLD_ERASED: &str = "shares of an earlier epoch erased";
    /// What fewer than t nodes hold was put to the rank test.
    pub const RANKED: &str = "secret put to the rank test";
    /// A share was wanted of a holder that was not fresh.
    pub const LAPSED: &str = "share wanted with a lapsed lease";
    /// It became fresh while the request waited.
    pub const RENEWED: &str = "lease renewed for a request that waited";
    /// It did not.
    pub const NOT_FRESH: &str = "share refused without a lease";
    /// An answer came that brought no evidence.
    pub const IDLE_ANSWER: &str = "answer that counted for nothing more";
    /// A voter was proved to have signed two histories.
    pub const EQUIVOCATED: &str = "equivocation proved";
    /// A voter said that it is ahead of a node which the others find current.
    pub const AHEAD: &str = "voter said to be ahead";
    /// A node did not say where it is, because it had just started.
    pub const NOT_READY: &str = "position refused after a restart";
    /// A crash between the sync of a position and its signature.
    pub const POSITION_SYNCED: &str = "crash between sync and position";
    /// An evil voter showed an old head to nodes from which the log is withheld.
    pub const OLD_SHOWN: &str = "old head shown to a victim";
    /// A notice of a withdrawal was refused.
    pub const NOTICE_REFUSED: &str = "notice of a withdrawal refused";
    /// A right was reported as gone, if no voter lies.
    pub const ENFORCED_CRASH: &str = "right gone as far as crashes go";
    /// A right was reported as gone, though one voter may lie.
    pub const ENFORCED_BYZANTINE: &str = "right gone though one may lie";
    /// A right was reported as ordered only.
    pub const NOT_ENFORCED: &str = "withdrawal ordered only";
    /// A barrier waited until holders that did not confirm were stale.
    pub const WAITED_OUT: &str = "barrier waited for a holder's lease to end";
    /// The clock of such a holder was slower by 2% at least.
    pub const SLOW_CLOCK: &str = "barrier waited for a slower clock";
    /// All.
    pub const ALL: [&str; 43] = [
        RANKED,
        BEFORE_SYNC,
        AFTER_SYNC,
        AFTER_SEND,
        STAGED,
        RESTARTED,
        OLD_ATTEMPT,
        SECOND_ATTEMPT,
        SPARE,
        FAILED,
        WITHOUT_CHEAT,
        REPEATED_SHARE,
        REUSE_REFUSED,
        CHANGED_REFUSED,
        SPLIT_PROVED,
        ACCUSED,
        ERASED,
        ORPHAN,
        ROTATED,
        ORDERED_TWICE,
        MOVED,
        RESHARED,
        MOVED_AGAIN,
        NOT_MOVED,
        DEALING_ACCUSED,
        NEEDED,
        STOOD_BY,
        OLD_ERASED,
        LAPSED,
        RENEWED,
        NOT_FRESH,
        IDLE_ANSWER,
        EQUIVOCATED,
        AHEAD,
        NOT_READY,
        POSITION_SYNCED,
        OLD_SHOWN,
        NOTICE_REFUSED,
        ENFORCED_CRASH,
        ENFORCED_BYZANTINE,
        NOT_ENFORCED,
        WAITED_OUT,
        SLOW_CLOCK,
    ];
}

/// Counters of one run or of many.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    faults: BTreeMap<&'static str, u64>,
    situations: BTreeMap<&'static str, u64>,
    /// Signatures that clients got and verified.
    pub signatures: u64,
    /// Key versions that became active.
    pub keys: u64,
}

impl Counters {
    pub(crate) fn fault(&mut self, class: &'static str) {
        self.faults(class, 1);
    }
    pub(crate) fn faults(&mut self, class: &'static str, count: u64) {
        *self.faults.entry(class).or_default() += count;
    }
    pub(crate) fn situation(&mut self, what: &'static str) {
        *self.situations.entry(what).or_default() += 1;
    }
    /// Adds those of another run.
    pub fn add(&mut self, other: &Self) {
        for (class, count) in &other.faults {
            *self.faults.entry(class).or_default() += count;
        }
        for (what, count) in &other.situations {
            *self.situations.entry(what).or_default() += count;
        }
        self.signatures += other.signatures;
        self.keys += other.keys;
    }
    /// How often a fault of a class was injected.
    #[must_use]
    pub fn faults_of(&self, class: &str) -> u64 {
        self.faults.get(class).copied().unwrap_or(0)
    }
    /// How often a situation was met.
    #[must_use]
    pub fn times(&self, what: &str) -> u64 {
        self.situations.get(what).copied().unwrap_or(0)
    }
    /// Faults of all classes.
    #[must_use]
    pub fn all_faults(&self) -> u64 {
        self.faults.values().sum()
    }
}
