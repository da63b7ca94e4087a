//! The one codec: fixed field order, big-endian integers, length-prefixed bytes, exactly one encoding per value.
//!
//! Everything that is signed, hashed, stored or sent between nodes is encoded here. A value that stands alone (a stored
//! record, a signed body, a frame) starts with [`FORMAT_VERSION`]; values inside it do not repeat it. Decoding refuses
//! everything that encoding would not have produced: trailing bytes, booleans other than 0 and 1, maps and sets that are
//! not strictly ascending, text that is not UTF-8. Layouts and vectors: `docs/spec/wire.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// First byte of every value that stands alone.
pub const FORMAT_VERSION: u8 = 1;

/// Why bytes were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireError {
    /// The bytes end inside the named field.
    Truncated(&'static str),
    /// Bytes remain after the last field.
    Trailing(usize),
    /// The first byte is a format version that this release does not read.
    Version(u8),
    /// The field holds a value that has no meaning, or one that encoding never produces.
    Invalid(&'static str),
}

impl fmt::Display for WireError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Truncated(what) => write!(f, "the bytes end inside {what}"),
            Self::Trailing(count) => write!(f, "{count} bytes follow the last field"),
            Self::Version(found) => write!(f, "format version {found}; this release reads version {FORMAT_VERSION}"),
            Self::Invalid(what) => write!(f, "{what} is not valid"),
        }
    }
}

impl std::error::Error for WireError {}

/// Collects an encoding.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Appends bytes as they are, without a length.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Appends a length (u32) and the bytes.
    pub fn bytes(&mut self, bytes: &[u8]) {
        // Nothing that is encoded comes near 4 GiB: every input is limited at its door.
        self.raw(&u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes());
        self.raw(bytes);
    }

    /// The encoding.
    #[must_use]
    pub fn finish(self) -> Vec<u8> {
        self.bytes
    }
}

/// Reads an encoding from its start.
pub struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// Takes `count` bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`] with `what` when fewer remain.
    pub fn raw(&mut self, count: usize, what: &'static str) -> Result<&'a [u8], WireError> {
        let (head, rest) = self.rest.split_at_checked(count).ok_or(WireError::Truncated(what))?;
        self.rest = rest;
        Ok(head)
    }

    /// Takes a length (u32) and that many bytes.
    ///
    /// # Errors
    /// [`WireError::Truncated`] with `what` when fewer remain.
    pub fn bytes(&mut self, what: &'static str) -> Result<&'a [u8], WireError> {
        let length = u32::take(self)?;
        self.raw(usize::try_from(length).map_err(|_| WireError::Invalid(what))?, what)
    }

    /// Asserts that nothing remains.
    ///
    /// # Errors
    /// [`WireError::Trailing`] otherwise.
    pub fn finish(self) -> Result<(), WireError> {
        match self.rest.len() {
            0 => Ok(()),
            count => Err(WireError::Trailing(count)),
        }
    }
}

/// A type with exactly one encoding per value.
pub trait Wire: Sized {
    /// Appends the encoding.
    fn put(&self, w: &mut Writer);

    /// Reads one value.
    ///
    /// # Errors
    /// [`WireError`] for every input that [`Wire::put`] does not produce.
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError>;
}

/// Encodes a value that stands alone: the format version, then the value.
#[must_use]
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut w = Writer::default();
    w.raw(&[FORMAT_VERSION]);
    value.put(&mut w);
    w.finish()
}

/// Decodes a value that stands alone.
///
/// # Errors
/// [`WireError`] for every input that [`encode`] does not produce.
pub fn decode<T: Wire>(bytes: &[u8]) -> Result<T, WireError> {
    let mut r = Reader::new(bytes);
    match u8::take(&mut r)? {
        FORMAT_VERSION => {}
        other => return Err(WireError::Version(other)),
    }
    let value = T::take(&mut r)?;
    r.finish()?;
    Ok(value)
}

macro_rules! wire_integer {
    ($($int:ty),*) => {$(
        impl Wire for $int {
            fn put(&self, w: &mut Writer) {
                w.raw(&self.to_be_bytes());
            }
            fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
                let mut bytes = [0; size_of::<$int>()];
                bytes.copy_from_slice(r.raw(size_of::<$int>(), stringify!($int))?);
                Ok(Self::from_be_bytes(bytes))
            }
        }
    )*};
}
wire_integer!(u8, u16, u32, u64);

impl Wire for bool {
    fn put(&self, w: &mut Writer) {
        u8::from(*self).put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        match u8::take(r)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::Invalid("a boolean")),
        }
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn put(&self, w: &mut Writer) {
        w.raw(self);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(r.raw(N, "fixed bytes")?);
        Ok(bytes)
    }
}

/// Byte strings: a length (u32) and the bytes. A type of its own, so that no byte list is encoded item by item.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Bytes(pub Vec<u8>);

impl fmt::Debug for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl From<Vec<u8>> for Bytes {
    fn from(bytes: Vec<u8>) -> Self {
        Self(bytes)
    }
}

impl Wire for Bytes {
    fn put(&self, w: &mut Writer) {
        w.bytes(&self.0);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok(Self(r.bytes("bytes")?.to_vec()))
    }
}

impl Wire for String {
    fn put(&self, w: &mut Writer) {
        w.bytes(self.as_bytes());
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let bytes = r.bytes("text")?;
        Ok(std::str::from_utf8(bytes).map_err(|_| WireError::Invalid("text"))?.to_owned())
    }
}

impl<T: Wire> Wire for Option<T> {
    fn put(&self, w: &mut Writer) {
        self.is_some().put(w);
        if let Some(value) = self {
            value.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        bool::take(r)?.then(|| T::take(r)).transpose()
    }
}

impl<A: Wire, B: Wire> Wire for (A, B) {
    fn put(&self, w: &mut Writer) {
        self.0.put(w);
        self.1.put(w);
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        Ok((A::take(r)?, B::take(r)?))
    }
}

fn put_count(count: usize, w: &mut Writer) {
    u32::try_from(count).unwrap_or(u32::MAX).put(w);
}

impl<T: Wire> Wire for Vec<T> {
    fn put(&self, w: &mut Writer) {
        put_count(self.len(), w);
        for item in self {
            item.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        // No room is reserved from the announced count: a lie costs the sender bytes, not us memory.
        let count = u32::take(r)?;
        let mut items = Self::new();
        for _ in 0..count {
            items.push(T::take(r)?);
        }
        Ok(items)
    }
}

impl<T: Wire + Ord> Wire for BTreeSet<T> {
    fn put(&self, w: &mut Writer) {
        put_count(self.len(), w);
        for item in self {
            item.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u32::take(r)?;
        let mut items = Self::new();
        for _ in 0..count {
            let item = T::take(r)?;
            if items.last().is_some_and(|last| *last >= item) {
                return Err(WireError::Invalid("the order of a set"));
            }
            items.insert(item);
        }
        Ok(items)
    }
}

impl<K: Wire + Ord, V: Wire> Wire for BTreeMap<K, V> {
    fn put(&self, w: &mut Writer) {
        put_count(self.len(), w);
        for (key, value) in self {
            key.put(w);
            value.put(w);
        }
    }
    fn take(r: &mut Reader<'_>) -> Result<Self, WireError> {
        let count = u32::take(r)?;
        let mut items = Self::new();
        for _ in 0..count {
            let key = K::take(r)?;
            if items.last_key_value().is_some_and(|(last, _)| *last >= key) {
                return Err(WireError::Invalid("the order of a map"));
            }
            items.insert(key, V::take(r)?);
        }
        Ok(items)
    }
}

/// Implements [`Wire`] for a struct: its fields, in the order that is written here.
#[macro_export]
macro_rules! wire_struct {
    ($name:ident { $($field:ident),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, w: &mut $crate::wire::Writer) {
                let Self { $($field),* } = self;
                $($crate::wire::Wire::put($field, w);)*
                let _ = w;
            }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                $(let $field = $crate::wire::Wire::take(r)?;)*
                let _ = r;
                Ok(Self { $($field),* })
            }
        }
    };
}

/// Implements [`Wire`] for an enum: a tag (u8), then the fields of the variant in the order that is written here.
#[macro_export]
macro_rules! wire_enum {
    ($name:ident { $($tag:literal => $variant:ident $({ $($field:ident),* $(,)? })? $(( $($item:ident),* ))?),* $(,)? }) => {
        impl $crate::wire::Wire for $name {
            fn put(&self, w: &mut $crate::wire::Writer) {
                match self {
                    $(Self::$variant $({ $($field),* })? $(( $($item),* ))? => {
                        w.raw(&[$tag]);
                        $($($crate::wire::Wire::put($field, w);)*)?
                        $($($crate::wire::Wire::put($item, w);)*)?
                    })*
                }
            }
            fn take(r: &mut $crate::wire::Reader<'_>) -> Result<Self, $crate::wire::WireError> {
                match <u8 as $crate::wire::Wire>::take(r)? {
                    $($tag => {
                        $($(let $field = $crate::wire::Wire::take(r)?;)*)?
                        $($(let $item = $crate::wire::Wire::take(r)?;)*)?
                        Ok(Self::$variant $({ $($field),* })? $(( $($item),* ))?)
                    })*
                    _ => Err($crate::wire::WireError::Invalid(concat!("the tag of ", stringify!($name)))),
                }
            }
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[derive(Debug, PartialEq, Clone)]
    enum Shape {
        Point,
        Circle { radius: u32 },
        Pair(u8, Bytes),
    }
    wire_enum!(Shape { 1 => Point, 2 => Circle { radius }, 3 => Pair(a, b) });

    #[test]
    fn known_encodings() {
        assert_eq!(encode(&Shape::Point), [1, 1]);
        assert_eq!(encode(&Shape::Circle { radius: 258 }), [1, 2, 0, 0, 1, 2]);
        assert_eq!(encode(&Shape::Pair(7, Bytes(vec![9, 8]))), [1, 3, 7, 0, 0, 0, 2, 9, 8]);
        assert_eq!(encode(&Some(5u16)), [1, 1, 0, 5]);
        assert_eq!(encode(&BTreeMap::from([(1u8, true), (2, false)])), [1, 0, 0, 0, 2, 1, 1, 2, 0]);
    }

    #[test]
    fn refuses_what_encoding_never_produces() {
        assert_eq!(decode::<bool>(&[1, 2]), Err(WireError::Invalid("a boolean")));
        assert_eq!(decode::<bool>(&[1, 1, 0]), Err(WireError::Trailing(1)));
        assert_eq!(decode::<bool>(&[2, 1]), Err(WireError::Version(2)));
        assert_eq!(decode::<u32>(&[1, 0, 0]), Err(WireError::Truncated("u32")));
        assert_eq!(decode::<String>(&[1, 0, 0, 0, 1, 0xff]), Err(WireError::Invalid("text")));
        let descending = [1, 0, 0, 0, 2, 2, 0, 1, 0];
        assert_eq!(decode::<BTreeMap<u8, bool>>(&descending), Err(WireError::Invalid("the order of a map")));
        let twice = [1, 0, 0, 0, 2, 5, 5];
        assert_eq!(decode::<BTreeSet<u8>>(&twice), Err(WireError::Invalid("the order of a set")));
        assert!(decode::<Shape>(&[1, 9]).is_err());
    }

    #[test]
    fn an_announced_length_reserves_nothing() {
        assert_eq!(decode::<Bytes>(&[1, 0xff, 0xff, 0xff, 0xff]), Err(WireError::Truncated("bytes")));
        assert!(decode::<Vec<u64>>(&[1, 0xff, 0xff, 0xff, 0xff]).is_err());
    }

    proptest! {
        #[test]
        fn whatever_decodes_encodes_to_the_same_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let mut framed = vec![FORMAT_VERSION];
            framed.extend_from_slice(&bytes);
            type Value = (Vec<Option<u16>>, BTreeMap<u8, (bool, Bytes)>);
            if let Ok(value) = decode::<Value>(&framed) {
                prop_assert_eq!(encode(&value), framed);
            }
        }

        #[test]
        fn round_trip(list in proptest::collection::vec(any::<Option<u64>>(), 0..9), text in ".{0,20}") {
            let value = (list, text);
            prop_assert_eq!(decode::<(Vec<Option<u64>>, String)>(&encode(&value)), Ok(value));
        }
    }
}
