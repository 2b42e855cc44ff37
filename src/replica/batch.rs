//! Group commit: many pieces of work, one transaction, one commit.
//!
//! The same function serves the storage thread and the simulator. Results exist only after the commit: there is no
//! other way to come by a [`Done`].

use crate::{
    causality::epochs::Life,
    clock::WallTime,
    merkle::branch::ItemKey,
    replica::{Done, Replica, Work, apply, hints::HintLimits, rules::Rules, startup, tree::Buckets},
    store::{Store, StoreError, WriteTxn},
};

/// What a committer keeps between batches.
#[derive(Debug, Clone)]
pub struct Committer {
    replica: Replica,
    /// A commit has failed since the last successful one: what it held may have been sent to other replicas, so its
    /// dots must never be minted again.
    suspect: bool,
}

impl Committer {
    /// A committer for the node whose actors have the number `actor_node`.
    ///
    /// `random` must differ between the lives of a node: see [`Life`].
    pub fn new(actor_node: u64, item_key: ItemKey, rules: Rules, limits: HintLimits, random: u64) -> Committer {
        let (life, buckets) = (Life::unconfirmed(random), Buckets::default());
        let replica = Replica { actor_node, item_key, rules, life, limits, buckets, damaged: 0 };
        Committer { replica, suspect: false }
    }

    /// What the node's process brings to a transaction.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Marks a clean stop, in the last transaction of a process.
    ///
    /// What a failed commit held may have been sent, so a stop right after one invalidates all epochs first.
    pub fn end(&self, store: &impl Store) -> Result<(), StoreError> {
        let mut txn = store.write()?;
        if self.suspect {
            startup::invalidate_epochs(&mut txn)?;
        }
        startup::end(&mut txn)?;
        txn.commit()
    }

    /// Carries out `batch` in one transaction, in its order.
    ///
    /// The results are in the order of the batch. When any of the work or the commit fails, nothing of the batch is
    /// promised and the one error is everybody's; a later batch starts by invalidating all epochs.
    pub fn run<T: Clone>(
        &mut self,
        store: &impl Store,
        batch: &[(T, Work)],
        now: WallTime,
    ) -> Result<Vec<(T, Done)>, StoreError> {
        let result = self.try_run(store, batch, now);
        if result.is_err() {
            self.suspect = true;
            self.replica.buckets = Buckets::default();
        } else {
            self.suspect = false;
        }
        result
    }

    fn try_run<T: Clone>(
        &mut self,
        store: &impl Store,
        batch: &[(T, Work)],
        now: WallTime,
    ) -> Result<Vec<(T, Done)>, StoreError> {
        let mut txn = store.write()?;
        if self.suspect {
            startup::invalidate_epochs(&mut txn)?;
        }
        let mut done = Vec::with_capacity(batch.len());
        for (ticket, work) in batch {
            done.push((ticket.clone(), apply(&mut txn, work.clone(), &mut self.replica, now)?));
        }
        txn.commit()?;
        Ok(done)
    }
}
