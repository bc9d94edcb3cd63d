//! Responses of receivers.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header};
use jiff::fmt::rfc2822::DateTimeParser;

/// Longest pause that a receiver's `Retry-After` causes.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(600);

/// Response of a receiver.
#[derive(Clone, Debug)]
pub struct ReceiverResponse {
    /// Status code.
    pub status: StatusCode,
    /// Beginning of the body, on one line and without secrets.
    pub body_excerpt: String,
    /// Pause that the receiver requests.
    pub retry_after: Option<Duration>,
    /// Offset of the receiver's clock from the local clock, in nanoseconds; 0 if they agree.
    pub clock_offset: Option<i128>,
    /// Origin of the redirect's target.
    pub redirect_origin: Option<String>,
}

/// Nanoseconds of a second.
const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// Largest difference of clocks that agree, in addition to the resolution of `Date` (one second) and the
/// duration of the request.
const CLOCK_TOLERANCE: i128 = 2 * NANOS_PER_SECOND;

/// Returns the offset of the receiver's clock by its `Date`, for a request between `sent` and `received` of
/// the local clock. Returns 0 if the clocks agree. The result is at most the real offset, so that a time
/// converted by it is never in the receiver's future.
pub(crate) fn clock_offset(headers: &HeaderMap, [sent, received]: [i128; 2]) -> Option<i128> {
    let date = parse_http_date(headers.get(header::DATE)?.to_str().ok()?)?;
    let agree = date + NANOS_PER_SECOND >= sent - CLOCK_TOLERANCE && date <= received + CLOCK_TOLERANCE;
    Some(if agree { 0 } else { date - received })
}

/// Returns the pause that `Retry-After` requests, in seconds or as a date. A date is compared with the
/// receiver's clock if the response contains it.
pub(crate) fn retry_after(headers: &HeaderMap, now: i128) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // A number too large for the type is a long time.
        true => Duration::from_secs(text.parse().unwrap_or(u64::MAX)),
        false => {
            let until = parse_http_date(text)?;
            let date = headers.get(header::DATE).and_then(|date| parse_http_date(date.to_str().ok()?));
            let wait = (until - date.unwrap_or(now)).max(0);
            Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
        }
    };
    Some(seconds.min(MAX_RETRY_AFTER))
}

/// Parses an HTTP date (RFC 9110, 5.6.7) to nanoseconds since 1970. The two obsolete formats are not
/// supported.
fn parse_http_date(text: &str) -> Option<i128> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok().map(|moment| moment.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const DATE: i128 = 784_111_777 * NANOS_PER_SECOND;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn parses_retry_after_seconds_and_dates() {
        let date = (header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT");
        let until = (header::RETRY_AFTER, "Sun, 06 Nov 1994 08:50:07 GMT");
        let after = |text| headers(&[(header::RETRY_AFTER, text)]);
        for (headers, now, expected) in [
            (after("20"), 0, Some(20)),
            (after(" 0 "), 0, Some(0)),
            (after("86400"), 0, Some(600)),
            (after("99999999999999999999999"), 0, Some(600)),
            (after("soon"), 0, None),
            (after("-1"), 0, None),
            (after(""), 0, None),
            // The receiver's clock decides, not the local one.
            (headers(&[date.clone(), until.clone()]), DATE + 3_600 * NANOS_PER_SECOND, Some(30)),
            (headers(std::slice::from_ref(&until)), DATE + 10 * NANOS_PER_SECOND, Some(20)),
            (headers(std::slice::from_ref(&until)), DATE + 3_600 * NANOS_PER_SECOND, Some(0)),
            (headers(&[until]), DATE - 86_400 * NANOS_PER_SECOND, Some(600)),
        ] {
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn clocks_agree_within_the_resolution_of_date() {
        let headers = headers(&[(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let offset =
            |sent: i128, received: i128| clock_offset(&headers, [DATE + sent, DATE + received]).unwrap();
        assert_eq!(offset(NANOS_PER_SECOND / 2, NANOS_PER_SECOND / 2 + 1), 0);
        assert_eq!(offset(-9 * NANOS_PER_SECOND, 9 * NANOS_PER_SECOND), 0, "a slow request");
        assert_eq!(offset(2 * NANOS_PER_SECOND, 3 * NANOS_PER_SECOND), 0);
        assert_eq!(offset(-300 * NANOS_PER_SECOND, -299 * NANOS_PER_SECOND), 299 * NANOS_PER_SECOND);
        assert_eq!(offset(3_600 * NANOS_PER_SECOND, 3_601 * NANOS_PER_SECOND), -3_601 * NANOS_PER_SECOND);
        assert_eq!(clock_offset(&HeaderMap::new(), [0, 0]), None);
    }
}
