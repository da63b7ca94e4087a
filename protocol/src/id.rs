//! Identifiers: newtypes whose private fields hold only values that were checked at the door.

use std::fmt;
use std::num::NonZeroU16;
use std::str::FromStr;

use crate::limits;
use crate::wire::{Reader, Wire, WireError, Writer};

macro_rules! id_bytes {
    ($(#[$doc:meta])* $name:ident, $size:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $size]);

        impl $name {
            /// From its bytes.
            #[must_use]
            pub const fn from_bytes(bytes: [u8; $size]) -> Self {
                Self(bytes)
            }
            /// Its bytes.
            #[must_use]
            pub const fn as_bytes(&self) -> &[u8; $size] {
                &self.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), hex::encode(self.0))
            }
        }
        impl FromStr for $name {
            type Err = WireError;
            fn from_str(text: &str) -> Result<Self, WireError> {
                let mut bytes = [0; $size];
                hex::decode_to_slice(text, &mut bytes)
                    .map_err(|_| WireError::Invalid(concat!(stringify!($name), " (hexadecimal)")))?;
                Ok(Self(bytes))
            }
        }
        impl Wire for $name {
            fn put(&self, w: &mut Writer) {
                self.0.put(w);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
                Ok(Self(Wire::take(r)?))
            }
        }
    };
}

id_bytes!(
    /// SHA-256 of the canonical genesis file; mixed into every signature and transcript.
    ClusterId, 32
);
id_bytes!(
    /// SHA-256 of the signed request that created the key.
    KeyId, 32
);
id_bytes!(
    /// A share operation: one per key version and cause.
    OperationId, 32
);
id_bytes!(
    /// Chosen at random by the client, once per request.
    RequestId, 16
);
id_bytes!(
    /// Random name of a node's store, made when it is first opened.
    StoreId, 16
);
id_bytes!(
    /// Chosen at random by the coordinator, once per attempt to sign.
    SigningSession, 16
);
id_bytes!(
    /// A SHA-256 value.
    Digest, 32
);

/// A member of the cluster; never zero, never used again for another member. Also its FROST identifier.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(NonZeroU16);

impl NodeId {
    /// From a number between 1 and 65,535.
    #[must_use]
    pub const fn new(number: u16) -> Option<Self> {
        match NonZeroU16::new(number) {
            Some(number) => Some(Self(number)),
            None => None,
        }
    }
    /// The number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeId({})", self.0)
    }
}

impl Wire for NodeId {
    fn put(&self, w: &mut Writer) {
        self.get().put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::new(u16::take(r)?).ok_or(WireError::Invalid("a node id"))
    }
}

macro_rules! id_number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u32);

        impl $name {
            /// The first one.
            pub const FIRST: Self = Self(1);
            /// From a number; zero is none.
            #[must_use]
            pub const fn new(number: u32) -> Option<Self> {
                if number == 0 { None } else { Some(Self(number)) }
            }
            /// The number.
            #[must_use]
            pub const fn get(self) -> u32 {
                self.0
            }
            /// The one after it; none when the numbers are used up.
            #[must_use]
            pub const fn next(self) -> Option<Self> {
                match self.0.checked_add(1) {
                    Some(next) => Some(Self(next)),
                    None => None,
                }
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}", self.0)
            }
        }
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!(stringify!($name), "({})"), self.0)
            }
        }
        impl Wire for $name {
            fn put(&self, w: &mut Writer) {
                self.0.put(w);
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
                Self::new(u32::take(r)?).ok_or(WireError::Invalid(stringify!($name)))
            }
        }
    };
}

id_number!(
    /// Version of a key; each has its own distributed key generation.
    KeyVersion
);
id_number!(
    /// Epoch of the shares of one key version. Every attempt of a share operation takes the next number; none is used twice.
    Epoch
);

/// How many holders must take part: at least 2.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Threshold(u8);

impl Threshold {
    /// A threshold for a roster of `n`: 2 <= t <= n.
    #[must_use]
    pub fn new(t: usize, n: usize) -> Option<Self> {
        (2..=n).contains(&t).then(|| u8::try_from(t).ok().map(Self)).flatten()
    }
    /// The default for a roster of `n`: floor(n/2) + 1.
    #[must_use]
    pub fn default_for(n: usize) -> Option<Self> {
        Self::new(n / 2 + 1, n)
    }
    /// The number.
    #[must_use]
    pub fn get(self) -> usize {
        usize::from(self.0)
    }
}

impl fmt::Display for Threshold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl Wire for Threshold {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(r)? {
            t @ 2.. => Ok(Self(t)),
            _ => Err(WireError::Invalid("a threshold")),
        }
    }
}

/// Name of a key, client, node or cluster: 1 to 64 of `a-z A-Z 0-9 . _ - /`, starting with a letter or digit.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(String);

impl Name {
    /// Checks a name.
    ///
    /// # Errors
    /// [`WireError::Invalid`] when it is empty, too long, or holds another character.
    pub fn new(text: &str) -> Result<Self, WireError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '/');
        let starts = text.starts_with(|c: char| c.is_ascii_alphanumeric());
        if starts && text.len() <= limits::NAME_BYTES && text.chars().all(allowed) {
            Ok(Self(text.to_owned()))
        } else {
            Err(WireError::Invalid("a name (1 to 64 of a-z A-Z 0-9 . _ - /, starting with a letter or digit)"))
        }
    }
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl FromStr for Name {
    type Err = WireError;
    fn from_str(text: &str) -> Result<Self, WireError> {
        Self::new(text)
    }
}

impl Wire for Name {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Self::new(&String::take(r)?)
    }
}

/// One start of a node's process: the counter is raised and synced before the first packet, the random part tells clones apart.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct BootId {
    /// Starts of this store so far.
    pub counter: u64,
    /// Random bytes of this start.
    pub random: [u8; 16],
}
crate::wire_struct!(BootId { counter, random });

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{decode, encode};

    #[test]
    fn zero_is_no_node_version_or_epoch() {
        assert!(decode::<NodeId>(&[1, 0, 0]).is_err());
        assert!(decode::<Epoch>(&[1, 0, 0, 0, 0]).is_err());
        assert_eq!(KeyVersion::new(0), None);
        assert_eq!(KeyVersion::new(u32::MAX).and_then(KeyVersion::next), None);
    }

    #[test]
    fn thresholds() {
        assert_eq!(Threshold::new(1, 5), None);
        assert_eq!(Threshold::new(6, 5), None);
        assert_eq!(Threshold::default_for(5).map(Threshold::get), Some(3));
        assert_eq!(Threshold::default_for(3).map(Threshold::get), Some(2));
        assert_eq!(Threshold::default_for(1), None);
        assert!(decode::<Threshold>(&[1, 1]).is_err());
    }

    #[test]
    fn names() {
        for good in ["release", "a/b-c_d.e", "0"] {
            assert_eq!(decode::<Name>(&encode(&good.to_owned())).map(|n| n.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "-x", "/x", "a b", "a*", "ä", &"x".repeat(65)] {
            assert!(decode::<Name>(&encode(&bad.to_owned())).is_err(), "{bad}");
        }
    }
}
