//! The cluster's pre-shared key, in kubo's file format.
//!
//! Three lines: `/key/swarm/psk/1.0.0/`, `/base16/`, and 64 hexadecimal digits. Whoever holds the file is inside.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use libp2p::pnet::PreSharedKey;
use thiserror::Error;

/// Why there is no key. Nothing was changed.
#[derive(Debug, Error)]
pub enum SwarmKeyError {
    /// The file cannot be read.
    #[error("the swarm key {path} cannot be read: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// The file does not hold a key.
    #[error(
        "{path} is no swarm key: it has three lines, `/key/swarm/psk/1.0.0/`, `/base16/` and 64 hexadecimal digits; \
         `quorate keygen` makes one", path = path.display()
    )]
    Malformed {
        /// The file.
        path: PathBuf,
    },
}

/// A new key, drawn at random.
pub fn generate() -> PreSharedKey {
    PreSharedKey::new(rand::random())
}

/// The key in the file at `path`.
pub fn load(path: &Path) -> Result<PreSharedKey, SwarmKeyError> {
    let bytes = fs::read(path).map_err(|source| SwarmKeyError::Io { path: path.to_owned(), source })?;
    parse(&bytes).ok_or_else(|| SwarmKeyError::Malformed { path: path.to_owned() })
}

/// The 32 secret bytes of `key`: what else the cluster shares is derived from them.
pub fn secret_of(key: PreSharedKey) -> Vec<u8> {
    let file = key.to_key_file();
    let digits = file.lines().nth(2).unwrap_or_default().as_bytes();
    digits.chunks_exact(2).filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
}

fn parse(bytes: &[u8]) -> Option<PreSharedKey> {
    let text = str::from_utf8(bytes).ok()?;
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    // libp2p's own parser cuts the digits at byte positions: give it digits only.
    let digits = lines.get(2)?;
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    lines.join("\n").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_key_is_read_back_from_kubos_format() {
        let key = generate();
        let file = key.to_key_file();
        assert!(file.starts_with("/key/swarm/psk/1.0.0/\n/base16/\n"));
        assert_eq!(parse(file.as_bytes()), Some(key));
        assert_eq!(parse(file.replace('\n', "\r\n").as_bytes()), Some(key));
        assert_eq!(secret_of(PreSharedKey::new([7; 32])), [7; 32]);
        assert_ne!(generate(), key);
    }

    #[test]
    fn what_is_no_key_is_refused_and_never_a_panic() {
        let head = "/key/swarm/psk/1.0.0/\n/base16/\n";
        for digits in ["", "zz", &"é".repeat(32), &"+f".repeat(32), &"a".repeat(63), &"a".repeat(65)] {
            assert_eq!(parse(format!("{head}{digits}\n").as_bytes()), None, "{digits}");
        }
        assert_eq!(parse(b"/key/swarm/psk/2.0.0/\n/base16/\n"), None);
        assert_eq!(parse(&[0xff; 80]), None);
    }
}
