//! What follows from the effects of a node: messages, dials, works for its storage.

use quorate::{
    clock::{Instant, Now},
    ident::NodeId,
    membership::roster::Standing,
    node::{
        Node, SendFailure,
        effect::{Effect, Event, Heard, InboundId, News, OutboundId},
    },
    replica::hints::Hint,
    wire::quorum::{Request, Response},
};

use crate::{
    checker::Violation,
    cluster::{Cluster, Happening, Outcome, ReturnAddress},
    machine::Machine,
};

impl Cluster {
    /// One input to a node, and all that follows at once. Nothing when it is down.
    pub(crate) fn input(&mut self, index: usize, input: impl FnOnce(&mut Node, Now)) {
        let now = self.machines[index].now(self.now_ms);
        let Some(process) = &mut self.machines[index].process else { return };
        input(&mut process.node, now);
        self.drain(index);
    }

    pub(crate) fn drain(&mut self, index: usize) {
        while let Some(effect) = self.machines[index].process.as_mut().and_then(|process| process.node.poll_effect()) {
            if let Some(trace) = &mut self.trace {
                trace.update(format!("{} {index} {effect:?}\n", self.now_ms).as_bytes());
            }
            self.carry_out(index, effect);
        }
        self.checker.on_step(index, &mut self.machines[index]);
    }

    fn carry_out(&mut self, index: usize, effect: Effect) {
        let life = self.machines[index].life;
        match effect {
            Effect::Store { ticket, work, due } => {
                let early = self.machines[index].enqueue(self.now_ms, (ticket, work, due));
                if let Some(results) = early {
                    self.later(0, Happening::Committed { node: index, life, results });
                }
                self.commit_later(index);
            }
            Effect::Query { ticket, query, due: _ } => {
                let delay_ms = self.dice.between(0, 3);
                self.later(delay_ms, Happening::Queried { node: index, life, ticket, query });
            }
            Effect::Send { to, request, due } => {
                for (node, outbound) in to {
                    self.send(index, node, outbound, &request, due);
                }
            }
            Effect::Respond { inbound, response } => self.respond(index, inbound, response),
            Effect::Reply { client, response } => {
                let outcome = match self.asked.remove(&client.0) {
                    Some(_) => Outcome::Replied(client.0, response),
                    None => return self.checker.report(Violation::AnsweredTwice { node: index }),
                };
                self.outcomes.push_back(outcome);
            }
            Effect::Ask { exchange, to, question } => self.ask_in_exchange(index, exchange, to, question),
            Effect::AnswerExchange { exchange, answer } => self.answer_exchange(index, exchange, answer),
            Effect::EndExchange(exchange) => self.end_exchange(index, exchange),
            Effect::EndInboundExchange(exchange) => self.end_inbound_exchange(exchange),
            Effect::Publish(change) => {
                for peer in (0..self.machines.len()).filter(|peer| *peer != index) {
                    for delay_ms in self.network.delays_ms(&mut self.dice) {
                        let heard = Heard { via: self.machines[index].id, name: change.digest().0 };
                        let news = News::Announced { heard, change: change.clone() };
                        self.later(delay_ms, Happening::Announced { from: index, to: peer, news });
                    }
                }
            }
            // Everybody hears an announcement from its author: nothing is passed on here.
            Effect::Judge { heard, verdict } => self.judged.push((index, heard, verdict)),
            Effect::Dial { node, .. } => {
                if let Some(peer) = self.reached(index, &node) {
                    self.dial(index, peer, None);
                }
            }
            Effect::Disconnect(node) => {
                let peers: Vec<usize> = self.bearers(&node).collect();
                peers.into_iter().for_each(|peer| self.disconnect(index, peer));
            }
            Effect::DialSeed(seed) => {
                if let Some(peer) = self.machines[index].seeds.get(seed.0).copied() {
                    self.dial(index, peer, Some(seed));
                }
            }
            Effect::Tell(event) => {
                if let Event::Stopped(stop) = event {
                    self.machines[index].ended = Some(stop);
                    self.later(0, Happening::End { node: index, life });
                }
                self.told.push((index, event));
            }
        }
    }

    fn send(&mut self, index: usize, node: NodeId, outbound: OutboundId, request: &Request, due: Instant) {
        let life = self.machines[index].life;
        let peer = self.reached(index, &node);
        let link = peer.and_then(|peer| Some((peer, self.network.believed(index, peer)?.0)));
        let Some((peer, peer_life)) = link else {
            let result = Err(SendFailure::NotSent);
            return self.later(1, Happening::Response { to: index, life, outbound, result });
        };
        self.toll.iter_mut().for_each(|toll| toll.count_request(index, peer, request));
        let delays_ms = self.network.delays_ms(&mut self.dice);
        if delays_ms.is_empty() && self.dice.permille(300) {
            // Some losses are noticed by the sender.
            let delay_ms = self.dice.between(10, 500);
            let result = Err(SendFailure::Unknown);
            self.later(delay_ms, Happening::Response { to: index, life, outbound, result });
        }
        for delay_ms in delays_ms {
            let from = ReturnAddress { node: index, life, outbound, answerer: peer };
            self.later(delay_ms, Happening::Request { from, to: peer, life: peer_life, due, request: request.clone() });
        }
    }

    fn respond(&mut self, index: usize, inbound: InboundId, response: Response) {
        let Some(address) = self.inbounds.remove(&inbound) else {
            return self.checker.report(Violation::AnsweredTwice { node: index });
        };
        let ReturnAddress { node: to, life, outbound, .. } = address;
        if !self.network.is_open(index, to) {
            return;
        }
        self.toll.iter_mut().for_each(|toll| toll.count_response(index, to, &response));
        for delay_ms in self.network.delays_ms(&mut self.dice) {
            let result = Ok(response.clone());
            self.later(delay_ms, Happening::Response { to, life, outbound, result });
        }
    }

    pub(crate) fn commit(&mut self, index: usize) {
        let dropping = self.machines[index].dropping();
        let (touched, results) = self.machines[index].commit(self.now_ms);
        self.checker.on_commit(&self.machines[index], &touched);
        if !dropping.is_empty() {
            self.check_dropped(index, dropping);
        }
        let life = self.machines[index].life;
        let delay_ms = self.dice.between(0, 3);
        self.later(delay_ms, Happening::Committed { node: index, life, results });
        if let Some(process) = &mut self.machines[index].process {
            process.is_committing = false;
        }
        self.commit_later(index);
    }

    /// A hint that is gone must be with its target, all of it; or with others, where its target has left the row, or its
    /// keeper is about to leave.
    fn check_dropped(&mut self, index: usize, before: Vec<(NodeId, Hint)>) {
        let left = self.machines[index].hints();
        for (target, hint) in before.into_iter().filter(|hint| !left.contains(hint)) {
            let view = self.node(index).map(|node| node.view()).expect("who keeps hints is up");
            let ring = view.ring.as_ref().expect("who keeps hints is a member");
            let is_owner = view.listed(ring.partition_of(&hint.key)).contains(&target);
            let me = self.machines[index].id;
            let is_leaving = view.members.get(&me).is_none_or(|member| member.standing == Standing::Leaving);
            let holds = |machine: &Machine| !machine.object(&hint.key).merge(hint.object.clone());
            let is_safe = |machine: &&Machine| holds(machine) && (machine.id == target || !is_owner || is_leaving);
            // Where rows change, what was handed over to a majority of a row may be owed to another by now, who fills from it.
            let is_with_many = self.rows_change && self.machines.iter().filter(|machine| holds(machine)).count() > 1;
            if !is_with_many && !self.machines.iter().any(|machine| is_safe(&machine)) {
                self.checker.report(Violation::DroppedEarly { node: index, key: hint.key });
            }
        }
    }

    fn commit_later(&mut self, index: usize) {
        let is_slow = self.dice.permille(20);
        let delay_ms = if is_slow { self.dice.between(50, 500) } else { self.dice.between(1, 8) };
        let Machine { process: Some(process), life, .. } = &mut self.machines[index] else { return };
        if !process.is_committing && !process.queue.is_empty() {
            process.is_committing = true;
            let life = *life;
            self.later(delay_ms, Happening::Commit { node: index, life });
        }
    }
}
