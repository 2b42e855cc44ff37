//! Quorum operations: who must answer, and what follows from the answers.
//!
//! Each operation is a small machine: inputs are answers and time, effects are values. None of them knows a store, a
//! socket or a clock. Quorums are **sloppy**: the first N members of the preference list that can be reached serve a
//! request, and a fallback stands in for each primary that cannot.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), sections 4.5 and 4.6.

pub mod row;
pub mod tally;
pub mod put;
pub mod get;
pub mod repair;

/// By what rules answers are counted. All but [`QuorumRules::sound`] exist so that tests can plant a bug and see it
/// caught.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuorumRules {
    /// How often a node stands in.
    pub stand_ins: StandInRule,
    /// What it means that a fallback does not know a key.
    pub unknown: UnknownRule,
    /// Whom writes must hear from.
    pub writes: HearRule,
    /// Whom reads must hear from.
    pub reads: HearRule,
    /// Which answers count.
    pub answers: AnswerRule,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HearRule {
    /// Each active configuration, and for writes the present row.
    Sound,
    /// The active configurations. Breaks P1 for writes: what becomes active next may not have them.
    ActiveOnly,
    /// The present row. Breaks P1: its members may not hold anything yet.
    PresentOnly,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnswerRule {
    /// Those given under the coordinator's own history.
    SameHistory,
    /// All. Breaks P1: who answers may be filling from others already, or be none of those asked for.
    AnyHistory,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StandInRule {
    /// Once in an operation.
    Once,
    /// For any number of primaries. Breaks P1: fewer stores hold a write than are counted.
    Repeatedly,
}

/// See [`QuorumRules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownRule {
    /// It knows nothing.
    KnowsNothing,
    /// It knows that there is nothing. Breaks P7: a key that exists is not found.
    KnowsAbsence,
}

impl QuorumRules {
    /// The rules that keep the promises.
    pub fn sound() -> QuorumRules {
        QuorumRules {
            stand_ins: StandInRule::Once,
            unknown: UnknownRule::KnowsNothing,
            writes: HearRule::Sound,
            reads: HearRule::Sound,
            answers: AnswerRule::SameHistory,
        }
    }
}
