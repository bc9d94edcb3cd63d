//! gzip compression for clients that accept it.

use std::io::{self, Write};

use axum::http::{HeaderMap, header};
use flate2::{Compression, write::GzEncoder};

/// Returns true if a client accepts gzip (RFC 9110, 12.5.3).
pub(crate) fn accepts_gzip(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::ACCEPT_ENCODING);
    let codings = values.iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(','));
    let mut wildcard_accepted = false;
    for coding in codings {
        let mut parts = coding.split(';').map(str::trim);
        let name = parts.next().unwrap_or_default();
        let refused = parts.any(|part| {
            let weight = part.strip_prefix("q=").or(part.strip_prefix("Q="));
            weight.is_some_and(|weight| weight.parse() == Ok(0.0))
        });
        // A named coding takes precedence over the wildcard.
        if ["gzip", "x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip)) {
            return !refused;
        }
        wildcard_accepted |= name == "*" && !refused;
    }
    wildcard_accepted
}

/// Compresses `page`. Speed matters more than size: a page is read every few seconds.
pub(crate) fn gzip(page: &str) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(page.len() / 8), Compression::fast());
    encoder.write_all(page.as_bytes())?;
    encoder.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_accept_encoding() {
        let accepts = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header::ACCEPT_ENCODING, value.parse().unwrap());
            }
            accepts_gzip(&headers)
        };
        for good in
            [&["gzip"][..], &["zstd, gzip;q=0.5"], &["br", "GZIP"], &["*"], &["identity;q=0, *;q=0.1"]]
        {
            assert!(accepts(good), "{good:?}");
        }
        for bad in [&[][..], &["identity"], &["gzip;q=0"], &["gzip; q=0.000, *"], &["*;q=0"], &["gzipped"]] {
            assert!(!accepts(bad), "{bad:?}");
        }
    }
}
