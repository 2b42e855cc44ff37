//! The shell: a swarm, a storage thread and a clock around one [`crate::node::Node`].

pub mod identity;
pub mod registry;
pub mod swarm_key;
