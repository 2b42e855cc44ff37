//! How connections come and go, and what nodes are told of it.

use quorate::{
    clock::Instant,
    ident::NodeId,
    node::effect::{InboundId, News, SeedIndex},
    wire::quorum::Request,
};

use crate::cluster::{Cause, Cluster, Happening, Outcome, ReturnAddress};

impl Cluster {
    /// Cuts one direction. Some cuts are reported to either side after a while; the others are only silence.
    pub(crate) fn cut(&mut self, from: usize, to: usize) {
        self.network.cut(from, to);
        if self.dice.permille(500) {
            return;
        }
        for (node, peer) in [(from, to), (to, from)] {
            if let Some((_, generation)) = self.network.believed(node, peer) {
                let delay_ms = self.dice.between(300, 3_000);
                self.later(delay_ms, Happening::Lost { node, peer, generation, cause: Cause::Cut });
            }
        }
    }

    /// Cuts both directions, and nobody is told.
    pub(crate) fn cut_silently(&mut self, one: usize, other: usize) {
        self.network.cut(one, other);
        self.network.cut(other, one);
    }

    /// `index` closes its connection; the peer learns of it if anything still gets through.
    pub(crate) fn disconnect(&mut self, index: usize, peer: usize) {
        let Some((_, generation)) = self.network.believed(index, peer) else { return };
        self.later(1, Happening::Lost { node: index, peer, generation, cause: Cause::Crash });
        if self.network.is_open(index, peer) && self.network.believed(peer, index).is_some() {
            let delay_ms = self.dice.between(1, 30);
            self.later(delay_ms, Happening::Lost { node: peer, peer: index, generation, cause: Cause::Crash });
        }
    }

    pub(crate) fn gone(&mut self, index: usize, noticed_ms: u64) {
        for peer in 0..self.machines.len() {
            if let Some((_, generation)) = self.network.believed(index, peer) {
                self.network.lose(index, peer, generation);
            }
            if let Some((_, generation)) = self.network.believed(peer, index) {
                let delay_ms = self.dice.between(1, noticed_ms);
                self.later(delay_ms, Happening::Lost { node: peer, peer: index, generation, cause: Cause::Crash });
            }
        }
        self.break_streams(|asker, answerer| asker == index || answerer == index);
        self.inbounds.retain(|_, address| address.answerer != index);
        let unknown: Vec<u64> =
            self.asked.iter().filter(|(_, asked)| **asked == index).map(|(number, _)| *number).collect();
        for number in unknown {
            self.asked.remove(&number);
            self.outcomes.push_back(Outcome::Unknown(number));
        }
    }

    /// The computers with the identity of `node`.
    pub(crate) fn bearers(&self, node: &NodeId) -> impl Iterator<Item = usize> + use<> {
        let first = self.indices.get(node).copied();
        first.into_iter().chain(first.and_then(|first| self.copies.get(&first).copied()))
    }

    /// The computer with the identity of `node` to which something goes that `from` sends: of two that it is connected with,
    /// either.
    pub(crate) fn reached(&mut self, from: usize, node: &NodeId) -> Option<usize> {
        let all: Vec<usize> = self.bearers(node).filter(|index| *index != from).collect();
        let linked = all.iter().copied().filter(|index| self.network.believed(from, *index).is_some());
        match (linked.collect::<Vec<_>>().as_slice(), all.as_slice()) {
            ([one, other], _) | ([], [one, other]) => Some(if self.dice.permille(500) { *one } else { *other }),
            ([one], _) | ([], [one]) => Some(*one),
            _ => None,
        }
    }

    /// Whether `node` is connected with the other computer that has the identity of `peer`.
    fn knows_other(&self, node: usize, peer: usize) -> bool {
        let mut others = self.bearers(&self.machines[peer].id).filter(|other| *other != peer);
        others.any(|other| self.network.believed(node, other).is_some())
    }

    pub(crate) fn dial(&mut self, from: usize, to: usize, seed: Option<SeedIndex>) {
        let life = self.machines[from].life;
        let delay_ms = self.dice.between(1, 30);
        self.later(delay_ms, Happening::Dialled { from, life, to, seed });
    }

    pub(crate) fn on_dialled(&mut self, from: usize, life: u64, to: usize, seed: Option<SeedIndex>) {
        if !self.lives(from, life) {
            return;
        }
        let (here, there) = (self.machines[from].id, self.machines[to].id);
        let is_open = self.network.is_open(from, to) && self.network.is_open(to, from);
        let is_awake = self.machines[to].paused_until_ms <= self.now_ms;
        if !self.is_up(to) || !is_open || !is_awake {
            if seed.is_none() {
                self.input(from, |node, now| node.handle_news(now, News::DialFailed(there)));
            }
            return;
        }
        let lives = [(from, self.machines[from].life), (to, self.machines[to].life)];
        let stands = |one: usize, other: usize, life: u64| {
            self.network.believed(one, other).is_some_and(|(believed, _)| believed == life)
        };
        if stands(from, to, lives[1].1) && stands(to, from, lives[0].1) {
            if seed.is_some() {
                self.input(from, |node, now| node.handle_news(now, News::Connected { node: there, seed }));
            }
            return;
        }
        let generation = self.network.connect(lives[0], lives[1]);
        if seed.is_some() || !self.knows_other(from, to) {
            self.input(from, |node, now| node.handle_news(now, News::Connected { node: there, seed }));
        }
        if !self.knows_other(to, from) {
            self.input(to, |node, now| node.handle_news(now, News::Connected { node: here, seed: None }));
        }
        for (node, peer) in [(from, to), (to, from)] {
            let delay_ms = self.dice.between(1, 20);
            self.later(delay_ms, Happening::Identified { node, peer, generation });
        }
    }

    pub(crate) fn on_lost(&mut self, node: usize, peer: usize, generation: u64, cause: Cause) {
        let is_over = self.network.is_open(node, peer) && self.network.is_open(peer, node);
        if (cause == Cause::Cut && is_over) || !self.network.lose(node, peer, generation) {
            return;
        }
        self.break_streams(|asker, answerer| (asker, answerer) == (node, peer) || (answerer, asker) == (node, peer));
        let lost = self.machines[peer].id;
        if !self.knows_other(node, peer) {
            self.input(node, |node, now| node.handle_news(now, News::Lost(lost)));
        }
    }

    pub(crate) fn on_request(&mut self, from: ReturnAddress, to: usize, life: u64, due: Instant, request: Request) {
        if !self.lives(to, life) || !self.network.is_open(from.node, to) {
            return;
        }
        self.inbound_count += 1;
        let inbound = InboundId(self.inbound_count);
        self.inbounds.insert(inbound, from);
        let asker = self.machines[from.node].id;
        self.input(to, |node, now| node.handle_request(now, asker, inbound, due, request));
    }

    /// Nodes of one network find each other again and again, and those that are connected feel each other's pulse.
    pub(crate) fn look_around(&mut self) {
        for node in 0..self.machines.len() {
            for peer in 0..self.machines.len() {
                let is_open = self.network.is_open(node, peer) && self.network.is_open(peer, node);
                let life = self.network.believed(node, peer).map(|(life, _)| life);
                let is_awake = [node, peer].iter().all(|index| self.machines[*index].paused_until_ms <= self.now_ms);
                if is_open && is_awake && life.is_some_and(|life| self.lives(peer, life)) {
                    let news = News::Heartbeat(self.machines[peer].id);
                    self.input(node, |node, now| node.handle_news(now, news));
                }
                let is_seen = self.is_up(peer) && self.network.is_open(peer, node);
                if node != peer && is_seen && self.network.believed(node, peer).is_none() && self.has_mdns(node, peer) {
                    let news = News::Discovered(vec![(self.machines[peer].id, Vec::new())]);
                    self.input(node, |node, now| node.handle_news(now, news));
                }
            }
        }
        self.later(1_000, Happening::LookAround);
    }

    /// Those with seeds are told whom to join, and use nothing else.
    fn has_mdns(&self, node: usize, peer: usize) -> bool {
        self.machines[node].seeds.is_empty() && self.machines[peer].seeds.is_empty()
    }
}
