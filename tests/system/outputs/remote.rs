//! Remote receivers that vanish, move, close, reset and refuse: no line that was sent to them is lost, and
//! every line counted as written was received.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, BufRead, BufReader, Read},
    net::{SocketAddr, TcpListener, TcpStream, UdpSocket},
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mailflow_agent::{
    config::{
        AlertDestination, FlowDestination, FlowOutput, Ipfix, IpfixDestination, Syslog, SyslogDestination,
        SyslogMessage,
    },
    metrics::AgentMetrics,
    outputs::{AlertEvent, FlowEvent, factory, worker::SinkWorker},
    util::disk::FileLimits,
};
use mailflow_test_support::lab::{Lab, LabOptions, Ns};
use socket2::{SockRef, Socket};

use crate::{
    fixture::{EPOCH, key, record},
    ipfix_collector::Collector,
    peer::{PATIENCE, alert, event, gateway, numbers, sink, until},
};

/// Longer than every timeout of the product: an unacknowledged line, a connection attempt, a pause.
const LONG: Duration = Duration::from_secs(90);

fn syslog(to: SyslogDestination) -> SinkWorker<AlertEvent> {
    sink(AlertDestination::Syslog(Syslog { to, facility: 3, message: SyslogMessage::Text, max_size: 8_000 }))
}

fn ipfix(to: IpfixDestination) -> SinkWorker<FlowEvent> {
    let agent = AgentMetrics::new("test", 0.0).unwrap();
    let output = FlowOutput { name: "test".into(), to: FlowDestination::Ipfix(Ipfix { to, domain: 7 }) };
    factory::open_flow_worker(&output, FileLimits::NONE, &agent, &gateway()).unwrap()
}

fn flow(port: u16) -> FlowEvent {
    (Arc::new(record(key("10.0.0.9", port, "192.0.2.1", 25))), EPOCH)
}

/// Returns the number of the alert in a syslog message.
fn number(message: &str) -> u64 {
    let (_, rest) = message.split_once("fingerprint=\"").unwrap();
    u64::from_str_radix(&rest[..16], 16).unwrap()
}

/// Reads messages with their length before them, until the connection ends or all `wanted` numbers came. Adds
/// their numbers to `found`.
fn read_numbers(stream: TcpStream, wanted: &BTreeSet<u64>, found: &mut BTreeSet<u64>) -> io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_millis(200)))?;
    let mut stream = BufReader::new(stream);
    while !found.is_superset(wanted) {
        let mut length = Vec::new();
        if stream.read_until(b' ', &mut length)? == 0 {
            return Ok(());
        }
        let length: usize = String::from_utf8(length).unwrap().trim_end().parse().unwrap();
        let mut message = vec![0; length];
        stream.read_exact(&mut message)?;
        found.insert(number(std::str::from_utf8(&message).unwrap()));
    }
    Ok(())
}

/// Accepts connections until all `wanted` numbers came. Duplicates are no error.
fn collect(listener: &TcpListener, wanted: impl IntoIterator<Item = u64>) {
    let (wanted, mut found) = (wanted.into_iter().collect::<BTreeSet<_>>(), BTreeSet::new());
    let deadline = Instant::now() + LONG;
    listener.set_nonblocking(true).unwrap();
    while !found.is_superset(&wanted) {
        assert!(Instant::now() < deadline, "{wanted:?} within {LONG:?}: only {found:?}");
        match listener.accept() {
            Ok((stream, _)) => {
                stream.set_nonblocking(false).unwrap();
                // A connection that ends, or stays silent for a while, is followed by another.
                let _ = read_numbers(stream, &wanted, &mut found);
            }
            Err(_) => thread::sleep(Duration::from_millis(10)),
        }
    }
}

/// Closes a connection with an RST.
fn reset(stream: TcpStream) {
    Socket::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// Listens on an address of the namespace.
fn listen(ns: &Ns, address: &str) -> TcpListener {
    ns.enter(|| TcpListener::bind(address).unwrap()).unwrap()
}

#[test]
fn vanished_syslog_server_gets_lines_after_return() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let listener = listen(&lab.server, "93.184.215.25:601");
    let sink = lab.gateway.enter(|| syslog(SyslogDestination::Tcp("93.184.215.25:601".into()))).unwrap();
    sink.push(event(&alert(0)));
    let (stream, _) = listener.accept().unwrap();
    read_numbers(stream.try_clone().unwrap(), &[0].into(), &mut BTreeSet::new()).unwrap();
    until("counted", || numbers(&sink) == (1, 0, 0));

    // From now on packets in both directions are dropped. The server's connection state is lost before it
    // comes back.
    lab.server.ip("link set eth0 down").unwrap();
    (1..=5).for_each(|number| sink.push(event(&alert(number))));
    // The RST is dropped too: a machine after a power failure sends nothing.
    reset(stream);
    until("the end of the connection is noticed", || sink.counters().errors.get() > 0);
    assert_eq!(numbers(&sink), (1, 0, 5), "the server has not acknowledged them");
    lab.server.ip("link set eth0 up").unwrap();
    lab.server.ip("route replace default via 93.184.215.1").unwrap();
    collect(&listener, 1..=5);
    until("counted", || numbers(&sink) == (6, 0, 0));
}

#[test]
fn vanished_collector_gets_records_after_return() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let listener = listen(&lab.server, "93.184.215.25:4739");
    let sink = lab.gateway.enter(|| ipfix(IpfixDestination::Tcp("93.184.215.25:4739".into()))).unwrap();
    sink.push(flow(1));
    let (mut stream, _) = listener.accept().unwrap();
    Collector::default().stream(&mut stream);
    until("counted", || sink.counters().written.get() == 1);
    lab.server.ip("link set eth0 down").unwrap();
    (2..=6).for_each(|port| sink.push(flow(port)));
    reset(stream);
    until("the end of the connection is noticed", || sink.counters().errors.get() > 0);
    assert_eq!((sink.counters().written.get(), sink.counters().waiting.get()), (1, 5));
    lab.server.ip("link set eth0 up").unwrap();
    lab.server.ip("route replace default via 93.184.215.1").unwrap();
    let (mut stream, _) = listener.accept().unwrap();
    let mut collector = Collector::default();
    while collector.ports().len() < 5 {
        // Templates come first and sequence numbers begin at 0; the collector checks both.
        collector.stream(&mut stream);
    }
    assert!(collector.ports().is_superset(&(2..=6).collect()), "{:?}", collector.ports());
    until("counted", || (sink.counters().written.get(), sink.counters().waiting.get()) == (6, 0));
}

#[test]
fn closing_or_resetting_server_gets_every_line() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = syslog(SyslogDestination::Tcp(listener.local_addr().unwrap().to_string()));
    (0..5).for_each(|number| sink.push(event(&alert(number))));
    // Close without reading, close with an RST, close after a part.
    drop(listener.accept().unwrap());
    reset(listener.accept().unwrap().0);
    let (mut stream, _) = listener.accept().unwrap();
    stream.read_exact(&mut [0; 10]).unwrap();
    drop(stream);
    collect(&listener, 0..5);
    until("counted", || numbers(&sink) == (5, 0, 0));
}

#[test]
fn lines_unread_by_restarted_server_are_resent() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let sink = syslog(SyslogDestination::Tcp(listener.local_addr().unwrap().to_string()));
    (0..5).for_each(|number| sink.push(event(&alert(number))));
    let (stream, _) = listener.accept().unwrap();
    until("its kernel has acknowledged them", || numbers(&sink) == (5, 0, 0));
    // The time is the subject: acknowledged lines are retained, and a restart may come later.
    thread::sleep(Duration::from_secs(2));
    // Unread data makes the close an RST.
    drop(stream);
    collect(&listener, 0..5);
    assert_eq!(numbers(&sink), (5, 0, 0), "each is counted once");
}

#[test]
fn slow_server_gets_every_line_once() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    SockRef::from(&listener).set_recv_buffer_size(4_096).unwrap();
    let sink = syslog(SyslogDestination::Tcp(listener.local_addr().unwrap().to_string()));
    let (mut stream, _) = {
        sink.push(event(&alert(0)));
        listener.accept().unwrap()
    };
    const LINES: u64 = 6_000;
    (1..LINES).for_each(|number| sink.push(event(&alert(number))));
    let peer = stream.peer_addr().unwrap();
    until("the receive window is closed", || probes_zero_window(peer));
    let (written, dropped, waiting) = numbers(&sink);
    assert!(written < LINES && dropped == 0 && waiting > 0, "{written} {dropped} {waiting}");
    let reader = thread::spawn(move || {
        let mut text = Vec::new();
        stream.read_to_end(&mut text).map(|_| text)
    });
    until("counted", || numbers(&sink) == (LINES, 0, 0));
    // The sink closes its connection: a line that was sent twice is before the end of the stream.
    sink.close(PATIENCE).unwrap();
    let text = String::from_utf8(reader.join().unwrap().unwrap()).unwrap();
    let found: Vec<u64> = text
        .split("fingerprint=\"")
        .skip(1)
        .map(|rest| u64::from_str_radix(&rest[..16], 16).unwrap())
        .collect();
    assert_eq!(found, (0..LINES).collect::<Vec<_>>());
}

/// Returns true if the socket with this local IPv4 address waits for its peer to open the receive window, by
/// /proc/net/tcp (proc_pid_net(5)).
fn probes_zero_window(local: SocketAddr) -> bool {
    const ZERO_WINDOW_PROBE: &str = "04";
    let SocketAddr::V4(local) = local else { panic!("{local} is not IPv4") };
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(local.ip().octets()), local.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let mut sockets = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    let socket = sockets.find(|fields| fields.get(1) == Some(&local.as_str()));
    socket.is_some_and(|fields| fields[5].starts_with(ZERO_WINDOW_PROBE))
}

/// Runs a closure on a thread that sees `hosts` in place of /etc/hosts, as do its child threads.
fn with_hosts<T: Send>(hosts: &Path, inside: impl FnOnce() -> T + Send) -> T {
    let mount = |source: &str, target: &str, flags| {
        let text = |text: &str| std::ffi::CString::new(text).unwrap();
        let (source, target) = (text(source), text(target));
        // SAFETY: mount(2) reads two strings that live through the call; a bind mount has no type and no
        // data.
        let done = unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), flags, std::ptr::null())
        };
        assert_eq!(done, 0, "{}", io::Error::last_os_error());
    };
    let on_thread = || {
        // SAFETY: unshare(2) takes flags and changes only this thread's mount namespace.
        assert_eq!(unsafe { libc::unshare(libc::CLONE_NEWNS) }, 0, "{}", io::Error::last_os_error());
        mount("none", "/", libc::MS_REC | libc::MS_PRIVATE);
        mount(hosts.to_str().unwrap(), "/etc/hosts", libc::MS_BIND);
        inside()
    };
    thread::scope(|scope| scope.spawn(on_thread).join().unwrap())
}

fn hosts(name: &str, text: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mailflow-hosts-{name}-{}", std::process::id()));
    fs::write(&path, text).unwrap();
    path
}

/// Name with an IPv6 and an IPv4 address; the collector listens only on the latter.
const BOTH: &str = "::1 log.example\n127.0.0.1 log.example\n";

fn udp_server(address: &str) -> (UdpSocket, SocketAddr) {
    let server = UdpSocket::bind(address).unwrap();
    server.set_read_timeout(Some(PATIENCE)).unwrap();
    let address = server.local_addr().unwrap();
    (server, address)
}

/// Receives datagrams until all `wanted` numbers came.
fn receive_numbers(server: &UdpSocket, wanted: impl IntoIterator<Item = u64>) {
    let (wanted, mut found) = (wanted.into_iter().collect::<BTreeSet<_>>(), BTreeSet::new());
    let mut buffer = [0; 65_536];
    while !found.is_superset(&wanted) {
        let length = server.recv(&mut buffer).unwrap_or_else(|error| panic!("{error}: only {found:?}"));
        found.insert(number(std::str::from_utf8(&buffer[..length]).unwrap()));
    }
}

#[test]
fn refused_first_address_falls_back_to_next() {
    let path = hosts("both", BOTH);
    let (server, address) = udp_server("127.0.0.1:0");
    let to = format!("log.example:{}", address.port());
    let sink = with_hosts(&path, || syslog(SyslogDestination::Udp(to)));
    for number in 0..5 {
        sink.push(event(&alert(number)));
        // The first address refuses a datagram later than it is sent.
        receive_numbers(&server, [number]);
    }
    until("counted", || numbers(&sink) == (5, 0, 0));

    let (server, address) = udp_server("127.0.0.1:0");
    let to = format!("log.example:{}", address.port());
    let sink = with_hosts(&path, || ipfix(IpfixDestination::Udp(to)));
    (1..=5).for_each(|port| sink.push(flow(port)));
    let (mut collector, mut buffer) = (Collector::default(), [0; 2_048]);
    while collector.ports().len() < 5 {
        let length = server.recv(&mut buffer).unwrap();
        collector.datagram(&buffer[..length]);
    }
    until("counted", || sink.counters().written.get() == 5);
    fs::remove_file(path).unwrap();
}

#[test]
fn refused_datagrams_are_retried_until_received() {
    let (server, address) = udp_server("127.0.0.1:0");
    drop(server);
    let sink = syslog(SyslogDestination::Udp(address.to_string()));
    (0..5).for_each(|number| sink.push(event(&alert(number))));
    until("errors", || sink.counters().errors.get() > 1);
    assert_eq!(numbers(&sink), (0, 0, 5));
    let (server, _) = udp_server(&address.to_string());
    receive_numbers(&server, 0..5);
    until("counted", || numbers(&sink) == (5, 0, 0));
}

#[test]
fn server_with_new_address_is_resolved_again() {
    let path = hosts("moves", "127.0.0.1 log.example\n");
    let (server, address) = udp_server("127.0.0.1:0");
    let udp = with_hosts(&path, || syslog(SyslogDestination::Udp(format!("log.example:{}", address.port()))));
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let tcp = with_hosts(&path, || syslog(SyslogDestination::Tcp(format!("log.example:{port}"))));
    for sink in [&udp, &tcp] {
        sink.push(event(&alert(0)));
    }
    receive_numbers(&server, [0]);
    collect(&listener, [0]);
    for sink in [&udp, &tcp] {
        until("counted", || numbers(sink) == (1, 0, 0));
    }
    drop((server, listener));
    fs::write(&path, "127.0.0.2 log.example\n").unwrap();
    let (server, _) = udp_server(&format!("127.0.0.2:{}", address.port()));
    let listener = TcpListener::bind(("127.0.0.2", port)).unwrap();
    for sink in [&udp, &tcp] {
        sink.push(event(&alert(1)));
    }
    receive_numbers(&server, [1]);
    collect(&listener, [1]);
    for sink in [&udp, &tcp] {
        until("counted", || numbers(sink) == (2, 0, 0));
    }
    fs::remove_file(path).unwrap();
}
