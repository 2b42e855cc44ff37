//! What the task does by the clock: comparing histories, and asking silent nodes for a word.
//!
//! **Invariant**: one comparison is under way at a time, with one node after another, until that one has nothing new;
//! every change is verified before it counts.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

use libp2p::Multiaddr;
use quorate_behaviours::quorum_rpc::SendFailure;
use tracing::{debug, warn};

use crate::{
    client::{
        swarm::may_dial,
        task::{Task, Waiting},
    },
    ident::NodeId,
    limits::CHANGES_PER_MESSAGE_MAX,
    membership::{change::Change, history::Inserted},
    runtime::identity,
    wire::client::ClientRequest,
};

impl Task {
    /// Asks those that kept somebody waiting for a word. Who does not even answer that is disconnected, for a connection
    /// to a host that has gone silent would stand for many minutes; it is dialled again like anybody.
    pub(super) fn probe_suspects(&mut self) {
        let suspects = self.shared.suspects().clone();
        for node in suspects {
            if self.probing.contains(&node) {
                continue;
            }
            let request = ClientRequest::History(self.history.summary());
            match self.send(node, &request, Instant::now() + PROBE_TIMEOUT) {
                Ok(id) => {
                    self.probing.insert(node);
                    self.waiting.insert(id, Waiting::Probe { node });
                }
                Err(_) => {
                    self.shared.suspects().remove(&node);
                }
            }
        }
    }

    pub(super) fn end_probe(&mut self, node: NodeId, failure: Option<&SendFailure>) {
        self.probing.remove(&node);
        // The process is there and cannot answer. It stays suspect, and is probed again.
        if let Some(SendFailure::Unanswered) = failure {
            return;
        }
        let is_suspect = self.shared.suspects().remove(&node);
        // Any other failure is known to the connection itself, or is ours: a probe that never left proves nothing.
        if is_suspect
            && let Some(SendFailure::TimedOut) = failure
            && let Some(peer) = self.connected.get(&node)
        {
            debug!(?node, "silent node disconnected");
            // An error only says that it is already gone.
            let _ = self.swarm.disconnect_peer_id(*peer);
        }
    }

    pub(super) fn refresh_if_due(&mut self) {
        let now = Instant::now();
        let pause = now.saturating_duration_since(self.refresh.last);
        let is_wanted = self.shared.wants_refresh.load(Ordering::Relaxed) && pause >= WANTED_PAUSE;
        let is_used = self.shared.is_used.load(Ordering::Relaxed) && pause >= USED_PAUSE;
        if self.refresh.in_flight || !(self.refresh.next <= now || is_wanted || is_used) {
            return;
        }
        let index = self.refresh.turn % self.connected.len().max(1);
        let Some(node) = self.connected.keys().nth(index).copied() else { return };
        self.refresh.turn = self.refresh.turn.wrapping_add(1);
        self.ask_history(node);
    }

    fn ask_history(&mut self, node: NodeId) {
        let now = Instant::now();
        self.refresh.last = now;
        match self.send(node, &ClientRequest::History(self.history.summary()), now + HISTORY_TIMEOUT) {
            Ok(id) => {
                self.refresh.in_flight = true;
                self.waiting.insert(id, Waiting::History { node });
            }
            Err(error) => {
                debug!(?node, ?error, "history not asked");
                self.end_refresh(None);
            }
        }
    }

    pub(super) fn learn(&mut self, node: NodeId, changes: Vec<Change>) {
        if changes.len() > CHANGES_PER_MESSAGE_MAX {
            warn!(?node, count = changes.len(), "too many changes in one message");
            return self.end_refresh(None);
        }
        let mut has_grown = false;
        for change in changes {
            match self.history.insert(change) {
                Ok(inserted) => has_grown |= inserted == Inserted::New,
                Err(error) => warn!(?node, %error, "change refused"),
            }
        }
        if has_grown {
            self.refresh.is_dirty = true;
            self.ask_history(node);
        } else {
            self.end_refresh(Some(node));
        }
    }

    /// `complete` has nothing more to tell.
    pub(super) fn end_refresh(&mut self, complete: Option<NodeId>) {
        let now = Instant::now();
        self.refresh.last = now;
        self.refresh.next = now + if complete.is_some() { IDLE_PAUSE } else { FAILED_PAUSE };
        if complete.is_some() {
            self.shared.is_used.store(false, Ordering::Relaxed);
            self.shared.wants_refresh.store(false, Ordering::Relaxed);
        }
        if std::mem::take(&mut self.refresh.is_dirty) {
            self.publish_view();
        }
        if let Some(node) = complete
            && let Some(starting) = self.starting.take()
        {
            // Nobody who connects any more: the handle is gone too, and the task ends.
            drop(starting.reply.send(Ok(node)));
        }
    }

    fn publish_view(&mut self) {
        let view = Arc::new(self.shared.read_directory().view.refold(&self.history));
        for (node, member) in &view.members {
            let Some(peer) = identity::peer_id(node) else { continue };
            let addresses = member.profile.addresses.iter().filter_map(|text| text.parse::<Multiaddr>().ok());
            self.dialling.member(peer, addresses.filter(|address| may_dial(address, self.is_open)).collect());
        }
        debug!(members = view.members.len(), changes = self.history.len(), "view refreshed");
        self.shared.write_directory(|directory| directory.view = view);
        self.dial_due();
    }
}

/// Pauses between comparisons of the history: at least this long when an answer suggests that the view is old, ...
const WANTED_PAUSE: Duration = Duration::from_millis(250);
/// ... after one has failed, ...
const FAILED_PAUSE: Duration = Duration::from_millis(500);
/// ... while the client is used, ...
const USED_PAUSE: Duration = Duration::from_secs(2);
/// ... and while it is not.
const IDLE_PAUSE: Duration = Duration::from_secs(30);

/// How long a node that kept somebody waiting may take to show that it lives.
const PROBE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long a node may take to tell what its history has.
const HISTORY_TIMEOUT: Duration = Duration::from_secs(3);
