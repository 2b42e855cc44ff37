//! `quorate repair`: makes replicas equal now, instead of when their turn comes.
//!
//! An administrator's order to the asked node, which compares what it holds with every other member of its rows. The node
//! carries it out whether or not anybody waits; a second order takes the place of the first.

use std::{ffi::OsString, time::Duration};

use clap::Args;
use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::{CliError, Exit},
        members::{name_in, new_table, to_lines},
        output::{Answer, Text},
        text::{counted, duration_text, key_json, key_of, parse_count, peer_text, seconds_of},
        watch::{Look, Progress, watch},
    },
    ident::NodeId,
    membership::view::View,
    ring::token::Partition,
    wire::administration::{Order, RepairScope, RepairStatus},
};

/// Arguments of `repair`.
#[derive(Debug, Clone, Args)]
pub struct RepairArgs {
    /// Only this partition; `quorate ring` lists them.
    #[arg(long, value_name = "P", value_parser = |text: &str| parse_count::<u16>(text, 0, u16::MAX))]
    pub partition: Option<u16>,
    /// Only this key.
    #[arg(long, value_name = "K", conflicts_with = "partition")]
    pub key: Option<OsString>,
    /// Wait until it is over, with a progress bar.
    #[arg(long)]
    pub wait: bool,
    /// Wait, and tell which branches of the tree were looked at.
    #[arg(long)]
    pub trace: bool,
}

/// A repair that was understood.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct RepairRequest {
    pub(crate) scope: RepairScope,
    pub(crate) manner: Manner,
}

/// How much of a repair is wanted to be seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manner {
    /// That it has begun.
    Begin,
    /// How it ends.
    Wait,
    /// How it ends, and what was looked at.
    Trace,
}

impl RepairArgs {
    pub(crate) fn into_request(self) -> Result<RepairRequest, CliError> {
        let RepairArgs { partition, key, wait, trace } = self;
        let scope = match (partition, key) {
            (Some(partition), _) => RepairScope::Partition(Partition(partition)),
            (None, Some(key)) => RepairScope::Key(key_of(&key)?),
            (None, None) => RepairScope::Everything,
        };
        let manner = match (trace, wait) {
            (true, _) => Manner::Trace,
            (false, true) => Manner::Wait,
            (false, false) => Manner::Begin,
        };
        Ok(RepairRequest { scope, manner })
    }
}

/// Gives the order, and waits if asked to.
pub(crate) async fn run(session: &Session, request: RepairRequest) -> Result<Answer, CliError> {
    let RepairRequest { scope, manner } = request;
    let view = session.client.view();
    check_held(&scope, &session.client.home(), &view)?;
    session.administer(Order::Repair { scope: scope.clone(), is_traced: manner == Manner::Trace }).await?;

    let mut ours = Ours { scope, number: None };
    if manner == Manner::Begin {
        let begun = watch(session, |report| Ok(Look::Over(ours.recognize(report.repair)?))).await?;
        return Ok(Answer::one(to_json(&begun, &view), Text::Note(begun_text(&begun))));
    }
    let mut bar = Progress::new("{bar:40} {pos}/{len} partitions, {msg}, {time_left}");
    let ended = watch(session, |report| {
        let repair = ours.recognize(report.repair)?;
        let message = format!("{} healed, {}", counted(healed(&repair), "key"), HumanBytes(repair.bytes));
        bar.show(repair.partitions_done, repair.partitions_total, message);
        Ok(if repair.is_over { Look::Over(repair) } else { Look::GoesOn })
    })
    .await;
    drop(bar);
    Ok(outcome(&ended?, &view))
}

/// The repair that was ordered here, among those that its node tells of.
struct Ours {
    scope: RepairScope,
    /// As its node counts it; known from the first look on.
    number: Option<u64>,
}

impl Ours {
    /// Takes `told` for ours, or says what has become of ours.
    fn recognize(&mut self, told: Option<RepairStatus>) -> Result<RepairStatus, CliError> {
        let given_up = |detail: &str| Err(CliError::GivenUp { detail: detail.to_owned() });
        match told {
            None => {
                given_up("the node was started anew and knows nothing of this repair; what was healed stays; repeat it")
            }
            Some(repair) if repair.scope != self.scope || self.number.is_some_and(|number| number != repair.number) => {
                given_up(
                    "another repair was ordered meanwhile and has taken the place of this one; what was healed stays; \
                     `quorate status` tells how that one goes, and after it this can be repeated",
                )
            }
            Some(repair) => {
                self.number = Some(repair.number);
                Ok(repair)
            }
        }
    }
}

/// Refuses what the asked node cannot do, with who can. Where the cluster is not known yet, the node says so itself.
fn check_held(scope: &RepairScope, asked: &NodeId, view: &View) -> Result<(), CliError> {
    let Some(ring) = &view.ring else { return Ok(()) };
    let (partition, what) = match scope {
        RepairScope::Everything => return Ok(()),
        RepairScope::Partition(partition) => (*partition, "partition"),
        RepairScope::Key(key) => (ring.partition_of(key), "that key, which is in partition"),
    };
    let count = ring.partitions();
    if !count.contains(partition) {
        let detail = format!("there is no partition {partition}: this cluster has {count}, numbered from 0");
        return Err(CliError::Usage { detail });
    }
    let row = ring.row(partition);
    if row.contains(asked) {
        return Ok(());
    }
    let holders: Vec<String> = row.iter().map(|node| holder_text(node, view)).collect();
    let asked = name_in(view, asked).unwrap_or_else(|| peer_text(asked));
    let detail =
        format!("{asked} does not hold {what} {partition}; ask one that does, with --node: {}", holders.join(", "));
    Err(CliError::Missing { detail })
}

fn holder_text(node: &NodeId, view: &View) -> String {
    let name = name_in(view, node).unwrap_or_else(|| peer_text(node));
    let address = view.members.get(node).and_then(|member| member.profile.addresses.first());
    // A member's addresses are whatever it claims: kept from speaking to the terminal.
    address.map_or_else(|| name.clone(), |address| format!("{name} ({})", address.escape_default()))
}

/// Keys that were not the same everywhere, and are now.
fn healed(repair: &RepairStatus) -> u64 {
    repair.taken.saturating_add(repair.given)
}

/// A repair for programs.
pub(crate) fn to_json(repair: &RepairStatus, view: &View) -> Json {
    let failed = repair
        .failed
        .iter()
        .map(|(node, detail)| json!({ "peer_id": peer_text(node), "name": name_in(view, node), "detail": detail }));
    let trace = repair.trace.iter().map(
        |visited| json!({ "peer_id": peer_text(&visited.node), "branch": visited.branch, "found": visited.found }),
    );
    json!({
        "ok": true,
        "over": repair.is_over,
        "scope": match &repair.scope {
            RepairScope::Everything => json!("everything"),
            RepairScope::Partition(partition) => json!({ "partition": partition.0 }),
            RepairScope::Key(key) => Json::Object(key_json(key)),
        },
        "peers": repair.peers_total,
        "peers_done": repair.peers_done,
        "partitions": repair.partitions_total,
        "partitions_done": repair.partitions_done,
        "taken": repair.taken,
        "given": repair.given,
        "bytes": repair.bytes,
        "seconds": seconds_of(repair.lasted_ms),
        "failed": failed.collect::<Vec<_>>(),
        "trace": trace.collect::<Vec<_>>(),
    })
}

fn begun_text(repair: &RepairStatus) -> String {
    if repair.peers_total == 0 {
        return ALONE.to_owned();
    }
    format!(
        "the repair has begun: {} compared with {}; `quorate status` tells how it goes",
        counted(repair.partitions_total.into(), "partition"),
        counted(repair.peers_total.into(), "member")
    )
}

fn outcome(repair: &RepairStatus, view: &View) -> Answer {
    let mut json = to_json(repair, view);
    let mut lines = Vec::new();
    if !repair.trace.is_empty() {
        lines.push(trace_table(repair, view));
    }
    lines.push(summary(repair));
    let name = |node: &NodeId| name_in(view, node).unwrap_or_else(|| "?".to_owned());
    let failures = repair.failed.iter();
    let failures: Vec<String> = failures
        .map(|(node, detail)| format!("it came to nothing with {} ({}): {detail}", name(node), peer_text(node)))
        .collect();
    if failures.is_empty() {
        return Answer::one(json, Text::Lines(lines.join("\n")));
    }
    let advice = "see `quorate status` for who is away, and repeat it once they are back";
    json["ok"] = false.into();
    json["error"] = "incomplete".into();
    json["maybe_stored"] = false.into();
    json["detail"] = format!("{}; {advice}", failures.join("; ")).into();
    lines.extend(failures);
    lines.push(advice.to_owned());
    Answer::one(json, Text::Lines(lines.join("\n"))).ending(Exit::Failed)
}

fn summary(repair: &RepairStatus) -> String {
    if repair.peers_total == 0 {
        return ALONE.to_owned();
    }
    format!(
        "compared {} with {} of {} in {}: {} changed here, {} sent, {} in all",
        counted(repair.partitions_total.into(), "partition"),
        repair.peers_total as usize - repair.failed.len().min(repair.peers_total as usize),
        counted(repair.peers_total.into(), "member"),
        duration_text(Duration::from_millis(repair.lasted_ms)),
        counted(repair.taken, "key"),
        counted(repair.given, "object"),
        HumanBytes(repair.bytes)
    )
}

/// A repair in one line, for `status`.
pub(crate) fn line(repair: &RepairStatus) -> String {
    match (repair.is_over, repair.failed.len()) {
        (true, 0) => format!("repaired: {}", summary(repair)),
        (true, failed) => format!("repaired in part, {} failed: {}", counted(failed as u64, "member"), summary(repair)),
        (false, _) => format!(
            "repairs: {} of {} done with all others, {} healed, {}",
            repair.partitions_done,
            counted(repair.partitions_total.into(), "partition"),
            counted(healed(repair), "key"),
            HumanBytes(repair.bytes)
        ),
    }
}

fn trace_table(repair: &RepairStatus, view: &View) -> String {
    let mut table = new_table(["compared with", "branch", "found"]);
    for visited in &repair.trace {
        let name = name_in(view, &visited.node).unwrap_or_else(|| peer_text(&visited.node));
        table.add_row([name, visited.branch.clone(), visited.found.clone()]);
    }
    to_lines(&table)
}

/// What is said where nothing can be compared.
const ALONE: &str = "no other member shares any of that with this node, so there is nothing to compare";

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
