//! How far a node is with filling partitions and with handing them over, and what is left.
//!
//! What is left is reckoned from what was done so far, and said to be about that; before anything is done, nothing is
//! said. How much data partitions have that nobody has looked into yet, nobody knows.

use std::time::Duration;

use indicatif::HumanBytes;
use serde_json::{Value as Json, json};

use crate::{
    cli::text::{age_text, counted},
    wire::client::Status,
};

/// How filling goes, for programs; null when there is nothing to fill.
pub(crate) fn to_json(status: &Status) -> Json {
    let Some(filling) = Filling::of(status) else { return Json::Null };
    json!({
        "percent": filling.percent(),
        "partitions_done": filling.done,
        "partitions_left": filling.left,
        "seconds": Duration::from_millis(status.filling_ms).as_secs_f64(),
        "seconds_left": filling.rest_of(status.filling_ms).map(|ms| ms.div_ceil(1_000)),
        "keys_taken": status.filling_keys,
        "keys_left": filling.rest_of(status.filling_keys),
        "bytes_taken": status.filling_bytes,
        "bytes_left": filling.rest_of(status.filling_bytes),
    })
}

/// How filling goes, in one line; nothing when there is nothing to fill.
pub(crate) fn line(status: &Status) -> Option<String> {
    let filling = Filling::of(status)?;
    let time = filling.rest_of(status.filling_ms).map_or_else(
        || "time left unknown".to_owned(),
        |ms| format!("about {}", age_text(Duration::from_secs(ms.div_ceil(1_000)))),
    );
    Some(format!("filling: {} % done, {} left, {time}", filling.percent(), counted(filling.left, "partition")))
}

/// All that is to be said of filling and handing over, for people.
pub(crate) fn lines(status: &Status) -> Vec<String> {
    let mut lines = Vec::new();
    if let (Some(filling), Some(line)) = (Filling::of(status), line(status)) {
        let rest = (filling.rest_of(status.filling_keys), filling.rest_of(status.filling_bytes));
        lines.push(match rest {
            (Some(keys), Some(bytes)) => format!("{line}, {} and {}", counted(keys, "key"), HumanBytes(bytes)),
            (None, _) | (_, None) => line,
        });
        lines.push(format!(
            "it cannot vouch for {} yet: its rows have changed, or its store is new, was wiped or restored; it answers for \
             nothing there until it has been compared with enough others",
            counted(filling.left, "partition")
        ));
    }
    let left = counted(handing_over(status).into(), "partition");
    if is_leaving(status) {
        let (keys, bytes) = (counted(status.key_count, "key"), HumanBytes(status.key_bytes));
        lines.push(format!(
            "it is leaving: {left} still to be handed over ({keys} here, about {bytes}), then it stops; `quorate leave \
             --cancel` keeps it"
        ));
    } else if status.leftover_partitions > 0 {
        lines.push(format!("hands over {left} that others hold from now on, and then drops them"));
    }
    lines
}

/// Partitions that the asked node holds something of, and will not when what goes on is over.
pub(crate) fn handing_over(status: &Status) -> u32 {
    match is_leaving(status) {
        true => status.held_partitions.saturating_add(status.leftover_partitions),
        false => status.leftover_partitions,
    }
}

fn is_leaving(status: &Status) -> bool {
    status.members.iter().any(|member| member.node == status.node && member.is_leaving)
}

/// Partitions that were wanted at once: those that are filled, and those that are not.
#[derive(Debug, Clone, Copy)]
struct Filling {
    done: u64,
    left: u64,
}

impl Filling {
    fn of(status: &Status) -> Option<Filling> {
        let (done, left) = (status.filled_partitions.into(), status.filling_partitions.into());
        (left > 0).then_some(Filling { done, left })
    }

    /// Never 100: something is left.
    fn percent(&self) -> u64 {
        self.done * 100 / (self.done + self.left)
    }

    /// What is left of something of which so much was needed for those that are done. Of those that are not, some has come
    /// as well, so that it is rather less; never nothing.
    fn rest_of(&self, so_far: u64) -> Option<u64> {
        let rest = (u128::from(so_far) * u128::from(self.left)).checked_div(u128::from(self.done))?;
        Some(u64::try_from(rest).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{cli::samples::status, wire::client::Reach};

    fn filling(done: u32, left: u32) -> Status {
        Status {
            filled_partitions: done,
            filling_partitions: left,
            filling_ms: 3_000,
            filling_keys: 60,
            filling_bytes: 6_144,
            ..status(&[Reach::Up; 3])
        }
    }

    #[test]
    fn what_is_left_is_reckoned_from_what_was_done() {
        let json = to_json(&filling(6, 2));
        let expected = json!({
            "percent": 75, "partitions_done": 6, "partitions_left": 2, "seconds": 3.0, "seconds_left": 1,
            "keys_taken": 60, "keys_left": 20, "bytes_taken": 6_144, "bytes_left": 2_048,
        });
        assert_eq!(json, expected);
        assert_eq!(line(&filling(6, 2)).unwrap(), "filling: 75 % done, 2 partitions left, about 1 s");
        let said = lines(&filling(6, 2)).join("\n");
        assert!(said.contains("about 1 s, 20 keys and 2.00 KiB\n") && said.contains("cannot vouch for 2"), "{said}");
    }

    #[test]
    fn before_anything_is_done_nothing_is_reckoned() {
        let json = to_json(&filling(0, 8));
        assert_eq!(
            (&json["percent"], &json["seconds_left"], &json["bytes_left"]),
            (&json!(0), &Json::Null, &Json::Null)
        );
        assert_eq!(line(&filling(0, 8)).unwrap(), "filling: 0 % done, 8 partitions left, time left unknown");
    }

    #[test]
    fn who_has_nothing_to_fill_or_hand_over_says_nothing() {
        let idle = filling(0, 0);
        assert_eq!((to_json(&idle), line(&idle), lines(&idle).len(), handing_over(&idle)), (Json::Null, None, 0, 0));
        let almost = Status { filled_partitions: 999, filling_partitions: 1, ..filling(0, 0) };
        assert_eq!(to_json(&almost)["percent"], 99);
    }

    #[test]
    fn a_leaver_hands_over_all_that_it_holds_and_others_what_is_not_theirs_any_more() {
        let mut told = Status { leftover_partitions: 3, ..filling(0, 0) };
        assert_eq!(handing_over(&told), 3);
        assert!(lines(&told)[0].contains("hands over 3 partitions"), "{:?}", lines(&told));
        told.members[0].is_leaving = true;
        assert_eq!(handing_over(&told), 19);
        let said = lines(&told);
        assert!(said[0].contains("is leaving: 19 partitions") && said[0].contains("--cancel"), "{said:?}");
    }
}
