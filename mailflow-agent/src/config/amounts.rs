//! Readers and formatters of byte amounts and decimal fractions.

use std::{fmt::Display, ops::RangeInclusive};

use serde_yaml::Value;

use super::{
    diagnostics::{DiagnosticSink, quote},
    yaml::{get::Cursor, tree::Content, values::parsed},
};

/// Byte units: powers of ten, and powers of two with an `i`.
const BYTE_UNITS: [(&str, u64); 9] = [
    ("B", 1),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
];
/// Scale of a decimal fraction: values are integers in millionths.
pub(crate) const FRACTION_SCALE: u64 = 1_000_000;

/// Reads an amount of bytes within `range`: a whole number, or a number with a unit.
pub(crate) fn bytes(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    parsed(cursor, diagnostics, "bytes such as 400, 20MB or 5MiB", |text| {
        let found = parse_bytes(text)?;
        if range.contains(&found) {
            return Ok(found);
        }
        Err(format!("expected {} to {} bytes", format_bytes(*range.start()), format_bytes(*range.end())))
    })
}

/// Reads a number within `range` with at most six decimal places. The result is scaled by [`FRACTION_SCALE`].
pub(crate) fn fraction(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    range: RangeInclusive<u64>,
) -> Option<u64> {
    let number = match cursor.content() {
        Content::Scalar { text, value: Value::Number(_) } => decimal(text).and_then(to_fraction),
        _ => None,
    };
    match number.filter(|number| range.contains(number)) {
        Some(number) => Some(number),
        None => cursor.reject(diagnostics, format!("expected a number {}", describe_range(&range))),
    }
}

fn describe_range(range: &RangeInclusive<u64>) -> impl Display + use<> {
    format!("from {} to {}", format_fraction(*range.start()), format_fraction(*range.end()))
}

/// Formats bytes in the largest unit that divides them.
pub(crate) fn format_bytes(bytes: u64) -> String {
    let divides = |(_, unit): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*unit);
    match BYTE_UNITS.iter().filter(divides).max_by_key(|(_, unit)| *unit) {
        Some((name, unit)) if *unit > 1 => format!("{}{name}", bytes / unit),
        Some(_) | None => bytes.to_string(),
    }
}

/// Formats a number that is scaled by [`FRACTION_SCALE`].
pub(crate) fn format_fraction(fraction: u64) -> String {
    let text = format!("{}.{:06}", fraction / FRACTION_SCALE, fraction % FRACTION_SCALE);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// Parses an amount of bytes, with or without a unit.
pub(crate) fn parse_bytes(text: &str) -> Result<u64, String> {
    const EXPECTED: &str = "expected bytes such as 400, 20MB or 5MiB";
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, name) = text.split_at(unit_at);
    let (whole, fraction, scale) = decimal(number).ok_or(EXPECTED)?;
    if name.is_empty() {
        return if scale == 1 { Ok(whole) } else { Err(EXPECTED.to_owned()) };
    }
    let Some((_, unit)) = BYTE_UNITS.iter().find(|(unit, _)| *unit == name) else {
        let meant = BYTE_UNITS.iter().find(|(unit, _)| unit.eq_ignore_ascii_case(name));
        return Err(match meant {
            Some((unit, _)) => format!("{EXPECTED}; did you mean {number}{unit}?"),
            None => format!("{EXPECTED}; {} is not a unit of bytes", quote(name)),
        });
    };
    let all = (u128::from(whole) * u128::from(scale) + u128::from(fraction)) * u128::from(*unit);
    if !all.is_multiple_of(u128::from(scale)) {
        return Err(format!("{EXPECTED}; this is not a whole number of bytes"));
    }
    u64::try_from(all / u128::from(scale)).map_err(|_| format!("{EXPECTED}; the number is too large"))
}

/// Splits a decimal number into its whole part, its fraction, and the power of ten by which the fraction is
/// divided.
fn decimal(text: &str) -> Option<(u64, u64, u64)> {
    let digits = |part: &str| {
        let good = (1..=15).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        good.then(|| part.parse().ok()).flatten()
    };
    let Some((whole, fraction)) = text.split_once('.') else { return Some((digits(text)?, 0, 1)) };
    Some((digits(whole)?, digits(fraction)?, 10_u64.pow(u32::try_from(fraction.len()).ok()?)))
}

fn to_fraction((whole, fraction, scale): (u64, u64, u64)) -> Option<u64> {
    if scale > FRACTION_SCALE {
        return None;
    }
    whole.checked_mul(FRACTION_SCALE)?.checked_add(fraction * (FRACTION_SCALE / scale))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_units_of_ten_and_of_two() {
        for (text, bytes) in [
            ("400", 400),
            ("0", 0),
            ("20MB", 20_000_000),
            ("20MiB", 20_971_520),
            ("1.5kB", 1_500),
            ("7B", 7),
            ("2TB", 2_000_000_000_000),
        ] {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        let hint = |text: &str| parse_bytes(text).unwrap_err();
        assert!(hint("20mb").ends_with("did you mean 20MB?"), "{}", hint("20mb"));
        assert!(hint("20kib").ends_with("did you mean 20KiB?"));
        assert!(hint("20 MB").starts_with("expected bytes"));
        assert!(hint("5apples").ends_with("\"apples\" is not a unit of bytes"));
        assert!(hint("1.0005kB").ends_with("not a whole number of bytes"));
        assert!(hint("999999999999999TB").ends_with("too large"));
        for text in ["", "-1", "1.5", "MB", ".5MB", "1e3", "1_000", "é"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }

    #[test]
    fn formatting_round_trips() {
        for text in ["20MB", "20MiB", "401", "3TiB", "1500", "0"] {
            let shown = format_bytes(parse_bytes(text).unwrap());
            assert_eq!(parse_bytes(&shown), parse_bytes(text), "{text} as {shown}");
        }
        assert_eq!(format_bytes(20_000_000), "20MB");
        for text in ["0.5", "5", "0.000001", "12.25"] {
            assert_eq!(decimal(text).and_then(to_fraction).map(format_fraction), Some(text.to_owned()));
        }
        assert_eq!(decimal("0.0000001").and_then(to_fraction), None);
    }
}
