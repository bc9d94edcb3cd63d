//! `rules[].match.hours`: hours of the week.

use crate::config::{
    diagnostics::DiagnosticSink,
    yaml::{
        get::{Cursor, MappingReader},
        values::{choice, expect_mapping, nonempty_set, parsed},
    },
};
use mailflow_engine::settings::Hours;

const DAYS: [(&str, u8); 7] =
    [("mon", 0), ("tue", 1), ("wed", 2), ("thu", 3), ("fri", 4), ("sat", 5), ("sun", 6)];
const ALL_DAYS: u8 = 0x7f;
/// Minutes of a day.
const MINUTES_PER_DAY: u16 = 1_440;

/// Reads hours. The defaults are every day, the whole day, and UTC.
pub(crate) fn read(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<Hours> {
    expect_mapping(cursor, diagnostics, "{ days: [sat, sun], from: \"08:00\", to: \"18:00\" }")?;
    MappingReader::read(cursor, diagnostics, |mapping| {
        let days = mapping.optional("days", ALL_DAYS, |cursor, diagnostics| {
            let days =
                nonempty_set(cursor, diagnostics, |cursor, diagnostics| choice(cursor, diagnostics, &DAYS))?;
            Some(days.into_iter().fold(0, |days, day| days | 1 << day))
        });
        let from = mapping
            .optional("from", 0, |cursor, diagnostics| time(cursor, diagnostics, 0, MINUTES_PER_DAY - 1));
        let to = mapping.optional("to", MINUTES_PER_DAY, |cursor, diagnostics| {
            time(cursor, diagnostics, 1, MINUTES_PER_DAY)
        });
        let utc_offset = mapping.optional("utc_offset", 0, |cursor, diagnostics| {
            parsed(cursor, diagnostics, "an offset such as \"+01:00\"", offset)
        });
        Some(Hours { days: days?, from: from?, to: to?, utc_offset: utc_offset? })
    })
}

fn time(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink, first: u16, last: u16) -> Option<u16> {
    parsed(cursor, diagnostics, "a time of day such as \"18:00\"", |text| {
        let found = minute_of_day(text).filter(|minute| (first..=last).contains(minute));
        let show = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        found.ok_or_else(|| format!("expected a time of day from {} to {}", show(first), show(last)))
    })
}

/// Parses `HH:MM` into minutes.
fn minute_of_day(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// Parses `+HH:MM` or `-HH:MM`, at most 14 hours, or `Z`, into seconds.
fn offset(text: &str) -> Result<i32, String> {
    const MAX_OFFSET_MINUTES: u16 = 14 * 60;
    if text == "Z" {
        return Ok(0);
    }
    let signed =
        text.strip_prefix('+').map(|time| (1, time)).or(text.strip_prefix('-').map(|time| (-1, time)));
    let found = signed.and_then(|(sign, time)| Some((sign, minute_of_day(time)?)));
    match found {
        Some((sign, minutes)) if minutes <= MAX_OFFSET_MINUTES => Ok(sign * 60 * i32::from(minutes)),
        _ => Err("expected the offset of local time from UTC, from -14:00 to +14:00, or Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_offsets() {
        assert_eq!(
            (minute_of_day("00:00"), minute_of_day("23:59"), minute_of_day("24:00")),
            (Some(0), Some(1_439), Some(1_440))
        );
        for text in ["", "7:00", "07:0", "07:60", "25:00", "0700", "07:00:00", "+7:00"] {
            assert_eq!(minute_of_day(text), None, "{text}");
        }
        assert_eq!((offset("+01:00"), offset("-03:30"), offset("Z")), (Ok(3_600), Ok(-12_600), Ok(0)));
        for text in ["01:00", "+1:00", "+14:01", "CET", ""] {
            assert!(offset(text).is_err(), "{text}");
        }
    }
}
