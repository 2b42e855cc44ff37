//! The lines of an input, read beside the work that is done with them.
//!
//! Reading blocks, so it has a thread of its own; the thread waits when the reader of the lines is behind, and ends
//! with the input, or once nobody wants more lines and the next one has come.

use std::{
    io::{self, BufRead, Read as _},
    thread,
};

use async_std::channel::{self, Receiver};

/// Longest line, in bytes: the largest key and value in the longest way to write them in JSON fit.
pub(crate) const LINE_LIMIT_BYTES: u64 = 16 << 20;

/// Lines read ahead.
const LINES_AHEAD: usize = 64;

/// The lines of `input`, without their line breaks. An error is the last thing that comes.
pub(crate) fn read(mut input: impl BufRead + Send + 'static) -> Receiver<io::Result<Vec<u8>>> {
    let (sender, receiver) = channel::bounded(LINES_AHEAD);
    thread::spawn(move || {
        while let Some(line) = next_line(&mut input).transpose() {
            let is_last = line.is_err();
            if sender.send_blocking(line).is_err() || is_last {
                break;
            }
        }
    });
    receiver
}

fn next_line(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    let read_bytes = input.by_ref().take(LINE_LIMIT_BYTES + 1).read_until(b'\n', &mut line)?;
    if read_bytes == 0 {
        return Ok(None);
    }
    if line.len() as u64 > LINE_LIMIT_BYTES {
        let detail = format!("a line is longer than {LINE_LIMIT_BYTES} bytes");
        return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
    }
    if line.ends_with(b"\n") {
        line.pop();
    }
    if line.ends_with(b"\r") {
        line.pop();
    }
    Ok(Some(line))
}

/// Whether there is nothing on the line.
pub(crate) fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(input: impl BufRead + Send + 'static) -> Vec<io::Result<Vec<u8>>> {
        let receiver = read(input);
        std::iter::from_fn(|| receiver.recv_blocking().ok()).collect()
    }

    #[test]
    fn lines_come_without_their_breaks_and_the_last_needs_none() {
        let lines: Vec<Vec<u8>> = all(&b"a\r\n\nb"[..]).into_iter().map(Result::unwrap).collect();
        assert_eq!(lines, [b"a".to_vec(), Vec::new(), b"b".to_vec()]);
        assert!(all(&b""[..]).is_empty());
    }

    #[test]
    fn an_endless_line_is_an_error_and_not_memory() {
        let lines = all(io::BufReader::new(io::repeat(b'x')));
        assert_eq!(lines.len(), 1);
        assert!(lines[0].as_ref().unwrap_err().to_string().contains("longer than"));
    }
}
