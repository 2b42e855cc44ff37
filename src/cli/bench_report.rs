//! What a benchmark counted, and how it is told.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        bench::BenchArgs,
        error::CliError,
        members::{new_table, to_lines},
        output::{Answer, Text},
        text::duration_text,
    },
    client::ClientError,
    wire::client::Status,
};

/// What was counted of both kinds.
#[derive(Debug, Clone)]
pub(crate) struct Tally {
    pub(crate) puts: Latencies,
    pub(crate) gets: Latencies,
}

/// How long the successes took, and how often it failed, by the word for it.
#[derive(Debug, Clone)]
pub(crate) struct Latencies {
    micros: Histogram<u64>,
    errors: BTreeMap<&'static str, u64>,
}

/// What the stores of the members did meanwhile, whoever asked for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Commits {
    /// Members that were asked before and after, and did not start anew between.
    pub(crate) members: u64,
    /// Their transactions.
    pub(crate) commits: u64,
    /// The writes in them.
    pub(crate) writes: u64,
}

/// Everything there is to tell.
pub(crate) struct Report<'a> {
    pub(crate) args: &'a BenchArgs,
    pub(crate) connection_count: u32,
    pub(crate) elapsed: Duration,
    pub(crate) tally: &'a Tally,
    pub(crate) commits: Commits,
}

impl Tally {
    pub(crate) fn new() -> Tally {
        Tally { puts: Latencies::new(), gets: Latencies::new() }
    }

    pub(crate) fn add(&mut self, other: &Tally) {
        self.puts.add(&other.puts);
        self.gets.add(&other.gets);
    }
}

impl Latencies {
    fn new() -> Latencies {
        let micros = Histogram::new_with_bounds(1, LATENCY_MICROS_MAX, 3).expect("the bounds are sound");
        Latencies { micros, errors: BTreeMap::new() }
    }

    /// Counts a success.
    pub(crate) fn record(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.micros.saturating_record(micros.max(1));
    }

    /// Counts a failure.
    pub(crate) fn fail(&mut self, error: &ClientError) {
        let error = CliError::Client { error: error.clone(), tried: String::new() };
        *self.errors.entry(error.word()).or_default() += 1;
    }

    fn add(&mut self, other: &Latencies) {
        self.micros.add(&other.micros).expect("both have the same bounds");
        for (word, count) in &other.errors {
            *self.errors.entry(word).or_default() += count;
        }
    }

    fn error_count(&self) -> u64 {
        self.errors.values().sum()
    }

    fn per_second(&self, elapsed: Duration) -> f64 {
        self.micros.len() as f64 / elapsed.as_secs_f64().max(1e-9)
    }

    /// How long the fastest `share` of the successes took at most; nothing without any.
    fn quantile(&self, share: f64) -> Option<Duration> {
        (!self.micros.is_empty()).then(|| Duration::from_micros(self.micros.value_at_quantile(share)))
    }

    fn to_json(&self, elapsed: Duration) -> Json {
        let millis = |share| self.quantile(share).map(|latency| latency.as_secs_f64() * 1e3);
        json!({
            "count": self.micros.len(),
            "per_second": self.per_second(elapsed),
            "p50_ms": millis(0.5),
            "p99_ms": millis(0.99),
            "p999_ms": millis(0.999),
            "max_ms": millis(1.0),
            "error_count": self.error_count(),
            "errors": self.errors,
        })
    }

    fn to_row(&self, name: &str, elapsed: Duration) -> [String; 8] {
        let text = |share| self.quantile(share).map_or_else(|| "-".to_owned(), duration_text);
        let errors = self.errors.iter().map(|(word, count)| format!("{word} {count}")).collect::<Vec<_>>().join(", ");
        [
            name.to_owned(),
            self.micros.len().to_string(),
            format!("{:.0}", self.per_second(elapsed)),
            text(0.5),
            text(0.99),
            text(0.999),
            text(1.0),
            if errors.is_empty() { "none".to_owned() } else { errors },
        ]
    }
}

impl Commits {
    /// What happened between two rounds of questions.
    pub(crate) fn between(before: &[Status], after: &[Status]) -> Commits {
        let mut sum = Commits { members: 0, commits: 0, writes: 0 };
        for after in after {
            let Some(before) = before.iter().find(|before| before.node == after.node) else { continue };
            let commits = after.commit_count.checked_sub(before.commit_count);
            let writes = after.write_count.checked_sub(before.write_count);
            if let (Some(commits), Some(writes)) = (commits, writes) {
                sum.members += 1;
                sum.commits += commits;
                sum.writes += writes;
            }
        }
        sum
    }

    /// Writes in one transaction; nothing when there was none.
    fn writes_per_commit(&self) -> Option<f64> {
        (self.commits > 0).then(|| self.writes as f64 / self.commits as f64)
    }
}

impl Report<'_> {
    pub(crate) fn to_answer(&self) -> Answer {
        Answer::one(self.to_json(), Text::Lines(self.to_text()))
    }

    fn to_json(&self) -> Json {
        json!({
            "ok": true,
            "seconds": self.elapsed.as_secs_f64(),
            "clients": self.args.clients,
            "connections": self.connection_count,
            "value_size": self.args.value_size,
            "keys": self.args.keys,
            "puts": self.tally.puts.to_json(self.elapsed),
            "gets": self.tally.gets.to_json(self.elapsed),
            "members_counted": self.commits.members,
            "commits": self.commits.commits,
            "writes": self.commits.writes,
            "puts_per_commit": self.commits.writes_per_commit(),
        })
    }

    fn to_text(&self) -> String {
        let mut table = new_table(["", "count", "per second", "p50", "p99", "p99.9", "max", "errors"]);
        table.add_row(self.tally.puts.to_row("puts", self.elapsed));
        table.add_row(self.tally.gets.to_row("gets", self.elapsed));
        let Commits { members, commits, writes } = self.commits;
        let per_commit = match self.commits.writes_per_commit() {
            Some(ratio) => format!("{ratio:.1} writes per commit ({writes} in {commits}, over {members} members)"),
            None => format!("no commits seen on {members} members"),
        };
        format!("{}\n{per_commit}", to_lines(&table))
    }
}

/// Longest latency told apart, in microseconds. Above the deadline of any operation.
const LATENCY_MICROS_MAX: u64 = 120_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        cli::{
            bench::Mix,
            samples::{node, status},
        },
        wire::client::{Consistency, Reach},
    };

    fn args() -> BenchArgs {
        BenchArgs {
            clients: 2,
            seconds: 1,
            value_size: 8,
            mix: Mix { puts: 50 },
            keys: 10,
            connections: None,
            w: Consistency::One,
            r: Consistency::Quorum,
        }
    }

    #[test]
    fn percentiles_are_those_of_all_clients_together() {
        let mut sum = Tally::new();
        for half in [0..500_u64, 500..1_000] {
            let mut part = Tally::new();
            half.for_each(|millis| part.puts.record(Duration::from_millis(millis + 1)));
            sum.add(&part);
        }
        let near = |share, millis: u64| {
            let actual = sum.puts.quantile(share).unwrap();
            assert!(
                actual.abs_diff(Duration::from_millis(millis)) <= Duration::from_millis(millis / 500 + 1),
                "{actual:?}"
            );
        };
        near(0.5, 500);
        near(0.99, 990);
        near(0.999, 999);
        near(1.0, 1_000);
        assert_eq!(sum.gets.quantile(0.5), None);
    }

    #[test]
    fn latencies_beyond_all_bounds_are_counted_too() {
        let mut latencies = Latencies::new();
        latencies.record(Duration::ZERO);
        latencies.record(Duration::from_secs(1 << 40));
        assert_eq!(latencies.micros.len(), 2);
    }

    #[test]
    fn commits_count_only_members_that_answered_twice_and_did_not_start_anew() {
        let at = |number: u8, commits, writes| Status {
            node: node(number),
            commit_count: commits,
            write_count: writes,
            ..status(&[Reach::Up])
        };
        let before = [at(0, 10, 10), at(1, 5, 50), at(2, 7, 7)];
        let after = [at(0, 20, 40), at(1, 1, 1), at(3, 9, 9)];
        let commits = Commits::between(&before, &after);
        assert_eq!(commits, Commits { members: 1, commits: 10, writes: 30 });
        assert_eq!(commits.writes_per_commit(), Some(3.0));
        assert_eq!(Commits::between(&before, &before).writes_per_commit(), None);
    }

    #[test]
    fn the_report_tells_puts_and_gets_apart() {
        let mut tally = Tally::new();
        tally.puts.record(Duration::from_millis(2));
        tally.gets.fail(&ClientError::TimedOut { maybe_stored: false });
        let commits = Commits { members: 3, commits: 2, writes: 5 };
        let elapsed = Duration::from_secs(2);
        let report = Report { args: &args(), connection_count: 2, elapsed, tally: &tally, commits };
        let json = report.to_json();
        assert_eq!((&json["puts"]["count"], &json["puts"]["per_second"]), (&json!(1), &json!(0.5)));
        assert_eq!((&json["gets"]["p50_ms"], &json["gets"]["errors"]["timeout"]), (&Json::Null, &json!(1)));
        assert_eq!(json["puts_per_commit"], 2.5);
        assert!(report.to_text().contains("timeout 1"));
    }
}
