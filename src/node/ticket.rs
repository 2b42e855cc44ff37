//! What a node has asked of its store, so that it knows what an answer is for.

use crate::{
    handoff::hints::Delivery,
    ident::NodeId,
    node::{
        effect::{ExchangeId, InboundExchange, InboundId},
        handoff::Sweep,
        operations::OpNumber,
    },
    ring::{partition_set::PartitionSet, token::Partition},
};

/// What a piece of storage work is for.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum TicketUse {
    /// The coordinator's own write; as a hint for another, if it stands in.
    Write { number: OpNumber, target: Option<NodeId> },
    /// The coordinator's own answer to a read.
    Read(OpNumber),
    /// The whole answer to a client.
    Answer(OpNumber),
    /// The coordinator's own copy, made on the way: among its own data, or as a hint for a primary.
    CopyHere { number: OpNumber, target: Option<NodeId> },
    /// A peer's read of a key.
    PeerRead { inbound: InboundId, partition: Partition, whole_bytes_max: u32 },
    /// A peer's merge; what it merges into may be kept for another.
    PeerMerge { inbound: InboundId, partition: Partition, target: Option<NodeId> },
    /// Marks that a peer has passed on.
    PeerMark(InboundId),
    /// A page of the hints for a target.
    HintPage(NodeId),
    /// A hint that is to be merged here.
    HintHere(Delivery),
    /// What hints come to.
    HintTotals,
    /// A look through hints for those to be given up.
    Sweep(Sweep),
    /// The next turn of an exchange begun here.
    Descend(ExchangeId),
    /// What an answer in such an exchange brought.
    TakenIn(ExchangeId),
    /// What to tell in an exchange that another began.
    AnswerExchange(InboundExchange),
    /// What a question in such an exchange brought.
    GivenIn(InboundExchange),
    /// A look at a bucket of the tree.
    Check(u16),
    /// The mending of one.
    Mend(u16),
    /// All that is to be stored before it is asked what is left of these partitions, which this node need not hold.
    BeforeLeftovers(PartitionSet),
    /// What is left of them.
    Leftovers,
    /// The dropping of a partition.
    Drop,
    /// Membership changes on their way into the history.
    Changes,
    /// A later start of this node that others have seen; `before` is the number it went by.
    Boot { before: u64 },
    /// The boot number of a peer.
    PeerLife(NodeId),
    /// Nobody waits for it.
    Unwatched,
}

impl TicketUse {
    /// For whom it stores a hint, if it does.
    pub(super) fn hint_target(&self) -> Option<NodeId> {
        match self {
            TicketUse::Write { target, .. }
            | TicketUse::CopyHere { target, .. }
            | TicketUse::PeerMerge { target, .. } => *target,
            TicketUse::Read(_)
            | TicketUse::Answer(_)
            | TicketUse::PeerRead { .. }
            | TicketUse::PeerMark(_)
            | TicketUse::HintPage(_)
            | TicketUse::HintHere(_)
            | TicketUse::HintTotals
            | TicketUse::Sweep(_)
            | TicketUse::Descend(_)
            | TicketUse::TakenIn(_)
            | TicketUse::AnswerExchange(_)
            | TicketUse::GivenIn(_)
            | TicketUse::Check(_)
            | TicketUse::Mend(_)
            | TicketUse::BeforeLeftovers(_)
            | TicketUse::Leftovers
            | TicketUse::Drop
            | TicketUse::Changes
            | TicketUse::Boot { .. }
            | TicketUse::PeerLife(_)
            | TicketUse::Unwatched => None,
        }
    }
}
