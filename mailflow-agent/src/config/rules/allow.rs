//! `allow`: allow-lists of a rule and of all rules.

use jiff::{Timestamp, civil::Date, tz::TimeZone};

use crate::config::{
    diagnostics::{Diagnostic, DiagnosticSink, quote},
    networks::sets,
    yaml::{
        get::{Cursor, MappingReader},
        values::{expect_mapping, items, parsed, string},
    },
};
use mailflow_engine::{
    network::{AddressSet, Member, Networks},
    settings::AllowEntry,
};

/// Allow-list entry with an end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowExpiry {
    /// End, in nanoseconds since 1970.
    pub until: i128,
    /// Warning after the end.
    pub warning: Diagnostic,
}

/// Reads an allow-list, and adds entries with an end to `expiries`.
pub(crate) fn read(
    cursor: &Cursor<'_>,
    diagnostics: &mut DiagnosticSink,
    internal: Option<&Networks>,
    expiries: &mut Vec<AllowExpiry>,
) -> Option<Vec<AllowEntry>> {
    let items = items(cursor, diagnostics, |item, diagnostics| {
        expect_mapping(item, diagnostics, "{ source: 10.0.0.1, reason: our relay }")?;
        MappingReader::read(item, diagnostics, |mapping| {
            let any = || AddressSet::from(Member::Any);
            let given =
                [mapping.explicit("source"), mapping.explicit("destination")].iter().any(Option::is_some);
            let source = mapping
                .optional("source", any(), |cursor, diagnostics| sets::read(cursor, diagnostics, internal));
            let destination = mapping.optional("destination", any(), |cursor, diagnostics| {
                sets::read(cursor, diagnostics, internal)
            });
            let reason = mapping.required("reason", reason);
            let until = mapping.optional("until", None, |cursor, diagnostics| {
                let until = parsed(cursor, diagnostics, "a date or a time", parse_timestamp)?;
                let warning = Diagnostic {
                    location: cursor.location(diagnostics),
                    path: cursor.path().to_owned(),
                    value: cursor.text().map(quote),
                    expected: "expired: flows that match this entry cause alerts again".to_owned(),
                };
                expiries.push(AllowExpiry { until, warning });
                Some(Some(until))
            });
            let allow =
                AllowEntry { source: source?, destination: destination?, reason: reason?, until: until? };
            if !given || (allow.source == any() && allow.destination == any()) {
                let expected = "would suppress every alert; expected source, destination or both";
                return item.reject_contents(mapping.diagnostics, expected);
            }
            Some(allow)
        })
    })?;
    items.into_iter().collect()
}

fn reason(cursor: &Cursor<'_>, diagnostics: &mut DiagnosticSink) -> Option<std::sync::Arc<str>> {
    match string(cursor, diagnostics)?.trim() {
        "" => cursor.reject(diagnostics, "expected the reason of this entry"),
        reason => Some(reason.into()),
    }
}

/// Parses a date, which means its start in UTC, or a date with time and offset (RFC 3339). Returns
/// nanoseconds since 1970.
pub(crate) fn parse_timestamp(text: &str) -> Result<i128, String> {
    const EXPECTED: &str = "expected a date (2027-01-31) or a time (2027-01-31T18:00:00Z)";
    // jiff accepts more forms than RFC 3339 has.
    let plain =
        text.len() <= 35 && text.bytes().all(|byte| byte.is_ascii_digit() || b"-:.+TZtz".contains(&byte));
    if !plain {
        return Err(EXPECTED.to_owned());
    }
    if let Ok(parse_timestamp) = text.parse::<Timestamp>() {
        return Ok(parse_timestamp.as_nanosecond());
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
        assert_eq!(parse_timestamp("1970-01-02"), Ok(86_400 * SECOND));
        assert_eq!(parse_timestamp("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(parse_timestamp("1970-01-01T00:00:01.5Z"), Ok(SECOND * 3 / 2));
        for text in ["", "tomorrow", "2027-02-30", "2027-1-1", "20270101", "2027-01-01T00:00:00[UTC]", "2027"]
        {
            assert!(parse_timestamp(text).is_err(), "{text}: {:?}", parse_timestamp(text));
        }
        let hint = parse_timestamp("2027-01-01T00:00:00").unwrap_err();
        assert!(hint.ends_with("such as Z"), "{hint}");
    }
}
