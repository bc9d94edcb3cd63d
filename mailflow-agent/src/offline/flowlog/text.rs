//! Values that logs write as text: read the same from JSON and from columns.

use std::{fmt, marker::PhantomData, net::IpAddr};

use jiff::Timestamp;
use mailflow_common::App;
use serde::{Deserialize, Deserializer, de};

use mailflow_engine::{flow::RecordReason, time::Time};

/// Most of a bad value that is shown.
const SHOWN: usize = 80;

/// A value with a form of its own in text.
pub(crate) trait Text: Sized {
    /// What it should have been, for people.
    const EXPECTED: &'static str;

    /// The value, if `text` is one.
    fn read(text: &str) -> Option<Self>;

    /// The same from a number, where logs write one too.
    fn number(_: f64) -> Option<Self> {
        None
    }
}

/// What is wrong with a value.
pub(crate) fn refused(value: impl fmt::Display, expected: &str) -> String {
    let value = value.to_string();
    let mut shown: String = value.chars().take(SHOWN).collect();
    if shown.len() < value.len() {
        shown.push_str("...");
    }
    format!("{shown:?}: expected {expected}")
}

/// Reads `T` from a JSON string, or from a number where it takes one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Read<T>(pub(crate) T);

impl<'de, T: Text> Deserialize<'de> for Read<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Visitor(PhantomData))
    }
}

struct Visitor<T>(PhantomData<T>);

impl<T: Text> de::Visitor<'_> for Visitor<T> {
    type Value = Read<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(T::EXPECTED)
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Self::Value, E> {
        T::read(text).map(Read).ok_or_else(|| E::custom(refused(text, T::EXPECTED)))
    }

    fn visit_f64<E: de::Error>(self, number: f64) -> Result<Self::Value, E> {
        T::number(number).map(Read).ok_or_else(|| E::custom(refused(number, T::EXPECTED)))
    }

    fn visit_u64<E: de::Error>(self, number: u64) -> Result<Self::Value, E> {
        T::number(number as f64).map(Read).ok_or_else(|| E::custom(refused(number, T::EXPECTED)))
    }

    fn visit_i64<E: de::Error>(self, number: i64) -> Result<Self::Value, E> {
        T::number(number as f64).map(Read).ok_or_else(|| E::custom(refused(number, T::EXPECTED)))
    }
}

impl Text for IpAddr {
    const EXPECTED: &'static str = "an IP address";

    fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(|ip: IpAddr| ip.to_canonical())
    }
}

/// The transport protocol, as far as rules can name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proto {
    Tcp,
    Udp,
    Other,
}

impl Text for Proto {
    const EXPECTED: &'static str = "a protocol such as TCP";

    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "TCP" | "tcp" => Self::Tcp,
            "UDP" | "udp" => Self::Udp,
            "" => return None,
            _ => Self::Other,
        })
    }
}

impl Text for App {
    const EXPECTED: &'static str = "an application such as smtp, smtp+starttls, smtps, other or unseen";

    fn read(text: &str) -> Option<Self> {
        App::ALL.into_iter().find(|app| app.name() == text)
    }
}

impl Text for RecordReason {
    const EXPECTED: &'static str = "closed, idle, active or shutdown";

    fn read(text: &str) -> Option<Self> {
        [Self::Closed, Self::Idle, Self::Active, Self::Shutdown]
            .into_iter()
            .find(|reason| reason.name() == text)
    }
}

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mac(pub(crate) [u8; 6]);

impl Text for Mac {
    const EXPECTED: &'static str = "a MAC address such as 02:00:00:00:00:01";

    fn read(text: &str) -> Option<Self> {
        let mut octets = text.split(':').map(|octet| u8::from_str_radix(octet, 16));
        let mut mac = [0; 6];
        for octet in &mut mac {
            *octet = octets.next()?.ok()?;
        }
        octets.next().is_none().then_some(Self(mac))
    }
}

/// TCP flags that were seen one way, as hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Flags(pub(crate) u8);

impl Text for Flags {
    const EXPECTED: &'static str = "TCP flags as two hexadecimal digits";

    fn read(text: &str) -> Option<Self> {
        u8::from_str_radix(text, 16).ok().map(Self)
    }
}

/// A moment: `2026-11-21T03:31:00.123456+0000` and other ISO 8601, or seconds since 1970, from which
/// milliseconds are told by their size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) Time);

impl Text for Moment {
    const EXPECTED: &'static str = "a time after 1970, as ISO 8601 or in seconds";

    fn read(text: &str) -> Option<Self> {
        /// As many digits hold milliseconds, or less than seconds: see [`Moment::number`].
        const MANY: usize = 12;
        let (bytes, digits) = (text.as_bytes(), text.bytes().take_while(u8::is_ascii_digit).count());
        if digits >= MANY {
            return Self::number(text.parse().ok()?);
        }
        eve(bytes).or_else(|| seconds(text)).or_else(|| iso(text)).map(Self)
    }

    fn number(number: f64) -> Option<Self> {
        /// In seconds this is the year 5138, in milliseconds 1973.
        const MILLISECONDS: f64 = 1e11;
        let micros = if number < MILLISECONDS { number * 1e6 } else { number * 1e3 };
        micros_to_time(micros).map(Self)
    }
}

/// A length of time in seconds, kept in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) u64);

impl Text for Span {
    const EXPECTED: &'static str = "a duration in seconds";

    fn read(text: &str) -> Option<Self> {
        // Columns may have `-0.000001` and `5.1e-05` too.
        seconds(text).map(|time| Self(time.as_nanos())).or_else(|| {
            Self::number(text.parse().ok().filter(|_| text.contains(|c: char| c.is_ascii_digit()))?)
        })
    }

    fn number(number: f64) -> Option<Self> {
        /// Packets that were captured out of their order end before they begin, by as much.
        const DISORDER: f64 = -1.0;
        let number = if DISORDER < number && number < 0.0 { 0.0 } else { number };
        micros_to_time(number * 1e6).map(|time| Self(time.as_nanos()))
    }
}

/// Doubles tell microseconds of this century, not nanoseconds.
fn micros_to_time(micros: f64) -> Option<Time> {
    let micros = micros.round();
    (0.0..1.8e16).contains(&micros).then(|| Time::from_nanos(micros as u64 * 1_000))
}

/// `1591367999.305988`, exactly.
fn seconds(text: &str) -> Option<Time> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits(whole) || !digits(fraction) {
        return None;
    }
    let nanos = fraction.bytes().chain(std::iter::repeat(b'0')).take(9);
    let nanos = nanos.fold(0, |nanos, digit| nanos * 10 + u64::from(digit - b'0'));
    whole.parse::<u64>().ok()?.checked_mul(1_000_000_000)?.checked_add(nanos).map(Time::from_nanos)
}

/// `2026-11-21T03:31:00.123456+0000`, as EVE writes it in UTC: by far the most common, and read without
/// a calendar's detours.
fn eve(text: &[u8]) -> Option<Time> {
    let form = b"dddd-dd-ddTdd:dd:dd.dddddd+0000";
    let fits = |(byte, form): (&u8, &u8)| if *form == b'd' { byte.is_ascii_digit() } else { byte == form };
    if text.len() != form.len() || !text.iter().zip(form).all(fits) {
        return None;
    }
    let number = |from: usize, to: usize| {
        text[from..to].iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'))
    };
    let (year, month, day) = (number(0, 4), number(5, 7), number(8, 10));
    let (hour, minute, second, micros) = (number(11, 13), number(14, 16), number(17, 19), number(20, 26));
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let length = match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        1..=12 => 31,
        _ => return None,
    };
    if !(1..=length).contains(&day) || hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    // Years from March to February, so that the leap day is the last one.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let micros = ((days * 24 + hour) * 60 + minute) * 60_000_000 + second * 1_000_000 + micros;
    u64::try_from(micros).ok()?.checked_mul(1_000).map(Time::from_nanos)
}

fn iso(text: &str) -> Option<Time> {
    let timestamp: Timestamp = text.parse().ok()?;
    u64::try_from(timestamp.as_nanosecond()).ok().map(Time::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nanos(text: &str) -> Option<u64> {
        Moment::read(text).map(|moment| moment.0.as_nanos())
    }

    #[test]
    fn moments_are_read_in_every_form() {
        let expected = Some(1_795_231_860_123_456_000);
        for text in [
            "2026-11-21T03:31:00.123456+0000",
            "2026-11-21T04:31:00.123456+0100",
            "2026-11-21T03:31:00.123456Z",
            "1795231860.123456",
            "1795231860.123456000",
            "1795231860123.456",
            "2026-11-21T03:31:00.123456+00:00",
            "2026-11-21 04:31:00.123456+01:00",
        ] {
            assert_eq!(nanos(text), expected, "{text}");
        }
        for number in [1_795_231_860.123456, 1_795_231_860_123.456] {
            assert_eq!(Moment::number(number).map(|moment| moment.0.as_nanos()), expected);
        }
        for text in [
            "",
            "today",
            "2026-11-31T03:31:00.123456+0000",
            "1969-12-31T23:59:59.000000+0000",
            "1.",
            "-1.0",
            "1e9",
            "99999999999999.0",
        ] {
            assert_eq!(nanos(text), None, "{text}");
        }
        assert_eq!(Moment::number(-1.0).or(Moment::number(f64::NAN)), None);
    }

    #[test]
    fn our_calendar_is_the_librarys() {
        for year in [1970, 1972, 1999, 2000, 2001, 2024, 2025, 2026, 2100] {
            for (month, day) in [(1, 1), (2, 28), (2, 29), (3, 1), (4, 30), (4, 31), (8, 31), (12, 31)] {
                let text = format!("{year:04}-{month:02}-{day:02}T12:34:56.789012+0000");
                assert_eq!(eve(text.as_bytes()), iso(&text), "{text}");
            }
        }
    }

    #[test]
    fn the_rest_is_read_or_refused() {
        assert_eq!(Span::read("0.000001"), Some(Span(1_000)));
        for (text, nanos) in
            [("5.1e-05", 51_000), ("5.1E-5", 51_000), ("1e1", 10_000_000_000), ("2.", 2_000_000_000)]
        {
            assert_eq!(Span::read(text), Some(Span(nanos)), "{text}");
        }
        for text in ["-0.000001", "-0", "-1e-06", "-0.5"] {
            assert_eq!(Span::read(text), Some(Span(0)), "{text}: packets out of order");
        }
        for text in ["", "-", "-1.5", "nan", "inf", "-inf", "1e400", "1,5", "1e", "infinity"] {
            assert_eq!(Span::read(text), None, "{text}");
        }
        assert_eq!(Mac::read("02:00:00:00:AB:01"), Some(Mac([2, 0, 0, 0, 0xab, 1])));
        assert_eq!([Mac::read("02:00:00:00:ab"), Mac::read("02:00:00:00:ab:01:02")], [None; 2]);
        assert_eq!((Flags::read("1b"), Flags::read("1bx")), (Some(Flags(0x1b)), None));
        assert_eq!(IpAddr::read("::ffff:10.0.0.1"), Some("10.0.0.1".parse().unwrap()));
        assert_eq!(refused("x".repeat(200), "less").len(), 2 + 83 + 15);
    }
}
