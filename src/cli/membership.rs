//! `quorate leave`, `remove` and `replace`: who belongs to the cluster is changed by people alone.
//!
//! Each is an administrator's order to the asked node, and is preceded by its plan: what moves, what is missing until it
//! has, what speaks against it. Nothing is ordered without a yes. Whether it would be wrong is the node's to judge, which
//! then refuses with the reason.

use std::{
    collections::BTreeMap,
    io::{self, IsTerminal as _},
    time::{Duration, Instant},
};

use async_std::task;
use clap::Args;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        connect::Session,
        error::CliError,
        filling,
        hints::Consent,
        members::name_in,
        output::{Answer, Format, Terminal, Text},
        plan::{Intent, Known, Plan},
        plan_text::{self, called},
        put::ValueSource,
        settings_values::parse_node,
        text::{counted, peer_text},
        watch::Progress,
    },
    ident::NodeId,
    membership::view::View,
    wire::{
        administration::{Force, MembershipOrder, Order},
        client::{Reach, Status},
    },
};

/// Arguments of `leave`.
#[derive(Debug, Clone, Args)]
pub struct LeaveArgs {
    /// It was told to leave, and is to stay.
    #[arg(long, conflicts_with_all = ["wait", "dry_run"])]
    pub cancel: bool,
    /// Wait until it has left and stopped, with a progress bar.
    #[arg(long, conflicts_with = "dry_run")]
    pub wait: bool,
    /// Only tell the plan.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it without asking.
    #[arg(long)]
    pub yes: bool,
}

/// Arguments of `remove`.
#[derive(Debug, Clone, Args)]
pub struct RemoveArgs {
    /// Who is gone: its peer id, the beginning of it, or its name.
    #[arg(value_name = "NODE")]
    pub member: String,
    /// Only tell the plan.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it without asking.
    #[arg(long)]
    pub yes: bool,
    /// Do it though the member is alive, or what only the dead hold is lost.
    #[arg(long)]
    pub force: bool,
}

/// Arguments of `replace`.
#[derive(Debug, Clone, Args)]
pub struct ReplaceArgs {
    /// Who is gone: its peer id, the beginning of it, or its name.
    pub old: String,
    /// The peer id of the one that takes over; `quorate id --create` makes one before the node is started.
    #[arg(value_parser = parse_node)]
    pub new: NodeId,
    /// Only tell the plan.
    #[arg(long, conflicts_with = "yes")]
    pub dry_run: bool,
    /// Do it without asking.
    #[arg(long)]
    pub yes: bool,
    /// Do it though the member is alive, or what only the dead hold is lost.
    #[arg(long)]
    pub force: bool,
}

/// A command that was understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum MembershipRequest {
    Leave { consent: Consent, patience: Patience },
    Stay,
    Remove { member: String, consent: Consent, force: Force },
    Replace { old: String, new: NodeId, consent: Consent, force: Force },
}

/// Whether a leaver is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Patience {
    /// Until it has stopped.
    Wait,
    /// No.
    None,
}

/// Who is there to say yes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Audience {
    /// Somebody at a terminal.
    Person,
    /// Nobody: a script, or a line of a shell.
    Program,
}

impl Audience {
    /// Who gives the standard input, where the command may read it, and is not asked for JSON.
    pub(crate) fn of(value_source: ValueSource, terminal: Terminal) -> Audience {
        match (value_source, terminal.format) {
            (ValueSource::Input, Format::Table) if io::stdin().is_terminal() => Audience::Person,
            (ValueSource::Input | ValueSource::ArgumentsOnly, Format::Table | Format::Json) => Audience::Program,
        }
    }
}

impl LeaveArgs {
    pub(crate) fn into_request(self) -> MembershipRequest {
        let LeaveArgs { cancel, wait, dry_run, yes } = self;
        let patience = if wait { Patience::Wait } else { Patience::None };
        match cancel {
            true => MembershipRequest::Stay,
            false => MembershipRequest::Leave { consent: consent_of(dry_run, yes), patience },
        }
    }
}

impl RemoveArgs {
    pub(crate) fn into_request(self) -> MembershipRequest {
        let RemoveArgs { member, dry_run, yes, force } = self;
        MembershipRequest::Remove { member, consent: consent_of(dry_run, yes), force: force_of(force) }
    }
}

impl ReplaceArgs {
    pub(crate) fn into_request(self) -> MembershipRequest {
        let ReplaceArgs { old, new, dry_run, yes, force } = self;
        MembershipRequest::Replace { old, new, consent: consent_of(dry_run, yes), force: force_of(force) }
    }
}

fn consent_of(dry_run: bool, yes: bool) -> Consent {
    match (dry_run, yes) {
        (true, _) => Consent::PlanOnly,
        (false, true) => Consent::Given,
        (false, false) => Consent::Unasked,
    }
}

fn force_of(force: bool) -> Force {
    if force { Force::Yes } else { Force::No }
}

/// Tells the plan, asks, and gives the order.
pub(crate) async fn run(
    session: &Session,
    request: MembershipRequest,
    audience: Audience,
    terminal: Terminal,
) -> Result<Answer, CliError> {
    let (home, view) = (session.client.home(), session.client.view());
    let (intent, order, consent, patience) = match request {
        MembershipRequest::Stay => {
            session.administer(Order::Membership(MembershipOrder::Stay)).await?;
            let json = json!({ "ok": true, "order": "stay", "node": peer_text(&home) });
            return Ok(Answer::one(json, Text::Note(format!("{} stays", called(&home, &view)))));
        }
        MembershipRequest::Leave { consent, patience } => {
            (Intent::Leave { node: home }, MembershipOrder::Leave, consent, patience)
        }
        MembershipRequest::Remove { member, consent, force } => {
            let node = find(&member, &view)?;
            (Intent::Remove { node }, MembershipOrder::Remove { node, force }, consent, Patience::None)
        }
        MembershipRequest::Replace { old, new, consent, force } => {
            let old = find(&old, &view)?;
            (Intent::Replace { old, new }, MembershipOrder::Replace { old, new, force }, consent, Patience::None)
        }
    };
    let plan = plan_of(session, intent, &view).await?;
    let told = Told { intent, json: plan_text::to_json(&plan, &view), text: plan_text::to_text(&plan, &view) };
    match (consent, audience) {
        (Consent::PlanOnly, _) => return Ok(told.as_answer()),
        (Consent::Unasked, Audience::Program) => return Err(told.without_yes()),
        (Consent::Unasked, Audience::Person) => {
            terminal.note(&told.text);
            if !terminal.ask_for_yes("go on?")? {
                return Err(CliError::Usage { detail: "it was not said yes to: nothing was done".to_owned() });
            }
        }
        // A program finds the plan in the answer.
        (Consent::Given, _) if terminal.format == Format::Table => terminal.note(&told.text),
        (Consent::Given, _) => {}
    }
    session.administer(Order::Membership(order)).await?;
    if patience == Patience::Wait {
        wait_until_gone(session, &home).await?;
        return Ok(told.done("left", format!("{} has left the cluster, and has stopped", called(&home, &view))));
    }
    Ok(told.ordered(&view))
}

async fn plan_of(session: &Session, intent: Intent, view: &View) -> Result<Plan, CliError> {
    let status = session.client.status().await.map_err(|error| session.explain(error))?;
    // A node that cannot tell leaves the number of keys unknown; the plan is worth telling all the same.
    let roots = session.client.roots().await.unwrap_or_default();
    let key_counts: BTreeMap<_, _> = roots.into_iter().map(|root| (root.partition, root.count)).collect();
    let is_up = |node: &NodeId| {
        status.members.iter().any(|member| member.node == *node && !matches!(member.state, Reach::Down))
    };
    let plan = Plan::new(
        intent,
        view,
        &Known {
            node: session.client.home(),
            is_up: &is_up,
            key_counts: &key_counts,
            asked: (status.key_count, status.key_bytes),
            bytes_per_second: status.exchange_bytes_per_second,
        },
    );
    plan.ok_or_else(|| CliError::Missing {
        detail: "the node has found no cluster yet, so nobody can leave it".to_owned(),
    })
}

/// A plan, in both forms.
struct Told {
    intent: Intent,
    json: Json,
    text: String,
}

impl Told {
    fn as_answer(&self) -> Answer {
        Answer::one(self.to_json("dry_run"), Text::Lines(self.text.clone()))
    }

    fn without_yes(&self) -> CliError {
        CliError::Usage { detail: format!("{}\nnothing was done: repeat it with --yes to do so", self.text) }
    }

    fn done(&self, what: &str, text: String) -> Answer {
        Answer::one(self.to_json(what), Text::Note(text))
    }

    /// What follows from the order now that it is given.
    fn ordered(&self, view: &View) -> Answer {
        match self.intent {
            Intent::Leave { node } => {
                let node = called(&node, view);
                self.done(
                    "leaving",
                    format!("{node} hands over what it holds, and then stops; `quorate status` tells how it goes"),
                )
            }
            Intent::Remove { node } => self.done("removed", format!("{} is removed", called(&node, view))),
            Intent::Replace { old, new } if view.members.contains_key(&new) => {
                self.done("replaced", format!("{} takes over from {}", called(&new, view), called(&old, view)))
            }
            Intent::Replace { old, new } => self.done(
                "replaced",
                format!("{} takes over from {} as soon as it has joined", called(&new, view), called(&old, view)),
            ),
        }
    }

    fn to_json(&self, what: &str) -> Json {
        let mut json = json!({ "ok": true, "order": self.intent.word(), "node": peer_text(&self.intent.goer()) });
        json["new"] = self.intent.heir().as_ref().map(peer_text).into();
        json[what] = true.into();
        json["plan"] = self.json.clone();
        json
    }
}

/// The node that is meant: a peer id, a member's name, or the beginning of a member's peer id.
fn find(typed: &str, view: &View) -> Result<NodeId, CliError> {
    if let Ok(node) = parse_node(typed) {
        return Ok(node);
    }
    let of = |is_meant: &dyn Fn(&NodeId) -> bool| view.members.keys().filter(|node| is_meant(node)).copied().collect();
    let mut found: Vec<NodeId> = of(&|node| name_in(view, node).as_deref() == Some(typed));
    if found.is_empty() && !typed.is_empty() {
        found = of(&|node| peer_text(node).starts_with(typed));
    }
    match found.as_slice() {
        [one] => Ok(*one),
        [] => Err(CliError::Missing {
            detail: format!(
                "no member is called `{typed}`, and no member's peer id begins so; `quorate members` lists them"
            ),
        }),
        several => {
            let ids: Vec<String> = several.iter().map(peer_text).collect();
            let detail = format!("`{typed}` may be any of {}; name one by its peer id", ids.join(", "));
            Err(CliError::Usage { detail })
        }
    }
}

/// Looks at a leaver until it has stopped.
async fn wait_until_gone(session: &Session, leaver: &NodeId) -> Result<(), CliError> {
    let mut bar = Progress::new("{bar:40} {pos}/{len} partitions handed over, {msg}, {time_left}");
    let mut watched = Leaver::new();
    loop {
        match session.client.status().await {
            Ok(status) => {
                watched.look(leaver, &status)?;
                let keys = format!("{} here", counted(status.key_count, "key"));
                bar.show(watched.total - watched.left, watched.total, keys);
            }
            Err(_) if watched.stand == Stand::Out => return Ok(()),
            // Others may have heard of it, where this client has not.
            Err(_) if !session.client.view().members.contains_key(leaver) => return Ok(()),
            Err(error) if watched.since.elapsed() > SILENCE_MAX => return Err(session.explain(error)),
            Err(_) => {}
        }
        task::sleep(PAUSE).await;
    }
}

/// A leaver, as it was last seen.
#[derive(Debug)]
struct Leaver {
    stand: Stand,
    /// Since when it has not told anything new: that it is about to leave, or anything at all.
    since: Instant,
    /// Most partitions that it had at once.
    total: u32,
    /// Those that it still has.
    left: u32,
}

/// How far a leaver is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stand {
    /// It has taken the order, and not said so to others yet.
    Ordered,
    /// It hands over.
    Leaving,
    /// It has said that it left.
    Out,
}

impl Leaver {
    fn new() -> Leaver {
        Leaver { stand: Stand::Ordered, since: Instant::now(), total: 0, left: 0 }
    }

    fn look(&mut self, leaver: &NodeId, status: &Status) -> Result<(), CliError> {
        self.left = filling::handing_over(status);
        self.total = self.total.max(self.left);
        let member = status.members.iter().find(|member| member.node == *leaver);
        self.stand = match (member.map(|member| member.is_leaving), self.stand) {
            (None, _) => Stand::Out,
            (Some(true), _) => Stand::Leaving,
            (Some(false), Stand::Ordered) if self.since.elapsed() < SILENCE_MAX => return Ok(()),
            (Some(false), _) => {
                return Err(CliError::GivenUp { detail: "it was told to stay meanwhile, and does".to_owned() });
            }
        };
        self.since = Instant::now();
        Ok(())
    }
}

/// From one look to the next.
const PAUSE: Duration = Duration::from_millis(200);

/// For how long a leaver may not answer though nobody has heard that it left: it may be started again and go on.
const SILENCE_MAX: Duration = Duration::from_secs(15);

#[cfg(test)]
#[path = "membership_tests.rs"]
mod tests;
