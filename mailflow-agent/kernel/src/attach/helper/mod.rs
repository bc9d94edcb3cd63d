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

use self::message::ANSWER_LENGTH;
use super::query::{self, HookQuery, HookState};

/// Longest wait for an answer. The kernel answers within microseconds, unless another process holds the lock
/// of its interfaces. The watchdog of a service manager waits longer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Helper process. It ends with this value, and with the agent.
#[derive(Debug)]
pub struct HookQueryHelper {
    socket: OwnedFd,
    process: libc::pid_t,
    is_gone: AtomicBool,
}

impl HookQueryHelper {
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
        let (socket, helper_end) = process::socket_pair()?;
        process::set_socket_timeouts(socket.as_fd(), ANSWER_TIMEOUT)?;
        let process = process::fork(helper_end, serve)?;
        process::wait_until_confined(socket.as_fd())?;
        Ok(Self { socket, process, is_gone: AtomicBool::new(false) })
    }

    /// Returns the process id.
    pub fn process_id(&self) -> u32 {
        self.process.unsigned_abs()
    }

    /// Returns true if the helper answers. Logs the first time that it does not.
    pub fn is_alive(&self) -> bool {
        if self.is_gone.load(Ordering::Relaxed) {
            process::reap(self.process);
            return false;
        }
        let alive = !process::is_closed(self.socket.as_fd());
        if !alive {
            self.mark_gone("it ended");
        }
        alive
    }

    /// Returns the answer to a query; `None` if the helper is gone.
    pub(super) fn query_hook(&self, query: HookQuery) -> Option<io::Result<HookState>> {
        if self.is_gone.load(Ordering::Relaxed) {
            return None;
        }
        let mut answer = [0; ANSWER_LENGTH];
        let result = process::send(self.socket.as_fd(), &query.encode())
            .and_then(|()| process::receive(self.socket.as_fd(), &mut answer));
        match result {
            Ok(ANSWER_LENGTH) => {
                let found = message::decode(&answer);
                if found.is_none() {
                    self.mark_gone("it answers what makes no sense");
                }
                found
            }
            Ok(_) => {
                self.mark_gone("it ended");
                None
            }
            Err(error) => {
                // After a timeout too: the next answer would belong to this query.
                self.mark_gone(&error.to_string());
                None
            }
        }
    }

    fn mark_gone(&self, why: &str) {
        if !self.is_gone.swap(true, Ordering::Relaxed) {
            warn!(
                process = self.process,
                %why,
                "the process that looks at the hooks is gone: whether another program comes before ours is \
                 not known from now on; counting goes on, and a restart of the agent starts it again"
            );
            // The process ends at its next read.
            process::shut_down(self.socket.as_fd());
        }
    }
}

impl Drop for HookQueryHelper {
    fn drop(&mut self) {
        process::shut_down(self.socket.as_fd());
    }
}

/// Answers queries until the other end is closed.
fn serve(socket: BorrowedFd<'_>) {
    let mut query = [0; message::QUERY_LENGTH];
    while let Ok(message::QUERY_LENGTH) = process::receive(socket, &mut query) {
        let Some(query) = HookQuery::decode(&query) else { return };
        let answer = message::encode(query::query_hook(query));
        if process::send(socket, &answer).is_err() {
            return;
        }
    }
}

/// Queries a hook: by the helper, or by this thread if there is none.
///
/// # Errors
/// The kernel does not answer, for example after capabilities were given up.
pub(super) fn query_hook(helper: Option<&HookQueryHelper>, query: HookQuery) -> io::Result<HookState> {
    match helper.and_then(|helper| helper.query_hook(query)) {
        Some(found) => found,
        None => query::query_hook(query),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        attach::{
            status::{AttachState, Verification},
            supervisor::AttachmentSupervisor,
        },
        host::{
            hook::{Attachment, Direction},
            kernel_version::KernelVersion,
        },
        options::{Hook, Role},
        testing::{in_namespace, load_as_on, run},
    };
    use mailflow_engine::time::Time;

    /// Returns a helper that runs as a thread.
    fn helper_thread() -> (HookQueryHelper, std::thread::JoinHandle<()>) {
        let (socket, helper_end) = process::socket_pair().unwrap();
        process::set_socket_timeouts(socket.as_fd(), Duration::from_millis(200)).unwrap();
        let server = std::thread::spawn(move || serve(helper_end.as_fd()));
        (HookQueryHelper { socket, process: 0, is_gone: AtomicBool::new(false) }, server)
    }

    #[test]
    fn the_helper_answers_until_the_socket_is_closed() {
        in_namespace(|| {
            let (helper, server) = helper_thread();
            let query = |device| HookQuery {
                device,
                direction: Direction::Ingress,
                attachment: Attachment::Clsact,
                program: 1,
            };
            run("tc qdisc add dev lo clsact");
            let found = helper.query_hook(query(1)).unwrap().unwrap();
            assert_eq!(found, HookState::Detached { other: None });
            let xdp = HookQuery { attachment: Attachment::Xdp, ..query(0x7fff_ffff) };
            let refused = helper.query_hook(xdp).unwrap().unwrap_err();
            assert_eq!(refused.raw_os_error(), Some(libc::ENODEV));
            assert!(helper.is_alive());
            drop(helper);
            server.join().unwrap();
        });
    }

    #[test]
    fn a_helper_that_hangs_is_given_up() {
        let (socket, helper_end) = process::socket_pair().unwrap();
        process::set_socket_timeouts(socket.as_fd(), Duration::from_millis(1)).unwrap();
        let helper = HookQueryHelper { socket, process: 0, is_gone: AtomicBool::new(false) };
        let query =
            HookQuery { device: 1, direction: Direction::Egress, attachment: Attachment::Xdp, program: 1 };
        assert!(helper.is_alive());
        assert!(helper.query_hook(query).is_none());
        assert!(!helper.is_alive() && helper.query_hook(query).is_none());
        drop(helper_end);
    }

    #[test]
    fn a_process_of_several_threads_does_not_fork() {
        // The test harness runs each test in a thread.
        let refused = std::thread::spawn(HookQueryHelper::start).join().unwrap().unwrap_err();
        assert!(refused.to_string().contains("threads"), "{refused}");
    }

    #[test]
    fn without_the_helper_the_agent_queries_by_itself() {
        in_namespace(|| {
            let (mut loaded, mut supervisor) =
                (load_as_on(KernelVersion(6, 18)), AttachmentSupervisor::new());
            let (helper, server) = helper_thread();
            supervisor.helper = Some(helper);
            supervisor.add(&mut loaded, None, "lo", Role::Host, Hook::Tc).unwrap();
            let first = AttachState::Attached { position: Some(1) };
            for alive in [true, false] {
                supervisor.follow_interfaces(&mut loaded, None, Time::ZERO, Verification::Now);
                assert!(supervisor.attachments().all(|status| status.state == first), "this thread may look");
                let helper = supervisor.helper.as_ref().unwrap();
                assert_eq!(helper.is_alive(), alive);
                process::shut_down(helper.socket.as_fd());
            }
            server.join().unwrap();
        });
    }
}
