//! Check of the dead-letter files: events that receivers reject permanently.

use super::Finding;
use crate::{
    config::{AlertDestination, Config, DeadLetters},
    outputs::dead_letters::count_events,
};

/// Checks the dead-letter file of each webhook. The agent need not run.
pub(super) fn examine(config: &Config) -> Vec<Finding> {
    let mut outputs = config.outputs.clone();
    outputs.set_dead_letter_files(config.state.directory.as_deref());
    let findings = outputs.alerts.iter().filter_map(|output| {
        let AlertDestination::Webhook { dead_letters: DeadLetters::File(file), .. } = &output.to else {
            return None;
        };
        let what = format!("{} letters", output.name);
        Some(match count_events(file) {
            0 => Finding::ok(what, "the receiver has rejected no event permanently"),
            held => Finding::bad(
                what,
                format!("the receiver has rejected {held} events permanently"),
                format!(
                    "{} has the reason of each; fix the cause, then remove the file and the one with the suffix .1",
                    file.display()
                ),
            ),
        })
    });
    findings.collect()
}

#[cfg(test)]
mod tests {
    use super::{super::Verdict, *};
    use crate::config;

    #[test]
    fn dead_letters_are_bad_until_they_are_gone() {
        let folder = std::env::temp_dir().join(format!("mailflow-doctor-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("dead-letters")).unwrap();
        let text = format!(
            "state: {{ directory: {} }}\noutputs: {{ alerts: {{ type: webhook, url: \"http://h/\" }} }}",
            folder.display()
        );
        let config = config::parse("f", &text).unwrap();
        let verdict = || examine(&config).iter().map(|finding| finding.verdict).collect::<Vec<_>>();
        assert_eq!(verdict(), [Verdict::Ok]);
        for file in ["alerts_webhook.json", "alerts_webhook.json.1"] {
            let file = folder.join("dead-letters").join(file);
            std::fs::write(&file, "{}\n").unwrap();
            assert_eq!(verdict(), [Verdict::Bad]);
            std::fs::write(&file, "").unwrap();
            assert_eq!(verdict(), [Verdict::Ok]);
        }
        std::fs::remove_dir_all(folder).unwrap();
    }
}
