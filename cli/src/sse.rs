//! Server-sent events (the WHATWG HTML standard, "interpreting an event stream"): bytes in, events out. Pure.

/// One event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Event {
    /// Its name; `message` when the sender names none.
    pub(crate) name: String,
    /// Its data lines, joined by line feeds.
    pub(crate) data: String,
}

/// Longest line that is kept; a longer one is cut. Messages are at most 64 KiB, JSON included.
const MAX_LINE_BYTES: usize = 1024 * 1024;

/// Collects bytes until an event is whole.
#[derive(Debug, Default)]
pub(crate) struct Parser {
    line: Vec<u8>,
    name: String,
    data: String,
    after_cr: bool,
    /// Of the event that comes; it counts once all of that is there.
    next_id: Option<String>,
    id: Option<String>,
}

impl Parser {
    /// Takes bytes as they come, and answers the events that they complete.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        for &byte in bytes {
            let after_cr = std::mem::replace(&mut self.after_cr, byte == b'\r');
            match byte {
                // CR LF is one end of line.
                b'\n' if after_cr => {}
                b'\n' | b'\r' => {
                    let line = std::mem::take(&mut self.line);
                    events.extend(self.take(&String::from_utf8_lossy(&line)));
                }
                _ if self.line.len() < MAX_LINE_BYTES => self.line.push(byte),
                _ => {}
            }
        }
        events
    }

    /// Where the stream was: what a client that comes back tells the sender.
    pub(crate) fn last_event_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn take(&mut self, line: &str) -> Option<Event> {
        if line.is_empty() {
            self.id = self.next_id.take().or(self.id.take());
            let name = std::mem::take(&mut self.name);
            let mut data = std::mem::take(&mut self.data);
            data.pop()?;
            return Some(Event {
                name: if name.is_empty() {
                    "message".into()
                } else {
                    name
                },
                data,
            });
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "data" => {
                self.data.push_str(value);
                self.data.push('\n');
            }
            "event" => value.clone_into(&mut self.name),
            "id" if !value.contains('\0') => self.next_id = Some(value.to_owned()),
            _ => {}
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: &str, data: &str) -> Event {
        Event {
            name: name.into(),
            data: data.into(),
        }
    }

    #[test]
    fn events_come_out_however_the_bytes_are_cut() {
        let stream = ": hello\n\ndata: {\"a\":1}\n\nevent: lagged\r\ndata: x\r\ndata:y\r\nid: 7\r\n\r\nevent: empty\n\ndata\n\nid: 9\ndata: cut";
        let expected = [
            event("message", "{\"a\":1}"),
            event("lagged", "x\ny"),
            event("message", ""),
        ];
        for size in 1..stream.len() {
            let mut parser = Parser::default();
            let events: Vec<Event> = stream
                .as_bytes()
                .chunks(size)
                .flat_map(|bytes| parser.push(bytes))
                .collect();
            assert_eq!(events, expected, "in pieces of {size}");
            assert_eq!(parser.last_event_id(), Some("7"), "9 has not come whole");
        }
    }

    #[test]
    fn an_endless_line_does_not_eat_the_memory() {
        let mut parser = Parser::default();
        for _ in 0..2_000 {
            parser.push(&[b'x'; 1024]);
        }
        assert_eq!(parser.line.len(), MAX_LINE_BYTES);
        assert_eq!(parser.push(b"\n\ndata: y\n\n"), [event("message", "y")]);
    }
}
