//! What the node has to say of membership changes that are announced, in the words of gossip.

use quorate_behaviours::membership_gossip::{self, Behaviour};

use crate::{
    membership::change::Change,
    node::effect::{Heard, Verdict},
    runtime::identity::peer_id,
};

/// Announces `change`, if anybody is there to hear it.
pub(crate) fn publish(gossip: &mut Behaviour<Change>, change: &Change) {
    if let Err(error) = gossip.announce(change) {
        tracing::debug!(%error, "a membership change was not announced; it will be pulled");
    }
}

/// Has an announcement passed on, or not.
pub(crate) fn judge(gossip: &mut Behaviour<Change>, heard: &Heard, verdict: Verdict) {
    let Some(via) = peer_id(&heard.via) else { return };
    let verdict = match verdict {
        Verdict::PassOn => membership_gossip::Verdict::PassOn,
        Verdict::Keep => membership_gossip::Verdict::Keep,
        Verdict::Reject => membership_gossip::Verdict::Reject,
    };
    gossip.judge(&heard.name, &via, verdict);
}
