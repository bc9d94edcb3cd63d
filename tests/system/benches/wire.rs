//! Cost of counting on the wire, on a gateway in network namespaces. Prints a line of JSON for each case.
//! Frames are sent into one end of a veth pair; the program is attached to the other end.

#[path = "wire/agent.rs"]
mod agent;
#[path = "wire/burst.rs"]
mod burst;
#[path = "wire/cpu.rs"]
mod cpu;
#[path = "wire/receive.rs"]
mod receive;
#[path = "../../common/under_test.rs"]
mod under_test;

use mailflow_agent::config::Hook;

/// Hooks and their names in the cases.
const HOOKS: [(&str, Hook); 2] = [("XDP", Hook::Xdp), ("TC", Hook::Tc)];

fn main() -> anyhow::Result<()> {
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with('-'));
    let chosen = |case: &str| only.as_ref().is_none_or(|only| case.contains(only.as_str()));
    if chosen(receive::NAME) {
        receive::measure()?;
    }
    if chosen(burst::NAME) {
        burst::measure()?;
    }
    if chosen(agent::NAME) {
        agent::measure()?;
    }
    if chosen(agent::QUIET) {
        agent::measure_quiet()?;
    }
    Ok(())
}

/// Prints one result; `bar` is its maximum.
fn line(case: &str, unit: &str, value: f64, bar: Option<f64>) {
    println!("{}", serde_json::json!({ "case": case, "unit": unit, "value": value, "bar": bar }));
}
