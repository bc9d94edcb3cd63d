//! Sending programs, each from the namespace's current source address.

use std::{
    io::Write,
    net::SocketAddr,
    process::Stdio,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mailflow_test_support::lab::{
    Family, Lab, Mail, Mode, Ns, Package, Postfix, output, send_mails, wait_for,
};

use super::dialogue::Dialogue;

/// Environment of a class's sessions.
pub(super) struct Setting<'a> {
    pub(super) lab: &'a Lab,
    pub(super) package: &'a Package,
    pub(super) relay: &'a Postfix,
}

impl Setting<'_> {
    fn server(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.lab.server_ip(Family::V4), port)
    }

    /// Runs Postfix's load generator: one mail per connection, ten connections at a time.
    pub(super) fn single(&self, connections: usize, size: usize) {
        self.smtp_source(&format!("-s 10 -m {connections} -l {size}"), self.server(25));
    }

    /// Runs the load generator with persistent connections: `mails` over all of them.
    pub(super) fn kept(&self, connections: usize, mails: usize, size: usize) {
        self.smtp_source(&format!("-d -s {connections} -m {mails} -l {size}"), self.server(25));
    }

    fn smtp_source(&self, options: &str, server: SocketAddr) {
        let mut source = self.package.tool(&self.lab.client, "smtp-source").unwrap();
        source.args(["-f", "alice@corp.example"]).args(options.split(' '));
        if !options.contains("-t ") {
            source.args(["-t", "bob@example.org"]);
        }
        output(source.arg(server.to_string())).unwrap();
    }

    /// Runs curl, four at a time, with mails of several sizes.
    pub(super) fn curl(&self, port: u16, mode: Mode, connections: usize, mails: usize) {
        at_once(connections, |number| {
            let size = [600, 2_000, 30_000][number % 3];
            let mail = Mail { size, ..Mail::to(self.server(port), mode) };
            send_mails(&self.lab.client, &mail, mails).unwrap();
        });
    }

    /// Submits mails to the client's own Postfix, which forwards them.
    pub(super) fn relay(&self, route: &str, mails: usize) {
        let before = self.relay.delivered();
        let local = SocketAddr::from(([127, 0, 0, 1], 25));
        self.smtp_source(&format!("-s 5 -m {mails} -l 1500 -t bob@{route}.example"), local);
        wait_for("the relay has sent its mails", Duration::from_secs(120), || {
            Ok((self.relay.delivered() >= before + mails).then_some(()))
        })
        .unwrap();
    }

    pub(super) fn by_hand(&self, connections: usize, talk: impl Fn(usize, &mut Dialogue) + Sync) {
        let server = self.server(25);
        let all = || (0..connections).for_each(|number| talk(number, &mut Dialogue::open(server)));
        self.lab.client.enter(all).unwrap();
    }

    pub(super) fn probes(&self) {
        self.by_hand(20, |_, _| {});
        self.by_hand(20, |_, d| {
            d.end();
        });
        self.by_hand(20, |_, d| {
            d.say("EHLO scanner.example\r\n", &[250]).end();
        });
        for (port, options) in [(25, "-starttls smtp"), (25, "-starttls smtp -tls1_2"), (465, "")] {
            at_once(8, |_| {
                let mut probe = self.lab.client.command("openssl");
                probe.args(["s_client", "-quiet", "-connect", &self.server(port).to_string()]);
                probe.args(options.split_whitespace());
                probe.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
                let mut probe = probe.spawn().unwrap();
                probe.stdin.take().unwrap().write_all(b"QUIT\r\n").unwrap();
                probe.wait().unwrap();
            });
        }
    }

    /// Runs sessions while the gateway drops every hundredth buffer, on either side of the agent's hook.
    pub(super) fn losing(&self, sessions: impl Fn(&Self)) {
        let drops = |ns: &Ns, hook: &str| {
            let rules = format!(
                "add table inet loss; add chain inet loss drops {{ type filter hook {hook} priority 0; }}; \
                 add rule inet loss drops meta l4proto tcp numgen random mod 100 < 1 drop"
            );
            output(ns.command("nft").arg(rules)).unwrap();
        };
        // After the hook for packets up and before it for packets down; then the other way round.
        for (ns, hook) in [(&self.lab.gateway, "forward"), (&self.lab.client, "postrouting")] {
            drops(ns, hook);
            sessions(self);
            ns.run("nft delete table inet loss").unwrap();
        }
    }
}

/// Runs `session` with the numbers below `count`, four at a time.
fn at_once(count: usize, session: impl Fn(usize) + Sync) {
    let (next, session) = (AtomicUsize::new(0), &session);
    let work = || {
        while let Some(number) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|number| *number < count) {
            session(number);
        }
    };
    std::thread::scope(|scope| (0..4).for_each(|_| drop(scope.spawn(work))));
}
