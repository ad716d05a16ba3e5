//! Whether bytes are the expected ones, span by span, as they come by. Pure; used on the image while it is read and
//! on a card while it is read back.

use sha2::{Digest, Sha256};

/// Bytes that belong together: known by their SHA-256, or zeros.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The first byte's place.
    pub start: u64,
    /// How many.
    pub bytes: u64,
    /// Their checksum; `None` when all are zero.
    pub sha256: Option<[u8; 32]>,
}

impl Span {
    /// So many zeros.
    #[must_use]
    pub fn zeros(start: u64, bytes: u64) -> Self {
        Self {
            start,
            bytes,
            sha256: None,
        }
    }

    /// What `bytes` at `start` are.
    #[must_use]
    pub fn of(start: u64, bytes: &[u8]) -> Self {
        Self {
            start,
            bytes: bytes.len() as u64,
            sha256: Some(Sha256::digest(bytes).into()),
        }
    }
}

/// Where bytes are not the expected ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mismatch {
    /// Somewhere in this span.
    Span {
        /// Its first byte's place.
        start: u64,
        /// The place after its last byte.
        end: u64,
    },
    /// This byte ought to be zero.
    NotZero {
        /// Its place.
        at: u64,
        /// What it is.
        got: u8,
    },
}

/// Follows a stream of bytes from its beginning. After the last span everything must be zero.
#[derive(Debug)]
pub struct Checker<'a> {
    spans: std::slice::Iter<'a, Span>,
    span: Option<&'a Span>,
    at: u64,
    hash: Sha256,
}

impl<'a> Checker<'a> {
    /// Expects `spans`, which begin at 0 and have no gaps.
    #[must_use]
    pub fn new(spans: &'a [Span]) -> Self {
        let mut spans = spans.iter();
        Self {
            span: spans.next(),
            spans,
            at: 0,
            hash: Sha256::new(),
        }
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// At the first span that is not as expected.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Mismatch> {
        while !bytes.is_empty() {
            let left = self
                .span
                .map_or(u64::MAX, |span| span.start + span.bytes - self.at);
            let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
            let (now, later) = bytes.split_at(here);
            match self.span {
                Some(Span {
                    sha256: Some(_), ..
                }) => self.hash.update(now),
                _ => self.expect_zeros(now)?,
            }
            self.advance(now.len() as u64)?;
            bytes = later;
        }
        Ok(())
    }

    /// Lets so many zeros pass without having seen them.
    ///
    /// # Errors
    /// When a span that has a checksum ends there.
    pub fn skip(&mut self, bytes: u64) -> Result<(), Mismatch> {
        self.advance(bytes)
    }

    fn advance(&mut self, bytes: u64) -> Result<(), Mismatch> {
        self.at += bytes;
        let Some(span) = self.span else {
            return Ok(());
        };
        let end = span.start + span.bytes;
        if self.at < end {
            return Ok(());
        }
        self.span = self.spans.next();
        match span.sha256 {
            Some(expected) if <[u8; 32]>::from(self.hash.finalize_reset()) != expected => {
                Err(Mismatch::Span {
                    start: span.start,
                    end,
                })
            }
            _ => Ok(()),
        }
    }

    fn expect_zeros(&self, bytes: &[u8]) -> Result<(), Mismatch> {
        // Sixteen at a time: most of a card is empty.
        let from = bytes
            .chunks_exact(16)
            .position(|word| *word != [0; 16])
            .map_or(bytes.len() / 16 * 16, |index| index * 16);
        match bytes[from..].iter().position(|&byte| byte != 0) {
            Some(index) => Err(Mismatch::NotZero {
                at: self.at + (from + index) as u64,
                got: bytes[from + index],
            }),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fed(spans: &[Span], bytes: &[u8], by: usize) -> Result<(), Mismatch> {
        let mut checker = Checker::new(spans);
        bytes.chunks(by).try_for_each(|part| checker.feed(part))
    }

    #[test]
    fn spans_are_checked_however_the_bytes_are_cut() {
        let mut bytes = vec![0; 100];
        bytes[..30].fill(7);
        bytes[60..70].fill(9);
        let spans = [
            Span::of(0, &bytes[..30]),
            Span::zeros(30, 30),
            Span::of(60, &bytes[60..70]),
        ];
        for by in [1, 7, 16, 30, 64, 100] {
            assert_eq!(fed(&spans, &bytes, by), Ok(()), "{by}");
            for (place, expected) in [
                (3, Mismatch::Span { start: 0, end: 30 }),
                (33, Mismatch::NotZero { at: 33, got: 0x40 }),
                (59, Mismatch::NotZero { at: 59, got: 0x40 }),
                (69, Mismatch::Span { start: 60, end: 70 }),
                (99, Mismatch::NotZero { at: 99, got: 0x40 }),
            ] {
                let mut flipped = bytes.clone();
                flipped[place] ^= 0x40;
                assert_eq!(fed(&spans, &flipped, by), Err(expected), "{place} by {by}");
            }
        }
    }

    #[test]
    fn what_is_skipped_is_not_looked_at() {
        let spans = [Span::zeros(0, 8), Span::of(8, b"kiwi")];
        let mut checker = Checker::new(&spans);
        assert_eq!(checker.skip(8), Ok(()));
        assert_eq!(checker.feed(b"kiwi"), Ok(()));
        assert_eq!(
            checker.feed(b"!"),
            Err(Mismatch::NotZero { at: 12, got: b'!' })
        );
    }
}
