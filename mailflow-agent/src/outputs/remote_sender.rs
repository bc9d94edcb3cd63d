//! Delivery to remote receivers over TCP and UDP. Items are retained until they are delivered, and for some
//! time after that.
//!
//! Neither protocol reports what a receiver has read. The sender uses what the kernel reports: acknowledged
//! bytes over TCP, and refused datagrams over UDP. An item that may be lost is sent again, so a receiver may
//! get it twice.

use std::{collections::VecDeque, io, net::SocketAddr, time::Duration};

use anyhow::{Context, anyhow};

use super::{
    protocol::Protocol,
    socket::{self, Disconnect, DisconnectKind, Socket},
    worker::SinkCounters,
};
use mailflow_engine::time::Time;
use mailflow_kernel::clock;

/// Interval of name lookups.
const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);
/// Time without an error after which a sent item counts as delivered; over TCP from its acknowledgement on. A
/// receiver that closes without reading reports it within this time.
const CONFIRM_DELAY: Duration = Duration::from_millis(100);
/// Interval of delivery checks.
const ACK_POLL_INTERVAL: Duration = Duration::from_millis(20);
/// Interval of delivery checks while all items are delivered.
const IDLE_POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Time for which delivered TCP items are retained. Data that a killed receiver has not read is lost, and its
/// kernel answers with a reset. The items are sent again then.
const TCP_RETENTION: Duration = Duration::from_secs(60);
/// Time for which delivered UDP items are retained. A failed neighbour is noticed after 3 s.
const UDP_RETENTION: Duration = Duration::from_secs(4);
/// Longest delay of an ICMP error after its datagram: receivers send one error a second.
const MAX_REFUSAL_DELAY: Duration = Duration::from_secs(1);
/// Largest size of retained delivered items, more than the TCP receive buffer of Linux (6 MB).
const MAX_RETAINED_BYTES: usize = 8 << 20;
/// Largest size of items that are sent and not delivered.
const MAX_UNCONFIRMED_BYTES: usize = 4 << 20;

/// Conversion of items to messages.
pub(crate) trait Encode<I: 'static>: Send + 'static {
    /// Starts a connection or a socket: the receiver has no state.
    fn begin_session(&mut self, protocol: Protocol);

    /// Returns a message with the first of `items` and the number of items in it, at least one.
    fn build_message(&mut self, protocol: Protocol, items: &mut dyn Iterator<Item = &I>) -> (Vec<u8>, usize);

    /// Records that the last message was sent with this number of items.
    fn mark_sent(&mut self, protocol: Protocol, items: usize);

    /// Returns the approximate size of an item in bytes.
    fn item_size(item: &I) -> usize;
}

/// Resolver of a `HOST:PORT`.
type Resolver = Box<dyn FnMut(&str) -> io::Result<Vec<SocketAddr>> + Send>;

/// Sender to one receiver, with its pending and retained items.
pub(crate) struct RemoteSender<I, E> {
    protocol: Protocol,
    /// `HOST:PORT` of the receiver.
    address: String,
    encoder: E,
    resolve: Resolver,
    addresses: Vec<SocketAddr>,
    resolved_at: Option<Time>,
    /// Index of the address that is used, or tried next.
    next_address: usize,
    /// Consecutive addresses that accepted nothing.
    failed_attempts: usize,
    socket: Option<Socket>,
    /// True if the name no longer resolves to the address of the socket.
    address_changed: bool,
    pending: VecDeque<PendingItem<I>>,
    /// Sent items, oldest first: the delivered ones, then the others.
    sent: VecDeque<SentItem<I>>,
    /// Number of delivered items in `sent`.
    delivered_count: usize,
    /// Sizes of the delivered items and of the others in `sent`.
    bytes: [usize; 2],
}

/// State of the current message when a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum MessageState {
    /// Accepted by the kernel.
    Sent,
    /// Refused by the kernel.
    Unsent,
}

/// Item to send.
struct PendingItem<I> {
    item: I,
    /// True if the item counts as delivered and is sent again.
    delivered: bool,
}

/// Item that was sent.
struct SentItem<I> {
    item: I,
    item_size: usize,
    /// Time of sending, and of the acknowledgement. Over UDP both are equal.
    sent_at: Time,
    acknowledged_at: Option<Time>,
    /// End of the item's message in the byte stream of the connection.
    end: u64,
    delivered: bool,
    /// True if the item was delivered before this transmission.
    resent: bool,
}

impl<I: Send + 'static, E: Encode<I>> RemoteSender<I, E> {
    /// Creates a sender to `address`, a `HOST:PORT`.
    pub(crate) fn new(protocol: Protocol, address: &str, encoder: E) -> Self {
        Self::with(protocol, address, encoder, Box::new(socket::resolve))
    }

    fn with(protocol: Protocol, address: &str, encoder: E, resolve: Resolver) -> Self {
        Self {
            protocol,
            address: address.to_owned(),
            encoder,
            resolve,
            addresses: Vec::new(),
            resolved_at: None,
            next_address: 0,
            failed_attempts: 0,
            socket: None,
            address_changed: false,
            pending: VecDeque::new(),
            sent: VecDeque::new(),
            delivered_count: 0,
            bytes: [0; 2],
        }
    }

    /// Appends an item to the pending ones.
    pub(crate) fn push(&mut self, item: I) {
        self.pending.push_back(PendingItem { item, delivered: false });
    }

    /// Returns the number of items that are not sent yet.
    pub(crate) fn pending_count(&self) -> usize {
        self.pending.len()
    }

    /// Returns true if the unconfirmed items leave space for more.
    pub(crate) fn can_accept(&self) -> bool {
        self.bytes[1] < MAX_UNCONFIRMED_BYTES
    }

    /// Returns true if every item counts as delivered.
    pub(crate) fn is_empty(&self) -> bool {
        self.delivered_count == self.sent.len() && self.pending.iter().all(|pending| pending.delivered)
    }

    /// Removes and returns the undelivered items in order.
    pub(crate) fn take_undelivered(&mut self) -> impl Iterator<Item = I> {
        let sent = self.sent.drain(..).map(|sent| (sent.item, sent.delivered));
        let pending = self.pending.drain(..).map(|pending| (pending.item, pending.delivered));
        sent.chain(pending).filter(|(_, delivered)| !delivered).map(|(item, _)| item)
    }

    /// Returns the time until the next delivery check, `None` without items.
    pub(crate) fn due(&self) -> Option<Duration> {
        match (self.is_empty(), self.sent.is_empty() && self.pending.is_empty()) {
            (false, _) => Some(ACK_POLL_INTERVAL),
            (true, false) => Some(IDLE_POLL_INTERVAL),
            (true, true) => None,
        }
    }

    /// Sends pending items as far as the receiver accepts them, and counts the delivered ones.
    ///
    /// # Errors
    /// No address accepts items, or a connection ended before all items were delivered.
    pub(crate) fn deliver(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        self.check_delivery(counters)?;
        while !self.pending.is_empty() {
            self.connect()?;
            match self.send() {
                Ok(true) => {}
                // The rest is sent when the receiver has accepted some bytes.
                Ok(false) => break,
                Err(error) => {
                    self.handle_disconnect(Disconnect::of(error), MessageState::Unsent, counters)?
                }
            }
            self.check_delivery(counters)?;
        }
        Ok(())
    }

    /// Sends one message. Returns false if the kernel accepts no more.
    fn send(&mut self) -> io::Result<bool> {
        let Some(socket) = &mut self.socket else { return Ok(true) };
        if !socket.flush()? {
            return Ok(false);
        }
        let mut items = self.pending.iter().map(|pending| &pending.item);
        let (message, count) = self.encoder.build_message(self.protocol, &mut items);
        if !socket.send(message)? {
            return Ok(false);
        }
        let (sent_at, end) = (clock::now(), socket.end());
        let acknowledged_at = (self.protocol == Protocol::Udp).then_some(sent_at);
        for PendingItem { item, delivered } in self.pending.drain(..count.clamp(1, self.pending.len())) {
            let item_size = E::item_size(&item);
            self.bytes[usize::from(!delivered)] += item_size;
            self.delivered_count += usize::from(delivered);
            self.sent.push_back(SentItem {
                item,
                item_size,
                sent_at,
                acknowledged_at,
                end,
                delivered,
                resent: delivered,
            });
        }
        self.encoder.mark_sent(self.protocol, count);
        Ok(true)
    }

    /// Checks which sent items are delivered.
    fn check_delivery(&mut self, counters: &SinkCounters) -> anyhow::Result<()> {
        let Some(socket) = &mut self.socket else {
            // The socket of a changed address is closed: no error can arrive any more.
            self.update_delivered(u64::MAX, counters);
            return Ok(());
        };
        match socket.flush().and_then(|_| socket.acknowledged()) {
            Ok(end) => {
                self.update_delivered(end, counters);
                Ok(())
            }
            Err(error) => self.handle_disconnect(Disconnect::of(error), MessageState::Sent, counters),
        }
    }

    /// Counts the delivered items, whose bytes are acknowledged up to `end`, and removes expired ones.
    fn update_delivered(&mut self, end: u64, counters: &SinkCounters) {
        let now = clock::now();
        let mut newly_delivered = 0;
        for sent in self.sent.range_mut(self.delivered_count..).take_while(|sent| sent.end <= end) {
            let since = *sent.acknowledged_at.get_or_insert(now);
            if now.since(since) >= CONFIRM_DELAY {
                sent.delivered = true;
                self.bytes[0] += sent.item_size;
                self.bytes[1] -= sent.item_size;
                newly_delivered += 1;
            }
        }
        if newly_delivered > 0 {
            self.delivered_count += newly_delivered;
            self.failed_attempts = 0;
            counters.count_delivered(newly_delivered);
        }
        let retention = if self.protocol == Protocol::Tcp { TCP_RETENTION } else { UDP_RETENTION };
        while let Some(sent) = self.sent.front().filter(|sent| sent.delivered) {
            let is_expired = sent.acknowledged_at.is_some_and(|since| now.since(since) >= retention);
            if !is_expired && self.bytes[0] <= MAX_RETAINED_BYTES {
                break;
            }
            self.bytes[0] -= sent.item_size;
            self.delivered_count -= 1;
            self.sent.pop_front();
        }
    }

    /// Handles the end of a connection: items that may be lost become pending again.
    ///
    /// # Errors
    /// Items may be lost, and no other address can be tried at once.
    fn handle_disconnect(
        &mut self,
        disconnect: Disconnect,
        message: MessageState,
        counters: &SinkCounters,
    ) -> anyhow::Result<()> {
        let end = self.socket.take().and_then(|socket| socket.last_acknowledged());
        let now = clock::now();
        let mut requeued = VecDeque::new();
        let (mut lost, mut delivered) = (message == MessageState::Unsent, 0);
        for sent in self.sent.drain(..) {
            let acknowledged = sent.acknowledged_at.is_some() || end.is_some_and(|end| sent.end <= end);
            let must_resend = match (self.protocol, disconnect.kind) {
                // The receiver has read everything that it acknowledged.
                (Protocol::Tcp, DisconnectKind::Closed) => !acknowledged,
                (Protocol::Udp, DisconnectKind::Refused) => {
                    !sent.delivered || now.since(sent.sent_at) < MAX_REFUSAL_DELAY
                }
                _ => true,
            };
            match (must_resend, sent.delivered) {
                // An item that was sent again after its delivery has been retained long enough.
                (true, true) if sent.resent => {}
                (true, delivered) => {
                    lost |= !delivered;
                    requeued.push_back(PendingItem { item: sent.item, delivered });
                }
                (false, false) => delivered += 1,
                (false, true) => {}
            }
        }
        (self.delivered_count, self.bytes) = (0, [0; 2]);
        if delivered > 0 {
            self.failed_attempts = 0;
            counters.count_delivered(delivered);
        }
        let repeated = requeued.len();
        requeued.append(&mut self.pending);
        self.pending = requeued;
        if lost || disconnect.kind != DisconnectKind::Closed {
            self.next_address += 1;
            self.failed_attempts += 1;
        }
        if lost && (self.protocol == Protocol::Tcp || self.failed_attempts >= self.addresses.len()) {
            self.failed_attempts = 0;
            // The name may resolve to another address now.
            self.resolved_at = None;
            return Err(anyhow!(disconnect.error).context(self.address.clone()));
        }
        if repeated > 0 {
            let reason = disconnect.error.to_string();
            tracing::info!(to = self.address, repeated, reason, "items that may be lost are sent again");
        }
        Ok(())
    }

    /// Ensures that there is a socket to a current address of the name.
    fn connect(&mut self) -> anyhow::Result<()> {
        self.resolve_if_due()?;
        if self.address_changed && self.sent.iter().all(|sent| sent.acknowledged_at.is_some()) {
            self.socket = None;
            self.address_changed = false;
        }
        if self.socket.is_some() {
            return Ok(());
        }
        let mut last_error = anyhow!("the name has no address");
        for _ in 0..self.addresses.len() {
            let to = self.addresses[self.next_address % self.addresses.len()];
            match Socket::open(self.protocol, to) {
                Ok(socket) => {
                    self.socket = Some(socket);
                    self.address_changed = false;
                    self.encoder.begin_session(self.protocol);
                    return Ok(());
                }
                Err(error) => last_error = anyhow!(error).context(to.to_string()),
            }
            self.next_address += 1;
        }
        self.resolved_at = None;
        Err(last_error.context(self.address.clone()))
    }

    /// Resolves the name if the last lookup is too old.
    fn resolve_if_due(&mut self) -> anyhow::Result<()> {
        let now = clock::now();
        if self.resolved_at.is_some_and(|resolved_at| now.since(resolved_at) < RESOLVE_INTERVAL) {
            return Ok(());
        }
        match (self.resolve)(&self.address) {
            Ok(resolved) if !resolved.is_empty() => {
                // The current address stays in use while the name resolves to it.
                let current = self.socket.as_ref().map(Socket::to);
                let position = current.and_then(|current| resolved.iter().position(|to| *to == current));
                self.address_changed = current.is_some() && position.is_none();
                if resolved != self.addresses {
                    self.next_address = position.unwrap_or(0);
                    self.addresses = resolved;
                }
            }
            // The previous addresses stay in use until a lookup succeeds.
            _ if self.socket.is_some() => {}
            Ok(_) => return Err(anyhow!("the name has no address").context(self.address.clone())),
            Err(error) => return Err(anyhow!(error)).with_context(|| self.address.clone()),
        }
        self.resolved_at = Some(now);
        Ok(())
    }
}
