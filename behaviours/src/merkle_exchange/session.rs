//! One session on its stream, the same for both sides: say, hear, and then it is our turn again.
//!
//! **Invariant**: the stream is read only while the peer may speak, or to notice that it speaks out of turn or is gone;
//! every turn has a time limit, that of our own owner included. Which side this is shows only in the time limits, in
//! what is heard, and in who begins.

use std::future::Future;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::future::{BoxFuture, select};
use futures::{AsyncWriteExt, FutureExt};
use futures_timer::Delay;
use libp2p::Stream;

use crate::framing::{self, Message};
use crate::merkle_exchange::event::Misbehaviour;
use crate::merkle_exchange::shared::Shared;
use crate::merkle_exchange::turn::{self, Interruption, TurnError};

/// A session in which messages `M` are heard.
pub(crate) struct Session<M> {
    shared: Arc<Shared>,
    state: State,
    interruption: Interruption,
    /// Fires when the turn has taken too long.
    timer: Delay,
    heard: PhantomData<fn() -> M>,
}

enum State {
    /// Our message is on its way.
    Saying(Step<Stream>),
    /// The peer's message is awaited; none means that it is busy.
    Hearing(Step<(Stream, Option<Vec<u8>>)>),
    /// It is our turn.
    Ours(Stream),
}

type Step<T> = BoxFuture<'static, Result<T, TurnError>>;

impl<M: Message> Session<M> {
    /// Asks the first question; the answer must be there within `time`.
    pub(crate) fn ask_first(stream: Stream, question: Vec<u8>, time: Duration, shared: Arc<Shared>) -> Self {
        let interruption = Interruption::Busy;
        let state = State::Saying(say(stream, question, interruption, shared.clone()).boxed());
        Self { shared, state, interruption, timer: Delay::new(time), heard: PhantomData }
    }

    /// Awaits the first question.
    pub(crate) fn accept(stream: Stream, shared: Arc<Shared>) -> Self {
        let timer = Delay::new(shared.config.question_timeout);
        let state = State::Hearing(hear(stream, shared.clone()).boxed());
        Self { shared, state, interruption: Interruption::None, timer, heard: PhantomData }
    }

    /// Says `message` if it is our turn; what the peer says next must be there within `time`.
    pub(crate) fn say(self, message: Vec<u8>, time: Duration) -> Self {
        let State::Ours(stream) = self.state else { return self };
        let state = State::Saying(say(stream, message, self.interruption, self.shared.clone()).boxed());
        Self { state, timer: Delay::new(time), ..self }
    }

    /// Ready with what the peer said, which makes it our turn, or with the end of the session.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<M, TurnError>> {
        let turn = self.poll_turn(cx);
        if turn.is_ready() {
            return turn;
        }
        self.timer.poll_unpin(cx).map(|()| Err(TurnError::TimedOut))
    }

    /// What remains to be done to end the session in good order: to finish our message, and to close the stream.
    ///
    /// None while the peer's message is awaited: the stream can only be dropped, which tells the peer as well.
    pub(crate) fn into_farewell(self) -> Option<BoxFuture<'static, ()>> {
        let last_words: Step<Stream> = match self.state {
            State::Saying(saying) => saying,
            State::Ours(stream) => futures::future::ok(stream).boxed(),
            State::Hearing(_) => return None,
        };
        let closing = async {
            let mut stream = last_words.await?;
            stream.close().await?;
            Ok::<_, TurnError>(())
        };
        // Nobody is told how it ends: the stream is dropped in any case.
        Some(select(closing.boxed(), self.timer).map(drop).boxed())
    }

    fn poll_turn(&mut self, cx: &mut Context<'_>) -> Poll<Result<M, TurnError>> {
        loop {
            match &mut self.state {
                State::Saying(saying) => {
                    let stream = ready!(saying.poll_unpin(cx))?;
                    self.state = State::Hearing(hear(stream, self.shared.clone()).boxed());
                }
                State::Hearing(hearing) => {
                    let (stream, heard) = ready!(hearing.poll_unpin(cx))?;
                    let message = self.understand(heard.as_deref())?;
                    self.state = State::Ours(stream);
                    self.interruption = Interruption::None;
                    self.timer = Delay::new(self.shared.config.question_timeout);
                    return Poll::Ready(Ok(message));
                }
                State::Ours(stream) => {
                    ready!(turn::poll_early(stream, cx))?;
                    return Poll::Ready(Err(TurnError::Misbehaved(Misbehaviour::OutOfTurn)));
                }
            }
        }
    }

    fn understand(&self, heard: Option<&[u8]>) -> Result<M, TurnError> {
        match (heard, self.interruption) {
            (Some(message), _) => Ok(framing::decode(message)?),
            (None, Interruption::Busy) => Err(TurnError::Busy),
            (None, Interruption::None) => Err(TurnError::Misbehaved(Misbehaviour::EmptyFrame)),
        }
    }
}

async fn say(
    mut stream: Stream,
    message: Vec<u8>,
    interruption: Interruption,
    shared: Arc<Shared>,
) -> Result<Stream, TurnError> {
    match turn::write(&mut stream, &message, interruption, &shared.config, &shared.bytes).await {
        // Who is busy does not listen; that it said so is still to be heard.
        Err(TurnError::Io) if interruption == Interruption::Busy => Ok(stream),
        outcome => outcome.map(|()| stream),
    }
}

async fn hear(mut stream: Stream, shared: Arc<Shared>) -> Result<(Stream, Option<Vec<u8>>), TurnError> {
    let heard = turn::read(&mut stream, &shared.config, &shared.bytes).await?;
    Ok((stream, heard))
}

/// Says that there is no room for a session, and ends within `time`.
pub(crate) fn refusal(
    mut stream: Stream,
    time: Duration,
    shared: Arc<Shared>,
) -> impl Future<Output = ()> + Send + 'static {
    let refusing = async move { turn::refuse(&mut stream, &shared.bytes).await };
    select(refusing.boxed(), Delay::new(time)).map(drop)
}
