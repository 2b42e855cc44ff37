//! What has seen what: dots, version vectors, siblings, contexts, epochs.
//!
//! One key's state is an [`siblings::Object`], a dotted version vector set. Its invariant is that a dot names one value
//! for ever; `merge` relies on it, and [`epochs`] upholds it where stores lose what they held. Time orders nothing
//! here, and nothing here picks a winner among concurrent values.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), section 4.4; Preguiça, Baquero, Almeida, Fonte and Gonçalves, "Dotted
//! version vectors" (2010) for the dot beside the vector, which keeps siblings from multiplying. **Departure**: the
//! epoch in an actor; the reasons are in [`epochs`].

pub mod dot;
pub mod version_vector;
pub mod seen;
pub mod siblings;
pub mod epochs;
pub mod context;
