//! Which trace a message or request belongs to, as W3C Trace Context says it: a robot puts it beside its events as an MQTT
//! user property, callers of the HTTP interface send it as a header, and the log keeps it with the events. Pure.

use std::fmt;
use std::num::{NonZeroU64, NonZeroU128};

use serde::Deserialize;

use crate::limits::TRACES_SHARE;

/// The name of the property, the header and the key of an event's metadata.
pub const TRACEPARENT: &str = "traceparent";

/// Bytes of the form that is written, which is that of version 00.
const LENGTH: usize = 55;
/// Of a trace's id, the part that is random in every form of it: the last seven bytes.
const RANDOM: u64 = (1 << 56) - 1;

/// A span of a trace, as others know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace.
    pub trace_id: NonZeroU128,
    /// The span that whatever follows is a child of.
    pub span_id: NonZeroU64,
    /// Whether whoever began it keeps it, so that others should.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads the text form. Of later versions it takes what version 00 has; what is malformed is nobody's trace.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let (known, more) = bytes.split_at_checked(LENGTH)?;
        let mut parts = known.split(|byte| *byte == b'-');
        let (version, trace_id, span_id, flags) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let version = hex(version, 2)?;
        let is_whole = match version {
            0 => more.is_empty(),
            0xff => false,
            _ => more.first().is_none_or(|byte| *byte == b'-'),
        };
        if !is_whole || parts.next().is_some() {
            return None;
        }
        Some(Self {
            trace_id: NonZeroU128::new(hex(trace_id, 32)?)?,
            span_id: NonZeroU64::new(u64::try_from(hex(span_id, 16)?).ok()?)?,
            is_sampled: hex(flags, 2)? & 1 == 1,
        })
    }

    /// Begins a trace with 24 random bytes, if it is one of the share that is kept.
    #[must_use]
    pub fn begin(random: [u8; 24], sample: Sample) -> Option<Self> {
        let number = |bytes: &[u8]| {
            bytes
                .iter()
                .fold(0, |number: u128, byte| number << 8 | u128::from(*byte))
        };
        let (trace_id, span_id) = random.split_at(16);
        let trace_id = NonZeroU128::new(number(trace_id))?;
        let span_id = NonZeroU64::new(u64::try_from(number(span_id)).ok()?)?;
        sample.takes(trace_id).then_some(Self {
            trace_id,
            span_id,
            is_sampled: true,
        })
    }

    /// Another span of the same trace, with the id of `random`.
    #[must_use]
    pub fn child(self, random: NonZeroU64) -> Self {
        Self {
            span_id: random,
            ..self
        }
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            trace_id,
            span_id,
            is_sampled,
        } = self;
        write!(
            f,
            "00-{trace_id:032x}-{span_id:016x}-{:02x}",
            u8::from(*is_sampled)
        )
    }
}

/// A number of exactly so many lower-case digits.
fn hex(digits: &[u8], length: usize) -> Option<u128> {
    if digits.len() != length {
        return None;
    }
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Which share of traces is kept. Whether one is, follows from its id, so that all who keep the same share keep the same
/// ones, and who keeps more has those as well.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(try_from = "f64")]
pub struct Sample(u64);

/// Not a share.
#[derive(Debug, Clone, Copy, PartialEq, thiserror::Error)]
#[error("expected a share from 0 to 1, got {0}")]
pub struct SampleError(f64);

impl TryFrom<f64> for Sample {
    type Error = SampleError;

    fn try_from(share: f64) -> Result<Self, SampleError> {
        Self::new(share).ok_or(SampleError(share))
    }
}

impl Default for Sample {
    fn default() -> Self {
        Self::new(TRACES_SHARE).unwrap_or(Self::NONE)
    }
}

impl Sample {
    /// None at all.
    pub const NONE: Self = Self(0);

    /// A share from 0 to 1; other numbers are none.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        // A float of this range is a whole number below 2^57.
        (0.0..=1.0)
            .contains(&share)
            .then_some(Self((share * (RANDOM + 1) as f64) as u64))
    }

    /// As a number from 0 to 1.
    #[must_use]
    pub fn share(self) -> f64 {
        self.0 as f64 / (RANDOM + 1) as f64
    }

    fn takes(self, trace_id: NonZeroU128) -> bool {
        let random = trace_id.get() & u128::from(RANDOM);
        random < u128::from(self.0)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn the_form_is_that_of_the_standard() {
        let read = TraceParent::parse(EXAMPLE).unwrap();
        assert_eq!(
            read.trace_id.get(),
            0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736
        );
        assert_eq!(read.span_id.get(), 0x00f0_67aa_0ba9_02b7);
        assert!(read.is_sampled);
        assert_eq!(read.to_string(), EXAMPLE);
        let not_kept = TraceParent::parse(&EXAMPLE.replace("-01", "-00")).unwrap();
        assert!(!not_kept.is_sampled);
        // Flags and fields of the future.
        let later = format!("cc-{}-03-what.comes", &EXAMPLE[3..52]);
        assert_eq!(TraceParent::parse(&later), Some(read));
    }

    #[test]
    fn what_is_malformed_is_no_trace() {
        let zero_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let zero_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        for text in [
            "",
            "00",
            zero_trace,
            zero_span,
            &EXAMPLE.to_uppercase(),
            &EXAMPLE.replace('-', "_"),
            &EXAMPLE.replacen("00", "ff", 1),
            &EXAMPLE[..54],
            &format!("{EXAMPLE}-"),
            &format!(" {EXAMPLE}"),
            &format!("01{}x", &EXAMPLE[2..]),
            &EXAMPLE.replace("4bf92f", "4bf92-"),
            &EXAMPLE.replace("4bf92f", "4bf9+f"),
            "00-4bf92f3577b34da6a3ce929d0e0e473\u{e9}-00f067aa0ba902b7-0",
        ] {
            assert_eq!(TraceParent::parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_share_of_traces_is_kept_and_a_larger_one_has_the_same_and_more() {
        let of = |share, low: u64| {
            let mut random = [7; 24];
            random[8..16].copy_from_slice(&low.to_be_bytes());
            TraceParent::begin(random, Sample::new(share).unwrap()).is_some()
        };
        // The first byte is not counted: forms of ids have bits of their own there.
        let at = |share: f64| 0xab << 56 | (share * 2f64.powi(56)) as u64;
        assert!(of(0.25, at(0.249)) && !of(0.25, at(0.25)) && of(0.5, at(0.25)));
        assert!(of(1.0, u64::MAX) && !of(0.0, 0));
        assert_eq!(TraceParent::begin([0; 24], Sample::new(1.0).unwrap()), None);
        assert_eq!(Sample::new(0.25).unwrap().share().to_string(), "0.25");
        for share in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Sample::new(share), None);
        }
    }
}
