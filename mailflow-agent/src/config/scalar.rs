//! Parsers of single values, shared by configuration files and the command line.
//!
//! Each function returns the value, or a description of the error with the expected value.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use super::{diagnostics::quote, outputs::Target};
use mailflow_kernel::NamePattern;

/// Range of the poll interval.
const POLL_INTERVAL_RANGE: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(60)];

/// Duration units in nanoseconds, longest first.
const DURATION_UNITS: [(&str, u128); 5] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
];

/// Value that can be switched off.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Switch<T> {
    /// `off`.
    Off,
    /// Value.
    To(T),
}

impl<T> From<Switch<T>> for Option<T> {
    fn from(switch: Switch<T>) -> Self {
        match switch {
            Switch::Off => None,
            Switch::To(value) => Some(value),
        }
    }
}

/// Parses a duration: a number with a unit of `ms`, `s`, `m`, `h` or `d`. Fractions such as `0.5s` are
/// accepted.
pub fn duration(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a duration such as 500ms, 90s, 5m, 1h or 2d";
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(unit_at);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, "0"));
    let digits = |part: &str| (1..=9).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return Err(EXPECTED.to_owned());
    }
    if unit.is_empty() {
        return Err(format!("{EXPECTED}; the unit is missing (did you mean {text}s?)"));
    }
    let Some((_, nanos)) = DURATION_UNITS.iter().find(|(name, _)| *name == unit) else {
        return Err(format!("{EXPECTED}; {} is not a unit", quote(unit)));
    };
    let locations = u32::try_from(fraction.len()).map_err(|_| EXPECTED)?;
    let digits: u128 = format!("{whole}{fraction}").parse().map_err(|_| EXPECTED)?;
    let nanos = digits * nanos / 10_u128.pow(locations);
    let nanos = u64::try_from(nanos).map_err(|_| format!("{EXPECTED}; the duration is too long"))?;
    Ok(Duration::from_nanos(nanos))
}

/// Formats a duration in the longest unit that divides it.
pub fn format_duration(duration: Duration) -> String {
    let nanos = duration.as_nanos();
    DURATION_UNITS.iter().find(|(_, unit)| nanos != 0 && nanos.is_multiple_of(*unit)).map_or_else(
        || if nanos == 0 { "0s".to_owned() } else { format!("{duration:?}") },
        |(name, unit)| format!("{}{name}", nanos / unit),
    )
}

/// Parses a duration within `[shortest, longest]`.
pub fn duration_within(text: &str, [shortest, longest]: [Duration; 2]) -> Result<Duration, String> {
    let found = duration(text)?;
    if (shortest..=longest).contains(&found) {
        return Ok(found);
    }
    Err(format!("expected a duration from {} to {}", format_duration(shortest), format_duration(longest)))
}

/// Parses a poll interval, 0.1 to 60 s.
pub fn poll_interval(text: &str) -> Result<Duration, String> {
    duration_within(text, POLL_INTERVAL_RANGE)
}

/// Parses the name of a network interface by the kernel's rules (`dev_valid_name`).
pub fn interface_name(text: &str) -> Result<String, String> {
    let wrong = if text.is_empty() {
        "it is empty"
    } else if text.len() > 15 {
        "it is longer than 15 bytes"
    } else if text.contains(['/', ':'])
        || text.contains(char::is_whitespace)
        || text.contains(char::is_control)
    {
        "it contains a slash, a colon, a space or a control character"
    } else if matches!(text, "." | "..") {
        "`.` and `..` are not valid names"
    } else {
        return Ok(text.to_owned());
    };
    Err(format!("expected the name of an interface; {wrong}"))
}

/// Parses an entry of `interfaces`: an interface name or a name pattern.
pub fn interface(text: &str) -> Result<String, String> {
    if NamePattern::is_pattern(text) {
        return NamePattern::parse(text).map(|_| text.to_owned());
    }
    interface_name(text)
}

/// Parses the listen address of the metrics server: `ADDRESS:PORT`, or `off`.
pub fn listen(text: &str) -> Result<Switch<SocketAddr>, String> {
    if text == "off" {
        return Ok(Switch::Off);
    }
    match text.parse::<SocketAddr>() {
        Ok(address) if address.port() != 0 => Ok(Switch::To(address)),
        _ => Err("expected ADDRESS:PORT, such as 127.0.0.1:10825 or [::1]:10825 (ports 1 to 65535), \
                  or off"
            .to_owned()),
    }
}

/// Parses the target of JSON lines: a file, `-` for standard output, or `off`.
pub fn target(text: &str) -> Result<Switch<Target>, String> {
    match text {
        "" => Err("expected a file, - for standard output, or off".to_owned()),
        "off" => Ok(Switch::Off),
        "-" => Ok(Switch::To(Target::Stdout)),
        file => Ok(Switch::To(Target::File(PathBuf::from(file)))),
    }
}

/// Parses an absolute path, or `off`.
pub fn path(text: &str) -> Result<Switch<PathBuf>, String> {
    match text {
        "off" => Ok(Switch::Off),
        absolute if absolute.starts_with('/') => Ok(Switch::To(PathBuf::from(absolute))),
        _ => Err("expected an absolute path (/...), or off".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_units() {
        for (text, millis) in [
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("1h", 3_600_000),
            ("2d", 172_800_000),
            ("0.1s", 100),
            ("1.5h", 5_400_000),
            ("0s", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in [
            "",
            "s",
            "1",
            "1 s",
            "-1s",
            "1w",
            "1H",
            "1h30m",
            "1.s",
            ".5s",
            "1e3s",
            "1_0s",
            "9999999999s",
            "é",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
        assert!(duration("90").is_err_and(|hint| hint.ends_with("did you mean 90s?)")));
        assert!(duration("999999999d").is_err_and(|hint| hint.ends_with("too long")));
    }

    #[test]
    fn duration_formatting_round_trips() {
        for text in ["500ms", "90s", "5m", "1h", "2d", "0s", "61m"] {
            assert_eq!(duration(text).map(format_duration), Ok(text.to_owned()));
        }
        assert_eq!(format_duration(Duration::from_secs(3600)), "1h");
    }

    #[test]
    fn polls_are_neither_too_short_nor_too_long() {
        assert_eq!(poll_interval("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(poll_interval("1m"), Ok(Duration::from_secs(60)));
        assert_eq!(poll_interval("99ms"), Err("expected a duration from 100ms to 1m".to_owned()));
        assert!(poll_interval("61s").is_err());
    }

    #[test]
    fn interface_names_are_the_kernels() {
        for good in ["eth0", "wg0.100", "enp0s31f6", "a23456789012345", "br-1234", "lan_ö"] {
            assert_eq!(interface_name(good), Ok(good.to_owned()));
        }
        for bad in ["", "a234567890123456", "a/b", "a b", "a\tb", "eth0:1", ".", "..", "öööööööö"] {
            assert!(interface_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listeners_are_addresses_with_a_port() {
        assert_eq!(listen("off"), Ok(Switch::Off));
        assert!(matches!(listen("[::1]:80"), Ok(Switch::To(address)) if address.port() == 80));
        for bad in ["", "10825", ":10825", "localhost:10825", "127.0.0.1", "127.0.0.1:0", "127.0.0.1:65536"] {
            assert!(listen(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn targets() {
        assert_eq!(target("-"), Ok(Switch::To(Target::Stdout)));
        assert_eq!(target("off"), Ok(Switch::Off));
        assert_eq!(target("a.json"), Ok(Switch::To(Target::File("a.json".into()))));
        assert!(target("").is_err());
    }
}
