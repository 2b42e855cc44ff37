//! Requests of others on their way to an answer.
//!
//! **Invariant**: every batch is answered at most once, as a whole, when its last answer is given
//! or its time is over; a batch keeps no more answers than its budget and one; the requests that
//! wait are bounded for each peer and for all. It neither reads a clock nor sends: what is
//! complete is handed back with the channel to send it on.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::request_response::{InboundRequestId, ResponseChannel};

use crate::quorum_rpc::InboundId;
use crate::quorum_rpc::body::Answer;
use crate::quorum_rpc::codec::ResponseFrame;
use crate::quorum_rpc::config::Config;
use crate::quorum_rpc::outcome::RespondError;

/// A batch whose response can be sent.
#[derive(Debug)]
pub(crate) struct Complete<A> {
    pub(crate) channel: ResponseChannel<ResponseFrame<A>>,
    pub(crate) answers: Vec<Answer<Vec<u8>>>,
}

/// All requests of peers that wait for an answer of this node.
#[derive(Debug)]
pub(crate) struct Inbound<A> {
    config: Arc<Config>,
    batches: HashMap<InboundRequestId, Batch<A>>,
    waiting_counts: HashMap<PeerId, usize>,
    waiting_total: usize,
    complete: VecDeque<Complete<A>>,
    /// No batch's deadline is earlier; may be too early itself.
    earliest: Option<Instant>,
}

impl<A> Inbound<A> {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let (batches, waiting_counts) = (HashMap::new(), HashMap::new());
        Self { config, batches, waiting_counts, waiting_total: 0, complete: VecDeque::new(), earliest: None }
    }

    /// Accepts a batch of `count` requests; returns how many of them, from the first, may be
    /// executed. The others are answered as overloaded.
    pub(crate) fn accept(
        &mut self,
        id: InboundRequestId,
        count: usize,
        time: Duration,
        now: Instant,
        peer: PeerId,
        channel: ResponseChannel<ResponseFrame<A>>,
    ) -> usize {
        let waiting = self.waiting_counts.entry(peer).or_insert(0);
        let room = self.config.inbound_count_max.saturating_sub(*waiting);
        let accepted = count.min(room).min(self.config.inbound_count_total_max.saturating_sub(self.waiting_total));
        *waiting += accepted;
        self.waiting_total += accepted;
        let answers = (0..count).map(|index| (index >= accepted).then_some(Answer::Overloaded)).collect();
        // An eighth is left for the response to travel.
        let deadline = now + time.min(self.config.request_timeout) * 7 / 8;
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        self.batches.insert(id, Batch { peer, channel, answers, missing: accepted, answer_bytes: 0, deadline });
        if accepted == 0 {
            self.finish(id);
        }
        accepted
    }

    /// Takes the answer to one request, encoded.
    pub(crate) fn respond(
        &mut self,
        inbound: InboundId,
        encoded: Result<Vec<u8>, RespondError>,
    ) -> Result<(), RespondError> {
        let batch = self.batches.get_mut(&inbound.batch).ok_or(RespondError::Gone)?;
        let slot = batch.answers.get_mut(inbound.index).filter(|slot| slot.is_none()).ok_or(RespondError::Gone)?;
        let (answer, outcome) = match encoded {
            Ok(bytes) if !fits(batch.answer_bytes, bytes.len(), &self.config) => (Answer::Deferred, Ok(())),
            Ok(bytes) => {
                batch.answer_bytes += bytes.len();
                (Answer::Given(bytes), Ok(()))
            }
            Err(error @ RespondError::TooLarge { .. }) => (Answer::TooLarge, Err(error)),
            Err(error) => (Answer::Unanswered, Err(error)),
        };
        *slot = Some(answer);
        batch.missing -= 1;
        let peer = batch.peer;
        let is_complete = batch.missing == 0;
        self.release(peer, 1);
        if is_complete {
            self.finish(inbound.batch);
        }
        outcome
    }

    /// Drops a batch that can no longer be answered; its answers will be [`RespondError::Gone`].
    pub(crate) fn forget(&mut self, id: InboundRequestId) {
        if let Some(batch) = self.batches.remove(&id) {
            self.release(batch.peer, batch.missing);
        }
    }

    /// The next response to be sent.
    pub(crate) fn next_complete(&mut self) -> Option<Complete<A>> {
        self.complete.pop_front()
    }

    /// When [`Inbound::expire`] should be called next; may be too early.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Completes the batches whose time is over.
    pub(crate) fn expire(&mut self, now: Instant) {
        let over: Vec<InboundRequestId> =
            self.batches.iter().filter(|(_, batch)| batch.deadline <= now).map(|(id, _)| *id).collect();
        for id in over {
            self.finish(id);
        }
        self.earliest = self.batches.values().map(|batch| batch.deadline).min();
    }

    /// Requests waiting for an answer, of all peers.
    pub(crate) fn waiting_total(&self) -> usize {
        self.waiting_total
    }

    fn finish(&mut self, id: InboundRequestId) {
        let Some(batch) = self.batches.remove(&id) else { return };
        self.release(batch.peer, batch.missing);
        let answers = batch.answers.into_iter().map(|answer| answer.unwrap_or(Answer::Unanswered)).collect();
        self.complete.push_back(Complete { channel: batch.channel, answers });
    }

    fn release(&mut self, peer: PeerId, count: usize) {
        self.waiting_total -= count;
        if let Some(waiting) = self.waiting_counts.get_mut(&peer) {
            *waiting -= count;
            if *waiting == 0 {
                self.waiting_counts.remove(&peer);
            }
        }
    }
}

/// The first answer always fits; the others up to the target and the frame.
fn fits(held_bytes: usize, more_bytes: usize, config: &Config) -> bool {
    held_bytes == 0 || held_bytes + more_bytes <= config.answer_bytes_target.min(config.payload_limit_bytes())
}

#[derive(Debug)]
struct Batch<A> {
    peer: PeerId,
    channel: ResponseChannel<ResponseFrame<A>>,
    /// `None`: not yet answered.
    answers: Vec<Option<Answer<Vec<u8>>>>,
    /// How many are `None`.
    missing: usize,
    /// Sum of the answers given.
    answer_bytes: usize,
    deadline: Instant,
}
