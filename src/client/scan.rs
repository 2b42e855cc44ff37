//! Which keys there are: the union of what the members list.
//!
//! Each member lists the keys that it holds itself, page by page. With a complete `{tag}` in the prefix all keys live
//! in one partition, and its row is asked; else everybody is. The scan is complete once a majority of every row
//! concerned has listed all it has, and the rest is not waited for.
//!
//! It lacks a snapshot: a key that comes or goes meanwhile may be listed or not. What only a stand-in holds, as a hint,
//! is not listed until it is delivered.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::{StreamExt, stream};
use tracing::debug;

use crate::{
    client::{
        Client,
        error::ClientError,
        routing::{self, Route},
    },
    ident::{Key, NodeId},
    limits::SCAN_PAGE_MAX,
    ring::{
        Ring,
        token::{Partition, Token, complete_tag},
    },
    wire::client::{ClientRequest, ClientResponse, Cursor, Failure, Keys, Scan},
};

/// The keys that begin with `prefix`: sorted, distinct, at most `limit`. See [`Client::scan`].
pub(super) async fn scan(client: &Client, prefix: &[u8], limit: Option<usize>) -> Result<Vec<Key>, ClientError> {
    let ring = client.view().ring.clone().ok_or_else(|| unavailable("no cluster has been founded yet".into()))?;
    let tag = complete_tag(prefix);
    let partitions: Vec<Partition> = match tag {
        Some(tag) => vec![Token::of_routing_part(tag).partition(ring.partitions())],
        None => ring.partitions().iter().collect(),
    };
    // Members list by token and then by key. Under one tag the token is the same, so that the first keys of the union
    // are among the first of each; otherwise the last page may hold the least key.
    let enough = tag.and(limit);

    let missing = |answered: &BTreeSet<NodeId>| routing::first_uncovered(partitions.iter().copied(), answered, &ring);
    let mut lists = stream::iter(whom_to_ask(client, &partitions, tag.is_some(), &ring))
        .map(|node| async move { (node, list(client, node, prefix, enough).await) })
        .buffer_unordered(MEMBERS_AT_ONCE);
    let mut keys = BTreeSet::new();
    let mut answered = BTreeSet::new();
    let mut failures = BTreeMap::new();
    let mut uncovered = missing(&answered);
    while uncovered.is_some()
        && let Some((node, listed)) = lists.next().await
    {
        match listed {
            Ok(listed) => {
                keys.extend(listed);
                answered.insert(node);
                uncovered = missing(&answered);
            }
            Err(error) => {
                debug!(?node, %error, "member lists no keys");
                failures.insert(node, error);
            }
        }
    }
    match uncovered {
        None => Ok(keys.into_iter().take(limit.unwrap_or(usize::MAX)).collect()),
        Some(uncovered) => Err(unavailable(describe(uncovered, &failures))),
    }
}

/// The members concerned; those that are connected come first, for the others may take the whole deadline to fail.
fn whom_to_ask(client: &Client, partitions: &[Partition], is_tagged: bool, ring: &Ring) -> Vec<NodeId> {
    let mut nodes: Vec<NodeId> = match partitions {
        [partition] if is_tagged => ring.row(*partition).to_vec(),
        _ => ring.members().iter().map(|member| member.id).collect(),
    };
    let connected = client.shared.read_directory().connected.clone();
    nodes.sort_by_key(|node| !connected.contains(node));
    nodes
}

/// All keys under `prefix` that `node` holds, or the first `enough` of its list.
async fn list(
    client: &Client,
    node: NodeId,
    prefix: &[u8],
    enough: Option<usize>,
) -> Result<BTreeSet<Key>, ClientError> {
    let mut keys = BTreeSet::new();
    let mut after: Option<Cursor> = None;
    let mut quiet_since = Instant::now();
    loop {
        let page = page_after(client, node, prefix, after.clone()).await?;
        let count_before = keys.len();
        keys.extend(page.keys.into_iter().filter(|key| key.as_bytes().starts_with(prefix)));
        if page.next.is_none() || enough.is_some_and(|enough| enough <= keys.len()) {
            return Ok(keys);
        }
        // Pages without news are allowed, where nothing visible is stored; but not for ever.
        if count_before < keys.len() {
            quiet_since = Instant::now();
        }
        if page.next == after || quiet_since.elapsed() > QUIET_MAX {
            return Err(unavailable(format!("{node:?} comes to no end listing its keys")));
        }
        after = page.next;
    }
}

async fn page_after(client: &Client, node: NodeId, prefix: &[u8], after: Option<Cursor>) -> Result<Keys, ClientError> {
    let limit = u16::try_from(SCAN_PAGE_MAX).unwrap_or(u16::MAX);
    let request = ClientRequest::Scan(Scan { prefix: prefix.to_vec(), after, limit });
    client
        .perform_for("a page of keys", Route::Node(node), request, |response| match response {
            ClientResponse::Keys(keys) => Some(keys),
            _ => None,
        })
        .await
}

fn describe(uncovered: routing::Uncovered, failures: &BTreeMap<NodeId, ClientError>) -> String {
    let routing::Uncovered { partition, answered, needed } = uncovered;
    let causes: Vec<String> = failures.iter().take(3).map(|(node, error)| format!("{node:?}: {error}")).collect();
    format!(
        "{answered} of the {needed} members needed of the row of partition {partition} have listed their keys ({})",
        causes.join("; ")
    )
}

fn unavailable(detail: String) -> ClientError {
    ClientError::Failed(Failure::Unavailable { detail })
}

/// Members asked at the same time.
const MEMBERS_AT_ONCE: usize = 16;

/// How long a member may send pages without a new key.
const QUIET_MAX: Duration = Duration::from_secs(60);
