//! Writes a fixture: hexadecimal digits, one field a line, each with what it says.

use crate::Frame;

/// The text of a fixture for `bytes`.
pub(crate) fn annotate(bytes: &[u8], frame: Frame) -> String {
    let mut writer = Writer { rest: bytes, text: String::new() };
    for (what, length) in frame.head {
        writer.line(0, *length, what);
    }
    let tail_bytes: usize = frame.tail.iter().map(|(_, length)| length).sum();
    while writer.rest.len() > tail_bytes {
        writer.item(0, "");
    }
    for (what, length) in frame.tail {
        writer.line(0, *length, what);
    }
    assert!(writer.rest.is_empty(), "{} bytes follow", writer.rest.len());
    writer.text
}

struct Writer<'a> {
    rest: &'a [u8],
    text: String,
}

impl Writer<'_> {
    /// One CBOR item, after `before` it on the same line.
    fn item(&mut self, depth: usize, label: &str) {
        let (head, count) = self.head();
        let first = self.rest[0] >> 5;
        match first {
            2 | 3 => {
                let length = usize::try_from(count).unwrap();
                let body = &self.rest[head..head + length];
                let said = if first == 3 || body.iter().all(|byte| (0x20..0x7f).contains(byte)) {
                    format!("\"{}\"", body.escape_ascii())
                } else {
                    format!("{length} bytes")
                };
                self.line(depth, head + length, &format!("{label}{said}"));
            }
            4 => {
                self.line(depth, head, &format!("{label}{count} items"));
                (0..count).for_each(|_| self.item(depth + 1, ""));
            }
            5 => {
                self.line(depth, head, &format!("{label}{count} fields"));
                (0..count).for_each(|_| self.field(depth + 1));
            }
            _ => {
                let said = match self.rest[0] {
                    0xf4 => "false".to_owned(),
                    0xf5 => "true".to_owned(),
                    0xf6 => "nothing".to_owned(),
                    _ => count.to_string(),
                };
                self.line(depth, head, &format!("{label}{said}"));
            }
        }
    }

    /// A key of a map and its value: on one line, unless the key is no text or the value has lines of its own.
    fn field(&mut self, depth: usize) {
        let (head, length) = self.head();
        if self.rest[0] >> 5 != 3 {
            self.item(depth, "");
            return self.item(depth, "");
        }
        let length = head + usize::try_from(length).unwrap();
        let label = format!("{}: ", String::from_utf8_lossy(&self.rest[head..length]));
        let key: String = hex(&self.rest[..length]);
        self.rest = &self.rest[length..];
        self.text += &format!("{}{key}", "  ".repeat(depth));
        let at = self.text.len();
        self.item(depth, &label);
        // The value's line goes on where the key's ended.
        let value = self.text.split_off(at);
        self.text += &format!(" {}", value.trim_start());
    }

    /// The number in an item's head, and how long the head is.
    fn head(&self) -> (usize, u64) {
        let long = |length: usize| self.rest[1..=length].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        match self.rest[0] & 0x1f {
            small @ 0..24 => (1, small.into()),
            24 => (2, long(1)),
            25 => (3, long(2)),
            26 => (5, long(4)),
            27 => (9, long(8)),
            other => panic!("{other} announces no length"),
        }
    }

    fn line(&mut self, depth: usize, length: usize, said: &str) {
        let (now, rest) = self.rest.split_at(length);
        self.rest = rest;
        self.text += &format!("{}{}  # {said}\n", "  ".repeat(depth), hex(now));
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
