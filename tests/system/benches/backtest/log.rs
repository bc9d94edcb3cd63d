//! Log of flows in mailflow's own format: hosts that send some mail, hosts that fetch a lot, and a few
//! offenders.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
};

use anyhow::Result;

/// 2026-01-05, a Monday, in seconds since 1970.
const START: u64 = 1_767_571_200;
/// Two weeks, in microseconds.
const SPAN: u64 = 14 * 86_400 * 1_000_000;

/// Writes `flows` flows of `hosts` hosts over two weeks, sorted by their ends.
pub(crate) fn write(path: &Path, flows: u64, hosts: u32) -> Result<()> {
    let new = path.with_extension("new");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&new)?);
    let mut rng = fastrand::Rng::with_seed(14);
    for number in 0..flows {
        // Ends are distributed evenly, with some jitter.
        let end = SPAN / flows * number + rng.u64(..SPAN / flows);
        flow(&mut out, &mut rng, number, hosts, end)?;
    }
    out.flush()?;
    std::fs::rename(new, path)?;
    Ok(())
}

fn flow(out: &mut impl Write, rng: &mut fastrand::Rng, number: u64, hosts: u32, end: u64) -> Result<()> {
    // A tenth of the flows come from a hundredth of the hosts.
    let host = if rng.u8(..10) == 0 { rng.u32(..hosts / 100) } else { rng.u32(..hosts) };
    let [_, a, b, c] = host.to_be_bytes();
    let server = if rng.bool() { rng.u32(..200) } else { rng.u32(..20_000) };
    let [.., d, e] = server.to_be_bytes();
    let (port, app, answered, messages) = match rng.u8(..100) {
        0..40 => (587, "smtp+starttls", true, 1),
        40..50 => (465, "smtps", true, 1),
        50..60 => (25, "smtp", true, u32::from(rng.u8(..4) > 0)),
        60..65 => (25, "unseen", false, 0),
        _ => (993, "imaps", true, 0),
    };
    let took = if answered { rng.u64(200_000..20_000_000) } else { 7_000_000 };
    let up_data = if answered { rng.u64(6..30) } else { 0 };
    let down_data = if answered { rng.u64(5..20) } else { 0 };
    let (payload_up, payload_down) = (up_data * rng.u64(40..900), down_data * rng.u64(30..300));
    let (packets_up, packets_down) =
        (3 + up_data + down_data / 2, if answered { 3 + down_data + up_data / 2 } else { 0 });
    let (state, reason) = if answered { ("closed", "closed") } else { ("new", "idle") };
    writeln!(
        out,
        r#"{{"timestamp":"{end}","event_type":"flow","flow_id":{id},"src_ip":"10.{a}.{b}.{c}","src_port":{client_port},"dest_ip":"93.184.{d}.{e}","dest_port":{port},"proto":"TCP","app_proto":"{app}","flow":{{"pkts_toserver":{packets_up},"bytes_toserver":{bytes_up},"pkts_toclient":{packets_down},"bytes_toclient":{bytes_down},"start":"{start}","end":"{end}","age":{age},"state":"{state}","reason":"{reason}"}},"mailflow":{{"payload_up":{payload_up},"payload_down":{payload_down},"data_packets_up":{up_data},"data_packets_down":{down_data},"data_bytes_up":{data_bytes_up},"data_bytes_down":{data_bytes_down},"messages_estimated":{messages},"app_evidence":"server_greeting","complete":true,"syn":true,"synack":{answered},"mac":null}}}}"#,
        end = Moment(end),
        start = Moment(end.saturating_sub(took)),
        age = took / 1_000_000,
        id = number + 1,
        client_port = 1_024 + number % 64_000,
        bytes_up = payload_up + 52 * packets_up,
        bytes_down = payload_down + 52 * packets_down,
        data_bytes_up = payload_up + 52 * up_data,
        data_bytes_down = payload_down + 52 * down_data,
    )?;
    Ok(())
}

/// Microseconds since [`START`], formatted as an EVE timestamp.
struct Moment(u64);

impl std::fmt::Display for Moment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (seconds, micros) = (START + self.0 / 1_000_000, self.0 % 1_000_000);
        // The two weeks are all in January.
        let day = 5 + (seconds - START) / 86_400;
        let (hour, minute, second) = (seconds / 3_600 % 24, seconds / 60 % 60, seconds % 60);
        write!(f, "2026-01-{day:02}T{hour:02}:{minute:02}:{second:02}.{micros:06}+0000")
    }
}
