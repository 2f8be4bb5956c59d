//! Lets clients in that send a URL where HTTP/2 wants a host: clients of etcd 3.4 say
//! `:authority: http://10.0.0.1:2379` when they ask one member for its status or hash. Go's server
//! does not mind; ours would end the stream with PROTOCOL_ERROR before anybody sees the request.
//!
//! Nothing here reads the authority, so the characters that it may not hold are exchanged for some
//! that it may, of the same length in HPACK's Huffman code (RFC 7541, appendix B): `http://` turns
//! into `httpB3-`, in place, and no length changes anywhere. Each of the two bytes concerned can be
//! exchanged without knowing what follows it. Such clients send the authority as a literal
//! once, with the first request of a connection; what comes after that is never looked at.

/// How a client opens an HTTP/2 connection (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length (24 bits), type, flags, stream.
const FRAME_HEADER_BYTES: usize = 9;
/// Type of the frame that opens a request.
const HEADERS: u8 = 1;
/// Literal with incremental indexing whose name is entry 1 of the static table: `:authority`.
const LITERAL_AUTHORITY: u8 = 0x41;
/// Says that the string, whose length is in the other bits, is Huffman-coded.
const HUFFMAN: u8 = 0x80;
/// `http:` and the first three bits of what follows; then the rest of `//` but for its last bit.
const URL: [u8; 5] = [0x9d, 0x29, 0xae, 0xe3, 0x0c];
/// What the last two of them turn into: `B` for `:`, and `3-` for `//`.
const HOST: [u8; 2] = [0xeb, 0x2b];

/// Watches the first bytes of one connection.
#[derive(Debug)]
pub(super) struct LenientAuthority {
    state: State,
}

#[derive(Debug)]
enum State {
    /// So many bytes of the preface were seen.
    Preface(usize),
    /// So many bytes of a frame's header were seen, and what they said.
    FrameHeader { seen: usize, length: usize, kind: u8 },
    /// So many bytes are left of a frame that does not matter.
    Other(usize),
    /// So many bytes are left of the first request's headers, and so many matched so far.
    Headers { left: usize, matched: usize },
    /// Not HTTP/2, or past the first request.
    Done,
}

impl LenientAuthority {
    pub(super) fn new() -> LenientAuthority {
        LenientAuthority { state: State::Preface(0) }
    }

    /// Takes the connection's next bytes and repairs them.
    pub(super) fn repair(&mut self, bytes: &mut [u8]) {
        for byte in bytes {
            if matches!(self.state, State::Done) {
                return;
            }
            self.take(byte);
        }
    }

    fn take(&mut self, byte: &mut u8) {
        self.state = match self.state {
            State::Done => State::Done,
            State::Preface(seen) if PREFACE[seen] != *byte => State::Done,
            State::Preface(seen) if seen + 1 < PREFACE.len() => State::Preface(seen + 1),
            State::Preface(_) => NEXT_FRAME,
            State::FrameHeader { seen, length, kind } => {
                let length = if seen < 3 { length << 8 | usize::from(*byte) } else { length };
                let kind = if seen == 3 { *byte } else { kind };
                match (seen + 1 < FRAME_HEADER_BYTES, kind) {
                    (true, _) => State::FrameHeader { seen: seen + 1, length, kind },
                    (false, HEADERS) => State::Headers { left: length, matched: 0 }.unless_empty(),
                    (false, _) => State::Other(length).unless_empty(),
                }
            }
            State::Other(left) => State::Other(left - 1).unless_empty(),
            State::Headers { left, matched } => {
                let matched = next_match(matched, byte);
                State::Headers { left: left - 1, matched }.unless_empty()
            }
        };
    }
}

/// No byte of its header was seen.
const NEXT_FRAME: State = State::FrameHeader { seen: 0, length: 0, kind: 0 };

impl State {
    fn unless_empty(self) -> State {
        match self {
            State::Other(0) => NEXT_FRAME,
            State::Headers { left: 0, .. } => State::Done,
            state => state,
        }
    }
}

/// How many bytes of the literal are matched with this one; exchanges the last two.
fn next_match(matched: usize, byte: &mut u8) -> usize {
    match matched {
        1 if *byte & HUFFMAN != 0 => 2,
        2..=6 if *byte == URL[matched - 2] => {
            if matched >= 5 {
                *byte = HOST[matched - 5];
            }
            // Once is enough: 7 stands for "found".
            matched + 1
        }
        7 => 7,
        _ => usize::from(*byte == LITERAL_AUTHORITY),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// "http://127.0.0.1:29379" as Go's HPACK encoder writes it.
    const GO_AUTHORITY: [u8; 19] = [
        0x41, 0x91, 0x9d, 0x29, 0xae, 0xe3, 0x0c, 0x08, 0x9d, 0x5c, 0x0b, 0x81, 0x70, 0xdc, 0x13,
        0x32, 0xeb, 0x2f, 0x3f,
    ];

    fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len()).expect("short").to_be_bytes();
        [&length[1..], &[kind, 4, 0, 0, 0, 1], payload].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frames.concat()].concat()
    }

    fn repaired(bytes: &[u8], first_read: usize) -> Vec<u8> {
        let mut bytes = bytes.to_vec();
        let mut authority = LenientAuthority::new();
        let (first, second) = bytes.split_at_mut(first_read);
        authority.repair(first);
        authority.repair(second);
        bytes
    }

    fn positions_of_change(before: &[u8], after: &[u8]) -> Vec<usize> {
        (0..before.len()).filter(|at| before[*at] != after[*at]).collect()
    }

    #[test]
    fn two_bytes_of_a_url_are_exchanged_wherever_the_reads_are_cut() {
        let headers = [&[0x83, 0x86], GO_AUTHORITY.as_slice()].concat();
        let bytes = connection(&[frame(4, &[]), frame(1, &headers), frame(0, &GO_AUTHORITY)]);
        let url = PREFACE.len() + 9 + 9 + 2 + 5;
        for first_read in 0..=bytes.len() {
            let after = repaired(&bytes, first_read);
            assert_eq!(positions_of_change(&bytes, &after), [url, url + 1], "cut at {first_read}");
            assert_eq!((after[url], after[url + 1]), (0xeb, 0x2b));
        }
    }

    #[test]
    fn only_the_first_request_is_looked_at() {
        let bytes = connection(&[frame(1, &[0x83]), frame(1, &GO_AUTHORITY)]);
        assert_eq!(repaired(&bytes, 0), bytes);
    }

    #[test]
    fn hosts_and_http_1_stay_as_they_are() {
        let host = [0x41, 0x8a, 0x08, 0x9d, 0x5c, 0x0b, 0x81, 0x70, 0xdc, 0x13, 0x32, 0xeb];
        let bytes = connection(&[frame(1, &host)]);
        assert_eq!(repaired(&bytes, 0), bytes);
        let http_1 = [b"GET /health HTTP/1.1\r\n".as_slice(), &GO_AUTHORITY].concat();
        assert_eq!(repaired(&http_1, 0), http_1);
    }
}
