//! One TCP connection as a pair of byte streams.

use std::{
    io::{self, IoSlice, IoSliceMut},
    net::{self, Shutdown},
    pin::Pin,
    task::{Context, Poll, ready},
};

use async_io::Async;
use futures::{AsyncRead, AsyncWrite};

/// A connected TCP socket.
///
/// Closing it ([`AsyncWrite::poll_close`]) closes the sending half: the other end reads everything sent before, then
/// the end of the stream, while it may go on sending. Dropping it closes both halves. Closing twice is the same as once.
///
/// No buffering on our side, so flushing has nothing to do.
#[derive(Debug)]
pub struct TcpStream {
    socket: Async<net::TcpStream>,
}

impl TcpStream {
    pub(super) fn new(socket: Async<net::TcpStream>) -> Self {
        Self { socket }
    }

    /// The socket, to read its addresses or set options that this transport has no word for. It is non-blocking and
    /// must stay so.
    #[must_use]
    pub fn get_ref(&self) -> &net::TcpStream {
        self.socket.get_ref()
    }

    fn socket(self: Pin<&mut Self>) -> Pin<&mut Async<net::TcpStream>> {
        Pin::new(&mut self.get_mut().socket)
    }
}

impl AsyncRead for TcpStream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut [u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_read(cx, buf)
    }

    fn poll_read_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &mut [IoSliceMut<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_read_vectored(cx, bufs)
    }
}

impl AsyncWrite for TcpStream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.socket().poll_write(cx, buf)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.socket().poll_write_vectored(cx, bufs)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket().poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        Poll::Ready(match self.get_ref().shutdown(Shutdown::Write) {
            // The other end was faster: it is closed, which is what we want.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(()),
            result => result,
        })
    }
}
