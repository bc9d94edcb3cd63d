//! `allow`, of a rule and of all rules: flows that are known.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::config::{
    diagnostics::{Collector, Fault, quote},
    networks::sets,
    yaml::{
        get::{At, Fields},
        values::{items, mapping, parsed, string},
    },
};
use mailflow_engine::{
    network::{AddressSet, Member, Networks},
    settings::AllowEntry,
};

/// An entry that ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expiry {
    /// When, nanoseconds since 1970.
    pub until: i128,
    /// What to say of it from then on.
    pub warning: Fault,
}

/// Reads a list of entries, and adds those that end to `ending`.
pub(crate) fn read(
    at: &At<'_>,
    faults: &mut Collector,
    internal: Option<&Networks>,
    ending: &mut Vec<Expiry>,
) -> Option<Vec<AllowEntry>> {
    let items = items(at, faults, |item, faults| {
        mapping(item, faults, "{ source: 10.0.0.1, reason: our relay }")?;
        Fields::read(item, faults, |fields| {
            let any = || AddressSet::from(Member::Any);
            let given = [fields.own("source"), fields.own("destination")].iter().any(Option::is_some);
            let source = fields.or("source", any(), |at, faults| sets::read(at, faults, internal));
            let destination = fields.or("destination", any(), |at, faults| sets::read(at, faults, internal));
            let reason = fields.needed("reason", reason);
            let until = fields.or("until", None, |at, faults| {
                let until = parsed(at, faults, "a date or a moment", moment)?;
                let warning = Fault {
                    place: at.place(faults),
                    path: at.path().to_owned(),
                    value: at.text().map(quote),
                    expected: "this is over: flows of this entry are told of again".to_owned(),
                };
                ending.push(Expiry { until, warning });
                Some(Some(until))
            });
            let allow =
                AllowEntry { source: source?, destination: destination?, reason: reason?, until: until? };
            if !given || (allow.source == any() && allow.destination == any()) {
                let expected = "would suppress every alert; expected source, destination or both";
                return item.fault_inside(fields.faults, expected);
            }
            Some(allow)
        })
    })?;
    items.into_iter().collect()
}

fn reason(at: &At<'_>, faults: &mut Collector) -> Option<std::sync::Arc<str>> {
    match string(at, faults)?.trim() {
        "" => at.fault(faults, "expected a reason, for those who find this entry later"),
        reason => Some(reason.into()),
    }
}

/// A date, which is its first moment in UTC, or a date with a time and an offset (RFC 3339).
pub(crate) fn moment(text: &str) -> Result<i128, String> {
    const EXPECTED: &str = "expected a date (2027-01-31) or a moment (2027-01-31T18:00:00Z)";
    // jiff takes more forms than RFC 3339 has.
    let plain =
        text.len() <= 35 && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZtz".contains(&byte));
    if !plain {
        return Err(EXPECTED.to_owned());
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment.as_nanosecond());
    }
    match text.parse::<Date>() {
        Ok(date) if text.len() == 10 => {
            let zoned = date.to_zoned(TimeZone::UTC).map_err(|_| EXPECTED)?;
            Ok(zoned.timestamp().as_nanosecond())
        }
        Ok(_) => Err(format!("{EXPECTED}; a time needs an offset, such as Z")),
        Err(_) => Err(EXPECTED.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_dates_or_rfc_3339() {
        const SECOND: i128 = 1_000_000_000;
        assert_eq!(moment("1970-01-02"), Ok(86_400 * SECOND));
        assert_eq!(moment("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(moment("1970-01-01T00:00:01.5Z"), Ok(SECOND * 3 / 2));
        for text in ["", "tomorrow", "2027-02-30", "2027-1-1", "20270101", "2027-01-01T00:00:00[UTC]", "2027"]
        {
            assert!(moment(text).is_err(), "{text}: {:?}", moment(text));
        }
        let hint = moment("2027-01-01T00:00:00").unwrap_err();
        assert!(hint.ends_with("such as Z"), "{hint}");
    }
}
