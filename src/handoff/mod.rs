//! Handing over what was kept for others.
//!
//! Source: DeCandia et al., "Dynamo" (SOSP 2007), section 4.6.

pub mod hints;
pub mod exchanges;
pub mod filling;
