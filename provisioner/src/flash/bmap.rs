//! Block maps (`IMAGE.bmap`, format 2): which parts of an image hold something, with a checksum for each and one for
//! the map itself. Pure; read by `commands::flash`, followed by [`super::write`].

use sha2::{Digest, Sha256};

use super::check::Span;

/// A checked block map. Ranges ascend, do not overlap and end within the image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bmap {
    image_bytes: u64,
    ranges: Vec<Range>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Range {
    start: u64,
    bytes: u64,
    sha256: [u8; 32],
}

/// Why a block map is not followed.
#[derive(Debug, thiserror::Error)]
pub enum BmapError {
    /// Not XML.
    #[error("expected a block map in XML")]
    Xml(#[from] roxmltree::Error),
    /// XML of another kind, or of another version.
    #[error("expected a block map of version 2, got {0}")]
    Version(String),
    /// An element is missing or holds something else.
    #[error("expected {expected} in <{element}>, got {got}")]
    Element {
        /// Which element.
        element: &'static str,
        /// What belongs there.
        expected: &'static str,
        /// What is there.
        got: String,
    },
    /// The map was changed after it was made.
    #[error("expected a block map with checksum {said}, got one with {actual}")]
    Checksum {
        /// What the map says of itself.
        said: String,
        /// What it is.
        actual: String,
    },
    /// The counts contradict each other.
    #[error("expected {expected} {what}, got {got}")]
    Count {
        /// Of what.
        what: &'static str,
        /// What the map says.
        expected: u64,
        /// What follows from the rest of it.
        got: u64,
    },
}

/// Gaps below this are written as zeros with what is around them: many small writes cost more.
const SMALL_GAP: u64 = 128 << 10;

impl Bmap {
    /// Reads and checks a map.
    ///
    /// # Errors
    /// When it is not XML, of another version, not sound, or does not have the checksum that it says it has.
    pub fn parse(text: &str) -> Result<Self, BmapError> {
        let document = roxmltree::Document::parse(text)?;
        let map = document.root_element();
        let version = map.attribute("version").unwrap_or_default();
        if !map.has_tag_name("bmap") || version.split('.').next() != Some("2") {
            let name = map.tag_name().name();
            return Err(BmapError::Version(format!("<{name} version={version:?}>")));
        }
        let text_of = |element: &'static str| {
            map.children()
                .find(|node| node.has_tag_name(element))
                .and_then(|node| node.text())
                .unwrap_or_default()
                .trim()
        };
        let number = |element: &'static str| {
            text_of(element)
                .parse::<u64>()
                .map_err(|_| BmapError::Element {
                    element,
                    expected: "a number",
                    got: format!("{:?}", text_of(element)),
                })
        };
        if text_of("ChecksumType") != "sha256" {
            return Err(BmapError::Element {
                element: "ChecksumType",
                expected: "sha256",
                got: format!("{:?}", text_of("ChecksumType")),
            });
        }
        check_itself(text, text_of("BmapFileChecksum"))?;
        let image_bytes = number("ImageSize")?;
        let block = number("BlockSize")?;
        if block == 0 || !block.is_multiple_of(super::card::ALIGN as u64) {
            return Err(BmapError::Element {
                element: "BlockSize",
                expected: "a multiple of 4096",
                got: block.to_string(),
            });
        }
        count(
            "blocks",
            number("BlocksCount")?,
            image_bytes.div_ceil(block),
        )?;
        let mut ranges: Vec<Range> = Vec::new();
        let mut mapped = 0;
        let nodes = map
            .children()
            .filter(|node| node.has_tag_name("BlockMap"))
            .flat_map(|list| list.children())
            .filter(|node| node.has_tag_name("Range"));
        for node in nodes {
            let end = ranges.last().map_or(0, |range| range.start + range.bytes);
            let range = range(node, block, image_bytes, end)?;
            mapped += range.bytes.div_ceil(block);
            ranges.push(range);
        }
        count("mapped blocks", number("MappedBlocksCount")?, mapped)?;
        Ok(Self {
            image_bytes,
            ranges,
        })
    }

    /// The image's size in bytes.
    #[must_use]
    pub fn image_bytes(&self) -> u64 {
        self.image_bytes
    }

    /// How many bytes of it hold something.
    #[must_use]
    pub fn mapped_bytes(&self) -> u64 {
        self.ranges.iter().map(|range| range.bytes).sum()
    }

    /// What is written, as (start, bytes); everything between is made zero.
    #[must_use]
    pub fn writes(&self) -> Vec<(u64, u64)> {
        let mut writes: Vec<(u64, u64)> = Vec::new();
        for range in &self.ranges {
            match writes.last_mut() {
                Some((start, bytes)) if range.start - (*start + *bytes) < SMALL_GAP => {
                    *bytes = range.start + range.bytes - *start;
                }
                _ => writes.push((range.start, range.bytes)),
            }
        }
        writes
    }

    /// The whole image: what holds something by its checksum, what does not as zeros.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        let mut spans = Vec::new();
        let mut at = 0;
        for range in &self.ranges {
            if range.start > at {
                spans.push(Span::zeros(at, range.start - at));
            }
            spans.push(Span {
                start: range.start,
                bytes: range.bytes,
                sha256: Some(range.sha256),
            });
            at = range.start + range.bytes;
        }
        if self.image_bytes > at {
            spans.push(Span::zeros(at, self.image_bytes - at));
        }
        spans
    }
}

fn count(what: &'static str, expected: u64, got: u64) -> Result<(), BmapError> {
    if expected == got {
        return Ok(());
    }
    Err(BmapError::Count {
        what,
        expected,
        got,
    })
}

/// The map's checksum is made with zeros in its own place.
fn check_itself(text: &str, said: &str) -> Result<(), BmapError> {
    if said.len() != 64 {
        return Err(BmapError::Element {
            element: "BmapFileChecksum",
            expected: "64 hexadecimal digits",
            got: format!("{said:?}"),
        });
    }
    let blank = text.replacen(said, &"0".repeat(64), 1);
    let actual = hex::encode(Sha256::digest(blank));
    if actual.eq_ignore_ascii_case(said) {
        return Ok(());
    }
    Err(BmapError::Checksum {
        said: said.to_owned(),
        actual,
    })
}

/// `<Range chksum="…"> 3-7 </Range>`, in blocks, the last one included.
fn range(
    node: roxmltree::Node<'_, '_>,
    block: u64,
    image_bytes: u64,
    after: u64,
) -> Result<Range, BmapError> {
    let text = node.text().unwrap_or_default().trim();
    let wrong = |expected, got: &str| BmapError::Element {
        element: "Range",
        expected,
        got: format!("{got:?}"),
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (Ok(first), Ok(last)) = (first.trim().parse::<u64>(), last.trim().parse::<u64>()) else {
        return Err(wrong("blocks such as 3 or 3-7", text));
    };
    let start = first.checked_mul(block);
    let end = last.checked_add(1).and_then(|end| end.checked_mul(block));
    let (Some(start), Some(end)) = (start, end) else {
        return Err(wrong("blocks of the image", text));
    };
    if start < after || end <= start || last >= image_bytes.div_ceil(block) {
        return Err(wrong("ascending blocks of the image", text));
    }
    let checksum = node.attribute("chksum").unwrap_or_default();
    let mut sha256 = [0; 32];
    hex::decode_to_slice(checksum, &mut sha256)
        .map_err(|_| wrong("a SHA-256 checksum", checksum))?;
    Ok(Range {
        start,
        bytes: end.min(image_bytes) - start,
        sha256,
    })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn sealed(text: &str) -> String {
        let zeros = "0".repeat(64);
        let blank = text.replace("SEAL", &zeros);
        let seal = hex::encode(Sha256::digest(&blank));
        blank.replacen(&zeros, &seal, 1)
    }

    fn map(ranges: &str, counts: [u64; 3]) -> String {
        let [size, blocks, mapped] = counts;
        let sum = "ab".repeat(32);
        sealed(&format!(
            "<?xml version=\"1.0\" ?>\n<!-- made by hand -->\n<bmap version=\"2.0\">\n<ImageSize> {size} </ImageSize>\n<BlockSize> 4096 </BlockSize>\n<BlocksCount> {blocks} </BlocksCount>\n<MappedBlocksCount> {mapped} </MappedBlocksCount>\n<ChecksumType> sha256 </ChecksumType>\n<BmapFileChecksum> SEAL </BmapFileChecksum>\n<BlockMap>\n{}</BlockMap>\n</bmap>\n",
            ranges.replace("SUM", &sum)
        ))
    }

    const TWO: &str = "<Range chksum=\"SUM\"> 0-1 </Range>\n<Range chksum=\"SUM\"> 100 </Range>\n";

    #[test]
    fn what_is_mapped_is_written_and_the_rest_is_zero() {
        // The last block is cut by the image's end.
        let bmap = Bmap::parse(&map(TWO, [100 * 4096 + 512, 101, 3])).unwrap();
        assert_eq!(bmap.image_bytes(), 410_112);
        assert_eq!(bmap.mapped_bytes(), 8704);
        assert_eq!(bmap.writes(), [(0, 8192), (409_600, 512)]);
        let spans: Vec<_> = bmap
            .spans()
            .iter()
            .map(|span| (span.start, span.bytes, span.sha256.is_some()))
            .collect();
        assert_eq!(
            spans,
            [
                (0, 8192, true),
                (8192, 401_408, false),
                (409_600, 512, true)
            ]
        );
        let near = "<Range chksum=\"SUM\"> 1 </Range><Range chksum=\"SUM\"> 3-4 </Range>";
        let bmap = Bmap::parse(&map(near, [6 * 4096, 6, 3])).unwrap();
        assert_eq!(bmap.writes(), [(4096, 16384)]);
        assert_eq!(bmap.spans().len(), 5);
    }

    #[test]
    fn what_is_not_sound_is_refused() {
        let said = |text: &str| Bmap::parse(text).unwrap_err().to_string();
        assert_eq!(said("image"), "expected a block map in XML");
        assert_eq!(
            said("<bmap version=\"1.3\"></bmap>"),
            "expected a block map of version 2, got <bmap version=\"1.3\">"
        );
        let good = map(TWO, [101 * 4096, 101, 3]);
        Bmap::parse(&good).unwrap();
        assert_eq!(
            said(&good.replace("sha256", "sha1")),
            "expected sha256 in <ChecksumType>, got \"sha1\""
        );
        assert!(
            said(&good.replace("0-1", "0-2")).starts_with("expected a block map with checksum "),
        );
        assert_eq!(
            said(&map(TWO, [101 * 4096, 100, 3])),
            "expected 100 blocks, got 101"
        );
        assert_eq!(
            said(&map(TWO, [101 * 4096, 101, 7])),
            "expected 7 mapped blocks, got 3"
        );
        assert_eq!(
            said(&map(TWO, [99 * 4096, 99, 3])),
            "expected ascending blocks of the image in <Range>, got \"100\""
        );
        assert_eq!(
            said(&map("<Range chksum=\"SUM\"> x </Range>", [4096, 1, 1])),
            "expected blocks such as 3 or 3-7 in <Range>, got \"x\""
        );
        assert_eq!(
            said(&map("<Range> 0 </Range>", [4096, 1, 1])),
            "expected a SHA-256 checksum in <Range>, got \"\""
        );
    }
}
