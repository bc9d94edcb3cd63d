//! Names of Zeek's columns, and other names that tools or operators gave them.

use serde_json::{Map, Value};

use super::fields::COLUMN_NAMES;

/// Column under another name than Zeek's: `ts=timestamp`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RenamedColumn {
    /// Zeek's name.
    pub zeek: &'static str,
    /// Name in the log.
    pub log: String,
}

impl std::str::FromStr for RenamedColumn {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let named = text.split_once('=').filter(|(_, log)| !log.is_empty());
        let (zeek, log) = named.ok_or("expected ZEEK=NAME, such as ts=timestamp")?;
        let name = COLUMN_NAMES.iter().find(|name| **name == zeek);
        let zeek =
            name.ok_or_else(|| format!("{zeek} is none of Zeek's columns {}", COLUMN_NAMES.join(", ")))?;
        Ok(Self { zeek, log: log.to_owned() })
    }
}

/// Returns the index of a column among `names`. Looks for the configured name, then for Zeek's name, then
/// for Zeek's name with an underscore for the dot, as in BigQuery and Splunk.
pub(crate) fn column_index<'n>(
    zeek: &str,
    renamed: &[RenamedColumn],
    names: impl Iterator<Item = &'n str> + Clone,
) -> Option<usize> {
    let configured =
        renamed.iter().filter(|renamed| renamed.zeek == zeek).map(|renamed| renamed.log.as_str());
    let underscored = zeek.replace('.', "_");
    configured.chain([zeek, &underscored]).find_map(|name| names.clone().position(|column| column == name))
}

/// Returns a line in which columns have Zeek's names. The endpoints may be in a nested object `id`.
pub(crate) fn with_zeek_names(mut line: Map<String, Value>, renamed: &[RenamedColumn]) -> Map<String, Value> {
    if let Some(Value::Object(id)) = line.remove("id") {
        for (name, value) in id {
            line.entry(format!("id.{name}")).or_insert(value);
        }
    }
    let mut renamed_line = Map::new();
    for zeek in COLUMN_NAMES {
        let Some(index) = column_index(zeek, renamed, line.keys().map(String::as_str)) else { continue };
        if let Some((_, value)) = line.iter().nth(index) {
            renamed_line.insert(zeek.to_owned(), value.clone());
        }
    }
    renamed_line
}

/// Returns true if a line has the columns of a Zeek connection.
pub(crate) fn is_zeek_conn(line: &Map<String, Value>, renamed: &[RenamedColumn]) -> bool {
    let nested = line.get("id").and_then(Value::as_object).is_some_and(|id| id.contains_key("orig_h"));
    nested || column_index("id.orig_h", renamed, line.keys().map(String::as_str)).is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renamed_column_is_a_column_of_zeek() {
        let renamed: RenamedColumn = "ts=timestamp".parse().unwrap();
        assert_eq!(renamed, RenamedColumn { zeek: "ts", log: "timestamp".to_owned() });
        for (text, why) in [
            ("ts", "expected ZEEK=NAME"),
            ("ts=", "expected"),
            ("time=ts", "time is none of Zeek's columns ts, "),
        ] {
            assert!(text.parse::<RenamedColumn>().unwrap_err().starts_with(why), "{text}");
        }
    }

    #[test]
    fn column_names_have_an_order_of_precedence() {
        let renamed = ["id.orig_h=src".parse().unwrap()];
        let of = |names: &[&str]| column_index("id.orig_h", &renamed, names.iter().copied());
        assert_eq!(of(&["id_orig_h", "id.orig_h", "src"]), Some(2));
        assert_eq!(
            (of(&["id_orig_h", "id.orig_h"]), of(&["id_orig_h"]), of(&["orig_h"])),
            (Some(1), Some(0), None)
        );
    }
}
