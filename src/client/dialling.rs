//! Whom to dial, when again, and what came of it, in words.
//!
//! A target is an address that the user gave, a peer that mDNS heard, or a member by the addresses in its profile. A
//! target that turned out to be of another cluster, or no node at all, is dialled no more; any other is dialled
//! whenever it is not connected, with growing pauses. It dials nothing itself.

use std::{
    collections::BTreeMap,
    fmt,
    time::{Duration, Instant},
};

use libp2p::{
    Multiaddr, PeerId,
    multiaddr::Protocol,
    swarm::{ConnectionId, DialError, dial_opts::DialOpts, dial_opts::PeerCondition},
};

use crate::{client::error::ClientError, ident::Name, limits::ADDRESS_COUNT_MAX, runtime::dial_error};

/// Names a target.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// The address given at this place.
    Given(usize),
    /// A peer whose addresses were learned.
    Learned(PeerId),
}

/// What became of a target. Nothing is known of one that is still being dialled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Finding {
    /// A node of our cluster.
    Ours,
    /// A node of another.
    OtherCluster(Name),
    /// A libp2p peer of another kind; what it said of itself.
    NotQuorate(String),
    /// No connection, or none that lasted until the peer had said who it is.
    Failed(String),
}

/// All targets. Bounded: the addresses given, [`HEARD_COUNT_MAX`] peers heard, and the members.
#[derive(Debug, Default)]
pub(super) struct Dialling {
    targets: BTreeMap<Target, State>,
    pending: BTreeMap<ConnectionId, Target>,
    heard_count: usize,
}

#[derive(Debug)]
struct State {
    addresses: Vec<Multiaddr>,
    /// Who was found there, or is to be found.
    peer: Option<PeerId>,
    is_pending: bool,
    failure_count: u32,
    not_before: Option<Instant>,
    finding: Option<Finding>,
}

impl Dialling {
    /// Begins with the addresses that the user gave.
    pub(super) fn new(given: &[Multiaddr]) -> Dialling {
        let state = |address: &Multiaddr| State::new(vec![address.clone()], peer_in(address));
        let targets = given.iter().enumerate().map(|(index, address)| (Target::Given(index), state(address))).collect();
        Dialling { targets, ..Dialling::default() }
    }

    /// mDNS has heard `peer` announce `address`.
    pub(super) fn heard(&mut self, peer: PeerId, address: Multiaddr) {
        let target = Target::Learned(peer);
        if !self.targets.contains_key(&target) {
            if self.heard_count >= HEARD_COUNT_MAX && !self.forget_a_stranger() {
                return;
            }
            self.heard_count += 1;
        }
        let state = self.targets.entry(target).or_insert_with(|| State::new(Vec::new(), Some(peer)));
        if !state.addresses.contains(&address) && state.addresses.len() < ADDRESS_COUNT_MAX {
            state.addresses.push(address);
        }
        state.not_before = None;
    }

    /// `peer` is a member, and says that it listens at `addresses`.
    pub(super) fn member(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) {
        let state = self.targets.entry(Target::Learned(peer)).or_insert_with(|| State::new(Vec::new(), Some(peer)));
        if !addresses.is_empty() && state.addresses != addresses {
            state.addresses = addresses;
            state.not_before = None;
        }
    }

    /// What is to be dialled now; the swarm must be told, and then [`Dialling::began`].
    pub(super) fn due(&self, now: Instant, is_connected: impl Fn(&PeerId) -> bool) -> Vec<(Target, DialOpts)> {
        let is_due = |state: &State| {
            let is_hopeless = matches!(state.finding, Some(Finding::OtherCluster(_) | Finding::NotQuorate(_)));
            let is_early = state.not_before.is_some_and(|not_before| now < not_before);
            let is_there = state.peer.is_some_and(|peer| is_connected(&peer));
            !(is_hopeless || is_early || is_there || state.is_pending || state.addresses.is_empty())
        };
        let due = self.targets.iter().filter(|(_, state)| is_due(state));
        due.map(|(&target, state)| (target, dial_opts(target, state))).collect()
    }

    /// The swarm dials `target` as `connection`.
    pub(super) fn began(&mut self, target: Target, connection: ConnectionId) {
        if let Some(state) = self.targets.get_mut(&target) {
            state.is_pending = true;
            self.pending.insert(connection, target);
        }
    }

    /// A dial has led to `peer`, of whom nothing else is known yet.
    pub(super) fn connected(&mut self, connection: ConnectionId, peer: PeerId) {
        let Some(target) = self.pending.remove(&connection) else { return };
        if let Some(state) = self.targets.get_mut(&target) {
            state.is_pending = false;
            state.peer = Some(peer);
        }
    }

    /// A dial of `target`, begun or not, has failed.
    pub(super) fn failed(&mut self, target: Target, detail: String, now: Instant) {
        if let Some(state) = self.targets.get_mut(&target) {
            state.fail(detail, now);
        }
    }

    /// A dial has failed.
    pub(super) fn connection_failed(&mut self, connection: ConnectionId, error: &DialError, now: Instant) {
        if let Some(target) = self.pending.remove(&connection) {
            self.failed(target, dial_error::words(error), now);
        }
    }

    /// `peer` has said who it is.
    pub(super) fn identified(&mut self, peer: PeerId, finding: &Finding) {
        for state in self.targets.values_mut().filter(|state| state.peer == Some(peer)) {
            state.finding = Some(finding.clone());
            if *finding == Finding::Ours {
                state.failure_count = 0;
            }
        }
    }

    /// The last connection to `peer` is gone.
    pub(super) fn disconnected(&mut self, peer: PeerId, now: Instant) {
        for (target, state) in self.targets.iter_mut().filter(|(_, state)| state.peer == Some(peer)) {
            match state.finding {
                Some(Finding::OtherCluster(_) | Finding::NotQuorate(_)) => {}
                Some(Finding::Ours | Finding::Failed(_)) | None => state.fail("the connection was lost".into(), now),
            }
            // Another peer may be found at a given address the next time.
            if let (Target::Given(_), [address]) = (target, state.addresses.as_slice()) {
                state.peer = peer_in(address);
            }
        }
    }

    /// Whether every address given has been tried and led to no node of ours.
    pub(super) fn all_given_failed(&self) -> bool {
        let failed = |state: &State| !matches!(state.finding, None | Some(Finding::Ours));
        self.given().all(|(_, state)| failed(state))
    }

    /// Why the cluster called `ours` was not reached; `waited` when the time is up, and not all attempts have ended.
    pub(super) fn to_error(&self, ours: &Name, waited: Option<Duration>) -> ClientError {
        let elsewhere = |state: &State| match &state.finding {
            Some(Finding::OtherCluster(theirs)) => Some((state.addresses.first()?.clone(), theirs.clone())),
            Some(Finding::Ours | Finding::NotQuorate(_) | Finding::Failed(_)) | None => None,
        };
        let others: Option<Vec<_>> = self.given().map(|(_, state)| elsewhere(state)).collect();
        match others.and_then(|others| others.into_iter().next()) {
            Some((address, theirs)) => ClientError::OtherCluster { address, theirs, ours: ours.clone() },
            None => ClientError::Unreachable { detail: self.to_detail(waited) },
        }
    }

    /// What was tried and what came of it, in one line.
    pub(super) fn to_detail(&self, waited: Option<Duration>) -> String {
        let unhappy = |state: &&State| state.finding != Some(Finding::Ours);
        let mut unhappy = self.targets.values().filter(unhappy);
        let told = unhappy.by_ref().take(DETAIL_COUNT_MAX).map(|state| (state.place(), state.describe(waited)));
        let lines = grouped(told.collect());
        let more = unhappy.count();
        match (lines.is_empty(), more) {
            (true, _) => "nobody announces itself on this network; name a node by its address".to_owned(),
            (false, 0) => lines.join("; "),
            (false, more) => format!("{}; and {more} more", lines.join("; ")),
        }
    }

    /// Makes room for a peer newly heard; `false` when all that are known may be nodes.
    fn forget_a_stranger(&mut self) -> bool {
        let is_stranger = |(target, state): (&Target, &State)| {
            let is_foreign = matches!(state.finding, Some(Finding::OtherCluster(_) | Finding::NotQuorate(_)));
            (matches!(target, Target::Learned(_)) && is_foreign && !state.is_pending).then_some(*target)
        };
        let Some(stranger) = self.targets.iter().find_map(is_stranger) else { return false };
        self.targets.remove(&stranger);
        self.heard_count -= 1;
        true
    }

    fn given(&self) -> impl Iterator<Item = (&Target, &State)> {
        self.targets.iter().filter(|(target, _)| matches!(target, Target::Given(_)))
    }
}

impl State {
    fn new(addresses: Vec<Multiaddr>, peer: Option<PeerId>) -> State {
        State { addresses, peer, is_pending: false, failure_count: 0, not_before: None, finding: None }
    }

    fn fail(&mut self, detail: String, now: Instant) {
        self.is_pending = false;
        self.finding = Some(Finding::Failed(detail));
        self.not_before = Some(now + PAUSE_MIN.saturating_mul(1 << self.failure_count.min(8)).min(PAUSE_MAX));
        self.failure_count += 1;
    }

    fn place(&self) -> String {
        self.addresses.first().map_or_else(|| "a member without addresses".to_owned(), dial_error::short)
    }

    fn describe(&self, waited: Option<Duration>) -> String {
        let address = self.place();
        match (&self.finding, waited) {
            (Some(Finding::Ours), _) => format!("{address} is a node of this cluster"),
            (Some(Finding::OtherCluster(theirs)), _) => {
                format!("{address} belongs to another cluster, {:?}", theirs.as_str())
            }
            (Some(Finding::NotQuorate(what)), _) => format!("{address} is a libp2p peer, but no Quorate node ({what})"),
            (Some(Finding::Failed(detail)), _) => detail.clone(),
            (None, Some(waited)) => format!(
                "{address} has not completed a libp2p handshake within {waited:?}: nobody is there, another program \
                 is, or it wants the cluster's swarm key"
            ),
            (None, None) => format!("{address} is being dialled"),
        }
    }
}

/// One line for all places of which the same is told; a pair is a place and what is told of it, the place first.
fn grouped(told: Vec<(String, String)>) -> Vec<String> {
    let mut groups: Vec<(String, Vec<String>, String)> = Vec::new();
    for (place, line) in told {
        // A dial of several addresses tells of each by itself.
        let Some(rest) = line.strip_prefix(&place).map(str::to_owned) else {
            groups.push((String::new(), Vec::new(), line));
            continue;
        };
        match groups.iter_mut().find(|(first, _, told)| !first.is_empty() && *told == rest) {
            Some((_, others, _)) => others.push(place),
            None => groups.push((place, Vec::new(), rest)),
        }
    }
    let to_line = |(first, others, rest): (String, Vec<String>, String)| match others.is_empty() {
        true => first + &rest,
        false => format!("{first} (also {}){rest}", others.join(", ")),
    };
    groups.into_iter().map(to_line).collect()
}

fn dial_opts(target: Target, state: &State) -> DialOpts {
    let expected = match target {
        Target::Given(_) => state.addresses.first().and_then(peer_in),
        Target::Learned(peer) => Some(peer),
    };
    match (expected, state.addresses.first()) {
        (None, Some(address)) => DialOpts::unknown_peer_id().address(address.clone()).build(),
        (Some(peer), _) => {
            let opts = DialOpts::peer_id(peer).addresses(state.addresses.clone());
            opts.condition(PeerCondition::Disconnected).build()
        }
        (None, None) => unreachable!("a given target has its address, a learned one its peer"),
    }
}

/// The peer that an address names at its end.
fn peer_in(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last()? {
        Protocol::P2p(peer) => Some(peer),
        _ => None,
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Finding::Ours => f.write_str("ours"),
            Finding::OtherCluster(name) => write!(f, "of the cluster {:?}", name.as_str()),
            Finding::NotQuorate(what) => write!(f, "no Quorate node ({what})"),
            Finding::Failed(detail) => f.write_str(detail),
        }
    }
}

/// Most peers that mDNS may add.
const HEARD_COUNT_MAX: usize = 256;

/// Most targets that an error tells of.
const DETAIL_COUNT_MAX: usize = 8;

/// Pause before a target is dialled again, doubling from the least to the most.
const PAUSE_MIN: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_which_the_same_is_told_share_a_line() {
        let told = |place: &str, rest: &str| (place.to_owned(), format!("{place}{rest}"));
        let lines = grouped(vec![
            told("127.0.0.1:1", ": refused"),
            told("10.0.0.1:2", " is another program"),
            told("[::1]:1", ": refused"),
            ("10.0.0.2:3".to_owned(), "the connection was lost".to_owned()),
        ]);
        let expected =
            ["127.0.0.1:1 (also [::1]:1): refused", "10.0.0.1:2 is another program", "the connection was lost"];
        assert_eq!(lines, expected);
    }
}
