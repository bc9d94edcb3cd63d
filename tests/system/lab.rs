//! The lab's network, mail server and measurements, as the other suites need them.

mailflow_test_support::needs_root!();

use std::net::SocketAddr;

use mailflow_test_support::lab::{
    Family, Hosts, HttpServer, Lab, LabOptions, Mail, Mode, Offloads, Package, Postfix, PostfixOptions, get,
    send_mail, send_mails, transfer,
};

#[test]
fn mail_passes_gateway_in_every_mode() {
    let package = Package::unpack().unwrap();
    let lab = Lab::new(&LabOptions { sources: 2, ..LabOptions::default() }).unwrap();
    let postfix = Postfix::start(&lab.server, &package, lab.folder(), &PostfixOptions::default()).unwrap();
    let ports = [(Mode::Plain, 25), (Mode::StartTls, 25), (Mode::StartTls, 587), (Mode::Tls, 465)];
    let mut sent = 0;
    for family in [Family::V4, Family::V6] {
        for (mode, port) in ports {
            let server = SocketAddr::new(lab.server_ip(family), port);
            send_mail(&lab.client, &Mail::to(server, mode)).unwrap();
            sent += 1;
        }
    }
    let server = SocketAddr::new(lab.server_ip(Family::V4), 25);
    let second = Mail { source: Some(lab.client_ip(Family::V4, 1)), ..Mail::to(server, Mode::Plain) };
    send_mails(&lab.client, &Mail { size: 1_000_000, ..second }, 3).unwrap();

    let log = postfix.log();
    let connects =
        |from| log.lines().filter(|line| line.contains(&format!(" connect from unknown[{from}]"))).count();
    // Behind NAT the server sees only the gateway; three mails used one connection.
    assert_eq!(connects(lab.public_ip(Family::V4)), 4 + 1, "{log}");
    assert_eq!(connects(lab.public_ip(Family::V6)), 4, "{log}");
    assert_eq!(connects(lab.client_ip(Family::V4, 0)), 0, "{log}");
    assert_eq!(log.matches("client=unknown").count(), sent + 3, "{log}");

    let refused =
        send_mail(&lab.client, &Mail { to: "bob@elsewhere.example", ..Mail::to(server, Mode::Plain) });
    assert!(refused.unwrap_err().to_string().contains("554"));
    let submission = SocketAddr::new(lab.server_ip(Family::V4), 587);
    assert!(
        send_mail(&lab.client, &Mail::to(submission, Mode::Plain)).is_err(),
        "587 takes mail without TLS"
    );
}

#[test]
fn inside_server_is_reached_without_nat() {
    let package = Package::unpack().unwrap();
    let lab = Lab::new(&LabOptions { hosts: Hosts::ClientAndInside, ..LabOptions::default() }).unwrap();
    let inside = lab.inside.as_ref().unwrap();
    let options = PostfixOptions {
        name: "inside",
        hostname: "mail.corp.example",
        domain: "corp.example",
        ..PostfixOptions::default()
    };
    let postfix = Postfix::start(inside, &package, lab.folder(), &options).unwrap();
    for family in [Family::V4, Family::V6] {
        let server = SocketAddr::new(lab.inside_ip(family), 25);
        let mail = Mail { to: "carol@corp.example", ..Mail::to(server, Mode::Plain) };
        send_mail(&lab.client, &mail).unwrap();
        send_mail(&lab.server, &mail).unwrap();
        let (client, outside) = (lab.client_ip(family, 0), lab.server_ip(family));
        for from in [client, outside] {
            assert!(postfix.log().contains(&format!(" connect from unknown[{from}]")), "{}", postfix.log());
        }
    }
}

#[test]
fn tcp_info_of_both_ends_agrees() {
    for offloads in [Offloads::AsDefault, Offloads::Off] {
        let lab = Lab::new(&LabOptions { offloads, ..LabOptions::default() }).unwrap();
        for family in [Family::V4, Family::V6] {
            let server = SocketAddr::new(lab.server_ip(family), 25);
            for (up, down) in [(0, 0), (1, 0), (3_000_000, 100), (100, 3_000_000)] {
                let done = transfer(&lab.client, &lab.server, server, up, down).unwrap();
                let (client, server) = (done.client_facts, done.server_facts);
                assert_eq!(done.client.ip(), lab.client_ip(family, 0));
                // The kernel counts the FIN as a byte received.
                let received = |bytes: usize| bytes as u64..=bytes as u64 + 1;
                assert!(received(up).contains(&server.bytes_received), "{up}: {done:?}");
                assert!(received(down).contains(&client.bytes_received), "{down}: {done:?}");
                assert_eq!(client.segments_out, server.segments_in);
                assert!(client.timestamps && server.timestamps);
            }
        }
    }
}

#[test]
fn http_server_answers_on_a_mail_port() {
    let lab = Lab::new(&LabOptions::default()).unwrap();
    for port in [25, 8025] {
        let address = SocketAddr::new(lab.server_ip(Family::V4), port);
        let _server = HttpServer::start(&lab.server, address, 5_000).unwrap();
        for _ in 0..2 {
            assert_eq!(get(&lab.client, address, "/").unwrap(), (200, "x".repeat(5_000)));
        }
    }
}

#[test]
fn dropped_lab_leaves_nothing() {
    let namespaces = |of: &str| {
        let entries = std::fs::read_dir("/run/netns").unwrap().flatten();
        entries.filter(|entry| entry.file_name().to_string_lossy().starts_with(of)).count()
    };
    let lab = Lab::new(&LabOptions::default()).unwrap();
    let name = lab.client.name().trim_end_matches("client").to_owned();
    let folder = lab.folder().to_owned();
    assert_eq!(namespaces(&name), 3);
    let mut sleeper = lab.server.spawn("sleep 600", &folder.join("sleep.log")).unwrap();
    drop(lab);
    assert_eq!(namespaces(&name), 0);
    assert!(!folder.exists());
    assert!(sleeper.wait(std::time::Duration::from_secs(1)).is_ok(), "a process outlived its lab");
}
