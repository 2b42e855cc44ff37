//! One operation of a client, from the first attempt to its end.
//!
//! An attempt goes to one node. A failure after which another node (or the same, later) may do better is tried again,
//! under the same operation id and within the deadline: at most [`RETRY_COUNT_MAX`] times, and only while the client's
//! retry budget lasts. When half of the time is over and the node asked is still silent, another one is asked beside
//! it, and the first answer counts. Waiting for a connection costs no retry, for it burdens nobody.
//!
//! **Invariant**: if any attempt of a write, or of an order about members, may have been carried out and none has succeeded,
//! the error says `maybe_stored`.

use std::time::{Duration, Instant};

use async_io::Timer;
use futures::{
    FutureExt, SinkExt, StreamExt,
    channel::{mpsc, oneshot},
    future::BoxFuture,
    select_biased,
    stream::FuturesUnordered,
};
use tracing::debug;

use crate::{
    client::{
        Shared,
        error::ClientError,
        routing::{self, RETRY_COUNT_MAX, Route},
        task::{Answer, Ask, AskError},
    },
    ident::NodeId,
    wire::client::{ClientRequest, ClientResponse, Failure},
};

/// See the [module](self).
pub(super) struct Operation<'a> {
    shared: &'a Shared,
    asks: &'a mpsc::Sender<Ask>,
    route: Route,
    request: ClientRequest,
    deadline: Instant,
    /// When a second node is asked beside the first.
    hedge_at: Option<Instant>,
    /// Who has been asked, the earliest first, each once.
    asked: Vec<NodeId>,
    retries: u32,
    /// An attempt may have been carried out.
    is_unknown: bool,
    last: Option<ClientError>,
}

/// What an attempt means for its operation.
#[expect(clippy::large_enum_variant, reason = "made once, and taken apart at once")]
enum Verdict {
    Over(Result<ClientResponse, ClientError>),
    Retry,
    /// It never left.
    Again,
}

impl<'a> Operation<'a> {
    /// An operation that has `time` from now on.
    pub(super) fn new(
        route: Route,
        request: ClientRequest,
        time: Duration,
        asks: &'a mpsc::Sender<Ask>,
        shared: &'a Shared,
    ) -> Operation<'a> {
        let now = Instant::now();
        let hedge_at = matches!(route, Route::Key(_)).then_some(now + time / 2);
        let (deadline, asked) = (now + time, Vec::new());
        Operation { shared, asks, route, request, deadline, hedge_at, asked, retries: 0, is_unknown: false, last: None }
    }

    /// Runs it to its end; with the answer comes who gave it.
    pub(super) async fn run(mut self) -> Result<(NodeId, ClientResponse), ClientError> {
        let mut attempts = FuturesUnordered::new();
        let mut next_at = Some(Instant::now());
        loop {
            let now = Instant::now();
            if self.deadline <= now {
                return Err(self.out_of_time(!attempts.is_empty()));
            }
            if next_at.is_some_and(|at| at <= now) {
                // Beside an attempt under way only another node is worth asking, and only as a retry.
                let is_free = attempts.is_empty();
                next_at = None;
                match self.choose(is_free) {
                    Some(node) if is_free || self.may_retry() => {
                        if !is_free {
                            self.suspect_last();
                        }
                        attempts.push(self.attempt(node));
                        next_at = self.hedge_at.filter(|at| now < *at);
                    }
                    None if is_free => next_at = Some(now + CONNECTION_PAUSE),
                    Some(_) | None => {}
                }
            }
            let wake = Timer::at(next_at.unwrap_or(self.deadline).min(self.deadline));
            let (node, answer) = select_biased! {
                attempt = next_of(&mut attempts).fuse() => attempt,
                _ = FutureExt::fuse(wake) => continue,
            };
            match self.judge(answer) {
                Verdict::Over(Ok(response)) => {
                    self.shared.retry_budget().earn();
                    return Ok((node, response));
                }
                Verdict::Over(Err(error)) => return Err(self.conclude(error)),
                // Another attempt is under way; its answer decides.
                Verdict::Retry | Verdict::Again if !attempts.is_empty() => {}
                Verdict::Again => next_at = Some(Instant::now() + CONNECTION_PAUSE),
                Verdict::Retry if self.may_retry() => {
                    next_at = Some(Instant::now() + routing::pause_before(self.retries - 1, rand::random()));
                }
                Verdict::Retry => {
                    let error = self.last.take().unwrap_or(ClientError::TimedOut { maybe_stored: false });
                    return Err(self.conclude(error));
                }
            }
        }
    }

    /// Whom to ask now. A node that is being asked is not asked a second time at once.
    fn choose(&self, is_free: bool) -> Option<NodeId> {
        let directory = self.shared.read_directory();
        let (connected, view) = (directory.connected.clone(), directory.view.clone());
        drop(directory);
        let mut failed: Vec<NodeId> = self.shared.suspects().iter().copied().collect();
        failed.extend(&self.asked);
        let node = routing::choose(&self.route, &failed, &connected, view.ring.as_deref())?;
        (is_free || !self.asked.contains(&node)).then_some(node)
    }

    fn attempt(&mut self, node: NodeId) -> BoxFuture<'static, (NodeId, Answer)> {
        self.asked.retain(|asked| *asked != node);
        self.asked.push(node);
        let mut request = self.request.clone();
        set_budget(&mut request, self.deadline.saturating_duration_since(Instant::now()));
        let (reply, answer) = oneshot::channel();
        let ask = Ask { node, request, deadline: self.deadline, reply };
        let mut asks = self.asks.clone();
        async move {
            // Either channel breaks only if the task has died, with all that it had sent.
            if asks.send(ask).await.is_err() {
                return (node, Err(AskError::NotSent));
            }
            (node, answer.await.unwrap_or_else(|_| Err(AskError::Unknown("the client's task has ended".into()))))
        }
        .boxed()
    }

    fn judge(&mut self, answer: Answer) -> Verdict {
        let may_store = self.request.may_store();
        let error = match answer {
            Ok(ClientResponse::Failed(failure)) => match failure {
                Failure::Unavailable { .. } | Failure::Overloaded { .. } | Failure::StoreFailed { .. } => {
                    self.is_unknown |= may_store && failure.maybe_stored();
                    ClientError::Failed(failure)
                }
                Failure::QuorumNotMet { .. }
                | Failure::TimedOut { .. }
                | Failure::InvalidContext { .. }
                | Failure::NotPermitted { .. }
                | Failure::Refused { .. }
                | Failure::TooLarge { .. } => return Verdict::Over(Err(ClientError::Failed(failure))),
            },
            Ok(response) => return Verdict::Over(Ok(response)),
            Err(AskError::NotSent) => return Verdict::Again,
            Err(AskError::Overloaded(detail)) => ClientError::Failed(Failure::Overloaded { detail }),
            Err(AskError::TooLarge(detail)) => {
                return Verdict::Over(Err(ClientError::Failed(Failure::TooLarge { detail })));
            }
            Err(AskError::Unknown(detail)) => {
                debug!(detail, "outcome unknown");
                self.suspect_last();
                self.is_unknown |= may_store;
                ClientError::TimedOut { maybe_stored: may_store }
            }
        };
        self.shared.want_refresh();
        self.last = Some(error);
        Verdict::Retry
    }

    /// Who was asked last has kept us waiting.
    fn suspect_last(&self) {
        if let Some(node) = self.asked.last() {
            self.shared.suspects().insert(*node);
        }
    }

    fn may_retry(&mut self) -> bool {
        let may = self.retries < RETRY_COUNT_MAX && self.shared.retry_budget().spend();
        self.retries += u32::from(may);
        may
    }

    fn out_of_time(&mut self, is_under_way: bool) -> ClientError {
        let may_store = self.request.may_store();
        self.is_unknown |= may_store && is_under_way;
        if is_under_way {
            self.suspect_last();
        }
        let error = match self.last.take() {
            _ if is_under_way => ClientError::TimedOut { maybe_stored: may_store },
            Some(error) => error,
            None => {
                let who = match &self.route {
                    Route::Key(_) => String::new(),
                    Route::Node(node) => format!("{node:?} is not connected; "),
                };
                ClientError::Unreachable { detail: format!("{who}{}", self.shared.read_directory().trouble) }
            }
        };
        self.conclude(error)
    }

    fn conclude(&self, error: ClientError) -> ClientError {
        self.shared.want_refresh();
        if self.is_unknown { error.after_unknown() } else { error }
    }
}

/// The next attempt to end; waits for ever when none is under way.
async fn next_of<T>(attempts: &mut FuturesUnordered<BoxFuture<'static, T>>) -> T {
    match attempts.next().await {
        Some(attempt) => attempt,
        None => futures::future::pending().await,
    }
}

/// Tells the node how long to try. A fifth of the time is kept for the way: whatever the node has to say about its
/// failure must arrive before we give up.
fn set_budget(request: &mut ClientRequest, left: Duration) {
    if let Some(budget_ms) = request.budget_ms_mut() {
        *budget_ms = u32::try_from((left - left / 5).as_millis()).unwrap_or(u32::MAX);
    }
}

/// How soon to look again whether anybody is connected.
const CONNECTION_PAUSE: Duration = Duration::from_millis(50);
