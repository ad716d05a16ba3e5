//! A label for a unit, 62 by 29 mm: its name, serial number, profile and relay, and the same as a QR code. Pure.

use std::fmt::Write as _;

use pdf_writer::{Content, Finish, Name, Pdf, Rect, Ref, Str};
use qrcodegen::{QrCode, QrCodeEcc};

use super::unit::Unit;

/// Millimetres.
const WIDTH: f32 = 62.0;
const HEIGHT: f32 = 29.0;
const MARGIN: f32 = 2.0;
/// Points in a millimetre.
const POINT: f32 = 72.0 / 25.4;
/// Lines of text: distance from the top in millimetres, size in millimetres.
const LINES: [(f32, f32); 4] = [(8.0, 4.0), (14.0, 2.6), (18.5, 2.6), (23.0, 2.2)];
/// Width of a letter of the font, in parts of its size.
const LETTER: f32 = 0.6;

/// Why there is no label.
#[derive(Debug, thiserror::Error)]
pub enum LabelError {
    /// It has no name yet.
    #[error("{0} is not called anything yet: its serial number is not known")]
    Nameless(String),
    /// More than a QR code takes.
    #[error("the relay's address is too long for a QR code")]
    Long,
}

/// What is on a label.
#[derive(Clone)]
pub struct Label {
    lines: [String; 4],
    code: QrCode,
}

impl Label {
    /// The label of a unit that registers at `relay` (`https://host:port`). The code has the robot's place there.
    ///
    /// # Errors
    /// When the unit has no name, or the address is far too long.
    pub fn new(unit: &Unit, relay: &str) -> Result<Self, LabelError> {
        let robot = unit
            .robot_id
            .as_ref()
            .ok_or_else(|| LabelError::Nameless(unit.key.0.clone()))?;
        let serial = unit.serial.as_ref().map_or("", |serial| serial.as_str());
        let relay = relay.trim_end_matches('/');
        let address = format!(
            "{relay}/?robot={robot}&serial={serial}&profile={}",
            unit.profile
        );
        let code =
            QrCode::encode_text(&address, QrCodeEcc::Medium).map_err(|_| LabelError::Long)?;
        let lines = [
            robot.to_string(),
            format!("serial {serial}"),
            format!("profile {}", unit.profile),
            relay.trim_start_matches("https://").to_owned(),
        ];
        Ok(Self { lines, code })
    }

    /// Side of the code and of one of its squares, in millimetres.
    fn code_size(&self) -> (f32, f32) {
        let side = HEIGHT - 2.0 * MARGIN;
        (side, side / self.code.size() as f32)
    }

    /// Dark squares: column and row.
    fn squares(&self) -> impl Iterator<Item = (i32, i32)> + '_ {
        let size = self.code.size();
        (0..size)
            .flat_map(move |y| (0..size).map(move |x| (x, y)))
            .filter(|(x, y)| self.code.get_module(*x, *y))
    }

    /// The lines with their place from the left and the top, and their size; long ones are set smaller.
    fn texts(&self) -> impl Iterator<Item = (&str, f32, f32, f32)> {
        let left = self.code_size().0 + 2.0 * MARGIN;
        let room = WIDTH - left - MARGIN;
        self.lines
            .iter()
            .zip(LINES)
            .map(move |(text, (top, size))| {
                let fits = room / (LETTER * text.chars().count().max(1) as f32);
                (text.as_str(), left, top, size.min(fits))
            })
    }

    /// As SVG.
    #[must_use]
    pub fn svg(&self) -> String {
        let (_, square) = self.code_size();
        let mut path = String::new();
        for (x, y) in self.squares() {
            let _ = write!(path, "M{x} {y}h1v1h-1z");
        }
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{WIDTH}mm\" height=\"{HEIGHT}mm\" viewBox=\"0 0 {WIDTH} {HEIGHT}\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n<path transform=\"translate({MARGIN} {MARGIN}) scale({square})\" d=\"{path}\" shape-rendering=\"crispEdges\"/>\n"
        );
        // Names, serial numbers and addresses have nothing in them that SVG would take for its own but this.
        for (text, x, y, size) in self.texts() {
            let text = text.replace('&', "&amp;").replace('<', "&lt;");
            let _ = writeln!(
                svg,
                "<text x=\"{x}\" y=\"{y}\" font-size=\"{size}\" font-family=\"Courier, monospace\">{text}</text>"
            );
        }
        svg += "</svg>\n";
        svg
    }

    /// As PDF.
    #[must_use]
    pub fn pdf(&self) -> Vec<u8> {
        let [catalog, pages, page, font, content] = [1, 2, 3, 4, 5].map(Ref::new);
        let face = Name(b"F1");
        let mut pdf = Pdf::new();
        pdf.catalog(catalog).pages(pages);
        pdf.pages(pages).kids([page]).count(1);
        let mut sheet = pdf.page(page);
        sheet.media_box(Rect::new(0.0, 0.0, WIDTH * POINT, HEIGHT * POINT));
        sheet.parent(pages);
        sheet.contents(content);
        sheet.resources().fonts().pair(face, font);
        sheet.finish();
        pdf.type1_font(font).base_font(Name(b"Courier"));
        let mut drawing = Content::new();
        let (_, square) = self.code_size();
        for (x, y) in self.squares() {
            let left = MARGIN + x as f32 * square;
            let bottom = HEIGHT - MARGIN - (y + 1) as f32 * square;
            let side = square * POINT;
            drawing.rect(left * POINT, bottom * POINT, side, side);
        }
        drawing.fill_nonzero();
        for (text, x, top, size) in self.texts() {
            drawing.begin_text();
            drawing.set_font(face, size * POINT);
            drawing.next_line(x * POINT, (HEIGHT - top) * POINT);
            drawing.show(Str(text.as_bytes()));
            drawing.end_text();
        }
        pdf.stream(content, &drawing.finish());
        pdf.finish()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use lekiwi_protocol::Timestamp;

    use super::*;
    use crate::line::unit::Key;

    #[test]
    fn a_unit_without_a_name_has_no_label() {
        let mut unit = Unit::new(
            Key("dc:a6:32:01:36:c2".into()),
            "lekiwi".into(),
            Timestamp::from_ms(0),
        );
        assert_eq!(
            Label::new(&unit, "https://r:1").err().unwrap().to_string(),
            "dc:a6:32:01:36:c2 is not called anything yet: its serial number is not known"
        );
        unit.robot_id = Some("kiwi-01".parse().unwrap());
        let label = Label::new(&unit, "https://r:1").unwrap();
        assert!(label.svg().contains(">kiwi-01</text>"));
        assert!(label.pdf().starts_with(b"%PDF-"));
        assert_eq!(
            Label::new(&unit, &"x".repeat(3000))
                .err()
                .unwrap()
                .to_string(),
            "the relay's address is too long for a QR code"
        );
    }
}
