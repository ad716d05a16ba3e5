//! How a day is packed: samples, or roll-ups, of one metric of one robot in a few bytes each. Pure.
//!
//! Times are second differences, values differences of whole numbers after the smallest power of ten that makes them such:
//! what sensors and percentages are. Values that are no short decimals are what changed of their bits, by bytes. Numbers
//! have variable length (LEB128, signs folded in). `docs/decisions/0023` has the measurements behind it.
//!
//! Invariant: what was packed comes back bit for bit; what was not packed by this program is refused, without allocating
//! more than its length allows for.

use super::rollup::Rollup;
use super::{DAY_MS, Sample};

/// Most samples of one day: one a second. [`super::day::merge`] keeps to it.
pub const MOST: usize = 86_400;
/// The first byte of each block.
const VERSION: u8 = 1;
/// Values that are no short decimals.
const BITS: u8 = 0xFF;
/// Most decimals of values that are packed as whole numbers.
const DECIMALS: u8 = 6;
/// Whole numbers up to here are exact in a `f64`.
const EXACT: f64 = 9_007_199_254_740_992.0;

/// Why a block cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BlockError {
    /// A block of another version.
    #[error("expected a block of version {VERSION}, got {0}")]
    Version(u8),
    /// It ends too early.
    #[error("expected more of the block, got its end")]
    Short,
    /// It goes on behind its end.
    #[error("expected the end of the block, got {0} more bytes")]
    Long(usize),
    /// More than a day can have.
    #[error("expected at most {MOST} entries, got {0}")]
    Count(u64),
    /// A time before its predecessor's, or of another day.
    #[error("expected ascending times of one day, got {0} ms after its start")]
    Time(i128),
    /// A number that is none.
    #[error("expected {expected}, got {got}")]
    Number {
        /// What.
        expected: &'static str,
        /// What it is.
        got: u64,
    },
}

/// Packs the samples of the day that begins at `start_ms`, in ascending order of time, at most [`MOST`].
#[must_use]
pub fn pack_samples(start_ms: u64, samples: &[Sample]) -> Vec<u8> {
    let mut block = begin(samples.len());
    let (mut before, mut pace) = (start_ms as i64, 0);
    for sample in samples {
        let step = sample.ts_ms as i64 - before;
        put_signed(&mut block, step - pace);
        (before, pace) = (sample.ts_ms as i64, step);
    }
    put_values(&mut block, samples.iter().map(|sample| sample.value));
    block
}

/// The samples of a block of the day that begins at `start_ms`.
///
/// # Errors
/// When it was not packed so.
pub fn unpack_samples(start_ms: u64, block: &[u8]) -> Result<Vec<Sample>, BlockError> {
    let (mut rest, count) = open(block)?;
    let mut times = Vec::with_capacity(count);
    let (mut at, mut pace): (i128, i128) = (0, 0);
    for index in 0..count {
        pace += i128::from(rest.signed()?);
        at += pace;
        if !(0..i128::from(DAY_MS)).contains(&at) || (index > 0 && pace <= 0) {
            return Err(BlockError::Time(at));
        }
        times.push(start_ms + at as u64);
    }
    let values = rest.values(count)?;
    rest.end()?;
    let both = times.into_iter().zip(values);
    Ok(both.map(|(ts_ms, value)| Sample { ts_ms, value }).collect())
}

/// Packs the roll-ups by `width_ms` of the day that begins at `start_ms`, in ascending order of time.
#[must_use]
pub fn pack_rollups(start_ms: u64, width_ms: u64, spans: &[Rollup]) -> Vec<u8> {
    let mut block = begin(spans.len());
    let mut next = 0;
    for span in spans {
        let index = (span.start_ms - start_ms) / width_ms;
        put(&mut block, index - next);
        next = index + 1;
    }
    for span in spans {
        put(&mut block, span.count - 1);
    }
    put_values(&mut block, spans.iter().map(|span| span.last));
    // Of a single sample the rest is known.
    let several = || spans.iter().filter(|span| span.count > 1);
    put_values(&mut block, several().map(|span| span.min));
    put_values(&mut block, several().map(|span| span.max));
    put_values(&mut block, several().map(|span| span.sum));
    block
}

/// The roll-ups by `width_ms` of a block of the day that begins at `start_ms`.
///
/// # Errors
/// When it was not packed so.
pub fn unpack_rollups(
    start_ms: u64,
    width_ms: u64,
    block: &[u8],
) -> Result<Vec<Rollup>, BlockError> {
    let (mut rest, count) = open(block)?;
    let mut spans = Vec::with_capacity(count);
    let mut next = 0;
    for _ in 0..count {
        let gap = rest.unsigned()?;
        let index = u64::saturating_add(next, gap);
        if index >= DAY_MS / width_ms {
            return Err(BlockError::Time(i128::from(index) * i128::from(width_ms)));
        }
        next = index + 1;
        spans.push(Rollup::of(Sample {
            ts_ms: start_ms + index * width_ms,
            value: 0.0,
        }));
    }
    for span in &mut spans {
        let more = rest.unsigned()?;
        span.count = more.checked_add(1).ok_or(BlockError::Number {
            expected: "how many samples",
            got: more,
        })?;
    }
    for (span, value) in spans.iter_mut().zip(rest.values(count)?) {
        (span.last, span.min, span.max, span.sum) = (value, value, value, value);
    }
    let several = spans.iter().filter(|span| span.count > 1).count();
    let (min, max, sum) = (
        rest.values(several)?,
        rest.values(several)?,
        rest.values(several)?,
    );
    rest.end()?;
    let ranges = min.into_iter().zip(max).zip(sum);
    for (span, ((min, max), sum)) in spans.iter_mut().filter(|span| span.count > 1).zip(ranges) {
        (span.min, span.max, span.sum) = (min, max, sum);
    }
    Ok(spans)
}

fn begin(count: usize) -> Vec<u8> {
    let mut block = Vec::with_capacity(8 + 4 * count);
    block.push(VERSION);
    put(&mut block, count as u64);
    block
}

fn put(block: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        block.push(number as u8 | 0x80);
        number >>= 7;
    }
    block.push(number as u8);
}

/// Small numbers of both signs are short.
fn put_signed(block: &mut Vec<u8>, number: i64) {
    put(block, ((number << 1) ^ (number >> 63)) as u64);
}

fn put_values(block: &mut Vec<u8>, values: impl Iterator<Item = f64> + Clone) {
    let shared = (0..=DECIMALS).find(|decimals| {
        values
            .clone()
            .all(|value| whole(value, *decimals).is_some())
    });
    if let Some(decimals) = shared {
        block.push(decimals);
        let mut before = 0;
        for number in values.filter_map(|value| whole(value, decimals)) {
            put_signed(block, number - before);
            before = number;
        }
        return;
    }
    block.push(BITS);
    let mut before = 0;
    for value in values {
        let changed = value.to_bits() ^ before;
        before = value.to_bits();
        if changed == 0 {
            block.push(0);
            continue;
        }
        let (high, low) = (changed.leading_zeros() / 8, changed.trailing_zeros() / 8);
        let length = (8 - high - low) as usize;
        block.push((low << 4) as u8 | length as u8);
        block.extend_from_slice(&(changed >> (8 * low)).to_le_bytes()[..length]);
    }
}

/// The value as a whole number of its last decimal, if it is the same again afterwards, bit for bit.
fn whole(value: f64, decimals: u8) -> Option<i64> {
    let scale = 10f64.powi(i32::from(decimals));
    let rounded = (value * scale).round();
    let number = rounded as i64;
    let is_same = || (number as f64 / scale).to_bits() == value.to_bits();
    (rounded.abs() < EXACT && is_same()).then_some(number)
}

/// What is left of a block.
struct Rest<'a>(&'a [u8]);

fn open(block: &[u8]) -> Result<(Rest<'_>, usize), BlockError> {
    let mut rest = Rest(block);
    match rest.byte()? {
        VERSION => {}
        other => return Err(BlockError::Version(other)),
    }
    let count = rest.unsigned()?;
    match usize::try_from(count) {
        // Each entry has a byte of time and a byte of value at least.
        Ok(within) if within <= MOST && within <= rest.0.len() => Ok((rest, within)),
        Ok(within) if within <= MOST => Err(BlockError::Short),
        _ => Err(BlockError::Count(count)),
    }
}

impl Rest<'_> {
    fn byte(&mut self) -> Result<u8, BlockError> {
        let (byte, rest) = self.0.split_first().ok_or(BlockError::Short)?;
        self.0 = rest;
        Ok(*byte)
    }

    fn unsigned(&mut self) -> Result<u64, BlockError> {
        let mut number = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7F);
            if shift == 63 && bits > 1 {
                break;
            }
            number |= bits << shift;
            if byte < 0x80 {
                return Ok(number);
            }
        }
        Err(BlockError::Number {
            expected: "a number of at most 64 bits",
            got: number,
        })
    }

    fn signed(&mut self) -> Result<i64, BlockError> {
        let folded = self.unsigned()?;
        Ok((folded >> 1) as i64 ^ -((folded & 1) as i64))
    }

    fn values(&mut self, count: usize) -> Result<Vec<f64>, BlockError> {
        let mut values = Vec::with_capacity(count);
        match self.byte()? {
            decimals @ 0..=DECIMALS => {
                let scale = 10f64.powi(i32::from(decimals));
                let mut number = 0i64;
                for _ in 0..count {
                    number = number.wrapping_add(self.signed()?);
                    values.push(number as f64 / scale);
                }
            }
            BITS => {
                let mut bits = 0u64;
                for _ in 0..count {
                    bits ^= self.changed()?;
                    let value = f64::from_bits(bits);
                    if !value.is_finite() {
                        return Err(BlockError::Number {
                            expected: "the bits of a finite number",
                            got: bits,
                        });
                    }
                    values.push(value);
                }
            }
            other => {
                return Err(BlockError::Number {
                    expected: "a number of decimals",
                    got: other.into(),
                });
            }
        }
        Ok(values)
    }

    fn changed(&mut self) -> Result<u64, BlockError> {
        let control = self.byte()?;
        let (low, length) = (usize::from(control >> 4), usize::from(control & 0x0F));
        if control != 0 && (length == 0 || low + length > 8) {
            return Err(BlockError::Number {
                expected: "which bytes changed",
                got: control.into(),
            });
        }
        let mut bytes = [0; 8];
        for byte in &mut bytes[low..low + length] {
            *byte = self.byte()?;
        }
        Ok(u64::from_le_bytes(bytes))
    }

    fn end(&self) -> Result<(), BlockError> {
        match self.0.len() {
            0 => Ok(()),
            more => Err(BlockError::Long(more)),
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const START: u64 = 20_000 * DAY_MS;

    fn samples(of: &[(u64, f64)]) -> Vec<Sample> {
        of.iter()
            .map(|(at, value)| Sample {
                ts_ms: START + at,
                value: *value,
            })
            .collect()
    }

    #[test]
    fn a_regular_metric_takes_two_bytes_a_sample() {
        let regular: Vec<(u64, f64)> = (0..8_640)
            .map(|n| (n * 10_000 + n % 7, (200 + n % 50) as f64 / 10.0))
            .collect();
        let block = pack_samples(START, &samples(&regular));
        assert!(block.len() < 8_640 * 21 / 10, "{}", block.len());
        assert_eq!(unpack_samples(START, &block).unwrap(), samples(&regular));
    }

    #[test]
    fn a_block_is_these_bytes() {
        let block = pack_samples(
            START,
            &samples(&[(1_000, 20.5), (11_000, 20.4), (21_001, 20.4)]),
        );
        // Version, count, second differences of the times; one decimal, 205, -1, 0.
        assert_eq!(
            block,
            [1, 3, 0xD0, 0x0F, 0xD0, 0x8C, 0x01, 2, 1, 0x9A, 0x03, 1, 0]
        );
        let bits = pack_samples(START, &samples(&[(0, 1.0 / 3.0), (1, 1.0 / 3.0)]));
        assert_eq!(
            bits,
            [
                1, 2, 0, 2, 0xFF, 0x08, 0x55, 0x55, 0x55, 0x55, 0x55, 0x55, 0xD5, 0x3F, 0
            ]
        );
    }

    #[test]
    fn what_is_no_block_is_refused() {
        let cases: &[(&[u8], &str)] = &[
            (&[], "expected more of the block, got its end"),
            (&[2], "expected a block of version 1, got 2"),
            (&[1, 1], "expected more of the block, got its end"),
            (&[1, 1, 0, 0], "expected more of the block, got its end"),
            (
                &[1, 0, 0, 0],
                "expected the end of the block, got 1 more bytes",
            ),
            (
                &[1, 0x81, 0xA3, 0x05, 0, 0, 0],
                "expected at most 86400 entries, got 86401",
            ),
            (
                &[1, 1, 1, 0, 0],
                "expected ascending times of one day, got -1 ms after its start",
            ),
            (
                &[1, 2, 2, 1, 0, 0, 0],
                "expected ascending times of one day, got 1 ms after its start",
            ),
            (&[1, 1, 0, 9, 0], "expected a number of decimals, got 9"),
            (
                &[1, 1, 0, 0xFF, 0x19],
                "expected which bytes changed, got 25",
            ),
            (
                &[1, 1, 0, 0xFF, 0x62, 0xF0, 0x7F],
                "expected the bits of a finite number, got 9218868437227405312",
            ),
            (
                &[1, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 2, 0, 0],
                "expected a number of at most 64 bits, got 9223372036854775807",
            ),
        ];
        for (block, refusal) in cases {
            let error = unpack_samples(START, block).unwrap_err();
            assert_eq!(error.to_string(), *refusal, "{block:?}");
        }
        assert_eq!(
            unpack_rollups(START, 3_600_000, &[1, 1, 24, 0, 0, 0, 0, 0, 0])
                .unwrap_err()
                .to_string(),
            "expected ascending times of one day, got 86400000 ms after its start"
        );
    }
}
