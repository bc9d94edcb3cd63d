//! Fast parser of EVE flow lines in the usual form: compact, without escapes. It takes a fifth of the time
//! of the JSON parser.
//!
//! All other lines, and those with an error, are left to the JSON parser. Both parsers give the same result
//! for every line that this one reads.

use std::{borrow::Cow, net::IpAddr};

use super::line::{CowStr, EveCounters, EveFlowLine, EveTcp, MailflowFields};
use crate::offline::flowlog::text::{LogProtocol, LogTimestamp, MacAddress, Parsed, TcpFlags, TextValue};

/// Reads a line; `None` if it needs the JSON parser.
pub(crate) fn read(line: &[u8]) -> Option<EveFlowLine<'_>> {
    let mut from = Scanner(line);
    let flow = event(&mut from)?;
    from.0.is_empty().then_some(flow)
}

fn event<'a>(from: &mut Scanner<'a>) -> Option<EveFlowLine<'a>> {
    let mut seen = SeenFields::default();
    let (mut event_type, mut source, mut destination, mut proto, mut counters) =
        (None, None, None, None, None);
    let (mut src_port, mut dest_port, mut app_proto, mut app_proto_orig) = (None, None, None, None);
    let (mut tcp, mut mailflow, mut vlan) = (None, None, Vec::new());
    from.fields(|name, from| {
        match name {
            b"event_type" => event_type = Some(seen.once(0, from.word()?)?),
            b"src_ip" => source = Some(seen.once(1, from.text::<IpAddr>()?)?),
            b"src_port" => src_port = seen.once(2, from.nullable(Scanner::integer)?)?,
            b"dest_ip" => destination = Some(seen.once(3, from.text::<IpAddr>()?)?),
            b"dest_port" => dest_port = seen.once(4, from.nullable(Scanner::integer)?)?,
            b"proto" => proto = Some(seen.once(5, from.text::<LogProtocol>()?)?),
            b"app_proto" => app_proto = seen.once(6, from.nullable(Scanner::word)?)?,
            b"app_proto_orig" => app_proto_orig = seen.once(7, from.nullable(Scanner::word)?)?,
            b"flow" => counters = Some(seen.once(8, flow(from)?)?),
            b"tcp" => tcp = seen.once(9, from.nullable(tcp_flags)?)?,
            b"mailflow" => mailflow = seen.once(10, from.nullable(extra)?)?,
            b"vlan" => vlan = seen.once(11, from.nullable(tags)?)?.unwrap_or_default(),
            _ => from.skip_value()?,
        }
        Some(())
    })?;
    Some(EveFlowLine {
        event_type: event_type?,
        src_ip: source?,
        src_port,
        dest_ip: destination?,
        dest_port,
        proto: proto?,
        app_proto,
        app_proto_orig,
        vlan,
        flow: counters?,
        tcp,
        mailflow,
    })
}

/// Reads a list of VLAN tags, or one tag.
fn tags(from: &mut Scanner<'_>) -> Option<Vec<u16>> {
    if from.0.first() != Some(&b'[') {
        return Some(vec![from.integer()?]);
    }
    from.byte(b'[')?;
    if from.0.first() == Some(&b']') {
        from.byte(b']')?;
        return Some(Vec::new());
    }
    let mut tags = vec![from.integer()?];
    while from.0.first() == Some(&b',') {
        from.byte(b',')?;
        tags.push(from.integer()?);
    }
    from.byte(b']')?;
    Some(tags)
}

fn flow<'a>(from: &mut Scanner<'a>) -> Option<EveCounters<'a>> {
    let mut seen = SeenFields::default();
    let (mut packets_up, mut bytes_up, mut packets_down, mut bytes_down) = (None, None, None, None);
    let (mut start, mut end, mut state, mut reason) = (None, None, None, None);
    from.fields(|name, from| {
        match name {
            b"pkts_toserver" => packets_up = Some(seen.once(0, from.nullable(Scanner::number)?)?),
            b"bytes_toserver" => bytes_up = Some(seen.once(1, from.nullable(Scanner::number)?)?),
            b"pkts_toclient" => packets_down = Some(seen.once(2, from.nullable(Scanner::number)?)?),
            b"bytes_toclient" => bytes_down = Some(seen.once(3, from.nullable(Scanner::number)?)?),
            b"start" => start = Some(seen.once(4, from.text::<LogTimestamp>()?)?),
            b"end" => end = Some(seen.once(5, from.text::<LogTimestamp>()?)?),
            b"state" => state = seen.once(6, from.nullable(Scanner::word)?)?,
            b"reason" => reason = seen.once(7, from.nullable(Scanner::word)?)?,
            _ => from.skip_value()?,
        }
        Some(())
    })?;
    Some(EveCounters {
        pkts_toserver: packets_up?,
        bytes_toserver: bytes_up?,
        pkts_toclient: packets_down?,
        bytes_toclient: bytes_down?,
        start: start?,
        end: end?,
        state,
        reason,
    })
}

fn extra<'a>(from: &mut Scanner<'a>) -> Option<MailflowFields<'a>> {
    let (mut seen, mut extra) = (SeenFields::default(), MailflowFields::default());
    from.fields(|name, from| {
        match name {
            b"payload_up" => extra.payload_up = seen.once(0, from.nullable(Scanner::number)?)?,
            b"payload_down" => extra.payload_down = seen.once(1, from.nullable(Scanner::number)?)?,
            b"data_packets_up" => extra.data_packets_up = seen.once(2, from.nullable(Scanner::number)?)?,
            b"data_packets_down" => {
                extra.data_packets_down = seen.once(3, from.nullable(Scanner::number)?)?
            }
            b"data_bytes_up" => extra.data_bytes_up = seen.once(4, from.nullable(Scanner::number)?)?,
            b"data_bytes_down" => extra.data_bytes_down = seen.once(5, from.nullable(Scanner::number)?)?,
            b"messages_estimated" => {
                extra.messages_estimated = seen.once(6, from.nullable(Scanner::integer)?)?
            }
            b"messages_rejected" => {
                extra.messages_rejected = seen.once(13, from.nullable(Scanner::integer)?)?
            }
            b"app_evidence" => extra.app_evidence = seen.once(7, from.nullable(Scanner::word)?)?,
            b"complete" => extra.complete = seen.once(8, from.nullable(Scanner::boolean)?)?,
            b"syn" => extra.syn = seen.once(9, from.nullable(Scanner::boolean)?)?,
            b"synack" => extra.synack = seen.once(10, from.nullable(Scanner::boolean)?)?,
            b"mptcp_join" => extra.mptcp_join = seen.once(11, from.nullable(Scanner::boolean)?)?,
            b"mac" => extra.mac = seen.once(12, from.nullable(Scanner::text::<MacAddress>)?)?,
            _ => from.skip_value()?,
        }
        Some(())
    })?;
    Some(extra)
}

fn tcp_flags(from: &mut Scanner<'_>) -> Option<EveTcp> {
    let (mut seen, mut tcp) = (SeenFields::default(), EveTcp::default());
    from.fields(|name, from| {
        match name {
            b"tcp_flags_ts" => tcp.tcp_flags_ts = seen.once(0, from.nullable(Scanner::text::<TcpFlags>)?)?,
            b"tcp_flags_tc" => tcp.tcp_flags_tc = seen.once(1, from.nullable(Scanner::text::<TcpFlags>)?)?,
            _ => from.skip_value()?,
        }
        Some(())
    })?;
    Some(tcp)
}

/// Fields of an object that were read.
#[derive(Default)]
struct SeenFields(u32);

impl SeenFields {
    /// Returns `value`, unless the field was read before: the JSON parser reports duplicate fields.
    #[inline]
    fn once<T>(&mut self, field: u32, value: T) -> Option<T> {
        let before = self.0;
        self.0 |= 1 << field;
        (before & 1 << field == 0).then_some(value)
    }
}

/// Rest of a line.
struct Scanner<'a>(&'a [u8]);

impl<'a> Scanner<'a> {
    /// Reads an object; `read` takes the value of each field.
    #[inline]
    fn fields(&mut self, mut read: impl FnMut(&[u8], &mut Self) -> Option<()>) -> Option<()> {
        self.byte(b'{')?;
        loop {
            let name = self.string()?;
            self.byte(b':')?;
            read(name, self)?;
            match self.0.split_first()? {
                (b',', rest) => self.0 = rest,
                (b'}', rest) => {
                    self.0 = rest;
                    return Some(());
                }
                _ => return None,
            }
        }
    }

    #[inline]
    fn byte(&mut self, expected: u8) -> Option<()> {
        let (byte, rest) = self.0.split_first()?;
        self.0 = rest;
        (*byte == expected).then_some(())
    }

    fn literal(&mut self, expected: &[u8]) -> Option<()> {
        self.0 = self.0.strip_prefix(expected)?;
        Some(())
    }

    /// Reads a value, or null.
    #[inline]
    fn nullable<T>(&mut self, read: impl FnOnce(&mut Self) -> Option<T>) -> Option<Option<T>> {
        if self.0.first() == Some(&b'n') {
            self.literal(b"null")?;
            return Some(None);
        }
        read(self).map(Some)
    }

    /// Reads a string without escapes.
    #[inline]
    fn string(&mut self) -> Option<&'a [u8]> {
        self.byte(b'"')?;
        let end = plain_string_length(self.0)?;
        let (text, rest) = self.0.split_at_checked(end)?;
        self.0 = rest.get(1..)?;
        Some(text)
    }

    #[inline]
    fn str(&mut self) -> Option<&'a str> {
        std::str::from_utf8(self.string()?).ok()
    }

    #[inline]
    fn word(&mut self) -> Option<CowStr<'a>> {
        Some(CowStr(Cow::Borrowed(self.str()?)))
    }

    #[inline]
    fn text<T: TextValue>(&mut self) -> Option<Parsed<T>> {
        T::parse(self.str()?).map(Parsed)
    }

    /// Reads an unsigned integer in the form of JSON.
    #[inline]
    fn number(&mut self) -> Option<u64> {
        /// Number of digits that always fit 64 bits.
        const MAX_DIGITS: usize = 18;
        let (mut number, mut digits) = (0, 0);
        while let Some(digit @ b'0'..=b'9') = self.0.get(digits) {
            number = number * 10 + u64::from(digit - b'0');
            digits += 1;
            if digits > MAX_DIGITS {
                return None;
            }
        }
        if digits == 0 || (digits > 1 && self.0.first() == Some(&b'0')) {
            return None;
        }
        self.0 = self.0.get(digits..)?;
        matches!(self.0.first(), Some(b',' | b'}' | b']')).then_some(number)
    }

    #[inline]
    fn integer<T: TryFrom<u64>>(&mut self) -> Option<T> {
        T::try_from(self.number()?).ok()
    }

    #[inline]
    fn boolean(&mut self) -> Option<bool> {
        let is = self.0.first() == Some(&b't');
        self.literal(if is { b"true" } else { b"false" })?;
        Some(is)
    }

    /// Skips a value that is not used.
    fn skip_value(&mut self) -> Option<()> {
        match self.0.first()? {
            b'"' => self.string().map(drop),
            b'0'..=b'9' => self.number().map(drop),
            b't' | b'f' => self.boolean().map(drop),
            b'n' => self.literal(b"null"),
            _ => None,
        }
    }
}

/// Returns the length of the string that begins here, if it is of printable ASCII without escapes.
#[inline]
fn plain_string_length(text: &[u8]) -> Option<usize> {
    /// Returns a word of eight equal bytes.
    const fn each(byte: u8) -> u64 {
        u64::from_ne_bytes([byte; 8])
    }
    // In each of these words the lowest marked byte is a real match. Higher ones may be wrong, because of the
    // borrow.
    let zero = |word: u64| word.wrapping_sub(each(1)) & !word;
    let (mut words, mut at) = (text.chunks_exact(8), 0);
    for word in &mut words {
        let word = u64::from_le_bytes(word.try_into().ok()?);
        let control = word.wrapping_sub(each(0x20)) & !word;
        let found = (zero(word ^ each(b'"')) | zero(word ^ each(b'\\')) | control | word) & each(0x80);
        if found != 0 {
            at += found.trailing_zeros() as usize / 8;
            return (text.get(at) == Some(&b'"')).then_some(at);
        }
        at += 8;
    }
    for byte in words.remainder() {
        match byte {
            b'"' => return Some(at),
            b'\\' | 0..0x20 | 0x80.. => return None,
            _ => at += 1,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::offline::flowlog::json;

    const OWN: &str = r#"{"timestamp":"2026-01-05T00:00:00.006332+0000","event_type":"flow","flow_id":1,"host":"gw1","in_iface":"lan0","src_ip":"10.0.85.88","src_port":1024,"dest_ip":"2001:db8::1","dest_port":587,"proto":"TCP","app_proto":"smtp+starttls","flow":{"pkts_toserver":29,"bytes_toserver":13588,"pkts_toclient":null,"bytes_toclient":3146,"start":"2026-01-05T00:00:00.000000+0000","end":"2026-01-05T00:00:00.006332+0000","age":19,"state":"closed","reason":"closed"},"mailflow":{"payload_up":12080,"payload_down":1794,"data_packets_up":20,"data_packets_down":13,"data_bytes_up":13120,"data_bytes_down":2470,"messages_estimated":1,"messages_rejected":2,"app_evidence":"server_greeting","complete":true,"syn":true,"synack":false,"mptcp_join":null,"mac":"02:00:00:00:00:01"}}"#;
    const SURICATA: &str = r#"{"timestamp":"2026-01-05T00:00:00.006332+0000","flow_id":1,"event_type":"flow","src_ip":"10.0.85.88","src_port":1024,"dest_ip":"9.9.9.9","dest_port":25,"proto":"TCP","app_proto":"smtp","app_proto_orig":"tls","flow":{"pkts_toserver":29,"bytes_toserver":13588,"pkts_toclient":4,"bytes_toclient":3146,"start":"2026-01-05T00:00:00.000000+0000","end":"2026-01-05T00:00:00.006332+0000","age":19,"state":"closed","reason":"timeout","alerted":false},"tcp":{"tcp_flags":"1b","tcp_flags_ts":"1b","tcp_flags_tc":"1a","syn":true,"state":"closed"}}"#;

    /// Checks that both parsers agree on a line that the fast one reads. Returns true if it does read it.
    fn agree(line: &[u8]) -> bool {
        let fast = read(line).map(|flow| format!("{flow:?}"));
        let parsed = json::read::<EveFlowLine<'_>>(line).map(|flow| format!("{flow:?}"));
        if let Some(fast) = &fast {
            assert_eq!(Ok(fast), parsed.as_ref(), "{}", String::from_utf8_lossy(line));
        }
        fast.is_some()
    }

    #[test]
    fn usual_lines_are_read_by_the_fast_parser() {
        for line in [OWN, SURICATA] {
            assert!(agree(line.as_bytes()));
        }
        for (tags, fast) in [
            ("[7]", true),
            ("[7,100]", true),
            ("[]", true),
            ("9", true),
            ("null", true),
            ("[7", false),
            ("[-1]", false),
            ("[7,]", false),
            ("[null]", false),
            ("7]", false),
            ("[70000]", false),
        ] {
            let tagged = OWN.replace("\"proto\"", &format!("\"vlan\":{tags},\"proto\""));
            assert_eq!(agree(tagged.as_bytes()), fast, "{tags}");
        }
    }

    #[test]
    fn both_parsers_agree_on_lines_with_one_change() {
        let mut read = 0;
        for line in [OWN, SURICATA] {
            for index in 0..line.len() {
                for byte in *b"\"\\{}[]:,.-+0aZ 9\x00\x1f\x7f\x80\xc3" {
                    let mut changed = line.as_bytes().to_vec();
                    changed[index] = byte;
                    read += usize::from(agree(&changed));
                    changed.insert(index, line.as_bytes()[index]);
                    read += usize::from(agree(&changed));
                }
                let mut cut = line.as_bytes().to_vec();
                cut.remove(index);
                agree(&cut);
                agree(&line.as_bytes()[..index]);
            }
        }
        assert!(read > 1_000, "{read}");
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        /// Fields in any order, some of them repeated or missing, with values of any type.
        #[test]
        fn both_parsers_agree_on_fields_of_any_type(
            fields in prop::collection::vec((0..14_usize, 0..13_usize), 1..16),
        ) {
            const NAMES: [&str; 14] = [
                "event_type", "src_ip", "src_port", "dest_ip", "dest_port", "proto", "app_proto", "flow",
                "mailflow", "tcp", "vlan", "other", "app_proto_orig", "",
            ];
            const FLOW: &str = r#"{"pkts_toserver":1,"bytes_toserver":18446744073709551615,"pkts_toclient":0,"bytes_toclient":01,"start":"1795231860.1","end":"2026-01-05T00:00:00.006332+0000"}"#;
            let values = [
                "\"flow\"", "\"10.0.0.1\"", "25", "\"2001:db8::1\"", "65536", "\"TCP\"", "null", FLOW, "{}", "-1",
                "1.5", "true", r#"{"syn":true,"mac":null,"tcp_flags_ts":"1b"}"#,
            ];
            // Most fields have a value of their own type.
            let value = |name: usize, value: usize| if value < 10 { values[name.min(12)] } else { values[value] };
            let fields: Vec<_> = fields.iter().map(|(name, of)| format!("\"{}\":{}", NAMES[*name], value(*name, *of))).collect();
            agree(format!("{{{}}}", fields.join(",")).as_bytes());
        }

        #[test]
        fn a_plain_string_ends_at_its_quote(text in prop::collection::vec(any::<u8>(), 0..40)) {
            let end = text.iter().position(|byte| matches!(byte, b'"' | b'\\' | 0..0x20 | 0x80..));
            prop_assert_eq!(plain_string_length(&text), end.filter(|end| text[*end] == b'"'));
        }
    }
}
