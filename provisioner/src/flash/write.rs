//! Writes one image to several cards at once: the calling thread reads (and decompresses) it once and hands each
//! piece to a thread for each card. A card that fails drops out; the others go on.
//!
//! Invariant: a card has no partition table before everything else on it was read back and found right; one that was
//! stopped or failed is left without.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::bmap::Bmap;
use super::card::{ALIGN, Buffer, Card, PIECE, Rest};
use super::check::{Checker, Mismatch, Span};
use super::verify;
use crate::watch::Watch;

/// An image that can be read from its beginning as often as needed.
pub struct Image<'a> {
    /// Opens it at its beginning, decompressed.
    pub open: &'a (dyn Fn() -> io::Result<Box<dyn Read>> + Sync),
    /// Its size in bytes, where it is known without reading it.
    pub bytes: Option<u64>,
}

/// One card and who watches it.
pub struct Job<'a> {
    /// The card.
    pub card: Card,
    /// Its progress and stop.
    pub watch: &'a dyn Watch,
}

/// What became of a run.
#[derive(Debug)]
pub struct Outcome {
    /// Whether the image could be read to its end.
    pub image: Result<(), ImageError>,
    /// What became of each card, in the order of the jobs.
    pub cards: Vec<Result<Written, Failed>>,
}

/// A card that holds the image and nothing else of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// The image's size in bytes.
    pub image_bytes: u64,
    /// How many bytes were written; less than the image where a block map said so.
    pub written_bytes: u64,
    /// What became of what lies behind the image.
    pub rest: Rest,
}

/// Why the image could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ImageError {
    /// The file, or its decompression.
    #[error("the image cannot be read beyond byte {at}")]
    Read {
        /// How far it could.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing in it.
    #[error("expected an image, got an empty file")]
    Empty,
    /// It is not as large as it, or its block map, said.
    #[error("expected an image of {expected} bytes, got {got}")]
    Size {
        /// What was said.
        expected: u64,
        /// What came.
        got: u64,
    },
    /// It is not the one that the block map was made for.
    #[error("bytes {start} to {end} of the image are not those of its block map")]
    Differs {
        /// The first byte of the range.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
}

/// A card that does not hold the image.
#[derive(Debug)]
pub struct Failed {
    /// Why.
    pub error: CardError,
    /// Whether it surely has no partition table, so that nothing boots from it.
    pub blank: bool,
}

/// Why a card does not hold the image.
#[derive(Debug, thiserror::Error)]
pub enum CardError {
    /// It did not take something.
    #[error("cannot be written at byte {at}")]
    Write {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It did not give something back.
    #[error("cannot be read back at byte {at}")]
    Read {
        /// Where.
        at: u64,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is shorter than the image turned out to be.
    #[error("ends at byte {bytes}, the image goes on")]
    Ended {
        /// The card's size.
        bytes: u64,
    },
    /// It did not keep what was written.
    #[error("byte {at} reads back as {got:#04x}, expected {expected:#04x}")]
    Differs {
        /// The first byte that differs.
        at: u64,
        /// What it ought to be.
        expected: u8,
        /// What it is.
        got: u8,
    },
    /// It gives something else each time.
    #[error("bytes {start} to {end} read back differently each time")]
    Unsteady {
        /// The first byte of the range.
        start: u64,
        /// The byte after its last.
        end: u64,
    },
    /// Somebody asked to stop.
    #[error("stopped")]
    Stopped,
    /// The image ended early; the run's own error says why.
    #[error("the image could not be read to its end")]
    Image,
}

/// A part of the image in memory, shared by all cards.
pub(super) struct Piece {
    pub(super) start: u64,
    /// How much of the buffer is the image's; zeros follow up to a whole sector.
    pub(super) bytes: u64,
    pub(super) buffer: Buffer,
}

impl Piece {
    /// `bytes` of an image from `start` on.
    fn new(start: u64, bytes: usize, mut buffer: Buffer) -> Arc<Self> {
        let end = bytes.next_multiple_of(ALIGN);
        buffer.bytes_mut()[bytes..end].fill(0);
        Arc::new(Self {
            start,
            bytes: bytes as u64,
            buffer,
        })
    }

    /// What the image has there.
    fn span(&self) -> Span {
        let bytes = usize::try_from(self.bytes).unwrap_or(PIECE);
        Span::of(self.start, &self.buffer.bytes()[..bytes])
    }

    /// Gives its buffer to the reader, once nobody else needs it.
    fn recycle(self: Arc<Self>, recycle: &Sender<Buffer>) {
        if let Some(piece) = Arc::into_inner(self) {
            // The reader may have finished.
            let _ = recycle.send(piece.buffer);
        }
    }

    /// Its bytes, filled up to whole sectors of `card`.
    pub(super) fn sectors(&self, card: &Card) -> &[u8] {
        let bytes = usize::try_from(card.whole_sectors(self.bytes)).unwrap_or(PIECE);
        &self.buffer.bytes()[..bytes]
    }
}

enum Order {
    Write(Arc<Piece>),
    Zero { start: u64, bytes: u64 },
    End { spans: Arc<Vec<Span>>, bytes: u64 },
}

/// Pieces on their way to a card: enough to keep it busy while the next one is read.
const AHEAD: usize = 4;
/// Zeros are asked for in such steps, so that a stop is heard.
const ZERO_STEP: u64 = 256 << 20;

/// Writes `image` to all cards and reads it back from each.
#[must_use]
pub fn write(image: &Image<'_>, map: Option<&Bmap>, jobs: Vec<Job<'_>>) -> Outcome {
    let (recycle, recycled) = channel();
    std::thread::scope(|scope| {
        let mut cards = Vec::new();
        let mut threads = Vec::new();
        for job in jobs {
            let (sender, orders) = sync_channel(AHEAD);
            let recycle = recycle.clone();
            let bytes = map.map(Bmap::image_bytes).or(image.bytes);
            cards.push(Some(sender));
            threads.push(scope.spawn(move || {
                let mut writing = Writing {
                    job,
                    image,
                    table: Table::Untouched,
                };
                writing.whole(&orders, &recycle, bytes)
            }));
        }
        let mut fan = Fan {
            cards,
            recycle,
            recycled,
        };
        let read = match map {
            Some(map) => mapped(image, map, &mut fan),
            None => plain(image, &mut fan),
        };
        drop(fan); // whoever still waits learns that nothing more comes
        let cards = threads
            .into_iter()
            .map(|thread| {
                thread
                    .join()
                    .unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            })
            .collect();
        Outcome { image: read, cards }
    })
}

/// The reader's side of all cards.
struct Fan {
    cards: Vec<Option<SyncSender<Order>>>,
    recycle: Sender<Buffer>,
    recycled: Receiver<Buffer>,
}

impl Fan {
    fn buffer(&self) -> Buffer {
        self.recycled.try_recv().unwrap_or_default()
    }

    /// Hands an order to every card that is still there; `false` when none is.
    fn send(&mut self, order: impl Fn() -> Order) -> bool {
        for card in &mut self.cards {
            if card
                .as_ref()
                .is_some_and(|sender| sender.send(order()).is_err())
            {
                *card = None;
            }
        }
        self.cards.iter().any(Option::is_some)
    }

    fn write(&mut self, piece: &Arc<Piece>) -> bool {
        self.send(|| Order::Write(Arc::clone(piece)))
    }

    fn end(&mut self, spans: Vec<Span>, bytes: u64) {
        let spans = Arc::new(spans);
        self.send(|| Order::End {
            spans: Arc::clone(&spans),
            bytes,
        });
    }
}

/// The whole image, piece by piece. Checksums take longer than reading does, so another thread computes them.
fn plain(image: &Image<'_>, fan: &mut Fan) -> Result<(), ImageError> {
    let mut at = 0;
    let failed = |at| move |source| ImageError::Read { at, source };
    let mut stream = (image.open)().map_err(failed(0))?;
    let recycle = fan.recycle.clone();
    let (sender, pieces) = sync_channel::<Arc<Piece>>(AHEAD);
    std::thread::scope(|scope| {
        let sums = scope.spawn(move || -> Vec<Span> {
            let sum = |piece: Arc<Piece>| {
                let span = piece.span();
                piece.recycle(&recycle);
                span
            };
            pieces.into_iter().map(sum).collect()
        });
        loop {
            let mut buffer = fan.buffer();
            let got = fill(&mut stream, buffer.bytes_mut()).map_err(failed(at))?;
            if got > 0 {
                let piece = Piece::new(at, got, buffer);
                if !fan.write(&piece) {
                    return Ok(());
                }
                // It goes on for as long as this thread does.
                let _ = sender.send(piece);
            }
            at += got as u64;
            if got < PIECE {
                break;
            }
        }
        if at == 0 {
            return Err(ImageError::Empty);
        }
        sized(image.bytes, at)?;
        drop(sender);
        let spans = sums
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        fan.end(spans, at);
        Ok(())
    })
}

/// What the map says, checked against it on the way.
fn mapped(image: &Image<'_>, map: &Bmap, fan: &mut Fan) -> Result<(), ImageError> {
    if let Some(bytes) = image.bytes {
        sized(Some(map.image_bytes()), bytes)?;
    }
    let spans = map.spans();
    let mut checker = Checker::new(&spans);
    let differs = |mismatch| match mismatch {
        Mismatch::Span { start, end } => ImageError::Differs { start, end },
        Mismatch::NotZero { at, .. } => ImageError::Differs {
            start: at,
            end: at + 1,
        },
    };
    let failed = |at| move |source| ImageError::Read { at, source };
    let mut stream = (image.open)().map_err(failed(0))?;
    let mut at = 0;
    let end = (map.image_bytes(), 0);
    for (start, bytes) in map.writes().into_iter().chain([end]) {
        if start > at {
            let gap = start - at;
            let got =
                io::copy(&mut stream.by_ref().take(gap), &mut io::sink()).map_err(failed(at))?;
            complete(map, at, gap, got)?;
            checker.skip(gap).map_err(differs)?;
            if !fan.send(|| Order::Zero {
                start: at,
                bytes: gap,
            }) {
                return Ok(());
            }
            at = start;
        }
        while at < start + bytes {
            let mut buffer = fan.buffer();
            let most = usize::try_from(start + bytes - at).map_or(PIECE, |left| left.min(PIECE));
            let part = &mut buffer.bytes_mut()[..most];
            let got = fill(&mut stream, part).map_err(failed(at))?;
            complete(map, at, most as u64, got as u64)?;
            blank_gaps(part, at, &spans);
            checker.feed(part).map_err(differs)?;
            if !fan.write(&Piece::new(at, most, buffer)) {
                return Ok(());
            }
            at += most as u64;
        }
    }
    let more = io::copy(&mut stream, &mut io::sink()).map_err(failed(at))?;
    sized(Some(map.image_bytes()), at + more)?;
    fan.end(spans, at);
    Ok(())
}

fn sized(expected: Option<u64>, got: u64) -> Result<(), ImageError> {
    match expected {
        Some(expected) if expected != got => Err(ImageError::Size { expected, got }),
        _ => Ok(()),
    }
}

/// That all of `wanted` bytes from `at` on came.
fn complete(map: &Bmap, at: u64, wanted: u64, got: u64) -> Result<(), ImageError> {
    if got == wanted {
        return Ok(());
    }
    sized(Some(map.image_bytes()), at + got)
}

/// Whatever the image holds where its map says nothing is: on the card it is zero.
fn blank_gaps(part: &mut [u8], at: u64, spans: &[Span]) {
    let end = at + part.len() as u64;
    let first = spans.partition_point(|span| span.start + span.bytes <= at);
    for span in spans[first..].iter().take_while(|span| span.start < end) {
        if span.sha256.is_none() {
            let from = span.start.max(at) - at;
            let to = (span.start + span.bytes).min(end) - at;
            if let (Ok(from), Ok(to)) = (usize::try_from(from), usize::try_from(to)) {
                part[from..to].fill(0);
            }
        }
    }
}

/// Reads until `bytes` is full or the image ends.
pub(super) fn fill(stream: &mut impl Read, bytes: &mut [u8]) -> io::Result<usize> {
    let mut got = 0;
    while got < bytes.len() {
        match stream.read(&mut bytes[got..]) {
            Ok(0) => break,
            Ok(more) => got += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(got)
}

/// What is where a card's partition table belongs.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Table {
    /// Whatever was there before.
    Untouched,
    /// Nothing.
    Blank,
    /// The image's, perhaps in part.
    Written,
}

/// One card's thread.
struct Writing<'a> {
    job: Job<'a>,
    image: &'a Image<'a>,
    table: Table,
}

impl Writing<'_> {
    fn whole(
        &mut self,
        orders: &Receiver<Order>,
        recycle: &Sender<Buffer>,
        bytes: Option<u64>,
    ) -> Result<Written, Failed> {
        self.job.watch.begin("writing", bytes);
        self.steps(orders, recycle).map_err(|error| {
            if self.table == Table::Written && self.blank().is_err() {
                return Failed {
                    error,
                    blank: false,
                };
            }
            Failed {
                error,
                blank: self.table == Table::Blank,
            }
        })
    }

    fn steps(
        &mut self,
        orders: &Receiver<Order>,
        recycle: &Sender<Buffer>,
    ) -> Result<Written, CardError> {
        self.blank()?;
        let mut first: Option<Arc<Piece>> = None;
        let mut written_bytes = 0;
        let (spans, image_bytes) = loop {
            self.go_on()?;
            let card = &self.job.card;
            match orders.recv() {
                Ok(Order::Write(piece)) => {
                    let sectors = piece.sectors(card);
                    if piece.start + sectors.len() as u64 > card.bytes() {
                        return Err(CardError::Ended {
                            bytes: card.bytes(),
                        });
                    }
                    self.job.watch.advance(piece.bytes);
                    written_bytes += piece.bytes;
                    if piece.start == 0 {
                        first = Some(piece);
                        continue;
                    }
                    card.write(sectors, piece.start).map_err(at(piece.start))?;
                    piece.recycle(recycle);
                }
                Ok(Order::Zero { start, bytes }) => self.zero(start, bytes)?,
                Ok(Order::End { spans, bytes }) => break (spans, bytes),
                Err(_) => return Err(CardError::Image),
            }
        };
        let card = &self.job.card;
        let end = card.whole_sectors(image_bytes);
        let rest = card.zero_rest(end).map_err(at(end))?;
        card.sync().map_err(at(0))?;
        self.job.watch.begin("reading back", Some(image_bytes));
        let read = verify::Reading {
            card,
            image: self.image,
            watch: self.job.watch,
        };
        read.all_but_first(first.as_deref(), &spans, end)?;
        self.go_on()?;
        if let Some(first) = first {
            self.table = Table::Written;
            card.write(first.sectors(card), 0).map_err(at(0))?;
            card.sync().map_err(at(0))?;
            read.first(&first)?;
        }
        Ok(Written {
            image_bytes,
            written_bytes,
            rest,
        })
    }

    fn go_on(&self) -> Result<(), CardError> {
        if self.job.watch.stopped() {
            return Err(CardError::Stopped);
        }
        Ok(())
    }

    /// Takes the partition table away.
    fn blank(&mut self) -> Result<(), CardError> {
        let card = &self.job.card;
        card.zero(0, card.bytes().min(PIECE as u64))
            .and_then(|()| card.sync())
            .map_err(at(0))?;
        self.table = Table::Blank;
        Ok(())
    }

    fn zero(&self, start: u64, bytes: u64) -> Result<(), CardError> {
        let card = &self.job.card;
        let end = card.whole_sectors(start + bytes);
        if end > card.bytes() {
            return Err(CardError::Ended {
                bytes: card.bytes(),
            });
        }
        let mut from = start;
        while from < end {
            self.go_on()?;
            let step = ZERO_STEP.min(end - from);
            card.zero(from, step).map_err(at(from))?;
            self.job.watch.advance(step);
            from += step;
        }
        Ok(())
    }
}

fn at(at: u64) -> impl FnOnce(io::Error) -> CardError {
    move |source| CardError::Write { at, source }
}
