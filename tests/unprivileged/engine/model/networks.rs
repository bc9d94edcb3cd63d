//! Networks of addresses, and the match of a rule, computed from the text of the configuration.

use std::net::IpAddr;

use ipnet::IpNet;
use mailflow_common::App;
use mailflow_engine::{
    flow::Flow,
    network::Network,
    settings::{AllowEntry, Bound, Hours, Quantity, Rule, Settings, Term, Thresholds, Transport},
};

use super::{Nanos, large};

/// Special-purpose ranges among the histories' addresses.
const SPECIAL: [&str; 3] = ["192.0.2.0/24", "127.0.0.0/8", "2001:db8::/32"];

/// Current settings and wall-clock offset.
#[derive(Clone, Copy)]
pub(super) struct Force<'a> {
    pub(super) settings: &'a Settings,
    pub(super) epoch: i128,
}

impl Force<'_> {
    fn line(&self, ip: IpAddr) -> Option<&Network> {
        let lines = self.settings.internal.networks();
        // The longest prefix decides; among equal prefixes the last one.
        let longest =
            lines.iter().filter(|line| line.net.contains(&ip)).max_by_key(|line| line.net.prefix_len());
        longest.filter(|line| !line.exclude)
    }

    /// Returns the group of `ip`.
    pub(super) fn group(&self, ip: IpAddr) -> String {
        self.line(ip).and_then(|line| line.group.clone()).unwrap_or_default()
    }

    /// Returns true if `ip` is in a set given as text: `internal, 9.9.9.9/32, !group:lan`.
    fn holds(&self, written: &str, ip: IpAddr) -> bool {
        let is = |member: &str| match (member, member.strip_prefix("group:")) {
            ("any", _) => true,
            ("internal", _) => self.line(ip).is_some(),
            ("external", _) => {
                let special = |net: &&str| net.parse::<IpNet>().unwrap().contains(&ip);
                self.line(ip).is_none() && !SPECIAL.iter().any(special)
            }
            (_, Some(group)) => self.line(ip).is_some_and(|line| line.group.as_deref() == Some(group)),
            (net, None) => net.parse::<IpNet>().unwrap().contains(&ip),
        };
        let (not, yes): (Vec<&str>, Vec<&str>) =
            written.split(", ").partition(|member| member.starts_with('!'));
        let within = yes.is_empty() || yes.into_iter().any(is);
        within && !not.into_iter().any(|member| is(&member[1..]))
    }

    /// Returns true if a rule counts a flow in this state.
    pub(super) fn counts(&self, rule: &Rule, flow: &Flow, app: App, ended: bool) -> bool {
        let matching = &rule.matching;
        let numbers = matching.protocols.iter().map(|wanted| if *wanted == Transport::Tcp { 6 } else { 17 });
        let may_still_pass = |bound: &Bound| bound.at_most.is_some() || bound.at_most_tls.is_some();
        self.holds(&matching.source.to_string(), flow.client())
            && self.holds(&matching.destination.to_string(), flow.server())
            && matching.ports.contains(&flow.key.server_port)
            && (app == App::Unseen || matching.apps.contains(&app))
            && numbers.into_iter().any(|number| number == flow.key.scope.protocol())
            && matching.size.is_none_or(|size| large(&size, flow))
            && (!matching.sessions_only || (flow.facts.syn == 1 && flow.facts.syn_ack == 1))
            && matching.bounds.iter().all(|bound| within(bound, flow, app))
            && matching.hours.is_none_or(|hours| self.at(&hours, flow.last().as_nanos()))
            && (ended || !matching.bounds.iter().any(may_still_pass))
    }

    /// Returns true if a time is within hours of the week, minute by minute.
    fn at(&self, hours: &Hours, moment: Nanos) -> bool {
        const WEEK: i128 = 7 * 24 * 60;
        let seconds =
            (self.epoch + i128::from(moment)).div_euclid(1_000_000_000) + i128::from(hours.utc_offset);
        // 1970 began on a Thursday; the week begins on a Monday.
        let minute = (seconds.div_euclid(60) + 3 * 24 * 60).rem_euclid(WEEK);
        let days = (0..7).filter(|day| hours.days >> day & 1 == 1);
        days.into_iter().any(|day| {
            let (from, to) = (day * 1_440 + i128::from(hours.from), day * 1_440 + i128::from(hours.to));
            let to = if hours.to > hours.from { to } else { to + 1_440 };
            (from..to).contains(&minute) || (from..to).contains(&(minute + WEEK))
        })
    }

    /// Returns the allow-list entry that matches a flow.
    pub(super) fn allowed<'b>(&self, rule: &'b Rule, flow: &Flow) -> Option<&'b AllowEntry> {
        let now = self.epoch + i128::from(flow.last().as_nanos());
        let holds = |allow: &&AllowEntry| {
            self.holds(&allow.source.to_string(), flow.client())
                && self.holds(&allow.destination.to_string(), flow.server())
                && allow.until.is_none_or(|until| now < until)
        };
        rule.allow.iter().find(holds)
    }

    /// Returns the thresholds for a source at `ip`.
    pub(super) fn levels(&self, rule: &Rule, ip: IpAddr) -> Vec<Thresholds> {
        let own =
            rule.threshold_overrides.iter().find(|thresholds| self.holds(&thresholds.of.to_string(), ip));
        own.map_or_else(|| usual(&rule.terms), |own| own.thresholds.clone())
    }
}

/// Returns the default thresholds.
pub(super) fn usual(terms: &[Term]) -> Vec<Thresholds> {
    terms.iter().map(|term| term.thresholds).collect()
}

fn within(bound: &Bound, flow: &Flow, app: App) -> bool {
    let encrypted = [App::Smtps, App::SmtpStartTls, App::Pop3s, App::Imaps, App::Pop3Stls, App::ImapStartTls];
    let has = amount(bound.of, flow);
    let most = match bound.at_most_tls {
        Some(most) if encrypted.contains(&app) => Some(most),
        _ => bound.at_most,
    };
    has >= bound.at_least && most.is_none_or(|most| has <= most)
}

/// Returns a flow's amount of a quantity.
pub(super) fn amount(quantity: Quantity, flow: &Flow) -> u64 {
    match quantity {
        Quantity::PayloadUp => flow.up.payload,
        Quantity::PayloadDown => flow.down.payload,
        Quantity::BytesUp => flow.up.bytes,
        Quantity::BytesDown => flow.down.bytes,
        Quantity::PacketsUp => flow.up.packets,
        Quantity::PacketsDown => flow.down.packets,
        Quantity::Messages => u64::from(flow.messages),
        Quantity::DataPacketsUp => flow.up.data_packets,
        Quantity::DataPacketsDown => flow.down.data_packets,
    }
}
