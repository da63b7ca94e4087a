//! Arguments that are more than text.

use std::time::Duration;

use jiff::Timestamp;
use symbolon_client::Name;
use symbolon_protocol::id::{KeyVersion, NodeId, RequestId};
use symbolon_protocol::request::Role;

/// Longest deadline, seconds: a request lives at most five minutes.
const LONGEST_TIMEOUT: f64 = 240.0;

/// Characters of a date without a time.
const DATE: usize = 10;

/// A key, client or node name.
pub(crate) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
}

/// The number of a node.
pub(crate) fn node(text: &str) -> Result<NodeId, String> {
    text.parse().ok().and_then(NodeId::new).ok_or_else(|| "a node's number lies between 1 and 65535".to_owned())
}

/// A version of a key.
pub(crate) fn version(text: &str) -> Result<KeyVersion, String> {
    let number = text.parse::<u32>().map_err(|_| "a version is a number".to_owned())?;
    KeyVersion::new(number).ok_or_else(|| "versions count from 1".to_owned())
}

/// A request id.
pub(crate) fn request_id(text: &str) -> Result<RequestId, String> {
    text.parse().map_err(|_| "a request id has 32 hexadecimal digits".to_owned())
}

/// A deadline in seconds.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse::<f64>() {
        Ok(seconds) if seconds > 0.0 && seconds <= LONGEST_TIMEOUT => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("more than 0 and at most {LONGEST_TIMEOUT} seconds are expected")),
    }
}

/// A role.
pub(crate) fn role(text: &str) -> Result<Role, String> {
    const ROLES: [Role; 4] = [Role::Admin, Role::KeyAdmin, Role::Signer, Role::Auditor];
    ROLES.into_iter().find(|role| role.name() == text).ok_or_else(|| {
        let names: Vec<&str> = ROLES.iter().map(|role| role.name()).collect();
        format!("the roles are {}", names.join(", "))
    })
}

/// `name=value`.
pub(crate) fn tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("a tag is written name=value".to_owned()),
    }
}

/// A time: `90d`, `2w3d` from now on, `2027-01-31` (midnight UTC, when the day begins) or `2027-01-31T12:00:00Z`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    /// Milliseconds since 1970.
    At(u64),
    /// From now on.
    In(Duration),
}

impl When {
    /// Milliseconds since 1970.
    pub(crate) fn at_ms(self, now_ms: u64) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::In(duration) => now_ms.saturating_add(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

/// A date, a timestamp or a time span.
pub(crate) fn when(text: &str) -> Result<When, String> {
    if let Ok(duration) = duration(text) {
        return Ok(When::In(duration));
    }
    let stamp = if text.len() == DATE { format!("{text}T00:00:00Z") } else { text.to_owned() };
    let stamp = stamp.parse::<Timestamp>().ok().and_then(|stamp| u64::try_from(stamp.as_millisecond()).ok());
    let expected = "2027-01-31, 2027-01-31T12:00:00Z or a time span such as 90d is expected";
    stamp.map(When::At).ok_or_else(|| expected.to_owned())
}

/// How often something is done: every so many milliseconds, or never.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Every(Option<u64>);

impl Every {
    /// Milliseconds; none for never.
    pub(crate) const fn milliseconds(self) -> Option<u64> {
        self.0
    }
}

/// A time span, or `never`.
pub(crate) fn every(text: &str) -> Result<Every, String> {
    if text == "never" {
        return Ok(Every(None));
    }
    let span = duration(text).map_err(|wrong| format!("{wrong}, or is `never`"))?;
    Ok(Every(Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))))
}

/// Units of time spans, milliseconds, the longest first.
const UNITS: [(&str, u64); 6] =
    [("w", 7 * 24 * 3_600_000), ("d", 24 * 3_600_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// A time span: numbers, each with its unit (ms, s, m, h, d, w), such as `7d` or `1d12h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time span is written like 300ms, 30m, 12h, 7d or 2w".to_owned();
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let (name, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let unit = UNITS.iter().find(|(unit, _)| *unit == name).map(|(_, ms)| *ms).ok_or_else(wrong)?;
        let ms = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
        total = total.checked_add(ms).ok_or_else(wrong)?;
        rest = tail;
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_millis(total)) }
}

/// A time span as [`duration`] reads it.
pub(crate) fn span(ms: u64) -> String {
    in_units(ms, UNITS.len())
}

/// How old something is: its two largest units, and no less than a second.
pub(crate) fn age(ms: u64) -> String {
    in_units(ms - ms % 1000, 2)
}

fn in_units(ms: u64, most: usize) -> String {
    let (mut rest, mut parts) = (ms, Vec::new());
    // Weeks are for people to write: days are easier to compare.
    for (unit, size) in UNITS.iter().filter(|(unit, _)| *unit != "w") {
        if rest >= *size {
            parts.push(format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    parts.truncate(most);
    if parts.is_empty() { "0s".to_owned() } else { parts.concat() }
}

/// A time as it is printed: RFC 3339, UTC, whole seconds.
pub(crate) fn rfc3339(ms: u64) -> String {
    let stamp = i64::try_from(ms / 1000).ok().and_then(|seconds| Timestamp::from_second(seconds).ok());
    stamp.map_or_else(|| format!("{ms} ms"), |stamp| stamp.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: u64 = 24 * 3600;

    #[test]
    fn time_spans() {
        let seconds = |text| duration(text).map(|duration| duration.as_secs());
        assert_eq!(seconds("90d"), Ok(90 * DAY));
        assert_eq!(seconds("1w2d3h4m5s"), Ok(9 * DAY + 3 * 3600 + 4 * 60 + 5));
        assert_eq!(seconds("0s"), Ok(0));
        assert_eq!(duration("1m300ms"), Ok(Duration::from_millis(60_300)));
        for wrong in
            ["", "90", "d", "-1d", "1.5d", "1y", "7 d", "7dd", "99999999999999999999d", "99999999999999999w", "1ü"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn time_spans_are_printed_as_they_are_read() {
        for text in ["300ms", "10s", "1m300ms", "12h", "1d12h", "365d", "9d3h4m5s"] {
            assert_eq!(
                duration(text).map(|time| span(u64::try_from(time.as_millis()).unwrap_or(0))),
                Ok(text.to_owned())
            );
        }
        assert_eq!(span(0), "0s");
        let ages = [0, 999, 61_999, 3_600_000, 93_784_005].map(age);
        assert_eq!(ages, ["0s", "0s", "1m1s", "1h", "1d2h"]);
    }

    #[test]
    fn schedules() {
        assert_eq!(every("24h").map(Every::milliseconds), Ok(Some(DAY * 1000)));
        assert_eq!(every("never").map(Every::milliseconds), Ok(None));
        assert!(every("often").is_err_and(|error| error.contains("never")));
    }

    #[test]
    fn dates_and_timestamps() {
        assert_eq!(when("1970-01-02"), Ok(When::At(DAY * 1000)));
        assert_eq!(when("1970-01-02T00:00:01Z"), Ok(When::At((DAY + 1) * 1000)));
        assert_eq!(when("1970-01-02T01:00:00+01:00"), Ok(When::At(DAY * 1000)));
        assert_eq!(when("2d"), Ok(When::In(Duration::from_secs(2 * DAY))));
        assert_eq!(when("2d").map(|when| when.at_ms(5)), Ok(2 * DAY * 1000 + 5));
        for wrong in ["", "tomorrow", "2027-13-01", "2027-02-30", "1969-12-31", "2027-01-31T12:00:00", "2027-1-1"] {
            assert!(when(wrong).is_err(), "{wrong}");
        }
        assert_eq!(rfc3339(DAY * 1000 + 999), "1970-01-02T00:00:00Z");
    }

    #[test]
    fn tags_roles_versions_and_deadlines() {
        assert_eq!(tag("env=prod=1"), Ok(("env".to_owned(), "prod=1".to_owned())));
        assert_eq!(tag("env="), Ok(("env".to_owned(), String::new())));
        assert!(tag("env").is_err() && tag("=prod").is_err());
        assert_eq!(role("key-admin"), Ok(Role::KeyAdmin));
        assert!(role("Admin").is_err_and(|error| error.contains("auditor")));
        assert!(version("0").is_err() && version("x").is_err() && version("2").is_ok());
        assert_eq!(seconds("2.5"), Ok(Duration::from_millis(2500)));
        assert!(["0", "-1", "241", "inf", "NaN", "x"].iter().all(|text| seconds(text).is_err()));
    }
}
