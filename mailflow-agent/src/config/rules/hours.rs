//! `rules[].match.hours`: hours of the week.

use crate::config::{
    diagnostics::Collector,
    yaml::{
        get::{At, Fields},
        values::{choice, mapping, nonempty_set, parsed},
    },
};
use mailflow_engine::settings::Hours;

const DAYS: [(&str, u8); 7] =
    [("mon", 0), ("tue", 1), ("wed", 2), ("thu", 3), ("fri", 4), ("sat", 5), ("sun", 6)];
const EVERY_DAY: u8 = 0x7f;
/// Minutes of a day.
const DAY: u16 = 1_440;

/// Reads hours: all of the days named, in UTC, as far as nothing else is said.
pub(crate) fn read(at: &At<'_>, faults: &mut Collector) -> Option<Hours> {
    mapping(at, faults, "{ days: [sat, sun], from: \"08:00\", to: \"18:00\" }")?;
    Fields::read(at, faults, |fields| {
        let days = fields.or("days", EVERY_DAY, |at, faults| {
            let days = nonempty_set(at, faults, |at, faults| choice(at, faults, &DAYS))?;
            Some(days.into_iter().fold(0, |days, day| days | 1 << day))
        });
        let from = fields.or("from", 0, |at, faults| time(at, faults, 0, DAY - 1));
        let to = fields.or("to", DAY, |at, faults| time(at, faults, 1, DAY));
        let utc_offset = fields
            .or("utc_offset", 0, |at, faults| parsed(at, faults, "an offset such as \"+01:00\"", offset));
        Some(Hours { days: days?, from: from?, to: to?, utc_offset: utc_offset? })
    })
}

fn time(at: &At<'_>, faults: &mut Collector, first: u16, last: u16) -> Option<u16> {
    parsed(at, faults, "a time of day such as \"18:00\"", |text| {
        let found = clock(text).filter(|minute| (first..=last).contains(minute));
        let show = |minute: u16| format!("{:02}:{:02}", minute / 60, minute % 60);
        found.ok_or_else(|| format!("expected a time of day from {} to {}", show(first), show(last)))
    })
}

/// `HH:MM` in minutes.
fn clock(text: &str) -> Option<u16> {
    let (hours, minutes) = text.split_once(':')?;
    let two = |part: &str| {
        let digits = part.len() == 2 && part.bytes().all(|byte| byte.is_ascii_digit());
        digits.then(|| part.parse::<u16>().ok()).flatten()
    };
    let (hours, minutes) = (two(hours)?, two(minutes)?);
    (hours <= 24 && minutes < 60).then_some(hours * 60 + minutes)
}

/// `+HH:MM` or `-HH:MM`, at most 14 hours, or `Z`, in seconds.
fn offset(text: &str) -> Result<i32, String> {
    const MOST: u16 = 14 * 60;
    if text == "Z" {
        return Ok(0);
    }
    let signed =
        text.strip_prefix('+').map(|time| (1, time)).or(text.strip_prefix('-').map(|time| (-1, time)));
    let found = signed.and_then(|(sign, time)| Some((sign, clock(time)?)));
    match found {
        Some((sign, minutes)) if minutes <= MOST => Ok(sign * 60 * i32::from(minutes)),
        _ => Err("expected what local time is ahead of UTC, from -14:00 to +14:00, or Z".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_offsets() {
        assert_eq!((clock("00:00"), clock("23:59"), clock("24:00")), (Some(0), Some(1_439), Some(1_440)));
        for text in ["", "7:00", "07:0", "07:60", "25:00", "0700", "07:00:00", "+7:00"] {
            assert_eq!(clock(text), None, "{text}");
        }
        assert_eq!((offset("+01:00"), offset("-03:30"), offset("Z")), (Ok(3_600), Ok(-12_600), Ok(0)));
        for text in ["01:00", "+1:00", "+14:01", "CET", ""] {
            assert!(offset(text).is_err(), "{text}");
        }
    }
}
