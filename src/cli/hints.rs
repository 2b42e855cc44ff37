//! `quorate hints`: what a node keeps for members that are away, and how it hands that over.
//!
//! Everybody may look. The orders are an administrator's; the one that gives data up tells what that is and waits for a
//! yes.

use std::time::Duration;

use clap::{Args, ValueEnum};
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        members::{name_in, new_table, to_lines},
        output::{Answer, Text},
        settings_values::parse_node,
        text::{age_text, counted, peer_text},
    },
    ident::NodeId,
    membership::view::View,
    wire::administration::{Delivery, HintOrder, HintStatus, Order},
};

/// Arguments of `hints`.
#[derive(Debug, Clone, Args)]
pub struct HintsArgs {
    /// What to do.
    #[arg(value_enum, default_value_t)]
    pub action: Action,
    /// For whom the hints are: must be given to drop, may be given to deliver.
    #[arg(long, value_name = "PEER_ID", value_parser = parse_node)]
    pub target: Option<NodeId>,
    /// Only say what would be dropped.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Drop without asking.
    #[arg(long)]
    pub yes: bool,
}

/// What `hints` does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Action {
    /// Tell what the node keeps, and for whom.
    #[default]
    Status,
    /// Deliver now, without waiting for the next try.
    Deliver,
    /// Deliver none until resumed, or until the node is started anew.
    Pause,
    /// Go on delivering.
    Resume,
    /// Give up what is kept for a target.
    Drop,
}

/// A command that was understood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HintsRequest {
    Status,
    Give(HintOrder),
    Drop { target: NodeId, consent: Consent },
}

/// Whether somebody has agreed to what cannot be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Consent {
    Unasked,
    Given,
    /// Nobody wants it done: only the plan is asked for.
    PlanOnly,
}

impl HintsArgs {
    pub(crate) fn into_request(self) -> Result<HintsRequest, CliError> {
        let HintsArgs { action, target, dry_run, yes } = self;
        let usage = |detail: &str| Err(CliError::Usage { detail: detail.to_owned() });
        if (dry_run || yes) && action != Action::Drop {
            return usage("--dry-run and --yes are for `hints drop` alone: nothing else gives anything up");
        }
        match (action, target) {
            (Action::Status | Action::Pause | Action::Resume, Some(_)) => usage(
                "--target is for `hints deliver` and `hints drop` alone: the others concern all hints of the node",
            ),
            (Action::Status, None) => Ok(HintsRequest::Status),
            (Action::Deliver, target) => Ok(HintsRequest::Give(HintOrder::Deliver { target })),
            (Action::Pause, None) => Ok(HintsRequest::Give(HintOrder::Pause)),
            (Action::Resume, None) => Ok(HintsRequest::Give(HintOrder::Resume)),
            (Action::Drop, None) => {
                usage("`hints drop` needs --target PEER_ID, for whom the hints are: `quorate hints` lists them")
            }
            (Action::Drop, Some(target)) => {
                let consent = match (dry_run, yes) {
                    (true, _) => Consent::PlanOnly,
                    (false, true) => Consent::Given,
                    (false, false) => Consent::Unasked,
                };
                Ok(HintsRequest::Drop { target, consent })
            }
        }
    }
}

/// Asks, or gives an order.
pub(crate) async fn run(session: &Session, request: HintsRequest) -> Result<Answer, CliError> {
    match request {
        HintsRequest::Status => {
            let hints = session.client.hints().await.map_err(|error| session.explain(error))?;
            Ok(status(&hints, &session.client.view()))
        }
        HintsRequest::Give(order) => {
            session.administer(Order::Hints(order)).await?;
            Ok(given(order))
        }
        HintsRequest::Drop { target, consent } => {
            let hints = session.client.hints().await.map_err(|error| session.explain(error))?;
            let plan = Plan::new(target, &hints, &session.client.view());
            if consent != Consent::Given {
                return plan.without_yes(consent);
            }
            session.administer(Order::Hints(HintOrder::Drop { target })).await?;
            Ok(plan.done())
        }
    }
}

fn status(hints: &[HintStatus], view: &View) -> Answer {
    let json = hints.iter().map(to_json).collect();
    let text =
        if hints.is_empty() { "no hints: nothing waits for anybody here".to_owned() } else { table(hints, view) };
    Answer::one(Json::Array(json), Text::Lines(text))
}

fn to_json(hint: &HintStatus) -> Json {
    json!({
        "target": peer_text(&hint.target),
        "count": hint.count,
        "bytes": hint.bytes,
        "oldest_seconds": Duration::from_millis(hint.oldest_ms).as_secs_f64(),
        "delivery": word(hint.delivery),
        "delivered": hint.delivered.0,
        "rate_per_second": rate_per_second(hint),
        "seconds_left": seconds_left(hint),
    })
}

fn table(hints: &[HintStatus], view: &View) -> String {
    let header = ["for", "peer id", "hints", "bytes", "oldest", "delivery", "per second", "time left"];
    let mut table = new_table(header);
    for hint in hints {
        let dash = || "-".to_owned();
        table.add_row([
            name_in(view, &hint.target).unwrap_or_else(dash),
            peer_text(&hint.target),
            hint.count.to_string(),
            hint.bytes.to_string(),
            age_text(Duration::from_millis(hint.oldest_ms)),
            word(hint.delivery).to_owned(),
            rate_per_second(hint).map_or_else(dash, |rate| format!("{rate:.1}")),
            seconds_left(hint).map_or_else(dash, |seconds| age_text(Duration::from_secs(seconds))),
        ]);
    }
    to_lines(&table)
}

/// How many hints a second have been delivered so far; nothing before the first.
fn rate_per_second(hint: &HintStatus) -> Option<f64> {
    let (delivered, lasted_ms) = hint.delivered;
    (delivered > 0 && lasted_ms > 0).then(|| delivered as f64 * 1_000.0 / lasted_ms as f64)
}

/// When the rest will be delivered at the rate so far; nothing while none is.
fn seconds_left(hint: &HintStatus) -> Option<u64> {
    let (delivered, lasted_ms) = (u128::from(hint.delivered.0), u128::from(hint.delivered.1));
    if hint.delivery != Delivery::Delivering || delivered == 0 {
        return None;
    }
    let left_ms = u128::from(hint.count) * lasted_ms / delivered;
    u64::try_from(left_ms.div_ceil(1_000)).ok()
}

fn word(delivery: Delivery) -> &'static str {
    match delivery {
        Delivery::Waiting => "waiting",
        Delivery::Delivering => "delivering",
        Delivery::Paused => "paused",
    }
}

/// That an order has been taken.
fn given(order: HintOrder) -> Answer {
    let (name, target, text) = match order {
        HintOrder::Deliver { target } => ("deliver", target, "hints go to whoever can be reached, from now on"),
        HintOrder::Pause => ("pause", None, "no hints are delivered until `quorate hints resume`, or the next start"),
        HintOrder::Resume => ("resume", None, "hints are delivered again"),
        HintOrder::Drop { target } => ("drop", Some(target), "hints are given up"),
    };
    let json = json!({ "ok": true, "order": name, "target": target.as_ref().map(peer_text) });
    Answer::one(json, Text::Note(text.to_owned()))
}

/// What giving up the hints for a target comes to.
#[derive(Debug)]
struct Plan {
    target: NodeId,
    name: Option<String>,
    count: u64,
    bytes: u64,
}

impl Plan {
    fn new(target: NodeId, hints: &[HintStatus], view: &View) -> Plan {
        let of_target = hints.iter().find(|hint| hint.target == target);
        let (count, bytes) = of_target.map_or((0, 0), |hint| (hint.count, hint.bytes));
        Plan { target, name: name_in(view, &target), count, bytes }
    }

    /// Answers with the plan where that is what was asked for; else fails with it.
    fn without_yes(&self, consent: Consent) -> Result<Answer, CliError> {
        let text = format!("this gives up {}: {LOSS}", self.what());
        if consent == Consent::PlanOnly {
            return Ok(Answer::one(self.to_json("dry_run"), Text::Lines(text)));
        }
        Err(CliError::Usage { detail: format!("{text}; repeat it with --yes to do so") })
    }

    fn done(&self) -> Answer {
        Answer::one(self.to_json("dropped"), Text::Note(format!("gave up {}: {LOSS}", self.what())))
    }

    fn what(&self) -> String {
        let (hints, peer) = (counted(self.count, "hint"), peer_text(&self.target));
        match &self.name {
            Some(name) => format!("{hints} ({} bytes) for {name} ({peer})", self.bytes),
            None => format!("{hints} ({} bytes) for {peer}", self.bytes),
        }
    }

    fn to_json(&self, what: &str) -> Json {
        let (target, count, bytes) = (peer_text(&self.target), self.count, self.bytes);
        json!({ "ok": true, "order": "drop", "target": target, "count": count, "bytes": bytes, what: true })
    }
}

/// What follows from giving hints up.
const LOSS: &str = "their target misses those writes until the keys are read or written again";

#[cfg(test)]
#[path = "hints_tests.rs"]
mod tests;
