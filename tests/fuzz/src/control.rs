//! Requests on the control socket.

use std::sync::LazyLock;

use mailflow_agent::{
    control::{
        CommandSenders, ControlCommand, Reply, Request, Status, StatusProvider, TopSnapshot, serve_connection,
    },
    util::connection_limit::EvictionSignal,
};
use tokio::{
    runtime::{Builder, Runtime},
    sync::mpsc,
};

use crate::pieces::Pieces;

/// Longest request in bytes, with its line end (docs/operate/control.md).
const LONGEST: usize = 64 * 1024;
/// Maximum length of an answer in bytes, without what it repeats of the request.
const ANSWER: usize = 10_000;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_time().build().unwrap());

/// Status of an agent without traffic.
struct Still;

impl StatusProvider for Still {
    fn status(&self) -> Status {
        Status::default()
    }

    fn top(&self) -> TopSnapshot {
        TopSnapshot::default()
    }
}

/// Answers the requests, whole and in pieces.
pub(crate) fn run(data: &[u8]) {
    let answers = answers(Pieces::whole(data));
    assert_eq!(answers, self::answers(Pieces::small(data)), "in pieces");
    let lines: Vec<&[u8]> = data.split_inclusive(|byte| *byte == b'\n').collect();
    // The connection ends after the answer to a line that is too long.
    let long = lines.iter().position(|line| line.len() > LONGEST);
    let lines = &lines[..long.map_or(lines.len(), |long| long + 1)];
    let text = String::from_utf8(answers).unwrap();
    assert_eq!(text.lines().count(), lines.len(), "{text}");
    for (line, answer) in lines.iter().zip(text.lines()) {
        // Each character of the request may be escaped.
        assert!(answer.len() <= ANSWER + 8 * line.len(), "{} bytes answer {}", answer.len(), line.len());
        let reply: Reply = serde_json::from_str(answer).unwrap();
        let refused = matches!(&reply, Reply::Refused(why) if *why != [ASKED]);
        match serde_json::from_slice::<Request>(line).ok().filter(|_| line.len() <= LONGEST) {
            Some(request) => {
                assert!(!refused, "{request:?}: {answer}");
                let again = serde_json::to_vec(&request).unwrap();
                assert_eq!(serde_json::from_slice::<Request>(&again).unwrap(), request, "written again");
            }
            None => assert!(refused, "{answer}"),
        }
    }
}

/// Answer to requests that the poll loop answers.
const ASKED: &str = "asked";

fn answers(read: Pieces) -> Vec<u8> {
    let mut written = Vec::new();
    let (sender, mut orders) = mpsc::channel::<ControlCommand>(1);
    let senders = CommandSenders { reloads: sender.clone(), queries: sender };
    let leave = EvictionSignal::default();
    RUNTIME.block_on(async {
        let loops = async {
            while let Some(order) = orders.recv().await {
                order.reply.send(Reply::Refused(vec![ASKED.to_owned()])).unwrap();
            }
        };
        tokio::select! {
            biased;
            result = serve_connection(read, &mut written, &Still, &senders, &leave) => result.unwrap(),
            () = loops => {}
        }
    });
    written
}
