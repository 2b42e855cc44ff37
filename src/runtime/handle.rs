//! Using a node from its own process: the requests of a client, without a socket.

use async_std::channel::Sender;
use futures::channel::oneshot;
use quorate_behaviours::{merkle_exchange, quorum_rpc};
use thiserror::Error;

use crate::{
    runtime::event_loop::Order,
    wire::client::{ClientRequest, ClientResponse},
};

/// A way to one running node. Cloning is cheap.
#[derive(Debug, Clone)]
pub struct Handle {
    orders: Sender<Order>,
}

/// What the protocols between members have cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NetworkCounters {
    /// Quorum reads and writes, hints, histories: messages, bytes, requests.
    pub quorum: quorum_rpc::Counters,
    /// Comparing what members hold: questions, answers, bytes.
    pub exchange: merkle_exchange::Counters,
}

/// The node has ended. A write that was under way may have been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the node has ended")]
pub struct Ended;

impl Handle {
    pub(crate) fn new(orders: Sender<Order>) -> Handle {
        Handle { orders }
    }

    /// Has the node carry out `request`. Waits for a place in its queue.
    pub async fn request(&self, request: ClientRequest) -> Result<ClientResponse, Ended> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Request { request, reply }).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }

    /// What the protocols between members have cost so far.
    pub async fn counters(&self) -> Result<NetworkCounters, Ended> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Count { reply }).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}
