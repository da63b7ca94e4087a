//! Roles, and the keys on which a client has them.

use std::fmt;

use crate::error::{ErrorCode, Refusal};
use crate::id::Name;
use crate::limits;

/// What a client may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Everything: an administrator could grant itself every other role anyway.
    Admin,
    /// Creates and manages keys, per key or pattern.
    KeyAdmin,
    /// Uses keys, per key or pattern.
    Signer,
    /// Reads, per key or pattern.
    Auditor,
}
crate::wire_enum!(Role { 1 => Admin, 2 => KeyAdmin, 3 => Signer, 4 => Auditor });

impl Role {
    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Admin => "admin",
            Self::KeyAdmin => "key-admin",
            Self::Signer => "signer",
            Self::Auditor => "auditor",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A role on the keys whose name matches a pattern.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Grant {
    /// The role.
    pub role: Role,
    /// Names of keys; `*` stands for any run of characters.
    pub keys: String,
}
crate::wire_struct!(Grant { role, keys });

impl Grant {
    /// Whether the pattern covers a key name.
    #[must_use]
    pub fn covers(&self, key: &Name) -> bool {
        let mut parts = self.keys.split('*');
        let Some(mut rest) = parts.next().and_then(|head| key.as_str().strip_prefix(head)) else { return false };
        let mut middle: Vec<&str> = parts.collect();
        let Some(last) = middle.pop() else { return rest.is_empty() };
        for part in middle {
            match rest.find(part).and_then(|at| rest.get(at + part.len()..)) {
                Some(tail) => rest = tail,
                None => return false,
            }
        }
        rest.ends_with(last)
    }
    /// Checks the pattern's characters and length.
    ///
    /// # Errors
    /// [`Refusal`] when it could match no name.
    pub fn check(&self) -> Result<(), Refusal> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/' | '*');
        if !self.keys.is_empty() && self.keys.len() <= limits::NAME_BYTES && self.keys.chars().all(allowed) {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::InvalidArgument, format!("`{}` is no key name or pattern", self.keys)))
    }
}
