//! What tells boards apart: serial numbers and hardware addresses. Pure.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A board's serial number: 16 hex digits, or only the last 8, which is all that network boot shows.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(String);

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac(pub [u8; 6]);

/// Why a text names no board.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BoardError {
    /// Not a serial number.
    #[error("expected a serial number of 16 hex digits, or its last 8, got {0:?}")]
    Serial(String),
    /// Not an Ethernet address.
    #[error("expected an Ethernet address such as dc:a6:32:01:36:c2, got {0:?}")]
    Mac(String),
}

/// Organisations whose addresses Raspberry Pi boards have.
const RASPBERRY_PI: [[u8; 3]; 6] = [
    [0xb8, 0x27, 0xeb],
    [0xdc, 0xa6, 0x32],
    [0xe4, 0x5f, 0x01],
    [0x28, 0xcd, 0xc1],
    [0xd8, 0x3a, 0xdd],
    [0x2c, 0xcf, 0x67],
];

impl Serial {
    /// Of the last 32 bits.
    #[must_use]
    pub fn from_low(low: u32) -> Self {
        Self(format!("{low:08x}"))
    }

    /// The last 32 bits, which name the board's TFTP folder.
    #[must_use]
    pub fn low(&self) -> u32 {
        // Checked to be hex digits, at least 8.
        let digits = self.0.len().saturating_sub(8);
        u32::from_str_radix(self.0.get(digits..).unwrap_or_default(), 16).unwrap_or_default()
    }

    /// Whether all of it is known.
    #[must_use]
    pub fn is_whole(&self) -> bool {
        self.0.len() == 16
    }

    /// As the board itself writes it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether both can be of one board.
    #[must_use]
    pub fn fits(&self, other: &Self) -> bool {
        if self.is_whole() && other.is_whole() {
            self == other
        } else {
            self.low() == other.low()
        }
    }
}

impl FromStr for Serial {
    type Err = BoardError;
    fn from_str(text: &str) -> Result<Self, BoardError> {
        let fits = matches!(text.len(), 8 | 16) && text.bytes().all(|b| b.is_ascii_hexdigit());
        if fits {
            Ok(Self(text.to_ascii_lowercase()))
        } else {
            Err(BoardError::Serial(text.chars().take(80).collect()))
        }
    }
}

impl Mac {
    /// Whether its maker is Raspberry Pi.
    #[must_use]
    pub fn is_raspberry_pi(self) -> bool {
        RASPBERRY_PI.iter().any(|maker| self.0.starts_with(maker))
    }

    /// The last 24 bits of the serial number, where the address was made from it: boards up to the Pi 3.
    #[must_use]
    pub fn serial_tail(self) -> Option<u32> {
        let [a, b, c, d, e, f] = self.0;
        ([a, b, c] == RASPBERRY_PI[0]).then(|| u32::from_be_bytes([0, d, e, f]))
    }
}

impl FromStr for Mac {
    type Err = BoardError;
    fn from_str(text: &str) -> Result<Self, BoardError> {
        let wrong = || BoardError::Mac(text.chars().take(80).collect());
        let mut bytes = [0; 6];
        let mut parts = text.split([':', '-']);
        for byte in &mut bytes {
            let part = parts.next().filter(|part| {
                // A sign would be taken for a digit.
                part.len() == 2 && part.bytes().all(|b| b.is_ascii_hexdigit())
            });
            *byte = part
                .and_then(|part| u8::from_str_radix(part, 16).ok())
                .ok_or_else(wrong)?;
        }
        if parts.next().is_some() {
            return Err(wrong());
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Serial {
    type Error = BoardError;
    fn try_from(text: String) -> Result<Self, BoardError> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.0
    }
}

impl TryFrom<String> for Mac {
    type Error = BoardError;
    fn try_from(text: String) -> Result<Self, BoardError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> Self {
        mac.to_string()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn serials() {
        let whole: Serial = "10000000ABCDEF01".parse().unwrap();
        assert_eq!(whole.as_str(), "10000000abcdef01");
        assert_eq!(whole.low(), 0xabcd_ef01);
        let low = Serial::from_low(0xabcd_ef01);
        assert!(whole.fits(&low) && low.fits(&whole) && !low.is_whole());
        assert!(!whole.fits(&"20000000abcdef01".parse().unwrap()));
        for bad in ["", "abc", "10000000abcdef0g", "10000000abcdef012"] {
            assert_eq!(
                bad.parse::<Serial>().unwrap_err().to_string(),
                format!("expected a serial number of 16 hex digits, or its last 8, got {bad:?}")
            );
        }
    }

    #[test]
    fn addresses() {
        let mac: Mac = "DC-A6-32-01-36-c2".parse().unwrap();
        assert_eq!(mac.to_string(), "dc:a6:32:01:36:c2");
        assert!(mac.is_raspberry_pi());
        assert_eq!(mac.serial_tail(), None);
        let old: Mac = "b8:27:eb:cd:ef:01".parse().unwrap();
        assert_eq!(old.serial_tail(), Some(0x00cd_ef01));
        for bad in [
            "",
            "dc:a6:32:01:36",
            "dc:a6:32:01:36:c2:00",
            "dc:a6:32:01:36:+2",
            "dca6320136c2",
        ] {
            let error = bad.parse::<Mac>().unwrap_err().to_string();
            assert_eq!(
                error,
                format!("expected an Ethernet address such as dc:a6:32:01:36:c2, got {bad:?}")
            );
        }
    }
}
