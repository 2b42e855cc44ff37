//! Why a dial failed, as a type.
//!
//! The transport speaks [`io::Error`], as its users expect of sockets; what the system has no error for travels inside
//! one. Each variant names whom we tried, so that a log line is useful by itself.

use std::{fmt, io, net::SocketAddr, time::Duration};

use thiserror::Error;

/// Why a dial failed, where the system has no error of its own for it.
///
/// Found inside the [`io::Error`] of a dial (`error.get_ref()` and `downcast_ref`). No connection is left behind, and
/// trying again is safe after each of them.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum DialError {
    /// Nobody answered. Kind [`TimedOut`](io::ErrorKind::TimedOut).
    #[error("no connection to {address} within {limit:?}")]
    TimedOut {
        /// Whom we tried.
        address: SocketAddr,
        /// How long.
        limit: Duration,
    },
    /// The socket was connected to itself: nobody listens at a local address, and the system chose that very port for
    /// our end. Kind [`ConnectionRefused`](io::ErrorKind::ConnectionRefused).
    #[error("nobody listens at {address}: the connection came back to its own socket")]
    ConnectedToItself {
        /// Whom we tried.
        address: SocketAddr,
    },
    /// The resolver did not answer. Kind [`TimedOut`](io::ErrorKind::TimedOut).
    #[error("name {name} was not resolved within {limit:?}")]
    ResolutionTimedOut {
        /// The name, as a multiaddress.
        name: String,
        /// How long we waited.
        limit: Duration,
    },
    /// The resolver refused. Kind of its answer.
    #[error("name {name} was not resolved: {error}")]
    ResolutionFailed {
        /// The name, as a multiaddress.
        name: String,
        /// The resolver's answer.
        error: io::Error,
    },
    /// [`TcpConfig::resolutions_at_once`](crate::tcp::TcpConfig::resolutions_at_once) names are being resolved. Kind [`WouldBlock`](io::ErrorKind::WouldBlock).
    #[error("name {name} was not resolved: {limit} others are being resolved")]
    TooManyResolutions {
        /// The name, as a multiaddress.
        name: String,
        /// The limit that is reached.
        limit: usize,
    },
    /// The name stands for no address of the wanted family. Kind [`NotFound`](io::ErrorKind::NotFound).
    #[error("name {name} has no address that can be dialled")]
    NoAddress {
        /// The name, as a multiaddress.
        name: String,
    },
    /// No address of the name led to a connection. Kind of the last attempt.
    #[error("no connection to {name}; tried {}", AsList(attempts))]
    AllFailed {
        /// The name, as a multiaddress.
        name: String,
        /// In the order tried; 1 to [`ADDRESSES_PER_NAME`](crate::tcp::ADDRESSES_PER_NAME) of them.
        attempts: Vec<FailedAttempt>,
    },
}

/// An attempt to reach one of several addresses.
#[derive(Debug)]
pub struct FailedAttempt {
    /// Whom we tried.
    pub address: SocketAddr,
    /// Why there is no connection.
    pub error: io::Error,
}

impl DialError {
    fn kind(&self) -> io::ErrorKind {
        match self {
            Self::TimedOut { .. } | Self::ResolutionTimedOut { .. } => io::ErrorKind::TimedOut,
            Self::ConnectedToItself { .. } => io::ErrorKind::ConnectionRefused,
            Self::ResolutionFailed { error, .. } => error.kind(),
            Self::TooManyResolutions { .. } => io::ErrorKind::WouldBlock,
            Self::NoAddress { .. } => io::ErrorKind::NotFound,
            Self::AllFailed { attempts, .. } => attempts.last().map_or(io::ErrorKind::Other, |last| last.error.kind()),
        }
    }
}

impl From<DialError> for io::Error {
    fn from(error: DialError) -> Self {
        Self::new(error.kind(), error)
    }
}

/// `192.0.2.1:80 (connection refused), 192.0.2.2:80 (…)`.
struct AsList<'a>(&'a [FailedAttempt]);

impl fmt::Display for AsList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, FailedAttempt { address, error }) in self.0.iter().enumerate() {
            if position > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{address} ({error})")?;
        }
        Ok(())
    }
}
