//! JSON lines: values of a known type, or the location of the error.

use serde::Deserialize;

use super::error::LineError;

/// Parses `line`.
pub(crate) fn read<'a, T: Deserialize<'a>>(line: &'a [u8]) -> Result<T, LineError> {
    // The path to an error is computed only if there is one, as that is slow.
    serde_json::from_slice(line).map_err(|_| error::<T>(line))
}

/// Returns the column of the value of `field` in `line`, for errors that are found after parsing.
pub(crate) fn column(line: &[u8], field: &str) -> usize {
    let name = field.rsplit_once('.').filter(|(parent, _)| *parent != "id").map_or(field, |(_, name)| name);
    let key = format!("\"{name}\":");
    line.windows(key.len()).position(|window| window == key.as_bytes()).map_or(1, |at| at + key.len() + 1)
}

fn error<'a, T: Deserialize<'a>>(line: &'a [u8]) -> LineError {
    let mut reader = serde_json::Deserializer::from_slice(line);
    match serde_path_to_error::deserialize::<_, T>(&mut reader) {
        Err(error) => {
            let field = error.path().to_string();
            let field = if error.inner().is_data() && field != "." { field } else { String::new() };
            error_at(error.inner(), field)
        }
        // The value is valid, and something follows it.
        Ok(_) => match reader.end() {
            Err(error) => error_at(&error, String::new()),
            Ok(()) => LineError::new(1, "", "cannot be read"),
        },
    }
}

fn error_at(error: &serde_json::Error, field: String) -> LineError {
    let what = error.to_string();
    let what = what.split(" at line ").next().unwrap_or_default();
    LineError::new(error.column().max(1), field, what)
}
