//! Reads a card back and compares it with what was written, range by range; on a difference, with the image itself,
//! byte by byte.

use std::io::{self, Read};

use super::card::{Buffer, Card, PIECE};
use super::check::{Checker, Mismatch, Span};
use super::write::{CardError, Image, Piece, fill};
use crate::watch::Watch;

/// One card that is read back.
pub(super) struct Reading<'a> {
    pub(super) card: &'a Card,
    pub(super) image: &'a Image<'a>,
    pub(super) watch: &'a dyn Watch,
}

impl Reading<'_> {
    /// Everything up to `end` but the first piece, which is not on the card yet and taken from memory.
    pub(super) fn all_but_first(
        &self,
        first: Option<&Piece>,
        spans: &[Span],
        end: u64,
    ) -> Result<(), CardError> {
        let mut checker = Checker::new(spans);
        let mut at = 0;
        if let Some(piece) = first {
            let sectors = piece.sectors(self.card);
            at = sectors.len() as u64;
            checker
                .feed(sectors)
                .map_err(|mismatch| self.explain(mismatch, at))?;
        }
        let from = at;
        let mut buffer = Buffer::new();
        while at < end {
            if self.watch.stopped() {
                return Err(CardError::Stopped);
            }
            let most = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let part = &mut buffer.bytes_mut()[..most];
            self.card
                .read(part, at)
                .map_err(|source| CardError::Read { at, source })?;
            checker
                .feed(part)
                .map_err(|mismatch| self.explain(mismatch, from))?;
            self.watch.advance(most as u64);
            at += most as u64;
        }
        Ok(())
    }

    /// The first piece, against memory.
    pub(super) fn first(&self, piece: &Piece) -> Result<(), CardError> {
        let expected = piece.sectors(self.card);
        let mut buffer = Buffer::new();
        let part = &mut buffer.bytes_mut()[..expected.len()];
        self.card
            .read(part, 0)
            .map_err(|source| CardError::Read { at: 0, source })?;
        self.watch.advance(piece.bytes);
        difference(expected, part, 0).map_or(Ok(()), Err)
    }

    /// The first byte that differs; what lies before `from` is not on the card.
    fn explain(&self, mismatch: Mismatch, from: u64) -> CardError {
        let (start, end) = match mismatch {
            Mismatch::NotZero { at, got } => {
                return CardError::Differs {
                    at,
                    expected: 0,
                    got,
                };
            }
            Mismatch::Span { start, end } => (start.max(from), end),
        };
        match self.compare(start, end) {
            Ok(Some(differs)) => differs,
            Ok(None) => CardError::Unsteady { start, end },
            Err(source) => CardError::Read { at: start, source },
        }
    }

    /// Compares card and image from `start` to `end`, byte by byte.
    fn compare(&self, start: u64, end: u64) -> io::Result<Option<CardError>> {
        let mut stream = (self.image.open)()?;
        io::copy(&mut stream.by_ref().take(start), &mut io::sink())?;
        let (mut there, mut here) = (Buffer::new(), Buffer::new());
        let mut at = start;
        while at < end {
            let most = usize::try_from(end - at).map_or(PIECE, |left| left.min(PIECE));
            let expected = &mut there.bytes_mut()[..most];
            let got = fill(&mut stream, expected)?;
            let sectors = usize::try_from(self.card.whole_sectors(most as u64)).unwrap_or(PIECE);
            self.card.read(&mut here.bytes_mut()[..sectors], at)?;
            if let Some(differs) = difference(&expected[..got], here.bytes(), at) {
                return Ok(Some(differs));
            }
            at += most as u64;
        }
        Ok(None)
    }
}

fn difference(expected: &[u8], got: &[u8], at: u64) -> Option<CardError> {
    let (index, (&expected, &got)) = expected
        .iter()
        .zip(got)
        .enumerate()
        .find(|(_, (expected, got))| expected != got)?;
    Some(CardError::Differs {
        at: at + index as u64,
        expected,
        got,
    })
}
