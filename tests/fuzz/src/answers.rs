//! Answers of receivers to the outputs' HTTP client.

use std::{
    io,
    pin::Pin,
    sync::LazyLock,
    task::{Context, Poll, Waker},
    time::Duration,
};

use mailflow_agent::{
    config::{
        Receiver,
        outputs::url::{Url, UrlForm},
    },
    outputs::{ReceiverResponse, post_over},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    runtime::{Builder, Runtime},
};

use crate::pieces::Pieces;

/// Parts of the request that must not be printed.
const SECRETS: [&str; 3] = ["PathSecret", "QuerySecret", "HeaderSecret"];
/// Maximum number of characters of an answer that are printed; each may be escaped (`\u{10ffff}`).
const SHOWN: usize = 500 * 10;
/// Longest pause that a receiver may ask for.
const PAUSE: Duration = Duration::from_secs(600);

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| Builder::new_current_thread().enable_all().build().unwrap());
static TO: LazyLock<Url> = LazyLock::new(|| {
    Url::parse("http://receiver.example/hook/PathSecret?key=QuerySecret", UrlForm::Webhook).unwrap()
});

/// Other end of a connection: answers after the first bytes of a request.
struct Server {
    answer: Pieces,
    asked: bool,
    reader: Option<Waker>,
}

impl AsyncRead for Server {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.asked {
            self.reader = Some(context.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.answer).poll_read(context, to)
    }
}

impl AsyncWrite for Server {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.asked = true;
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
        Poll::Ready(Ok(from.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

fn posted(answer: Pieces) -> Result<ReceiverResponse, String> {
    let server = Server { answer, asked: false, reader: None };
    let headers = vec![("x-token".to_owned(), "HeaderSecret".to_owned())];
    let receiver = Receiver { headers, proxy: mailflow_agent::config::Proxy::Off, ..Receiver::default() };
    RUNTIME.block_on(post_over(server, &TO, receiver, "{}")).map_err(|error| format!("{error:#}"))
}

/// Reads an answer, whole and in pieces.
pub(crate) fn run(data: &[u8]) {
    let whole = posted(Pieces::whole(data));
    // The pause until a date and the clock offset depend on the current time. The first error depends on the
    // pieces.
    let fixed = |answer: &Result<ReceiverResponse, String>| match answer {
        Ok(ReceiverResponse { status, body_excerpt: said, redirect_origin: moved_to, .. }) => {
            Some((status.as_u16(), said.clone(), moved_to.clone()))
        }
        Err(_) => None,
    };
    assert_eq!(fixed(&whole), fixed(&posted(Pieces::small(data))), "in pieces");
    let shown = match &whole {
        Ok(answer) => {
            assert!((101..1_000).contains(&answer.status.as_u16()), "{}", answer.status);
            assert!(answer.body_excerpt.len() <= SHOWN, "{} bytes are shown", answer.body_excerpt.len());
            assert!(answer.retry_after.is_none_or(|pause| pause <= PAUSE), "{:?}", answer.retry_after);
            format!("{} {}", answer.body_excerpt, answer.redirect_origin.as_deref().unwrap_or_default())
        }
        Err(error) => error.clone(),
    };
    assert!(!shown.chars().any(char::is_control), "control characters: {shown:?}");
    for secret in SECRETS {
        assert!(!shown.contains(secret), "{secret} is shown: {shown}");
    }
}
