//! How a plan is told, to people and to programs.

use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use crate::{
    cli::{
        members::{name_in, new_table, to_lines},
        plan::{Intent, Keys, Plan, Remark, Spread},
        text::{age_text, counted, peer_text},
    },
    ident::{Name, NodeId},
    membership::view::View,
};

/// A plan for programs.
pub(crate) fn to_json(plan: &Plan, view: &View) -> Json {
    let moves = plan.moves.iter().map(|((from, to), vnodes)| {
        let partitions: Vec<u16> = vnodes.iter().map(|partition| partition.0).collect();
        json!({ "from": peer_text(from), "to": peer_text(to), "vnodes": vnodes.len(), "partitions": partitions })
    });
    let missing = plan.missing.iter().map(|(copies, count)| json!({ "copies": copies, "partitions": count }));
    let (before, after) = &plan.zones;
    json!({
        "partitions": plan.partition_count,
        "replicas": plan.replica_count,
        "members": { "before": plan.member_counts.0, "after": plan.member_counts.1 },
        "vnodes": plan.vnode_count(),
        "moves": moves.collect::<Vec<_>>(),
        "moves_between_others": plan.among_others,
        "untaken": plan.untaken,
        "keys": plan.keys.count(),
        "keys_exact": matches!(plan.keys, Keys::Exactly(_)),
        "bytes": plan.bytes,
        "seconds": plan.seconds,
        "zones": { "before": spread_json(before), "after": spread_json(after) },
        "missing": missing.collect::<Vec<_>>(),
        "below_quorum": plan.short_count,
        "warnings": warnings(plan, view),
    })
}

fn spread_json(spread: &Spread) -> Json {
    let zones = spread
        .zones
        .iter()
        .map(|(zone, members)| json!({ "zone": zone.as_ref().map(Name::as_str), "members": members }));
    json!({ "zones": zones.collect::<Vec<_>>(), "partitions_sharing_a_zone": spread.shared_count })
}

/// A plan for people.
pub(crate) fn to_text(plan: &Plan, view: &View) -> String {
    let mut lines = vec![format!("plan: {}", headline(plan, view))];
    lines.push(format!(
        "{}, {}; {} now, {} afterwards",
        counted(plan.partition_count, "partition"),
        counted(plan.replica_count as u64, "replica"),
        counted(plan.member_counts.0 as u64, "member"),
        plan.member_counts.1
    ));
    lines.push(String::new());
    if plan.moves.is_empty() {
        lines.push("no vnode moves".to_owned());
    } else {
        lines.push(moves_table(plan, view));
    }
    if plan.untaken > 0 {
        let vnodes = counted(plan.untaken, "vnode");
        lines.push(format!("{vnodes} nobody takes over: there are not enough members for so many replicas"));
    }
    lines.push(match plan.among_others {
        0 => "nothing moves between others".to_owned(),
        count => format!("{} of these between others: the heir differs in zone or weight", counted(count, "vnode")),
    });
    lines.push(keys_text(plan));
    lines.extend(duration_line(plan));
    lines.extend(missing_text(plan));
    lines.extend(warnings(plan, view).into_iter().map(|warning| format!("WARNING   {warning}")));
    lines.join("\n")
}

fn headline(plan: &Plan, view: &View) -> String {
    match plan.intent {
        Intent::Leave { node } => format!("{} hands over what it holds, and leaves", called(&node, view)),
        Intent::Remove { node } => format!("{} is removed for ever", called(&node, view)),
        Intent::Replace { old, new } => {
            format!("{} is removed for ever, and {} takes over its rows", called(&old, view), called(&new, view))
        }
    }
}

/// A node by its name, where that is known, and its peer id.
pub(crate) fn called(node: &NodeId, view: &View) -> String {
    name_in(view, node).map_or_else(|| peer_text(node), |name| format!("{name} ({})", peer_text(node)))
}

fn moves_table(plan: &Plan, view: &View) -> String {
    let short = |node: &NodeId| name_in(view, node).unwrap_or_else(|| peer_text(node));
    let mut table = new_table(["from", "to", "vnodes", "peer id"]);
    for ((from, to), vnodes) in &plan.moves {
        table.add_row([short(from), short(to), vnodes.len().to_string(), peer_text(to)]);
    }
    to_lines(&table)
}

fn keys_text(plan: &Plan) -> String {
    let size = match plan.bytes {
        Some(bytes) => format!("about {}, by the mean of a key there", HumanBytes(bytes)),
        None => "their size in bytes is not known: the asked node has no key".to_owned(),
    };
    match plan.keys {
        Keys::Exactly(0) => "no key is copied".to_owned(),
        Keys::Exactly(keys) => {
            format!("{} copied, tombstones included, as the asked node counts them; {size}", counted(keys, "key"))
        }
        Keys::About(keys) => format!(
            "about {} copied, tombstones included, by what the asked node holds of it; {size}",
            counted(keys, "key")
        ),
        Keys::Unknown => {
            "how many keys are copied is not known: the asked node holds none of those partitions".to_owned()
        }
    }
}

/// How long it takes until what moves is filled.
fn duration_line(plan: &Plan) -> Option<String> {
    let seconds = plan.seconds.filter(|_| !plan.moves.is_empty())?;
    let told = match seconds {
        0 => "some seconds".to_owned(),
        _ => format!("about {} at the asked node's pace, and some seconds", age_text(Duration::from_secs(seconds))),
    };
    Some(format!("until all of it is filled: {told}"))
}

fn missing_text(plan: &Plan) -> Vec<String> {
    let end = if plan.moves.is_empty() { "until another member joins" } else { "until they are filled" };
    let mut lines: Vec<String> = plan
        .missing
        .iter()
        .map(|(copies, count)| {
            let copies = if *copies == 1 { "1 copy".to_owned() } else { format!("{copies} copies") };
            format!("{} lack {copies} {end}", counted(*count, "partition"))
        })
        .collect();
    if !lines.is_empty() {
        lines.push(match plan.short_count {
            0 => "of each of them a quorum can be reached".to_owned(),
            count => format!("of {} of them fewer than a quorum can be reached", counted(count, "partition")),
        });
    }
    lines
}

/// What speaks against it, or must be known.
fn warnings(plan: &Plan, view: &View) -> Vec<String> {
    let mut warnings: Vec<String> = plan.remarks.iter().map(|remark| remark_text(*remark, plan)).collect();
    let (members, replicas) = (plan.member_counts.1, plan.replica_count);
    if 0 < members && members < replicas {
        let (members, replicas) = (counted(members as u64, "member"), counted(replicas as u64, "replica"));
        warnings.push(format!("{members} will be left for {replicas}: keys have fewer copies than they should"));
    }
    if plan.short_count > 0 {
        warnings.push(format!(
            "in {} fewer copies can be reached than a quorum needs: what only the dead hold would be lost",
            counted(plan.short_count, "partition")
        ));
    }
    warnings.extend(zone_warnings(plan, view));
    warnings
}

fn remark_text(remark: Remark, plan: &Plan) -> String {
    match remark {
        Remark::NoMember => "as far as is known here it is not a member, and this will be refused".to_owned(),
        Remark::LeavesAlready => "it is leaving already: what it holds goes to its heirs now".to_owned(),
        Remark::IsAlive => format!(
            "it is alive, and this will be refused without --force: `quorate leave` on it loses nothing, `quorate {}` \
             may",
            plan.intent.word()
        ),
        Remark::IsAsked => "it is the node that is asked, and this will be refused, --force or not: have it leave, or ask another \
             with --node"
            .to_owned(),
        Remark::IsLast => "no other member stays, and this will be refused: nobody would hold the data".to_owned(),
        Remark::HeirUnknown => {
            "the one that is to take over has not joined: nothing happens before it does; it counts here as of the zone \
             and the weight of the one it replaces"
                .to_owned()
        }
        Remark::HeirMoves(vnodes) => format!(
            "the one that is to take over is a member already: it gives up its own rows, so its {} are placed anew as well",
            counted(vnodes, "vnode")
        ),
        Remark::HeirIsGoer => "a member cannot replace itself, and this will be refused".to_owned(),
        Remark::HeirRemoved => "the one that is to take over was removed for ever, and this will be refused".to_owned(),
    }
}

fn zone_warnings(plan: &Plan, view: &View) -> Vec<String> {
    let (before, after) = &plan.zones;
    let mut warnings = Vec::new();
    // Of nobody nothing is to be balanced.
    if (!before.is_in_use() && !after.is_in_use()) || plan.member_counts.1 == 0 {
        return warnings;
    }
    let (zones, replicas) = (after.zones.len(), plan.replica_count);
    if let Some(lost) = before.zones.keys().find(|zone| !after.zones.contains_key(*zone)) {
        let goer = called(&plan.intent.goer(), view);
        warnings.push(format!("{goer} is the last of {}: that zone will have no replica", zone_name(lost)));
    }
    let shared = counted(after.shared_count, "partition");
    if after.shared_count <= before.shared_count {
        // It is so already, and no worse afterwards.
    } else if zones < replicas {
        warnings.push(format!(
            "{} will be left for {}: {shared} will have two replicas or more in one zone ({} now)",
            counted(zones as u64, "zone"),
            counted(replicas as u64, "replica"),
            before.shared_count
        ));
    } else {
        warnings.push(format!("{shared} will have two replicas in one zone, though there are {zones} zones"));
    }
    for (zone, members) in after.small(replicas) {
        warnings.push(format!(
            "{} will have {}, fewer than its share of {}: zones cannot be balanced",
            zone_name(zone),
            counted(members as u64, "member"),
            counted(replicas as u64, "replica")
        ));
    }
    warnings
}

fn zone_name(zone: &Option<Name>) -> String {
    zone.as_ref().map_or_else(|| "those without a zone".to_owned(), |zone| format!("zone {zone}"))
}
