//! The agent prints no credential, wherever its configuration has one.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

use mailflow_test_support::lab::{Agent, agent_binary, wait_for};

use crate::{
    gateway::Gateway,
    http::{Receiver, Reply},
    http_proxy::Proxy,
};

const PATIENCE: Duration = Duration::from_secs(90);

/// Prefix of every planted credential; the name of its location follows.
const PLANTED: &str = "PLANTED";

/// Runs the agent's binary and returns its output.
fn run(words: &[&str]) -> String {
    let output = Command::new(agent_binary().unwrap()).args(words).output().unwrap();
    [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat()
}

#[test]
fn planted_credential_is_never_printed() {
    let gateway = Gateway::new(3);
    let folder = gateway.lab.folder().to_owned();
    let local: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let inside = &gateway.lab.gateway;
    // A receiver that refuses and repeats the request, as frameworks do; an address without a listener; a
    // proxy that refuses.
    let echo = inside
        .enter(|| {
            Receiver::scripted(|received| {
                let status = if received.line.contains("/api/v2/alerts") { 400 } else { 404 };
                let body = format!("no {} {:?}", received.line, received.headers);
                Reply { status, body, head: "x-said: PLANTED\r\n".into(), ..Reply::default() }
            })
        })
        .unwrap();
    let moved = inside
        .enter(|| {
            Receiver::scripted(|_| Reply {
                status: 307,
                head: "location: https://elsewhere.invalid/PLANTED?PLANTED\r\n".into(),
                ..Reply::default()
            })
        })
        .unwrap();
    let proxy = inside.enter(|| Proxy::start(local, 407)).unwrap();
    for (name, text) in [
        ("token", "PLANTED-token\n".to_owned()),
        ("password", "PLANTED-password\n".to_owned()),
        ("address", format!("{}\n", echo.url("/PLANTED-file?key=PLANTED-filequery"))),
        ("proxy", format!("http://PLANTED-user:PLANTED-pass@{}\n", proxy.addr)),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let config = folder.join("secrets.yaml");
    let alerts = format!(
        "    - {{ type: file, path: {folder}/written.jsonl, name: written }}
    - {{ type: webhook, name: hook, url: \"{hook}\", bearer_token_file: token, headers: {{ x-key: PLANTED-header }} }}
    - {{ type: webhook, name: in_file, url_file: address, basic_auth: {{ username: somebody, password_file: password }} }}
    - {{ type: webhook, name: nowhere, url: \"http://127.0.0.1:9/PLANTED-path\", timeout: 1s }}
    - {{ type: webhook, name: plain, url: \"https://{echo}/PLANTED-path\", timeout: 2s }}
    - {{ type: webhook, name: moved, url: \"{moved}\" }}
    - {{ type: webhook, name: proxied, url: \"https://receiver.invalid/PLANTED-path\", proxy: \"http://PLANTED-user:PLANTED-pass@{proxy}\" }}
    - {{ type: webhook, name: proxied_by_file, url: \"http://receiver.invalid/PLANTED-path\", proxy_file: proxy }}
    - {{ type: webhook, name: by_environment, url: \"https://receiver.invalid/PLANTED-path\" }}
    - type: alertmanager
      urls: [\"{manager}\", \"http://127.0.0.1:9/PLANTED-path\"]
      every: 1s
      headers: {{ authorization: \"Bearer PLANTED-header\" }}
",
        folder = folder.display(),
        hook = echo.url("/PLANTED-path/PLANTED-more?key=PLANTED-query"),
        echo = echo.addr,
        moved = moved.url("/PLANTED-path"),
        manager = echo.url("/PLANTED-path"),
        proxy = proxy.addr,
    );
    let text = format!(
        "interfaces: [{{ name: lan0, role: lan }}]\ntimeouts: {{ closed: 500ms, idle: 60s, unanswered: 2s }}\n\
         rules:\n  - name: many\n    match: {{ applications: [smtp, other], size: {{ test: count, up: 1, down: 1 }} }}\n    \
         window: {{ length: 1h }}\n    condition: {{ count: {{ at_least: 3 }} }}\n\
         state: {{ directory: {} }}\noutputs:\n  alerts:\n{alerts}",
        folder.join("state").display()
    );
    fs::write(&config, &text).unwrap();
    let options = format!(
        "--config {} --poll-interval 200ms --state {} --pins {}",
        config.display(),
        folder.join("state").display(),
        gateway.pins().display()
    );
    let by_environment = format!("http://PLANTED-user:PLANTED-pass@{}", proxy.addr);
    let environment = [("RUST_LOG", "trace"), ("HTTPS_PROXY", by_environment.as_str())];
    let binary = agent_binary().unwrap();
    let mut agent =
        Agent::start_as_configured(inside, &binary, &folder, "agent", &options, &environment).unwrap();
    (0..3).for_each(|_| _ = gateway.send());

    let sinks =
        ["hook", "in_file", "nowhere", "plain", "moved", "proxied", "proxied_by_file", "by_environment"];
    let of = |metrics: &str, name: &str, sink: &str| -> f64 {
        let line = metrics
            .lines()
            .find(|line| line.starts_with(&format!("mailflow_output_{name}{{output=\"{sink}")));
        line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok()).unwrap_or(0.0)
    };
    wait_for("each sink has failed", PATIENCE, || {
        let metrics = agent.metrics()?;
        let failed =
            |sink: &&str| of(&metrics, "errors_total", sink) + of(&metrics, "dead_letters", sink) > 0.0;
        Ok((sinks.iter().all(failed) && of(&metrics, "refused_alerts", "alerts_alertmanager/") > 0.0)
            .then_some(()))
    })
    .unwrap_or_else(|error| panic!("{error:#}\n{}\n{}", agent.metrics().unwrap(), agent.log()));

    let socket = agent.socket().to_str().unwrap().to_owned();
    let config_path = config.to_str().unwrap().to_owned();
    let mut printed = vec![
        ("metrics".to_owned(), agent.metrics().unwrap()),
        ("status".to_owned(), run(&["status", "--socket", &socket])),
        ("status --json".to_owned(), run(&["status", "--json", "--socket", &socket])),
        ("doctor".to_owned(), run(&["doctor", "--config", &config_path])),
        ("check-config".to_owned(), run(&["check-config", &config_path])),
        ("print-config".to_owned(), run(&["print-config", &config_path])),
    ];
    // A reload that changes the credentials, and one that is refused at each of them.
    fs::write(&config, text.replace("timeout: 1s", "timeout: 3s")).unwrap();
    printed.push(("reload".to_owned(), run(&["reload", "--socket", &socket])));
    for (from, to) in [
        ("http://127.0.0.1:9/PLANTED-path\", timeout", "ftp://127.0.0.1:9/PLANTED-path\", timeout"),
        (
            "http://127.0.0.1:9/PLANTED-path\", timeout",
            "http://me:PLANTED@127.0.0.1:9/PLANTED-path#x\", timeout",
        ),
        ("http://127.0.0.1:9/PLANTED-path\"]", "http://127.0.0.1:9/?PLANTED\"]"),
        ("x-key: PLANTED-header", "\"x key\": PLANTED-header"),
        ("x-key: PLANTED-header", "x-key: \"PLANTED\\u0001\""),
        ("x-key: PLANTED-header", "x-key: [PLANTED-header]"),
        ("x-key: PLANTED-header", "x-key: 4711"),
        ("proxy: \"http://", "proxy: \"socks5://"),
        ("username: somebody", "username: [somebody]"),
        ("url_file: address", "url_file: token"),
        ("proxy_file: proxy", "proxy_file: address"),
        ("headers: { x-key: PLANTED-header } }", "headers: { x-key: PLANTED-header } "),
    ] {
        let bad = text.replace(from, to);
        assert_ne!(bad, text, "{from}");
        fs::write(&config, &bad).unwrap();
        let checked = run(&["check-config", &config_path]);
        assert!(checked.contains("secrets.yaml:"), "{to}: {checked}");
        assert!(!checked.contains("4711"), "{to}: {checked}");
        printed.push((format!("check-config of {to}"), checked));
        printed.push((format!("print-config of {to}"), run(&["print-config", &config_path])));
        printed.push((format!("reload of {to}"), run(&["reload", "--socket", &socket])));
    }
    agent.stop().unwrap();
    printed.push(("log".to_owned(), agent.log()));
    let letters = folder.join("state/dead-letters");
    for file in fs::read_dir(&letters).unwrap() {
        let file = file.unwrap().path();
        printed.push((file.display().to_string(), fs::read_to_string(file).unwrap()));
    }
    let written = fs::read_to_string(folder.join("written.jsonl")).unwrap();
    printed.push(("the alerts".to_owned(), written));
    for (what, text) in &printed {
        let line = text.lines().find(|line| line.contains(PLANTED));
        assert_eq!(line, None, "{what}");
    }

    // Check of the test: the credentials were sent, and the failures were logged with their locations.
    let asked = format!("{:?}", echo.asked());
    for place in ["path", "more", "query", "file", "filequery", "token", "header"] {
        assert!(asked.contains(&format!("{PLANTED}-{place}")), "{place}");
    }
    assert!(proxy.heads().iter().any(|head| head.contains("proxy-authorization: Basic")));
    let log = agent.log();
    for said in [
        &format!("http://{}", echo.addr),
        "https://receiver.invalid:443",
        &format!("proxy http://{}", proxy.addr),
        "redirects to https://elsewhere.invalid:443",
        "404 Not Found: no POST",
    ] {
        assert!(log.contains(said), "{said}: {log}");
    }
    assert!(printed.iter().any(|(what, text)| what == "doctor" && text.contains("permanently")));
    assert!(printed.iter().any(|(what, text)| what == "status" && text.contains("dead letters")));
}
