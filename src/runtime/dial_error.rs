//! Why a dial failed, or anything else of a transport, in words for people.
//!
//! libp2p wraps the error of a socket in one layer for each part of its transport, and lists an address as a reader of
//! specifications would. Here stands what a person can act on: where it was tried, what the socket said, and, when
//! somebody answered who is no peer of ours, what that may be. Pure; nothing here dials.

use std::{error::Error, io};

use libp2p::{Multiaddr, TransportError, multiaddr::Protocol, swarm::DialError};
use quorate_behaviours::tcp;

/// Why a dial failed, for people.
pub(crate) fn words(error: &DialError) -> String {
    match error {
        DialError::Transport(attempts) if !attempts.is_empty() => {
            let each: Vec<String> = attempts.iter().map(|(address, error)| attempt_words(address, error)).collect();
            each.join(", ")
        }
        DialError::WrongPeerId { obtained, address } => {
            format!("{} is another peer than was asked for, {obtained}", short(address))
        }
        DialError::Transport(_)
        | DialError::LocalPeerId { .. }
        | DialError::NoAddresses
        | DialError::DialPeerConditionFalse(_)
        | DialError::Aborted
        | DialError::Denied { .. } => error.to_string(),
    }
}

/// An error and all that lies beneath it, in one line.
pub(crate) fn causes(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let deeper_text = deeper.to_string();
        if !text.contains(&deeper_text) {
            // Some layers only wrap, and say nothing themselves.
            text = if text.is_empty() { deeper_text } else { format!("{text}: {deeper_text}") };
        }
        cause = deeper.source();
    }
    text
}

fn attempt_words(address: &Multiaddr, error: &TransportError<io::Error>) -> String {
    let at = short(address);
    let error = match error {
        TransportError::MultiaddrNotSupported(_) => {
            return format!("{at} cannot be dialled: an address is /ip4/…, /ip6/… or /dns/…, then /tcp/…");
        }
        TransportError::Other(error) => error,
    };
    match find_socket_error(error) {
        Some(SocketError::Dial(error)) => error.to_string(),
        Some(SocketError::System(error)) => format!("{at}: {error}"),
        None => {
            format!(
                "{at} answered, but not as a libp2p peer that we can talk to ({error}): it is another program, or one \
                 side has a swarm key that the other has not"
            )
        }
    }
}

enum SocketError<'a> {
    Dial(&'a tcp::DialError),
    System(&'a io::Error),
}

/// The socket's own error inside what the transport's layers made of it; none if a layer above the socket failed.
fn find_socket_error<'a>(error: &'a (dyn Error + 'static)) -> Option<SocketError<'a>> {
    if let Some(dial) = error.downcast_ref::<tcp::DialError>() {
        return Some(SocketError::Dial(dial));
    }
    if let Some(io_error) = error.downcast_ref::<io::Error>() {
        let is_refusal = io_error.raw_os_error().is_some()
            && !matches!(
                io_error.kind(),
                // These come from somebody who had taken the connection.
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionAborted
            );
        if is_refusal {
            return Some(SocketError::System(io_error));
        }
        if let Some(inner) = io_error.get_ref() {
            return find_socket_error(inner);
        }
    }
    find_socket_error(error.source()?)
}

/// `127.0.0.1:4001`; an address of another kind in full.
pub(crate) fn short(address: &Multiaddr) -> String {
    let mut parts = address.iter();
    match (parts.next(), parts.next()) {
        (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) => format!("{ip}:{port}"),
        (Some(Protocol::Ip6(ip)), Some(Protocol::Tcp(port))) => format!("[{ip}]:{port}"),
        (Some(Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name)), Some(Protocol::Tcp(port))) => {
            format!("{name}:{port}")
        }
        _ => address.to_string(),
    }
}
