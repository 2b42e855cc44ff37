//! Requests on their way out: queues for each peer, batches in flight, deadlines.
//!
//! **Invariant**: every accepted request ends exactly once, in an answer or a failure; no queue
//! exceeds its bound; at most `in_flight_max` messages wait for each peer and lane. A request
//! that a response defers goes back to the front of its queue, past the bound if need be: there
//! are never more of those than were in flight.
//!
//! It sends nothing and reads no clock: batches are handed out, times come in.
//!
//! **Why halves and doubles**: the answers of a batch travel together, so its time is that of its
//! most impatient entry. A batch ends before an entry with less than half or more than double the
//! time of its first, so that no request pays much for another's haste. After a deferral the next
//! batches carry only as many requests as were answered, doubling again while nothing is
//! deferred: otherwise a queue of large reads would be executed over and over for one answer each.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::request_response::OutboundRequestId;

use crate::quorum_rpc::body::Answer;
use crate::quorum_rpc::config::Config;
use crate::quorum_rpc::outcome::{Misbehaviour, SendFailure, SendRefused};
use crate::quorum_rpc::{Lane, RequestId};

/// How one request ended.
#[derive(Debug)]
pub(crate) struct Ended<A> {
    pub(crate) peer: PeerId,
    pub(crate) request: RequestId,
    pub(crate) outcome: Result<A, SendFailure>,
}

/// One message's worth of requests, at least one.
#[derive(Debug)]
pub(crate) struct Batch {
    peer: PeerId,
    lane: Lane,
    /// `None` once the request has ended before the response came.
    entries: Vec<Option<Waiting>>,
    sent_at: Instant,
}

impl Batch {
    /// To whom it goes.
    pub(crate) fn peer(&self) -> PeerId {
        self.peer
    }

    pub(crate) fn payloads(&self) -> Vec<Arc<Vec<u8>>> {
        self.entries.iter().flatten().map(|waiting| waiting.payload.clone()).collect()
    }

    /// The earliest deadline of its entries.
    pub(crate) fn deadline(&self) -> Instant {
        self.entries.iter().flatten().map(|waiting| waiting.deadline).min().unwrap_or(self.sent_at)
    }
}

/// All requests of this node that have not ended.
#[derive(Debug)]
pub(crate) struct Outbound {
    config: Arc<Config>,
    peers: HashMap<PeerId, PeerQueues>,
    in_flight: HashMap<OutboundRequestId, Batch>,
    /// Peers and lanes from which a message might be taken.
    ready: BTreeSet<(PeerId, Lane)>,
    /// No request's deadline is earlier; may be too early itself.
    earliest: Option<Instant>,
    next_id: u64,
}

impl Outbound {
    pub(crate) fn new(config: Arc<Config>) -> Self {
        let (peers, in_flight, ready) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        Self { config, peers, in_flight, ready, earliest: None, next_id: 1 }
    }

    /// Queues a request, unless that passes a bound.
    pub(crate) fn enqueue(
        &mut self,
        payload: Arc<Vec<u8>>,
        deadline: Instant,
        peer: PeerId,
        lane: Lane,
    ) -> Result<RequestId, SendRefused> {
        let queues = self.peers.get(&peer);
        let queued_count = queues.map_or(0, PeerQueues::queued_count);
        let queued_bytes = queues.map_or(0, PeerQueues::queued_bytes);
        let too_many = queued_count >= self.config.queue_count_max;
        // One request is always taken, so that none is too large for every queue.
        let too_long = queued_count > 0 && queued_bytes + payload.len() > self.config.queue_bytes_max;
        if too_many || too_long {
            return Err(SendRefused::Overloaded { queued_count, queued_bytes });
        }
        let id = RequestId(self.next_id);
        self.next_id += 1;
        let queue = self.queue(peer, lane);
        queue.bytes += payload.len();
        queue.waiting.push_back(Waiting { id, payload, deadline, was_deferred: false });
        self.ready.insert((peer, lane));
        self.earliest = Some(self.earliest.map_or(deadline, |earliest| earliest.min(deadline)));
        Ok(id)
    }

    /// Takes the next message to be sent; `connected` tells to whom one can be.
    pub(crate) fn next_batch(&mut self, now: Instant, connected: impl Fn(&PeerId) -> bool) -> Option<Batch> {
        while let Some((peer, lane)) = self.ready.first().copied() {
            let in_flight_max = self.config.in_flight_max;
            let config = self.config.clone();
            let queue = self.queue(peer, lane);
            if !queue.waiting.is_empty() && queue.in_flight < in_flight_max && connected(&peer) {
                let entries = queue.take_batch(now, &config);
                queue.in_flight += 1;
                return Some(Batch { peer, lane, entries, sent_at: now });
            }
            self.ready.remove(&(peer, lane));
        }
        None
    }

    /// Remembers a batch that was taken, as message `id`.
    pub(crate) fn sent(&mut self, id: OutboundRequestId, batch: Batch) {
        self.in_flight.insert(id, batch);
    }

    /// Distributes the answers of a response. `None`: the message is not known any more.
    pub(crate) fn answered<A>(&mut self, id: OutboundRequestId, answers: Vec<Answer<A>>) -> Option<Distributed<A>> {
        let mut batch = self.finish(id)?;
        let expected = batch.entries.len();
        if answers.len() != expected {
            let actual = answers.len();
            let ended = fail_batch(batch, &SendFailure::WrongCount { expected, actual });
            let misbehaviour = Some(Misbehaviour::WrongCount { expected, actual });
            return Some(Distributed { ended, deferred_count: 0, misbehaviour });
        }
        // Asking again is worth it only because every response ends at least one request.
        if answers.iter().all(|answer| matches!(answer, Answer::Deferred)) {
            let ended = fail_batch(batch, &SendFailure::AnswerLost);
            return Some(Distributed { ended, deferred_count: 0, misbehaviour: Some(Misbehaviour::NoProgress) });
        }
        let (peer, lane) = (batch.peer, batch.lane);
        let mut ended = Vec::with_capacity(expected);
        let mut deferred = Vec::new();
        for (entry, answer) in batch.entries.drain(..).zip(answers) {
            let Some(mut waiting) = entry else { continue };
            let outcome = match answer {
                Answer::Given(answer) => Ok(answer),
                Answer::Overloaded => Err(waiting.ended_by(SendFailure::Overloaded)),
                Answer::Unanswered => Err(SendFailure::Unanswered),
                Answer::TooLarge => Err(SendFailure::AnswerTooLarge),
                Answer::Deferred => {
                    waiting.was_deferred = true;
                    deferred.push(waiting);
                    continue;
                }
            };
            ended.push(Ended { peer, request: waiting.id, outcome });
        }
        let deferred_count = deferred.len();
        let batch_count_max = self.config.batch_count_max;
        let queue = self.queue(peer, lane);
        if deferred_count > 0 {
            queue.batch_count_max = expected.saturating_sub(deferred_count).max(1);
        } else {
            queue.batch_count_max = queue.batch_count_max.saturating_mul(2).min(batch_count_max);
        }
        for waiting in deferred.into_iter().rev() {
            queue.bytes += waiting.payload.len();
            queue.waiting.push_front(waiting);
        }
        Some(Distributed { ended, deferred_count, misbehaviour: None })
    }

    /// Ends all requests of message `id` with `failure`.
    pub(crate) fn failed<A>(&mut self, id: OutboundRequestId, failure: &SendFailure) -> Vec<Ended<A>> {
        self.finish(id).map_or_else(Vec::new, |batch| fail_batch(batch, failure))
    }

    /// Ends all requests that wait for `peer` and were not sent.
    pub(crate) fn fail_queued<A>(&mut self, peer: PeerId, failure: &SendFailure) -> Vec<Ended<A>> {
        let mut ended = Vec::new();
        for lane in Lane::ALL {
            self.ready.remove(&(peer, lane));
            let Some(queues) = self.peers.get_mut(&peer) else { continue };
            let queue = queues.of(lane);
            queue.bytes = 0;
            ended.extend(queue.waiting.drain(..).map(|waiting| waiting.fail(peer, failure)));
        }
        self.forget_if_idle(peer);
        ended
    }

    /// Something has changed that lets messages to `peer` go.
    pub(crate) fn wake(&mut self, peer: PeerId) {
        if self.has_queued(&peer) {
            self.ready.extend(Lane::ALL.map(|lane| (peer, lane)));
        }
    }

    /// Whether requests wait for `peer`.
    pub(crate) fn has_queued(&self, peer: &PeerId) -> bool {
        self.peers.get(peer).is_some_and(|queues| queues.queued_count() > 0)
    }

    /// When [`Outbound::expire`] should be called next; may be too early.
    pub(crate) fn earliest(&self) -> Option<Instant> {
        self.earliest
    }

    /// Ends what is past its deadline; a message keeps its place in flight until its stream ends.
    ///
    /// A message that has waited longer than a stream may live is given up altogether: its
    /// connection was refused after all by another part of the swarm, and nobody will report.
    pub(crate) fn expire<A>(&mut self, now: Instant) -> Vec<Ended<A>> {
        let mut ended = Vec::new();
        let mut earliest = None;
        for (&peer, queues) in &mut self.peers {
            for lane in Lane::ALL {
                queues.of(lane).expire(now, |waiting| ended.push(waiting.fail(peer, &SendFailure::Expired)));
            }
            earliest = earliest.into_iter().chain(queues.deadlines()).min();
        }
        let stream_timeout = self.config.stream_timeout();
        let mut lost = Vec::new();
        for (id, batch) in &mut self.in_flight {
            for entry in &mut batch.entries {
                if let Some(waiting) = entry.take_if(|waiting| waiting.deadline <= now) {
                    ended.push(waiting.fail(batch.peer, &SendFailure::TimedOut));
                }
            }
            earliest = earliest.into_iter().chain(batch.entries.iter().flatten().map(|waiting| waiting.deadline)).min();
            let lost_at = batch.sent_at + stream_timeout * 2;
            earliest = earliest.into_iter().chain([lost_at]).min();
            if lost_at <= now {
                lost.push(*id);
            }
        }
        for id in lost {
            ended.extend(self.failed(id, &SendFailure::TimedOut));
        }
        let idle: Vec<PeerId> =
            self.peers.iter().filter(|(_, queues)| queues.is_idle()).map(|(peer, _)| *peer).collect();
        for peer in idle {
            self.forget_if_idle(peer);
        }
        self.earliest = earliest;
        ended
    }

    fn queue(&mut self, peer: PeerId, lane: Lane) -> &mut LaneQueue {
        let batch_count_max = self.config.batch_count_max;
        self.peers.entry(peer).or_insert_with(|| PeerQueues::new(batch_count_max)).of(lane)
    }

    fn finish(&mut self, id: OutboundRequestId) -> Option<Batch> {
        let batch = self.in_flight.remove(&id)?;
        let (peer, lane) = (batch.peer, batch.lane);
        let queue = self.queue(peer, lane);
        queue.in_flight = queue.in_flight.saturating_sub(1);
        self.ready.insert((peer, lane));
        Some(batch)
    }

    fn forget_if_idle(&mut self, peer: PeerId) {
        if self.peers.get(&peer).is_some_and(PeerQueues::is_idle) {
            self.peers.remove(&peer);
        }
    }
}

/// What became of the requests of one response.
#[derive(Debug)]
pub(crate) struct Distributed<A> {
    pub(crate) ended: Vec<Ended<A>>,
    pub(crate) deferred_count: usize,
    /// Why nothing was answered, if the response broke the rules.
    pub(crate) misbehaviour: Option<Misbehaviour>,
}

fn fail_batch<A>(batch: Batch, failure: &SendFailure) -> Vec<Ended<A>> {
    batch.entries.into_iter().flatten().map(|waiting| waiting.fail(batch.peer, failure)).collect()
}

#[derive(Debug)]
struct Waiting {
    id: RequestId,
    payload: Arc<Vec<u8>>,
    deadline: Instant,
    was_deferred: bool,
}

impl Waiting {
    fn fail<A>(self, peer: PeerId, failure: &SendFailure) -> Ended<A> {
        Ended { peer, request: self.id, outcome: Err(self.ended_by(failure.clone())) }
    }

    /// A deferred request was executed before, whatever happened to its repetition.
    fn ended_by(&self, failure: SendFailure) -> SendFailure {
        if self.was_deferred && !failure.may_have_arrived() { SendFailure::AnswerLost } else { failure }
    }
}

#[derive(Debug)]
struct PeerQueues {
    /// In the order of [`Lane::ALL`].
    lanes: [LaneQueue; Lane::ALL.len()],
}

impl PeerQueues {
    fn new(batch_count_max: usize) -> Self {
        Self { lanes: Lane::ALL.map(|_| LaneQueue::new(batch_count_max)) }
    }

    fn of(&mut self, lane: Lane) -> &mut LaneQueue {
        &mut self.lanes[lane as usize]
    }

    fn queued_count(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    fn queued_bytes(&self) -> usize {
        self.lanes.iter().map(|lane| lane.bytes).sum()
    }

    fn is_idle(&self) -> bool {
        self.lanes.iter().all(|lane| lane.waiting.is_empty() && lane.in_flight == 0)
    }

    fn deadlines(&self) -> impl Iterator<Item = Instant> {
        self.lanes.iter().flat_map(|lane| &lane.waiting).map(|waiting| waiting.deadline)
    }
}

#[derive(Debug)]
struct LaneQueue {
    waiting: VecDeque<Waiting>,
    /// Sum of the payloads waiting.
    bytes: usize,
    /// Messages that have been taken and have not ended.
    in_flight: usize,
    /// How many requests the next message takes at most; at least one.
    batch_count_max: usize,
}

impl LaneQueue {
    fn new(batch_count_max: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, in_flight: 0, batch_count_max: batch_count_max.max(1) }
    }

    fn take_batch(&mut self, now: Instant, config: &Config) -> Vec<Option<Waiting>> {
        let mut entries = Vec::new();
        let mut batch_bytes = 0;
        let mut first_time = None;
        while let Some(next) = self.waiting.front() {
            let time = next.deadline.saturating_duration_since(now);
            let first_time = *first_time.get_or_insert(time);
            let fits = batch_bytes + next.payload.len() <= config.batch_bytes_target.min(config.payload_limit_bytes());
            let alike = time * 2 >= first_time && time <= first_time * 2;
            let joins = fits && alike && entries.len() < self.batch_count_max;
            if !(joins || entries.is_empty()) {
                break;
            }
            let Some(waiting) = self.waiting.pop_front() else { break };
            self.bytes -= waiting.payload.len();
            batch_bytes += waiting.payload.len();
            entries.push(Some(waiting));
        }
        entries
    }

    fn expire(&mut self, now: Instant, mut expired: impl FnMut(Waiting)) {
        if self.waiting.iter().all(|waiting| waiting.deadline > now) {
            return;
        }
        for waiting in std::mem::take(&mut self.waiting) {
            if waiting.deadline > now {
                self.waiting.push_back(waiting);
            } else {
                self.bytes -= waiting.payload.len();
                expired(waiting);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use std::time::Duration;

    use libp2p::StreamProtocol;

    use super::*;

    fn outbound() -> Outbound {
        Outbound::new(Arc::new(Config::new(StreamProtocol::new("/test/1"))))
    }

    #[test]
    fn a_peer_that_comes_and_goes_is_not_remembered() {
        let mut outbound = outbound();
        outbound.wake(PeerId::random());
        assert!(outbound.next_batch(Instant::now(), |_| true).is_none());
        assert!(outbound.peers.is_empty() && outbound.ready.is_empty());
    }

    #[test]
    fn a_peer_is_forgotten_with_its_last_request() {
        let (mut outbound, peer) = (outbound(), PeerId::random());
        let deadline = Instant::now() + Duration::from_secs(1);
        outbound.enqueue(Arc::new(vec![7]), deadline, peer, Lane::Read).unwrap();
        outbound.wake(peer);
        assert!(outbound.next_batch(Instant::now(), |_| false).is_none());
        assert_eq!(outbound.expire::<u64>(deadline).len(), 1);
        assert!(outbound.peers.is_empty() && outbound.ready.is_empty());
        assert_eq!(outbound.earliest(), None);
    }
}
