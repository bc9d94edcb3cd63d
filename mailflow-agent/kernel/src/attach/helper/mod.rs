//! Helper process that queries hooks.
//!
//! The kernel reports the programs at a hook only to a process with CAP_NET_ADMIN. The helper keeps that
//! capability, and reads nothing but the queries of the agent. The agent reads input from the network and
//! from users, and keeps no capability.

mod message;
mod process;

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use tracing::warn;

use self::message::ANSWER;
use super::query::{self, Found, Question};

/// Longest wait for an answer. The kernel answers within microseconds, unless another process holds the lock
/// of its interfaces. The watchdog of a service manager waits longer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Helper process. It ends with this value, and with the agent.
#[derive(Debug)]
pub struct Lookout {
    socket: OwnedFd,
    process: libc::pid_t,
    gone: AtomicBool,
}

impl Lookout {
    /// Starts the helper: a copy of this process (fork(2)) that gives up every capability it does not need.
    ///
    /// A copy keeps the capabilities of this process, however it got them. A new program would keep only
    /// ambient, inheritable and file capabilities, and those of root. To copy a process with one thread is
    /// safe; a second thread might hold locks that would stay locked. Call before anything is read, as the
    /// copy has the memory of this process.
    ///
    /// # Errors
    /// This process has several threads, or the system refuses a socket, a process, or to give up
    /// capabilities.
    pub fn start() -> io::Result<Self> {
        let threads = std::fs::read_dir("/proc/self/task")?.count();
        if threads != 1 {
            return Err(io::Error::other(format!("it would be a copy of one of {threads} threads")));
        }
        let (socket, theirs) = process::pair()?;
        process::limit_wait(socket.as_fd(), PATIENCE)?;
        let process = process::fork(theirs, serve)?;
        process::confined(socket.as_fd())?;
        Ok(Self { socket, process, gone: AtomicBool::new(false) })
    }

    /// Returns the process id.
    pub fn process(&self) -> u32 {
        self.process.unsigned_abs()
    }

    /// Returns true if the helper answers. Logs the first time that it does not.
    pub fn looks(&self) -> bool {
        if self.gone.load(Ordering::Relaxed) {
            process::reap(self.process);
            return false;
        }
        let looks = !process::hung_up(self.socket.as_fd());
        if !looks {
            self.is_gone("it ended");
        }
        looks
    }

    /// Returns the answer to a query; `None` if the helper is gone.
    pub(super) fn ask(&self, question: Question) -> Option<io::Result<Found>> {
        if self.gone.load(Ordering::Relaxed) {
            return None;
        }
        let mut answer = [0; ANSWER];
        let result = process::send(self.socket.as_fd(), &question.encode())
            .and_then(|()| process::receive(self.socket.as_fd(), &mut answer));
        match result {
            Ok(ANSWER) => {
                let found = message::decode(&answer);
                if found.is_none() {
                    self.is_gone("it answers what makes no sense");
                }
                found
            }
            Ok(_) => {
                self.is_gone("it ended");
                None
            }
            Err(error) => {
                // Also where it is too late: the next answer would be to another question.
                self.is_gone(&error.to_string());
                None
            }
        }
    }

    fn is_gone(&self, why: &str) {
        if !self.gone.swap(true, Ordering::Relaxed) {
            warn!(
                process = self.process,
                %why,
                "the process that looks at the hooks is gone: whether another program comes before ours is \
                 not known from now on; counting goes on, and a restart of the agent starts it again"
            );
            // It ends when it next listens.
            process::shut(self.socket.as_fd());
        }
    }
}

impl Drop for Lookout {
    fn drop(&mut self) {
        process::shut(self.socket.as_fd());
    }
}

/// Answers queries until the other end is closed.
fn serve(socket: BorrowedFd<'_>) {
    let mut question = [0; message::QUESTION];
    while let Ok(message::QUESTION) = process::receive(socket, &mut question) {
        let Some(question) = Question::decode(&question) else { return };
        let answer = message::encode(query::look(question));
        if process::send(socket, &answer).is_err() {
            return;
        }
    }
}

/// Queries a hook: by the helper, or by this thread if there is none.
///
/// # Errors
/// The kernel does not answer, for example after capabilities were given up.
pub(super) fn find(lookout: Option<&Lookout>, question: Question) -> io::Result<Found> {
    match lookout.and_then(|lookout| lookout.ask(question)) {
        Some(found) => found,
        None => query::look(question),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::{
            status::{Standing, Verify},
            supervisor::Watched,
        },
        host::{
            hook::{Attachment, Direction},
            kernel_version::KernelVersion,
        },
        options::{Hook, Role},
        testing::{in_namespace, load_as_on, run},
    };
    use mailflow_engine::time::Time;

    /// One that is a thread.
    fn lookout() -> (Lookout, std::thread::JoinHandle<()>) {
        let (socket, theirs) = process::pair().unwrap();
        process::limit_wait(socket.as_fd(), Duration::from_millis(200)).unwrap();
        let serving = std::thread::spawn(move || serve(theirs.as_fd()));
        (Lookout { socket, process: 0, gone: AtomicBool::new(false) }, serving)
    }

    #[test]
    fn it_answers_until_the_other_end_is_closed() {
        in_namespace(|| {
            let (lookout, serving) = lookout();
            let question = |device| Question {
                device,
                direction: Direction::Ingress,
                attachment: Attachment::Clsact,
                program: 1,
            };
            run("tc qdisc add dev lo clsact");
            let found = lookout.ask(question(1)).unwrap().unwrap();
            assert_eq!(found, Found::Gone { instead: None });
            let xdp = Question { attachment: Attachment::Xdp, ..question(0x7fff_ffff) };
            let refused = lookout.ask(xdp).unwrap().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
            assert!(lookout.looks());
            drop(lookout);
            serving.join().unwrap();
        });
    }

    #[test]
    fn one_that_hangs_is_gone_for_good() {
        let (socket, theirs) = process::pair().unwrap();
        process::limit_wait(socket.as_fd(), Duration::from_millis(1)).unwrap();
        let lookout = Lookout { socket, process: 0, gone: AtomicBool::new(false) };
        let question =
            Question { device: 1, direction: Direction::Egress, attachment: Attachment::Xdp, program: 1 };
        assert!(lookout.looks());
        assert!(lookout.ask(question).is_none());
        assert!(!lookout.looks() && lookout.ask(question).is_none());
        drop(theirs);
    }

    #[test]
    fn a_process_of_several_threads_is_not_copied() {
        // The harness has one of its own.
        let refused = std::thread::spawn(Lookout::start).join().unwrap().unwrap_err();
        assert!(refused.to_string().contains("threads"), "{refused}");
    }

    #[test]
    fn once_it_is_gone_whoever_asks_looks_for_itself() {
        in_namespace(|| {
            let (mut loaded, mut watched) = (load_as_on(KernelVersion(6, 18)), Watched::new());
            let (lookout, serving) = lookout();
            watched.lookout = Some(lookout);
            watched.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
            let first = Standing::Attached { position: Some(1) };
            for looks in [true, false] {
                watched.follow(&mut loaded, None, Time::ZERO, Verify::Now);
                assert!(watched.places().all(|place| place.standing == first), "this thread may look");
                let lookout = watched.lookout.as_ref().unwrap();
                assert_eq!(lookout.looks(), looks);
                process::shut(lookout.socket.as_fd());
            }
            serving.join().unwrap();
        });
    }
}
