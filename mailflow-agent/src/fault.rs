//! Errors as a line of text.

/// An error with its causes. Many of ours say the system's reason themselves, and that is not said twice.
pub fn told(error: &anyhow::Error) -> String {
    let mut told = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        match told.as_str() {
            "" => told = cause,
            said if said.ends_with(&cause) => {}
            _ => told.extend([": ", &cause]),
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::sink::lines::OpenError;

    #[test]
    fn a_reason_is_told_once() {
        let source = io::Error::from_raw_os_error(libc::ENOENT);
        let error = anyhow::Error::new(OpenError::File { path: "/nosuch/flows.json".into(), source });
        let reason = "No such file or directory (os error 2)";
        assert_eq!(told(&error), format!("cannot open /nosuch/flows.json for appending: {reason}"));
        assert_eq!(
            told(&error.context("the flow log")),
            format!("the flow log: cannot open /nosuch/flows.json for appending: {reason}")
        );
    }
}
