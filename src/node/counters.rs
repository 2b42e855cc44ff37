//! What a node counts.

/// What the node counts; plain numbers, only ever rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Writes and reads this node coordinated.
    pub coordinated: u64,
    /// Requests forwarded to another coordinator.
    pub forwarded: u64,
    /// Requests refused because a bound was reached.
    pub overloaded: u64,
    /// Replicas sent a repair after a read.
    pub repaired: u64,
    /// Repairs not sent because too much was under way.
    pub repairs_shed: u64,
    /// Membership changes refused.
    pub changes_refused: u64,
    /// Messages with changes that no honest node would send.
    pub history_offences: u64,
    /// Comparisons of histories refused because of such messages of the same peer.
    pub offenders_refused: u64,
    /// Answers given under another history.
    pub other_history: u64,
    /// Hints kept here for others, each merge into one counted.
    pub hints_kept: u64,
    /// Hints refused because a bound was reached.
    pub hints_refused: u64,
    /// Hints delivered and acknowledged.
    pub hints_delivered: u64,
    /// Hints given up for their age, damage, or an administrator's word.
    pub hints_given_up: u64,
    /// Reads for which one more node was asked because somebody took longer than usual.
    pub reads_hedged: u64,
    /// Objects dropped because others hold them now.
    pub rows_dropped: u64,
    /// Copies of writes given to fallbacks because primaries kept the client waiting.
    pub writes_hedged: u64,
    /// Times a member was found to be up, suspect or down when it had been something else.
    pub opinions_changed: u64,
    /// Dials of members.
    pub dials: u64,
    /// Exchanges this node began.
    pub exchanges_begun: u64,
    /// Exchanges after which both sides held the same, whoever began them.
    pub exchanges_in_step: u64,
    /// Exchanges after which they did not, though all that differed was exchanged.
    pub exchanges_apart: u64,
    /// Exchanges that came to nothing.
    pub exchanges_failed: u64,
    /// Exchanges of others that were refused.
    pub exchanges_refused: u64,
    /// Questions and answers of others that were none.
    pub exchange_offences: u64,
    /// Bytes of what was compared and of the objects, sent and received.
    pub exchange_bytes: u64,
    /// Of these, bytes of objects received for partitions that were being filled here.
    pub filling_object_bytes: u64,
    /// Of these, bytes of what was compared for such partitions, sent and received.
    pub filling_compared_bytes: u64,
    /// Keys changed here by exchanges.
    pub items_taken: u64,
    /// Objects sent in exchanges.
    pub items_given: u64,
    /// Digests and hashes compared by exchanges begun here.
    pub hashes_compared: u64,
    /// Buckets of the tree put right.
    pub buckets_mended: u64,
    /// Hashes of items that were computed though nothing had changed: when records were checked.
    pub items_rehashed: u64,
}

impl Counters {
    /// Each with its name, as programs know it.
    pub fn to_list(&self) -> Vec<(String, u64)> {
        let Counters {
            coordinated,
            forwarded,
            overloaded,
            repaired,
            repairs_shed,
            changes_refused,
            history_offences,
            offenders_refused,
            other_history,
            hints_kept,
            hints_refused,
            hints_delivered,
            hints_given_up,
            reads_hedged,
            writes_hedged,
            rows_dropped,
            opinions_changed,
            dials,
            exchanges_begun,
            exchanges_in_step,
            exchanges_apart,
            exchanges_failed,
            exchanges_refused,
            exchange_offences,
            exchange_bytes,
            filling_object_bytes,
            filling_compared_bytes,
            items_taken,
            items_given,
            hashes_compared,
            buckets_mended,
            items_rehashed,
        } = *self;
        let list = [
            ("coordinated", coordinated),
            ("forwarded", forwarded),
            ("overloaded", overloaded),
            ("repaired", repaired),
            ("repairs_shed", repairs_shed),
            ("changes_refused", changes_refused),
            ("history_offences", history_offences),
            ("offenders_refused", offenders_refused),
            ("other_history", other_history),
            ("hints_kept", hints_kept),
            ("hints_refused", hints_refused),
            ("hints_delivered", hints_delivered),
            ("hints_given_up", hints_given_up),
            ("reads_hedged", reads_hedged),
            ("writes_hedged", writes_hedged),
            ("rows_dropped", rows_dropped),
            ("opinions_changed", opinions_changed),
            ("dials", dials),
            ("exchanges_begun", exchanges_begun),
            ("exchanges_in_step", exchanges_in_step),
            ("exchanges_apart", exchanges_apart),
            ("exchanges_failed", exchanges_failed),
            ("exchanges_refused", exchanges_refused),
            ("exchange_offences", exchange_offences),
            ("exchange_bytes", exchange_bytes),
            ("filling_object_bytes", filling_object_bytes),
            ("filling_compared_bytes", filling_compared_bytes),
            ("items_taken", items_taken),
            ("items_given", items_given),
            ("hashes_compared", hashes_compared),
            ("buckets_mended", buckets_mended),
            ("items_rehashed", items_rehashed),
        ];
        list.into_iter().map(|(name, number)| (name.to_owned(), number)).collect()
    }
}
