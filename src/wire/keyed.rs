//! What requests of clients are about: one key, or none.
//!
//! The one place that sorts them. Whoever serves those with a key matches [`Keyed`] and need not name the others.

use crate::{
    ident::Key,
    wire::{
        administration::Order,
        client::{ClientRequest, Delete, Get, Put},
    },
};

/// A request about one key.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Keyed<'a> {
    /// See [`ClientRequest::Put`].
    Put(&'a Put),
    /// See [`ClientRequest::Delete`].
    Delete(&'a Delete),
    /// See [`ClientRequest::Get`].
    Get(&'a Get),
    /// See [`ClientRequest::Inspect`].
    Inspect(&'a Key),
}

impl ClientRequest {
    /// What it asks for if it is about one key.
    pub fn keyed(&self) -> Option<Keyed<'_>> {
        match self {
            ClientRequest::Put(put) => Some(Keyed::Put(put)),
            ClientRequest::Delete(delete) => Some(Keyed::Delete(delete)),
            ClientRequest::Get(get) => Some(Keyed::Get(get)),
            ClientRequest::Inspect { key, .. } => Some(Keyed::Inspect(key)),
            ClientRequest::Scan(_)
            | ClientRequest::History(_)
            | ClientRequest::Status
            | ClientRequest::Hints
            | ClientRequest::Alerts
            | ClientRequest::Exchanges
            | ClientRequest::Roots
            | ClientRequest::Administer(_) => None,
        }
    }

    /// The key it is about, if it is about one.
    pub fn key(&self) -> Option<&Key> {
        self.keyed().map(|keyed| match keyed {
            Keyed::Put(put) => &put.key,
            Keyed::Delete(delete) => &delete.key,
            Keyed::Get(get) => &get.key,
            Keyed::Inspect(key) => key,
        })
    }

    /// The milliseconds its client is still willing to wait, to be read or changed; nothing where that is not said.
    pub fn budget_ms_mut(&mut self) -> Option<&mut u32> {
        match self {
            ClientRequest::Put(Put { budget_ms, .. })
            | ClientRequest::Delete(Delete { budget_ms, .. })
            | ClientRequest::Get(Get { budget_ms, .. })
            | ClientRequest::Inspect { budget_ms, .. } => Some(budget_ms),
            ClientRequest::Scan(_)
            | ClientRequest::History(_)
            | ClientRequest::Status
            | ClientRequest::Hints
            | ClientRequest::Alerts
            | ClientRequest::Exchanges
            | ClientRequest::Roots
            | ClientRequest::Administer(_) => None,
        }
    }

    /// Whether it may change what is stored under a key.
    pub fn is_write(&self) -> bool {
        matches!(self, ClientRequest::Put(_) | ClientRequest::Delete(_))
    }

    /// Whether something may be stored for good by an attempt that nobody knows the outcome of.
    pub fn may_store(&self) -> bool {
        self.is_write() || matches!(self, ClientRequest::Administer(Order::Membership(_)))
    }
}
