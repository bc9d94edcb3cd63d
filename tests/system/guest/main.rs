//! The only process of a guest that `cargo xtask test kernels` boots. It loads the program as the agent
//! does and attaches it to every hook. It sends frames and connections, and reports each check as a line on
//! the console.

mod capacity;
mod frames;
mod init;
mod live;
mod load;
mod network;
mod replay;
mod report;
mod takeover;
mod tun;
#[path = "../../common/under_test.rs"]
mod under_test;
mod unit;

use std::process::ExitCode;

use anyhow::Result;

use self::{network::Network, report::Report};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [takeover::CRASH, interface] => takeover::crash(interface),
        [unit::UNIT, interface] => unit::run(interface),
        _ if std::process::id() == 1 => init::power_off(run()),
        _ => {
            eprintln!("this runs in the guests of `cargo xtask test kernels`");
            ExitCode::from(2)
        }
    }
}

fn run() -> Result<()> {
    init::prepare()?;
    let mut report = Report::begin()?;
    // One load serves nearly all checks: under software emulation the verifier takes most of the time.
    let mut kernel = load::every_entry_point(&mut report)?;
    frames::check(&mut kernel, &mut report);
    capacity::check(&mut kernel, &mut report);
    let network = Network::build()?;
    live::check(&mut kernel, &network, &mut report);
    tun::check(&mut kernel, &network, &mut report)?;
    takeover::check(&mut kernel, &network, &mut report);
    unit::check(&network, &mut report);
    drop(kernel);
    replay::check(&mut report);
    report.end();
    Ok(())
}
