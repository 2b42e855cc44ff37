//! What the administrator of a node should know.
//!
//! An **alert** stands as long as its cause does: it is raised once, with the time since when it has been so, and cleared
//! once. Nothing follows from it: a node that is away is away, and only people remove it.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use crate::{
    clock::{Instant, Now, WallTime},
    ident::NodeId,
    membership::liveness::Opinion,
    node::{Node, effect::Event},
    replica::hints::HintTotals,
    wire::administration::{Alert, AlertKind},
};

/// A node that has just started, or was cut off for a moment, is not isolated yet.
const ISOLATED_AFTER: Duration = Duration::from_secs(10);

/// The alerts of one node. As many as it has members, three times, and three.
#[derive(Debug, Default)]
pub(super) struct Alerts {
    /// What is the matter, and since when; much of it not for long enough to be told.
    suspected: BTreeMap<AlertKind, (Instant, WallTime)>,
    standing: BTreeMap<AlertKind, Alert>,
    hints: Vec<(NodeId, HintTotals)>,
    opinions: BTreeMap<NodeId, Opinion>,
}

impl Alerts {
    /// Those that stand, the oldest first.
    pub(super) fn standing(&self) -> Vec<Alert> {
        let mut alerts: Vec<Alert> = self.standing.values().cloned().collect();
        alerts.sort_by_key(|alert| (alert.since, alert.kind));
        alerts
    }

    /// What hints come to, as last noted.
    pub(super) fn hints(&self) -> &[(NodeId, HintTotals)] {
        &self.hints
    }

    /// What hints come to now.
    pub(super) fn note_hints(&mut self, totals: &[(NodeId, HintTotals)]) {
        self.hints = totals.to_vec();
    }

    /// Takes note of what is the matter now: what it is, how long that may be so before it is told, and in words. Returns
    /// what is new and what is over.
    fn update(&mut self, causes: Vec<(AlertKind, Duration, String)>, now: Now) -> Vec<Event> {
        let present: BTreeSet<AlertKind> = causes.iter().map(|(kind, _, _)| *kind).collect();
        self.suspected.retain(|kind, _| present.contains(kind));
        let over: Vec<AlertKind> = self.standing.keys().filter(|kind| !present.contains(kind)).copied().collect();
        let mut events: Vec<Event> =
            over.iter().filter_map(|kind| self.standing.remove(kind)).map(Event::AlertCleared).collect();
        for (kind, patience, detail) in causes {
            let (since, since_wall) = *self.suspected.entry(kind).or_insert((now.instant, now.wall));
            if now.instant - since >= patience && !self.standing.contains_key(&kind) {
                let alert = Alert { kind, since: since_wall, detail };
                self.standing.insert(kind, alert.clone());
                events.push(Event::AlertRaised(alert));
            }
        }
        events
    }
}

impl Node {
    /// Looks whether there is something that people should know.
    pub(super) fn check_alerts(&mut self, now: Now) {
        self.note_opinions(now);
        let mut causes = self.members_away();
        if self.is_isolated() {
            let detail =
                "none of the members that share data with this node can be reached where they were last; if they \
                          run at other addresses now, start this node again with --join and the address of one of them"
                    .to_owned();
            causes.push((AlertKind::Isolated, ISOLATED_AFTER.min(self.config.dead_after), detail));
        }
        if let Some(failure) = self.records.store_failure() {
            let detail = format!("the store takes no writes: {failure}");
            causes.push((AlertKind::StoreUnwritable, Duration::ZERO, detail));
        }
        if self.lives.has_twin() {
            let detail = "another process runs with this node's identity.key; the younger of the two stops by itself. See \
                          that nothing starts it again: give the copy a new identity by deleting its identity.key and its \
                          store"
                .to_owned();
            causes.push((AlertKind::Twin, Duration::ZERO, detail));
        }
        for node in self.view.forked.iter().filter(|node| !self.view.removed.contains_key(node)) {
            let detail = format!(
                "{} has said different things under one number: two processes run with its identity.key, or its disk was \
                 put back; all of it counts. Stop it and its double, remove it, and start it with a new identity",
                self.name_of(node)
            );
            causes.push((AlertKind::Forked(*node), Duration::ZERO, detail));
        }
        let half = self.config.hint_ttl / 2;
        for (target, totals) in &self.alerts.hints {
            if Instant(now.wall.0) - Instant(totals.oldest.0) >= half {
                let detail = format!(
                    "{} hints ({} bytes) for {} are waiting, some for more than half of the {} s after which they are \
                     given up",
                    totals.count,
                    totals.bytes,
                    self.name_of(target),
                    self.config.hint_ttl.as_secs()
                );
                causes.push((AlertKind::HintsOld(*target), Duration::ZERO, detail));
            }
        }
        for event in self.alerts.update(causes, now) {
            self.tell(event);
        }
    }

    fn members_away(&self) -> Vec<(AlertKind, Duration, String)> {
        let patience = self.config.dead_after;
        let away = self.alerts.opinions.iter().filter(|(_, opinion)| **opinion == Opinion::Down);
        let cause = |(node, _): (&NodeId, &Opinion)| {
            let detail = format!(
                "{} has not been reached for {} s; it will be waited for until an administrator removes or replaces it",
                self.name_of(node),
                patience.as_secs()
            );
            (AlertKind::MemberAway(*node), patience, detail)
        };
        away.map(cause).collect()
    }

    /// Whether it shares rows with others, and reaches none of them.
    fn is_isolated(&self) -> bool {
        let mut others = self.co_owners.iter().peekable();
        others.peek().is_some()
            && others.all(|node| self.alerts.opinions.get(node).is_none_or(|opinion| *opinion == Opinion::Down))
    }

    fn note_opinions(&mut self, now: Now) {
        let members = self.view.members.keys().filter(|node| **node != self.me);
        let opinions: BTreeMap<NodeId, Opinion> =
            members.map(|node| (*node, self.liveness.opinion(node, now.instant))).collect();
        let before = &self.alerts.opinions;
        let changed = opinions.iter().filter(|(node, opinion)| before.get(node).is_some_and(|old| old != *opinion));
        self.counters.opinions_changed += changed.count() as u64;
        self.alerts.opinions = opinions;
    }

    pub(super) fn name_of(&self, node: &NodeId) -> String {
        self.view.members.get(node).map_or_else(|| format!("{node:?}"), |member| member.profile.name.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIND: AlertKind = AlertKind::MemberAway(NodeId([3; 32]));

    fn at(ms: u64) -> Now {
        Now { instant: Instant(ms), wall: WallTime(1_000_000 + ms) }
    }

    fn cause() -> Vec<(AlertKind, Duration, String)> {
        vec![(KIND, Duration::from_secs(2), "away".to_owned())]
    }

    #[test]
    fn an_alert_is_raised_once_with_the_time_since_when_and_cleared_once() {
        let mut alerts = Alerts::default();
        assert_eq!(alerts.update(cause(), at(100)), []);
        assert_eq!(alerts.update(cause(), at(2_000)), []);
        let alert = Alert { kind: KIND, since: WallTime(1_000_100), detail: "away".to_owned() };
        assert_eq!(alerts.update(cause(), at(2_100)), [Event::AlertRaised(alert.clone())]);
        assert_eq!(alerts.update(cause(), at(9_000)), []);
        assert_eq!(alerts.standing(), vec![alert.clone()]);
        assert_eq!(alerts.update(Vec::new(), at(9_500)), [Event::AlertCleared(alert)]);
        assert_eq!(alerts.update(Vec::new(), at(9_600)), []);
    }

    #[test]
    fn what_is_over_in_time_is_not_told_and_its_time_begins_anew() {
        let mut alerts = Alerts::default();
        alerts.update(cause(), at(0));
        alerts.update(Vec::new(), at(1_900));
        alerts.update(cause(), at(1_950));
        assert_eq!(alerts.update(cause(), at(3_000)), []);
        assert_eq!(alerts.update(cause(), at(3_950)).len(), 1);
    }
}
