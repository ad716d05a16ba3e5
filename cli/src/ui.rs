//! The one way to the person: standard output for answers, standard error for everything else.

use std::error::Error;
use std::io::{self, BufRead, IsTerminal, Write};

use crate::environment::Environment;
use crate::failure::Failure;

/// Standard streams, and whether a person sits behind them.
#[derive(Debug)]
pub(crate) struct Ui {
    out: io::BufWriter<io::Stdout>,
    /// Whether answers may have colours.
    pub(crate) colour: bool,
}

impl Ui {
    pub(crate) fn of_process(environment: &Environment) -> Self {
        let colour = io::stdout().is_terminal() && !environment.no_color;
        Self {
            out: io::BufWriter::new(io::stdout()),
            colour,
        }
    }

    /// One line of the answer.
    pub(crate) fn line(&mut self, text: impl AsRef<str>) -> Result<(), Failure> {
        writeln!(self.out, "{}", text.as_ref()).map_err(Failure::Output)
    }

    /// The answer as it is.
    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).map_err(Failure::Output)
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.out.flush().map_err(Failure::Output)
    }

    /// Beside the answer. Nothing is left to do when standard error is gone.
    pub(crate) fn note(&mut self, text: impl AsRef<str>) {
        let _ = self.out.flush();
        let _ = writeln!(io::stderr(), "{}", text.as_ref());
    }

    /// How far it is, in place of what this said before; an empty text takes that away. Only where a person sees it.
    pub(crate) fn progress(&mut self, text: &str) {
        if io::stderr().is_terminal() {
            let _ = write!(io::stderr(), "\r\u{1b}[K{text}");
            let _ = io::stderr().flush();
        }
    }

    /// The failure with its chain, once, and the hint.
    pub(crate) fn failure(&mut self, failure: &Failure) {
        self.note(explain(failure));
    }

    /// Whether somebody can be asked.
    pub(crate) fn can_ask(&self) -> bool {
        io::stdin().is_terminal() && io::stderr().is_terminal()
    }

    /// Asks; only `yes` or `y` is a yes.
    pub(crate) fn confirm(&mut self, question: &str) -> bool {
        let _ = write!(io::stderr(), "{question} [y/N] ");
        let _ = io::stderr().flush();
        let mut answer = String::new();
        io::stdin().lock().read_line(&mut answer).is_ok()
            && matches!(answer.trim().to_ascii_lowercase().as_str(), "y" | "yes")
    }
}

fn explain(failure: &Failure) -> String {
    let mut text = format!("error: {}", plain(&failure.to_string()));
    let mut source = failure.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&plain(&cause.to_string()));
        source = cause.source();
    }
    if let Some(hint) = failure.hint() {
        text.push_str(&format!("\n  (hint: {})", plain(&hint)));
    }
    text
}

/// Text from robots and relays, made harmless for a terminal: control characters are spelled out.
pub(crate) fn plain(text: &str) -> String {
    text.chars()
        .flat_map(|c| {
            let control = c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
            let escaped = control.then(|| c.escape_unicode());
            let kept = (!control).then_some(c);
            escaped.into_iter().flatten().chain(kept)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use lekiwi_protocol::api::Problem;

    use super::*;

    #[test]
    fn control_characters_cannot_reach_the_terminal() {
        assert_eq!(
            plain("a\u{1b}[2Jb\n\u{202e}é"),
            "a\\u{1b}[2Jb\\u{a}\\u{202e}é"
        );
    }

    #[test]
    fn a_problem_is_told_with_its_hint() {
        let mut problem = Problem {
            problem_type: "urn:lekiwi:problem:robot-unknown".into(),
            title: "no such robot".into(),
            status: 404,
            detail: None,
            hint: Some("`lekiwi robots` lists them".into()),
        };
        assert_eq!(
            explain(&Failure::Refused(problem.clone())),
            "error: no such robot\n  (hint: `lekiwi robots` lists them)"
        );
        problem.detail = Some("there is no robot kiwi-09".into());
        problem.hint = None;
        assert_eq!(
            explain(&Failure::Refused(problem)),
            "error: there is no robot kiwi-09"
        );
    }

    #[test]
    fn the_chain_is_told_once() {
        let failure = Failure::File {
            path: "/x/key.pem".into(),
            did: "written",
            source: io::Error::other("disk full"),
        };
        assert_eq!(
            explain(&failure),
            "error: /x/key.pem could not be written: disk full"
        );
    }
}
