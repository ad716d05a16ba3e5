//! The Feetech STS bus, as much of it as asks who is there, and lets go of motors: frames out, frames in.
//! Pure; bytes are handed in as they come, in pieces of any size. There is no instruction here that moves a
//! motor.
//!
//! A request is `FF FF id length instruction parameters checksum`, an answer `FF FF id length error
//! parameters checksum`; the length counts what follows it, the checksum is the complement of the sum of
//! all between it and the two `FF`.

/// Asks all servos of a bus at once.
pub const BROADCAST: u8 = 0xFE;
/// Where a servo keeps its model number, two bytes, the lower first.
pub const MODEL_ADDRESS: u8 = 3;
/// Where a servo keeps whether its motor has torque, one byte: 0 is none.
pub const TORQUE_ADDRESS: u8 = 40;

const PING: u8 = 0x01;
const READ: u8 = 0x02;
const WRITE: u8 = 0x03;
/// Longest frame of interest, its head not counted. No answer to a ping or a two-byte read comes near.
const MAX_LENGTH: usize = 32;

/// Asks one servo whether it is there.
#[must_use]
pub fn ping(id: u8) -> Vec<u8> {
    frame(id, PING, &[])
}

/// Asks one servo for its model number.
#[must_use]
pub fn read_model(id: u8) -> Vec<u8> {
    frame(id, READ, &[MODEL_ADDRESS, 2])
}

/// Lets go of the motor of one servo, or with [`BROADCAST`] of all, which then say nothing.
#[must_use]
pub fn torque_off(id: u8) -> Vec<u8> {
    frame(id, WRITE, &[TORQUE_ADDRESS, 0])
}

/// Asks one servo whether its motor has torque.
#[must_use]
pub fn read_torque(id: u8) -> Vec<u8> {
    frame(id, READ, &[TORQUE_ADDRESS, 1])
}

/// A frame: `code` is the instruction of a request, or the error bits of an answer.
#[must_use]
pub fn frame(id: u8, code: u8, parameters: &[u8]) -> Vec<u8> {
    let length = u8::try_from(parameters.len() + 2).unwrap_or(u8::MAX);
    let mut bytes = vec![0xFF, 0xFF, id, length, code];
    bytes.extend_from_slice(parameters);
    bytes.push(checksum(&bytes[2..]));
    bytes
}

/// Whether a frame may be the echo of something asked here. An answer can have the same bytes: a servo
/// that reports a low voltage answers a ping with the ping.
#[must_use]
pub fn is_request(frame: &Frame) -> bool {
    match frame.code {
        PING => frame.parameters.is_empty(),
        READ => matches!(
            frame.parameters[..],
            [MODEL_ADDRESS, 2] | [TORQUE_ADDRESS, 1]
        ),
        WRITE => frame.parameters == [TORQUE_ADDRESS, 0],
        _ => false,
    }
}

fn checksum(bytes: &[u8]) -> u8 {
    !bytes.iter().fold(0_u8, |sum, byte| sum.wrapping_add(*byte))
}

/// A frame with a right checksum.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Who speaks, or is spoken to.
    pub id: u8,
    /// Error bits, or the instruction in the echo of a request.
    pub code: u8,
    /// What follows.
    pub parameters: Vec<u8>,
}

impl Frame {
    /// The model number, in the answer to [`read_model`].
    #[must_use]
    pub fn model(&self) -> Option<u16> {
        match self.parameters[..] {
            [low, high] => Some(u16::from_le_bytes([low, high])),
            _ => None,
        }
    }

    /// Whether the motor has torque, in the answer to [`read_torque`].
    #[must_use]
    pub fn torque(&self) -> Option<bool> {
        match self.parameters[..] {
            [torque] => Some(torque != 0),
            _ => None,
        }
    }
}

/// Finds frames in a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    bytes: Vec<u8>,
    garbage: usize,
}

impl Decoder {
    /// Takes bytes as they came.
    pub fn feed(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame. `None` until more bytes come.
    pub fn next_frame(&mut self) -> Option<Frame> {
        loop {
            match parse(&self.bytes) {
                Parsed::Frame(frame, length) => {
                    self.bytes.drain(..length);
                    return Some(frame);
                }
                Parsed::Partial => return None,
                // One byte at a time: what looked like the head of a frame may hide one.
                Parsed::Garbage => {
                    self.bytes.remove(0);
                    self.garbage += 1;
                }
            }
        }
    }

    /// How many bytes belonged to no frame, those of an unfinished one included. Forgets them.
    pub fn take_garbage(&mut self) -> usize {
        let left = self.bytes.len();
        self.bytes.clear();
        std::mem::take(&mut self.garbage) + left
    }
}

enum Parsed {
    Frame(Frame, usize),
    Partial,
    Garbage,
}

fn parse(bytes: &[u8]) -> Parsed {
    match bytes {
        [] | [0xFF] | [0xFF, 0xFF] | [0xFF, 0xFF, 0..=0xFE] => Parsed::Partial,
        // A third FF is a head that begins later.
        [0xFF, 0xFF, id @ 0..=0xFE, length, rest @ ..] => {
            let length = usize::from(*length);
            if !(2..=MAX_LENGTH).contains(&length) {
                return Parsed::Garbage;
            }
            let Some(body) = rest.get(..length) else {
                return Parsed::Partial;
            };
            let (sum, body) = body.split_last().unwrap_or((&0, body));
            let end = 4 + length;
            if *sum != checksum(&bytes[2..end - 1]) {
                return Parsed::Garbage;
            }
            let frame = Frame {
                id: *id,
                code: body.first().copied().unwrap_or_default(),
                parameters: body.get(1..).unwrap_or_default().to_vec(),
            };
            Parsed::Frame(frame, end)
        }
        _ => Parsed::Garbage,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frames(pieces: &[&[u8]]) -> (Vec<Frame>, usize) {
        let mut decoder = Decoder::default();
        let mut frames = Vec::new();
        for piece in pieces {
            decoder.feed(piece);
            frames.extend(std::iter::from_fn(|| decoder.next_frame()));
        }
        (frames, decoder.take_garbage())
    }

    #[test]
    fn requests_are_what_the_servo_reads() {
        assert_eq!(ping(1), [0xFF, 0xFF, 0x01, 0x02, 0x01, 0xFB]);
        assert_eq!(
            read_model(9),
            [0xFF, 0xFF, 0x09, 0x04, 0x02, 0x03, 0x02, 0xEB]
        );
    }

    #[test]
    fn an_echo_is_known_as_what_was_asked() {
        for (bytes, echo) in [
            (ping(3), true),
            (read_model(3), true),
            (frame(3, 0, &[]), false),
            (frame(3, 2, &[9, 3]), false),
        ] {
            assert_eq!(is_request(&frames(&[&bytes]).0[0]), echo, "{bytes:?}");
        }
    }

    #[test]
    fn a_model_number_is_read_from_an_answer() {
        let (found, garbage) = frames(&[&[0xFF, 0xFF, 0x01, 0x04, 0x00, 0x09, 0x03, 0xEE]]);
        assert_eq!((found[0].model(), garbage), (Some(777), 0));
    }

    #[test]
    fn a_wrong_checksum_a_cut_frame_and_noise_are_garbage() {
        let mut wrong = ping(3);
        wrong[5] ^= 0x10;
        assert_eq!(frames(&[&wrong]), (vec![], 6));
        assert_eq!(frames(&[&ping(3)[..4]]), (vec![], 4));
        let (found, garbage) = frames(&[&[0x00, 0xFF, 0x13], &ping(3), &[0xFF]]);
        assert_eq!((found.len(), garbage), (1, 4));
        // Noise that ends like a head.
        let (found, _) = frames(&[&[0xFF, 0xFF, 0xFF], &ping(3)]);
        assert_eq!(found.len(), 1);
    }

    proptest! {
        #[test]
        fn what_is_framed_is_found_in_pieces_of_any_size(
            id in 0_u8..=0xFE,
            code: u8,
            parameters in proptest::collection::vec(any::<u8>(), 0..16),
            cut in 0_usize..22,
        ) {
            let bytes = frame(id, code, &parameters);
            let cut = cut.min(bytes.len());
            let (found, garbage) = frames(&[&bytes[..cut], &bytes[cut..]]);
            prop_assert_eq!(found, vec![Frame { id, code, parameters }]);
            prop_assert_eq!(garbage, 0);
        }

        #[test]
        fn no_noise_breaks_the_decoder_or_hides_a_later_frame(
            noise in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            // As many bytes as a frame that the noise began can still swallow.
            let quiet = [0_u8; MAX_LENGTH + 4];
            let (found, _) = frames(&[&noise, &quiet, &ping(7)]);
            let last = found.last().map(|frame| (frame.id, frame.code));
            prop_assert_eq!(last, Some((7, PING)));
        }
    }

    #[test]
    fn every_single_flipped_bit_is_noticed() {
        let right = frame(5, 0, &[9, 3]);
        let original = frames(&[&right]).0.pop().unwrap();
        for bit in 0..right.len() * 8 {
            let mut bytes = right.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            let (found, _) = frames(&[&bytes]);
            assert!(!found.contains(&original), "bit {bit}");
        }
    }
}
