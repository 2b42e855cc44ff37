//! Looking after the tree: every record against its checksum and its hash, every bucket against its records.
//!
//! An administrator has all of it looked at, bucket after bucket, with rests in between; single buckets are looked at
//! whenever something in them was met that is not as it should be. What is wrong is put right at once, and what a damaged
//! record held comes back from the co-owners.

use std::{collections::BTreeSet, time::Duration};

use crate::{
    clock::{Instant, Now},
    merkle::branch::Branch,
    node::{Node, TicketUse, upkeep::Alarm},
    replica::{
        Done, Query, Work,
        tree::{self, BUCKET_COUNT},
    },
    store::StoreError,
    wire::administration::CheckStatus,
};

/// A look at everything, and the buckets that are looked at out of turn.
#[derive(Debug, Default)]
pub(super) struct Checking {
    /// The look at everything that is under way, or was the last.
    all: Option<Look>,
    /// When it was begun.
    begun: Option<Instant>,
}

#[derive(Debug)]
struct Look {
    /// The next bucket; none is left at [`BUCKET_COUNT`].
    next: u16,
    /// When the present one was begun.
    begun: Instant,
    status: CheckStatus,
}

/// Buckets looked into after one exchange that led to nothing.
const SUSPECTS_MAX: usize = 64;

/// Longest rest between two buckets.
const REST_MAX: Duration = Duration::from_secs(1);

impl Node {
    /// An administrator wants everything looked at. One look at a time: what is under way goes on.
    pub(super) fn begin_check(&mut self, now: Now) {
        if self.checking.all.as_ref().is_some_and(|look| look.next < BUCKET_COUNT) {
            return;
        }
        let status = CheckStatus { buckets_total: u32::from(BUCKET_COUNT), ..CheckStatus::default() };
        self.checking.begun = Some(now.instant);
        self.checking.all = Some(Look { next: 0, begun: now.instant, status });
        self.check_next(now);
    }

    /// How the look at everything stands.
    pub(super) fn check_status(&self) -> Option<CheckStatus> {
        self.checking.all.as_ref().map(|look| look.status)
    }

    /// Looks at the next bucket.
    pub(super) fn check_next(&mut self, now: Now) {
        let Some(look) = &mut self.checking.all else { return };
        if look.next < BUCKET_COUNT {
            look.begun = now.instant;
            let bucket = look.next;
            self.look_into([bucket]);
        }
    }

    /// Looks at buckets, because something is not as it should be.
    pub(super) fn look_into(&mut self, buckets: impl IntoIterator<Item = u16>) {
        for bucket in buckets {
            let item_key = self.config.item_key();
            self.query(TicketUse::Check(bucket), Query::Check { bucket, item_key });
        }
    }

    /// Looks at what lies in branches of which somebody's digest is wrong. Where that may be anywhere, at everything, but not
    /// more often than pairs are compared.
    pub(super) fn look_into_branches(&mut self, now: Now, branches: &[Branch]) {
        let (narrow, wide): (Vec<&Branch>, Vec<&Branch>) = branches.iter().partition(|branch| branch.depth() >= 2);
        let suspects: BTreeSet<u16> = narrow.into_iter().flat_map(tree::buckets_of).take(SUSPECTS_MAX).collect();
        self.look_into(suspects);
        let is_recent = |begun: Instant| now.instant - begun < self.config.exchange_interval;
        if !wide.is_empty() && !self.checking.begun.is_some_and(is_recent) {
            self.begin_check(now);
        }
    }

    /// A bucket was looked at, or could not be.
    pub(super) fn on_checked(&mut self, now: Now, bucket: u16, result: Result<Done, StoreError>) {
        let check = match result {
            Ok(Done::Checked(check)) => check,
            Ok(_) | Err(_) => return self.go_on(now, bucket, |status| status.failed += 1),
        };
        self.counters.items_rehashed += check.records;
        if !check.is_sound() {
            self.store(TicketUse::Mend(bucket), Work::Mend { bucket });
        }
        self.go_on(now, bucket, |status| {
            status.records += check.records;
            status.damaged += check.damaged;
            status.misnamed += check.misnamed;
            status.wrong_sums += u64::from(check.is_sum_wrong);
        });
    }

    /// A bucket was put right: what is missing in it now comes back from the others.
    pub(super) fn on_mended(&mut self, now: Now, _bucket: u16, result: Result<Done, StoreError>) {
        if let Ok(Done::Checked(check)) = result {
            self.counters.items_rehashed += check.records;
            self.counters.buckets_mended += 1;
            self.want_exchanges(now);
        }
    }

    /// If it was `bucket`'s turn, the next one follows, after a rest as long as it took.
    fn go_on(&mut self, now: Now, bucket: u16, note: impl FnOnce(&mut CheckStatus)) {
        let Some(look) = self.checking.all.as_mut().filter(|look| look.next == bucket) else { return };
        note(&mut look.status);
        look.next += 1;
        look.status.buckets_done += 1;
        let rest = (now.instant - look.begun).min(REST_MAX);
        self.alarms.set(Alarm::Check, now.instant + rest);
    }
}
