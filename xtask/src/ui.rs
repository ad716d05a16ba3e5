//! Everything this program tells people, in one place: progress to stderr, results to stdout.
//! Colours only on a terminal, and never with `NO_COLOR`.

use std::fmt::Display;
use std::io::{IsTerminal, Write};

use crate::workspace::environment;

/// A colour of the terminal.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Bold,
    Dim,
    Red,
    Green,
    Cyan,
    Magenta,
}

impl Colour {
    fn code(self) -> &'static str {
        match self {
            Colour::Bold => "1",
            Colour::Dim => "2",
            Colour::Red => "1;31",
            Colour::Green => "1;32",
            Colour::Cyan => "36",
            Colour::Magenta => "35",
        }
    }
}

/// Whether progress goes to a person at a terminal.
pub(crate) fn colours() -> bool {
    std::io::stderr().is_terminal() && environment("NO_COLOR").is_none()
}

/// `text` in a colour, where colours are shown.
pub(crate) fn paint(colour: Colour, text: impl Display) -> String {
    if colours() {
        format!("\x1b[{}m{text}\x1b[0m", colour.code())
    } else {
        text.to_string()
    }
}

/// One line of progress. A closed stderr is nobody's fault and stops nothing.
pub(crate) fn say(line: impl Display) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// The start of a step that may take long.
pub(crate) fn step(what: impl Display) {
    say(format_args!("{} {what}", paint(Colour::Green, "==>")));
}

/// One line of a result.
pub(crate) fn result(line: impl Display) {
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

/// Asks; an empty answer is yes.
pub(crate) fn confirm(question: &str) -> bool {
    write!(std::io::stderr().lock(), "{question} [Y/n] ").ok();
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).is_ok_and(|read| {
        read > 0 && matches!(answer.trim().to_lowercase().as_str(), "" | "y" | "yes")
    })
}

/// The whole chain of an error, once.
pub(crate) fn failure(error: &anyhow::Error) {
    let chain: Vec<String> = error.chain().map(ToString::to_string).collect();
    say(format_args!(
        "{} {}",
        paint(Colour::Red, "error:"),
        chain.join(": ")
    ));
}
