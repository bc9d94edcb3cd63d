//! `doctor`: prints the findings.

use std::io::{self, Write};

use super::{args::DoctorArgs, command::ExitStatus};
use crate::{
    config::{Config, Hook, Interface, Role},
    doctor::{self, InterfaceSelection, Verdict},
};

/// Runs all checks, and prints a line for each finding with its advice below.
pub fn run(mut config: Config, args: &DoctorArgs, out: &mut impl Write) -> io::Result<ExitStatus> {
    if let Some(socket) = &args.socket.socket {
        config.control.socket = Some(socket.clone());
    }
    let interfaces =
        if args.interfaces.is_empty() { InterfaceSelection::Watched } else { InterfaceSelection::Named };
    if interfaces == InterfaceSelection::Named {
        let configured = std::mem::take(&mut config.interfaces);
        let named = |name: &String| {
            let role = args.role.unwrap_or(Role::Auto);
            let new_entry = || Interface { name: name.clone(), role, hook: Hook::default() };
            configured.iter().find(|configured| configured.name == *name).cloned().unwrap_or_else(new_entry)
        };
        config.interfaces = args.interfaces.iter().map(named).collect();
    }
    let findings = doctor::examine(&config, interfaces);
    if args.json {
        serde_json::to_writer_pretty(&mut *out, &findings)?;
        writeln!(out)?;
    } else {
        for finding in &findings {
            writeln!(out, "{:<4} {:<14} {}", finding.verdict.name(), finding.what, finding.found)?;
            if !finding.advice.is_empty() {
                writeln!(out, "{:19} -> {}", "", finding.advice)?;
            }
        }
    }
    let good = findings.iter().all(|finding| finding.verdict != Verdict::Bad);
    Ok(if good { ExitStatus::Good } else { ExitStatus::Failure })
}
