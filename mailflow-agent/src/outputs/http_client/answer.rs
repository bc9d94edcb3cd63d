//! Answers of receivers.

use std::time::Duration;

use hyper::{HeaderMap, StatusCode, header};
use jiff::fmt::rfc2822::DateTimeParser;

/// Longest time that a receiver's `Retry-After` keeps an event waiting.
pub(crate) const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(600);

/// The answer of a receiver.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its status.
    pub status: StatusCode,
    /// The beginning of its body, on one line and without what may be a secret.
    pub said: String,
    /// How long it asks to be left alone.
    pub retry_after: Option<Duration>,
    /// By how much its clock is ahead of this machine's, in nanoseconds; 0 where they agree.
    pub clock_offset: Option<i128>,
    /// The origin that it redirects to.
    pub moved_to: Option<String>,
}

/// Nanoseconds of a second.
const SECOND: i128 = 1_000_000_000;

/// Clocks agree if they differ by no more than this beyond what `Date` (whole seconds) and the request's duration
/// leave open.
const TOLERANCE: i128 = 2 * SECOND;

/// The offset of the receiver's clock by its `Date`, which it took between `sent` and `received` by this machine's
/// clock; 0 where the clocks agree. At most the real offset, so that a time by it is never ahead of the receiver's.
pub(crate) fn clock_offset(headers: &HeaderMap, [sent, received]: [i128; 2]) -> Option<i128> {
    let date = moment(headers.get(header::DATE)?.to_str().ok()?)?;
    let agree = date + SECOND >= sent - TOLERANCE && date <= received + TOLERANCE;
    Some(if agree { 0 } else { date - received })
}

/// The pause that `Retry-After` asks for, in seconds or as a date, which is read by the receiver's own clock where
/// it says what that is.
pub(crate) fn retry_after(headers: &HeaderMap, now: i128) -> Option<Duration> {
    let text = headers.get(header::RETRY_AFTER)?.to_str().ok()?.trim();
    let seconds = match text.bytes().all(|byte| byte.is_ascii_digit()) && !text.is_empty() {
        // A number too large for the type is a long time.
        true => Duration::from_secs(text.parse().unwrap_or(u64::MAX)),
        false => {
            let until = moment(text)?;
            let date = headers.get(header::DATE).and_then(|date| moment(date.to_str().ok()?));
            let wait = (until - date.unwrap_or(now)).max(0);
            Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX))
        }
    };
    Some(seconds.min(LONGEST_RETRY_AFTER))
}

/// A date of HTTP (RFC 9110, 5.6.7) in nanoseconds since 1970; the two obsolete forms are not read.
fn moment(text: &str) -> Option<i128> {
    DateTimeParser::new().parse_timestamp(text.trim()).ok().map(|moment| moment.as_nanosecond())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Sun, 06 Nov 1994 08:49:37 GMT
    const DATE: i128 = 784_111_777 * SECOND;

    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }

    #[test]
    fn a_pause_is_asked_for_in_seconds_or_until_a_date() {
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
            // By the receiver's clock, whatever ours says.
            (headers(&[date.clone(), until.clone()]), DATE + 3_600 * SECOND, Some(30)),
            (headers(std::slice::from_ref(&until)), DATE + 10 * SECOND, Some(20)),
            (headers(std::slice::from_ref(&until)), DATE + 3_600 * SECOND, Some(0)),
            (headers(&[until]), DATE - 86_400 * SECOND, Some(600)),
        ] {
            assert_eq!(retry_after(&headers, now), expected.map(Duration::from_secs), "{headers:?}");
        }
    }

    #[test]
    fn clocks_agree_within_what_a_date_can_tell() {
        let headers = headers(&[(header::DATE, "Sun, 06 Nov 1994 08:49:37 GMT")]);
        let offset =
            |sent: i128, received: i128| clock_offset(&headers, [DATE + sent, DATE + received]).unwrap();
        assert_eq!(offset(SECOND / 2, SECOND / 2 + 1), 0);
        assert_eq!(offset(-9 * SECOND, 9 * SECOND), 0, "a slow request");
        assert_eq!(offset(2 * SECOND, 3 * SECOND), 0);
        assert_eq!(offset(-300 * SECOND, -299 * SECOND), 299 * SECOND);
        assert_eq!(offset(3_600 * SECOND, 3_601 * SECOND), -3_601 * SECOND);
        assert_eq!(clock_offset(&HeaderMap::new(), [0, 0]), None);
    }
}
