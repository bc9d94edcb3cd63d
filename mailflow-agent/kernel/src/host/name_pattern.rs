//! Patterns of interface names.

/// Prefix of a regular expression. No interface name has a colon.
const REGEX_PREFIX: &str = "re:";
/// Characters that make a name a glob.
const GLOB_CHARACTERS: [char; 3] = ['*', '?', '['];

/// Pattern of interface names: a glob (`ppp*`), or a regular expression (`re:^wg[0-9]+$`).
#[derive(Clone, Debug)]
pub struct NamePattern(PatternKind);

#[derive(Clone, Debug)]
enum PatternKind {
    Glob(glob::Pattern),
    Regex(regex_lite::Regex),
}

impl NamePattern {
    /// Returns true if an entry is a pattern rather than a name.
    pub fn is_pattern(text: &str) -> bool {
        text.starts_with(REGEX_PREFIX) || text.contains(GLOB_CHARACTERS)
    }

    /// Parses a pattern.
    ///
    /// # Errors
    /// The text is no pattern; the error is the reason.
    pub fn parse(text: &str) -> Result<Self, String> {
        if let Some(regex) = text.strip_prefix(REGEX_PREFIX) {
            if regex.is_empty() {
                return Err("expected a regular expression after re:".to_owned());
            }
            let regex = regex_lite::Regex::new(regex);
            let error = |error: regex_lite::Error| {
                // The reason is the last line of a message that shows the expression.
                let error = error.to_string();
                format!(
                    "expected a regular expression after re: ({})",
                    error.lines().last().unwrap_or_default()
                )
            };
            return regex.map(|regex| Self(PatternKind::Regex(regex))).map_err(error);
        }
        if text.contains('/') || text.contains(char::is_whitespace) || text.contains(char::is_control) {
            return Err(
                "expected a pattern of interface names; no name has a slash or a space in it".to_owned()
            );
        }
        let glob = glob::Pattern::new(text);
        let error =
            |error: glob::PatternError| format!("expected a pattern of interface names: {}", error.msg);
        glob.map(|glob| Self(PatternKind::Glob(glob))).map_err(error)
    }

    /// Returns true if a name matches: a glob matches all of it, a regular expression any part of it.
    pub fn matches(&self, name: &str) -> bool {
        match &self.0 {
            PatternKind::Glob(glob) => glob.matches(name),
            PatternKind::Regex(regex) => regex.is_match(name),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_match_whole_names_and_expressions_match_parts() {
        for (pattern, name, expected) in [
            ("ppp*", "ppp0", true),
            ("ppp*", "ppp", true),
            ("ppp*", "xppp0", false),
            ("ppp?", "ppp10", false),
            ("eth[0-2]", "eth1", true),
            ("eth[0-2]", "eth3", false),
            ("eth[!0]", "eth1", true),
            ("*.100", "eth0.100", true),
            ("br-*", "br-1234", true),
            ("PPP*", "ppp0", false),
            ("re:^wg[0-9]+$", "wg12", true),
            ("re:^wg[0-9]+$", "wg12x", false),
            ("re:wg", "mywg0", true),
            ("re:^(ppp|wg)", "wg0", true),
            ("re:^lan_.$", "lan_ö", true),
        ] {
            assert!(NamePattern::is_pattern(pattern), "{pattern}");
            assert_eq!(NamePattern::parse(pattern).unwrap().matches(name), expected, "{pattern} {name}");
        }
    }

    #[test]
    fn invalid_patterns_are_explained() {
        for (pattern, why) in [
            ("re:", "after re:"),
            ("re:(", "without closing ')'"),
            ("re:[", "unclosed"),
            ("eth[", "range"),
            ("a/*", "slash"),
            ("a *", "space"),
            ("***", "wildcard"),
        ] {
            let error = NamePattern::parse(pattern).unwrap_err();
            assert!(error.contains(why) && !error.contains('\n'), "{pattern}: {error}");
        }
        for name in ["eth0", "wg0.100", "a!b", "br-1"] {
            assert!(!NamePattern::is_pattern(name), "{name}");
        }
    }
}
