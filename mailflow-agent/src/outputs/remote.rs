//! Receivers on other machines, over TCP and UDP: what is handed to them is kept until they have it, and for a
//! while after that.
//!
//! Neither protocol says what a receiver has read. What a kernel says is used as far as it goes: over TCP which
//! bytes the other side has acknowledged, over UDP that nobody listens. A line that may be lost is sent again, so
//! that a receiver may get it twice.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use anyhow::{Context, anyhow};

use super::{
    protocol::Protocol,
    socket::{self, End, Ended, Socket},
    worker::Counters,
};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Age from which on a name is looked up again.
const LOOK_UP: Duration = Duration::from_secs(60);
/// Time without bad news after which a sent item counts as delivered: over TCP from its acknowledgement on. A
/// receiver that closes without reading says so within it.
const SETTLE: Duration = Duration::from_millis(100);
/// Between two looks at what became of sent items.
const LOOK: Duration = Duration::from_millis(20);
/// The same while only delivered ones are kept.
const SELDOM: Duration = Duration::from_secs(1);
/// How long delivered items are kept, over TCP. What lies unread in a receiver that is killed is lost there, and
/// its kernel answers with a reset: then they are sent again.
const KEEP_TCP: Duration = Duration::from_secs(60);
/// The same over UDP. A neighbour that is gone is noticed after 3 s.
const KEEP_UDP: Duration = Duration::from_secs(4);
/// How far a refused datagram is behind at most: receivers answer a refused sender once a second.
const REFUSED: Duration = Duration::from_secs(1);
/// Most bytes of delivered items that are kept: more than the receive buffer that Linux gives a connection (6 MB).
const KEEP_BYTES: usize = 8 << 20;
/// Most bytes that are sent and not delivered.
const UNSETTLED_BYTES: usize = 4 << 20;

/// How items become messages.
pub(crate) trait Encode<I: 'static>: Send + 'static {
    /// A connection begins, at whose other end nothing is known.
    fn begin(&mut self, protocol: Protocol);

    /// Makes a message of the first of `items`; returns it with the number of items in it, at least one.
    fn message(&mut self, protocol: Protocol, items: &mut dyn Iterator<Item = &I>) -> (Vec<u8>, usize);

    /// Takes note that so many items were sent.
    fn sent(&mut self, protocol: Protocol, items: usize);

    /// About how many bytes an item takes.
    fn size(item: &I) -> usize;
}

/// Finds the addresses of a `HOST:PORT`.
type LookUp = Box<dyn FnMut(&str) -> io::Result<Vec<SocketAddr>> + Send>;

/// A receiver, and what it is to get.
pub(crate) struct Remote<I, E> {
    protocol: Protocol,
    /// `HOST:PORT`.
    address: String,
    encode: E,
    look_up: LookUp,
    addresses: Vec<SocketAddr>,
    looked_up: Option<Time>,
    /// Index of the address that is used, or tried next.
    next: usize,
    /// Addresses in a row that took nothing.
    refused: usize,
    socket: Option<Socket>,
    /// The name means another address than that of the socket.
    moved: bool,
    waiting: VecDeque<Kept<I>>,
    /// Oldest first: those that are delivered, then the others.
    sent: VecDeque<Sent<I>>,
    /// How many of `sent` are delivered.
    delivered: usize,
    /// Bytes of those that are delivered, and of the others.
    bytes: [usize; 2],
}

/// What became of the message at hand when a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    /// The kernel took it.
    Sent,
    /// The kernel refused it.
    Unsent,
}

/// An item that may have to be sent.
struct Kept<I> {
    item: I,
    /// It counts as delivered, and was sent again since.
    delivered: bool,
}

/// An item that was sent.
struct Sent<I> {
    item: I,
    size: usize,
    /// When, and since when it is acknowledged: at once over UDP.
    at: Time,
    acknowledged: Option<Time>,
    /// The end of its message in the connection's bytes.
    end: u64,
    delivered: bool,
    /// It was delivered before it was sent this time.
    again: bool,
}

impl<I: Send + 'static, E: Encode<I>> Remote<I, E> {
    /// Sends to `address`, a `HOST:PORT`.
    pub(crate) fn new(protocol: Protocol, address: &str, encode: E) -> Self {
        Self::with(protocol, address, encode, Box::new(socket::look_up))
    }

    fn with(protocol: Protocol, address: &str, encode: E, look_up: LookUp) -> Self {
        Self {
            protocol,
            address: address.to_owned(),
            encode,
            look_up,
            addresses: Vec::new(),
            looked_up: None,
            next: 0,
            refused: 0,
            socket: None,
            moved: false,
            waiting: VecDeque::new(),
            sent: VecDeque::new(),
            delivered: 0,
            bytes: [0; 2],
        }
    }

    /// Adds an item to what is to be sent.
    pub(crate) fn push(&mut self, item: I) {
        self.waiting.push_back(Kept { item, delivered: false });
    }

    /// Returns the number of items that are not sent yet.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Returns true if what was sent leaves room for more.
    pub(crate) fn has_room(&self) -> bool {
        self.bytes[1] < UNSETTLED_BYTES
    }

    /// Returns true if every item counts as delivered.
    pub(crate) fn is_empty(&self) -> bool {
        self.delivered == self.sent.len() && self.waiting.iter().all(|kept| kept.delivered)
    }

    /// Gives back what is not delivered, in its order.
    pub(crate) fn take_back(&mut self) -> impl Iterator<Item = I> {
        let sent = self.sent.drain(..).map(|sent| (sent.item, sent.delivered));
        let waiting = self.waiting.drain(..).map(|kept| (kept.item, kept.delivered));
        sent.chain(waiting).filter(|(_, delivered)| !delivered).map(|(item, _)| item)
    }

    /// Returns how soon `deliver` has something to do though nothing comes.
    pub(crate) fn due(&self) -> Option<Duration> {
        match (self.is_empty(), self.sent.is_empty() && self.waiting.is_empty()) {
            (false, _) => Some(LOOK),
            (true, false) => Some(SELDOM),
            (true, true) => None,
        }
    }

    /// Sends what waits, as far as the other side takes it, and books what it has.
    ///
    /// # Errors
    /// No address takes anything, or a connection ended before all was delivered.
    pub(crate) fn deliver(&mut self, counters: &Counters) -> anyhow::Result<()> {
        self.attend(counters)?;
        while !self.waiting.is_empty() {
            self.connect()?;
            match self.send() {
                Ok(true) => {}
                // The rest goes once the other side has taken some.
                Ok(false) => break,
                Err(error) => self.ended(Ended::of(error), Last::Unsent, counters)?,
            }
            self.attend(counters)?;
        }
        Ok(())
    }

    /// Makes a message and hands it to the kernel. Returns false where that takes no more.
    fn send(&mut self) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(true) };
        if !socket.flush()? {
            return Ok(false);
        }
        let mut items = self.waiting.iter().map(|kept| &kept.item);
        let (message, count) = self.encode.message(self.protocol, &mut items);
        if !socket.send(message)? {
            return Ok(false);
        }
        let (at, end) = (clock::now(), socket.end());
        let acknowledged = (self.protocol == Protocol::Udp).then_some(at);
        for Kept { item, delivered } in self.waiting.drain(..count.clamp(1, self.waiting.len())) {
            let size = E::size(&item);
            self.bytes[usize::from(!delivered)] += size;
            self.delivered += usize::from(delivered);
            self.sent.push_back(Sent { item, size, at, acknowledged, end, delivered, again: delivered });
        }
        self.encode.sent(self.protocol, count);
        Ok(true)
    }

    /// Looks at what became of what was sent.
    fn attend(&mut self, counters: &Counters) -> anyhow::Result<()> {
        let Some(socket) = &mut self.socket else {
            // Those of a receiver that has moved: no bad news of them can come any more.
            self.book(u64::MAX, counters);
            return Ok(());
        };
        match socket.flush().and_then(|_| socket.acknowledged()) {
            Ok(end) => {
                self.book(end, counters);
                Ok(())
            }
            Err(error) => self.ended(Ended::of(error), Last::Sent, counters),
        }
    }

    /// Books what is delivered, of which the receiver has all up to `end`, and forgets what was kept long enough.
    fn book(&mut self, end: u64, counters: &Counters) {
        let now = clock::now();
        let mut settled = 0;
        for sent in self.sent.range_mut(self.delivered..).take_while(|sent| sent.end <= end) {
            let since = *sent.acknowledged.get_or_insert(now);
            if now.since(since) >= SETTLE {
                sent.delivered = true;
                self.bytes[0] += sent.size;
                self.bytes[1] -= sent.size;
                settled += 1;
            }
        }
        if settled > 0 {
            self.delivered += settled;
            self.refused = 0;
            counters.delivered(settled);
        }
        let keep = if self.protocol == Protocol::Tcp { KEEP_TCP } else { KEEP_UDP };
        while let Some(sent) = self.sent.front().filter(|sent| sent.delivered) {
            let long = sent.acknowledged.is_some_and(|since| now.since(since) >= keep);
            if !long && self.bytes[0] <= KEEP_BYTES {
                break;
            }
            self.bytes[0] -= sent.size;
            self.delivered -= 1;
            self.sent.pop_front();
        }
    }

    /// The connection has ended: what may be lost is to be sent again.
    ///
    /// # Errors
    /// It was not delivered, and there is no other address to try at once.
    fn ended(&mut self, ended: Ended, last: Last, counters: &Counters) -> anyhow::Result<()> {
        let end = self.socket.take().and_then(|socket| socket.last_acknowledged());
        let now = clock::now();
        let mut back = VecDeque::new();
        let (mut lost, mut delivered) = (last == Last::Unsent, 0);
        for sent in self.sent.drain(..) {
            let taken = sent.acknowledged.is_some() || end.is_some_and(|end| sent.end <= end);
            let again = match (self.protocol, ended.kind) {
                // It has read all that it acknowledged.
                (Protocol::Tcp, End::Closed) => !taken,
                (Protocol::Udp, End::Refused) => !sent.delivered || now.since(sent.at) < REFUSED,
                _ => true,
            };
            match (again, sent.delivered) {
                // Sent once more after it was delivered, it has been kept long enough.
                (true, true) if sent.again => {}
                (true, delivered) => {
                    lost |= !delivered;
                    back.push_back(Kept { item: sent.item, delivered });
                }
                (false, false) => delivered += 1,
                (false, true) => {}
            }
        }
        (self.delivered, self.bytes) = (0, [0; 2]);
        if delivered > 0 {
            self.refused = 0;
            counters.delivered(delivered);
        }
        let repeated = back.len();
        back.append(&mut self.waiting);
        self.waiting = back;
        if lost || ended.kind != End::Closed {
            self.next += 1;
            self.refused += 1;
        }
        if lost && (self.protocol == Protocol::Tcp || self.refused >= self.addresses.len()) {
            self.refused = 0;
            // The name may mean another address now.
            self.looked_up = None;
            return Err(anyhow!(ended.error).context(self.address.clone()));
        }
        if repeated > 0 {
            let reason = ended.error.to_string();
            tracing::info!(to = self.address, repeated, reason, "what may not have arrived is sent again");
        }
        Ok(())
    }

    /// Sees to it that there is a socket, of an address that the name means now.
    fn connect(&mut self) -> anyhow::Result<()> {
        self.follow_name()?;
        if self.moved && self.sent.iter().all(|sent| sent.acknowledged.is_some()) {
            self.socket = None;
            self.moved = false;
        }
        if self.socket.is_some() {
            return Ok(());
        }
        let mut last = anyhow!("the name has no address");
        for _ in 0..self.addresses.len() {
            let to = self.addresses[self.next % self.addresses.len()];
            match Socket::open(self.protocol, to) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.moved = false;
                    self.encode.begin(self.protocol);
                    return Ok(());
                }
                Err(error) => last = anyhow!(error).context(to.to_string()),
            }
            self.next += 1;
        }
        self.looked_up = None;
        Err(last.context(self.address.clone()))
    }

    /// Looks the name up when that is due.
    fn follow_name(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if self.looked_up.is_some_and(|at| now.since(at) < LOOK_UP) {
            return Ok(());
        }
        match (self.look_up)(&self.address) {
            Ok(found) if !found.is_empty() => {
                // The one in use stays in use as long as the name means it.
                let used = self.socket.as_ref().map(Socket::to);
                let place = used.and_then(|used| found.iter().position(|to| *to == used));
                self.moved = used.is_some() && place.is_none();
                if found != self.addresses {
                    self.next = place.unwrap_or(0);
                    self.addresses = found;
                }
            }
            // What was found before serves until the name is known again.
            _ if self.socket.is_some() => {}
            Ok(_) => return Err(anyhow!("the name has no address").context(self.address.clone())),
            Err(error) => return Err(anyhow!(error)).with_context(|| self.address.clone()),
        }
        self.looked_up = Some(now);
        Ok(())
    }
}
