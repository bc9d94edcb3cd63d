//! Actions of a host: connections with the usual contents.

use std::{
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use mailflow_test_support::lab::{Family, Lab, Mail, Mode, send_mail};
use socket2::{Domain, Protocol, Socket, Type};

use super::dialogue::Dialogue;

/// Number of external mail servers, each one an address of the lab.
const SERVERS: u8 = 24;
/// Connect timeout: a SYN is retransmitted after a second, so an attempt sends one SYN.
const PATIENCE: Duration = Duration::from_millis(100);

/// Host in the lab.
pub(super) struct Host<'a> {
    pub(super) lab: &'a Lab,
    pub(super) servers: &'a [IpAddr],
    /// Address of the host.
    pub(super) source: IpAddr,
    /// Real duration of an hour.
    pub(super) hour: Duration,
}

/// Adds the addresses of the external mail servers to the lab's server.
pub(super) fn servers(lab: &Lab) -> Vec<IpAddr> {
    let address = |number: u8| {
        let address = IpAddr::from([93, 184, 215, 100 + number]);
        lab.server.ip(&format!("address add {address}/24 dev eth0")).unwrap();
        address
    };
    (0..SERVERS).map(address).collect()
}

impl Host<'_> {
    /// Repeats an action within an hour. The pauses belong to the scenario.
    pub(super) fn within_an_hour(&self, times: u32, act: impl Fn(usize)) {
        for number in 0..times {
            act(number as usize);
            std::thread::sleep(self.hour / times / 2);
        }
    }

    /// Repeats an action, never more often than `often` times an hour. The pauses belong to the scenario.
    pub(super) fn at_most_an_hour(&self, often: u32, times: u32, act: impl Fn(usize)) {
        for number in 0..times {
            act(number as usize);
            std::thread::sleep(self.hour / often);
        }
    }

    /// Submits a mail of this size to the host's provider.
    pub(super) fn submit(&self, mode: Mode, size: usize) {
        let port = if mode == Mode::Tls { 465 } else { 587 };
        let provider = SocketAddr::new(self.lab.server_ip(Family::V4), port);
        let mail = Mail { size, source: Some(self.source), ..Mail::to(provider, mode) };
        send_mail(&self.lab.client, &mail).unwrap();
    }

    /// Runs an SMTP dialogue with one of the external mail servers.
    pub(super) fn talk(&self, server: usize, say: impl Fn(&mut Dialogue)) {
        let mut dialogue = Dialogue::from(self.source, self.server(server, 25));
        say(&mut dialogue);
    }

    /// Delivers a small mail directly to a recipient's server.
    pub(super) fn deliver(&self, server: usize) {
        self.talk(server, |d| {
            d.say("EHLO client.example\r\n", &[250]).mail(900).end();
        });
    }

    /// Attempts a connection without an answer, or one that is refused.
    pub(super) fn knock(&self, server: usize, port: u16) {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP)).unwrap();
        socket.bind(&SocketAddr::new(self.source, 0).into()).unwrap();
        let server = self.server(server, port);
        assert!(socket.connect_timeout(&server.into(), PATIENCE).is_err(), "{server} answers");
    }

    /// Makes the gateway drop this host's packets to mail servers, after the agent's hook.
    pub(super) fn block(&self) {
        let rules = format!(
            "add table inet block; add chain inet block forward {{ type filter hook forward priority 0; }}; \
             add rule inet block forward ip saddr {} tcp dport 25 drop",
            self.source
        );
        mailflow_test_support::lab::output(self.lab.gateway.command("nft").arg(rules)).unwrap();
    }

    fn server(&self, number: usize, port: u16) -> SocketAddr {
        SocketAddr::new(self.servers[number % self.servers.len()], port)
    }
}
