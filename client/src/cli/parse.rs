//! Arguments that are more than text.

use std::time::Duration;

use jiff::Timestamp;
use symbolon_client::Name;
use symbolon_protocol::id::{KeyVersion, RequestId};
use symbolon_protocol::request::Role;

/// Longest deadline, seconds: a request lives at most five minutes.
const LONGEST_TIMEOUT: f64 = 240.0;

/// Characters of a date without a time.
const DATE: usize = 10;

/// A key, client or node name.
pub(crate) fn name(text: &str) -> Result<Name, String> {
    Name::new(text).map_err(|error| error.to_string())
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

/// A time span: numbers, each with its unit (s, m, h, d, w), such as `7d` or `1d12h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let wrong = || "a time span is written like 30m, 12h, 7d or 2w".to_owned();
    let mut total: u64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, tail) = rest.split_at(digits);
        let mut chars = tail.chars();
        let unit = match chars.next() {
            Some('s') => 1,
            Some('m') => 60,
            Some('h') => 3600,
            Some('d') => 24 * 3600,
            Some('w') => 7 * 24 * 3600,
            _ => return Err(wrong()),
        };
        let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or_else(wrong)?;
        total = total.checked_add(seconds).ok_or_else(wrong)?;
        rest = chars.as_str();
    }
    if text.is_empty() { Err(wrong()) } else { Ok(Duration::from_secs(total)) }
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
        for wrong in
            ["", "90", "d", "-1d", "1.5d", "1y", "7 d", "7dd", "99999999999999999999d", "99999999999999999w", "1ü"]
        {
            assert!(seconds(wrong).is_err(), "{wrong}");
        }
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
