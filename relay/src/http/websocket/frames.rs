//! WebSocket messages out of the bytes that a client sends (RFC 6455, with permessage-deflate of RFC 7692). The
//! library reads headers; what they may say at this place is decided here. Pure.

use std::io::Cursor;

use bytes::{Buf, BytesMut};
use flate2::{Decompress, FlushDecompress, Status};
use lekiwi_relay_core::gateway::MAX_REQUEST_BYTES;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// What a client said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Incoming {
    /// A message in JSON.
    Text(Vec<u8>),
    /// A message in CBOR.
    Binary(Vec<u8>),
    /// It wants to know whether we are there.
    Ping(Vec<u8>),
    /// It is there.
    Pong,
    /// It goes.
    Close,
}

/// What a client must not say; the connection ends with this code and reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Violation {
    /// What the client is told as a number.
    pub code: CloseCode,
    /// What it is told in words: what was expected.
    pub reason: &'static str,
}

fn violation<T>(code: CloseCode, reason: &'static str) -> Result<T, Violation> {
    Err(Violation { code, reason })
}

#[derive(Debug)]
struct Partial {
    text: bool,
    compressed: bool,
    payload: Vec<u8>,
}

/// Takes bytes as they come.
#[derive(Debug)]
pub struct Decoder {
    bytes: BytesMut,
    /// A message of which more is to come.
    partial: Option<Partial>,
    deflate: bool,
}

impl Decoder {
    /// Nothing has come yet; with `deflate` messages may be compressed.
    #[must_use]
    pub fn new(deflate: bool) -> Self {
        Self {
            bytes: BytesMut::new(),
            partial: None,
            deflate,
        }
    }

    /// Where new bytes go.
    pub fn buffer(&mut self) -> &mut BytesMut {
        &mut self.bytes
    }

    /// The next thing that the client said, once all of it is there.
    ///
    /// # Errors
    /// When the client breaks the protocol, or says too much.
    pub fn next_incoming(&mut self) -> Result<Option<Incoming>, Violation> {
        loop {
            let mut cursor = Cursor::new(&self.bytes[..]);
            let header = match FrameHeader::parse(&mut cursor) {
                Ok(Some(header)) => header,
                Ok(None) => {
                    if self.bytes.is_empty() {
                        // An idle client takes no memory for what it may say.
                        self.bytes = BytesMut::new();
                    }
                    return Ok(None);
                }
                Err(_) => return violation(CloseCode::Protocol, "expected a known kind of frame"),
            };
            let (start, (header, length)) = (cursor.position() as usize, header);
            let so_far = self
                .partial
                .as_ref()
                .map_or(0, |partial| partial.payload.len());
            if length > (MAX_REQUEST_BYTES - so_far.min(MAX_REQUEST_BYTES)) as u64 {
                return violation(CloseCode::Size, "expected a shorter message");
            }
            let length = length as usize;
            self.check(&header, length)?;
            if self.bytes.len() < start + length {
                return Ok(None);
            }
            self.bytes.advance(start);
            let mut payload = self.bytes.split_to(length).to_vec();
            if let Some(mask) = header.mask {
                for (byte, mask) in payload.iter_mut().zip(mask.iter().cycle()) {
                    *byte ^= mask;
                }
            }
            if let Some(incoming) = self.take(&header, payload)? {
                return Ok(Some(incoming));
            }
        }
    }

    fn check(&self, header: &FrameHeader, length: usize) -> Result<(), Violation> {
        let begins = matches!(header.opcode, OpCode::Data(Data::Text | Data::Binary));
        if header.rsv2 || header.rsv3 || header.rsv1 && !(self.deflate && begins) {
            return violation(CloseCode::Protocol, "expected reserved bits to be 0");
        }
        if header.mask.is_none() {
            return violation(CloseCode::Protocol, "expected a masked frame");
        }
        match header.opcode {
            OpCode::Control(_) if !header.is_final || length > 125 => violation(
                CloseCode::Protocol,
                "expected a control frame of at most 125 bytes",
            ),
            OpCode::Data(Data::Continue) if self.partial.is_none() => {
                violation(CloseCode::Protocol, "expected the begin of a message")
            }
            OpCode::Data(Data::Text | Data::Binary) if self.partial.is_some() => {
                violation(CloseCode::Protocol, "expected the rest of a message")
            }
            _ => Ok(()),
        }
    }

    fn take(
        &mut self,
        header: &FrameHeader,
        payload: Vec<u8>,
    ) -> Result<Option<Incoming>, Violation> {
        let partial = match header.opcode {
            OpCode::Control(Control::Ping) => return Ok(Some(Incoming::Ping(payload))),
            OpCode::Control(Control::Pong) => return Ok(Some(Incoming::Pong)),
            OpCode::Control(_) => return Ok(Some(Incoming::Close)),
            OpCode::Data(Data::Continue) => {
                let Some(mut partial) = self.partial.take() else {
                    return Ok(None);
                };
                partial.payload.extend_from_slice(&payload);
                partial
            }
            OpCode::Data(data) => Partial {
                text: data == Data::Text,
                compressed: header.rsv1,
                payload,
            },
        };
        if !header.is_final {
            self.partial = Some(partial);
            return Ok(None);
        }
        let payload = if partial.compressed {
            inflate(partial.payload)?
        } else {
            partial.payload
        };
        Ok(Some(if partial.text {
            Incoming::Text(payload)
        } else {
            Incoming::Binary(payload)
        }))
    }
}

/// A message by itself, as was agreed on; bounded, whatever it would become.
fn inflate(mut payload: Vec<u8>) -> Result<Vec<u8>, Violation> {
    payload.extend_from_slice(&[0, 0, 0xff, 0xff]);
    let mut inflated = Vec::with_capacity(MAX_REQUEST_BYTES + 1);
    let mut decompress = Decompress::new(false);
    match decompress.decompress_vec(&payload, &mut inflated, FlushDecompress::Sync) {
        Ok(_) if inflated.len() > MAX_REQUEST_BYTES => {
            violation(CloseCode::Size, "expected a shorter message")
        }
        Ok(Status::Ok | Status::StreamEnd) if decompress.total_in() == payload.len() as u64 => {
            inflated.shrink_to_fit();
            Ok(inflated)
        }
        Ok(_) | Err(_) => violation(CloseCode::Invalid, "expected deflated data"),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::live;

    fn masked(opcode: OpCode, is_final: bool, rsv1: bool, payload: &[u8]) -> Vec<u8> {
        let mask = [1, 2, 3, 4];
        let header = FrameHeader {
            is_final,
            rsv1,
            opcode,
            mask: Some(mask),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(b, m)| b ^ m));
        bytes
    }

    fn decode(deflate: bool, bytes: &[u8]) -> Result<Vec<Incoming>, String> {
        let mut decoder = Decoder::new(deflate);
        let mut said = Vec::new();
        // Byte by byte, as the worst network would bring it.
        for byte in bytes {
            decoder.buffer().extend_from_slice(&[*byte]);
            while let Some(incoming) = decoder.next_incoming().map_err(|v| v.to_string())? {
                said.push(incoming);
            }
        }
        Ok(said)
    }

    const TEXT: OpCode = OpCode::Data(Data::Text);
    const MORE: OpCode = OpCode::Data(Data::Continue);
    const PING: OpCode = OpCode::Control(Control::Ping);

    #[test]
    fn messages_come_whole_with_control_frames_in_between() {
        let bytes = [
            masked(TEXT, false, false, b"ab"),
            masked(PING, true, false, b"x"),
            masked(MORE, true, false, b"c"),
            masked(OpCode::Control(Control::Close), true, false, &[3, 232]),
        ];
        assert_eq!(
            decode(false, &bytes.concat()).unwrap(),
            [
                Incoming::Ping(b"x".to_vec()),
                Incoming::Text(b"abc".to_vec()),
                Incoming::Close
            ]
        );
    }

    #[test]
    fn what_breaks_the_protocol_is_refused() {
        let mut unmasked = masked(TEXT, true, false, b"a");
        unmasked[1] &= 0x7f;
        let mut reserved = masked(TEXT, true, false, b"a");
        reserved[0] |= 0x20;
        let bomb = {
            let sent = live::frame(TEXT, &vec![b' '; 100_000], true);
            let header = FrameHeader::parse(&mut Cursor::new(&sent[..]))
                .unwrap()
                .unwrap();
            let payload = &sent[sent.len() - header.1 as usize..];
            masked(TEXT, true, true, payload)
        };
        for (deflate, bytes, expected) in [
            (false, unmasked, "expected a masked frame"),
            (false, reserved, "expected reserved bits to be 0"),
            (
                false,
                masked(TEXT, true, true, b"a"),
                "expected reserved bits to be 0",
            ),
            (
                true,
                masked(PING, true, true, b"a"),
                "expected reserved bits to be 0",
            ),
            (
                false,
                masked(MORE, true, false, b"a"),
                "expected the begin of a message",
            ),
            (
                false,
                [
                    masked(TEXT, false, false, b"a"),
                    masked(TEXT, true, false, b"b"),
                ]
                .concat(),
                "expected the rest of a message",
            ),
            (
                false,
                masked(PING, false, false, b"a"),
                "expected a control frame of at most 125 bytes",
            ),
            (
                false,
                masked(TEXT, true, false, &[b' '; MAX_REQUEST_BYTES + 1]),
                "expected a shorter message",
            ),
            (
                false,
                [
                    masked(TEXT, false, false, &[b' '; MAX_REQUEST_BYTES]),
                    masked(MORE, true, false, b"a"),
                ]
                .concat(),
                "expected a shorter message",
            ),
            (true, bomb, "expected a shorter message"),
            (
                true,
                masked(TEXT, true, true, &[0xff, 0xff, 0xff]),
                "expected deflated data",
            ),
            (
                false,
                vec![0x83, 0x80, 0, 0, 0, 0],
                "expected a known kind of frame",
            ),
        ] {
            let said = decode(deflate, &bytes);
            assert_eq!(said, Err(expected.to_owned()));
        }
    }

    #[test]
    fn what_we_compress_is_read_back() {
        let long: Vec<u8> = (0..9_000_u32)
            .flat_map(|n| n.to_string().into_bytes())
            .collect();
        for payload in [&b"short"[..], &[b'x'; 5_000], &long[..MAX_REQUEST_BYTES]] {
            let sent = live::frame(TEXT, payload, true);
            let (header, length) = FrameHeader::parse(&mut Cursor::new(&sent[..]))
                .unwrap()
                .unwrap();
            assert_eq!(header.rsv1, payload.len() > 100);
            let payload_sent = &sent[sent.len() - length as usize..];
            let bytes = masked(TEXT, true, header.rsv1, payload_sent);
            assert_eq!(
                decode(true, &bytes),
                Ok(vec![Incoming::Text(payload.to_vec())])
            );
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_is_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), deflate: bool) {
            // No panic, and nothing that is longer than a message may be.
            for incoming in decode(deflate, &bytes).unwrap_or_default() {
                if let Incoming::Text(payload) | Incoming::Binary(payload) = incoming {
                    prop_assert!(payload.len() <= MAX_REQUEST_BYTES);
                }
            }
        }

        #[test]
        fn messages_survive_any_fragmentation(
            payload in prop::collection::vec(any::<u8>(), 0..2_000),
            cuts in prop::collection::vec(1_usize..500, 0..8),
        ) {
            let mut bytes = Vec::new();
            let mut rest = &payload[..];
            let mut opcode = OpCode::Data(Data::Binary);
            for cut in cuts {
                let (piece, after) = rest.split_at(cut.min(rest.len()));
                bytes.extend(masked(opcode, false, false, piece));
                (rest, opcode) = (after, MORE);
            }
            bytes.extend(masked(opcode, true, false, rest));
            prop_assert_eq!(decode(false, &bytes), Ok(vec![Incoming::Binary(payload)]));
        }
    }
}
