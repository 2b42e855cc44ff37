//! Using a node from its own process: the requests of a client, without a socket.

use async_std::channel::Sender;
use futures::channel::oneshot;
use quorate_behaviours::quorum_rpc::Counters;
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

    /// What the protocol between members has cost so far: messages, bytes, requests.
    pub async fn counters(&self) -> Result<Counters, Ended> {
        let (reply, answer) = oneshot::channel();
        self.orders.send(Order::Count { reply }).await.map_err(|_| Ended)?;
        answer.await.map_err(|_| Ended)
    }
}
