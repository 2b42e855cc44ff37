//! A shopping cart that loses nothing: two devices change it at the same moment, and the application, which knows what
//! a cart is, merges the two versions.
//!
//! The store keeps concurrent writes side by side as siblings; it never picks one. A cart here is a line for each
//! article, its merge the union of all siblings, and what is written back carries the context of what was read, so
//! that it replaces exactly those.

#![expect(clippy::print_stdout, reason = "that is how an example shows what it does")]

use std::{collections::BTreeSet, error::Error};

use quorate::{
    causality::context::Context,
    client::{Client, ClientConfig, Write},
    ident::{Key, Name, Value},
    wire::client::Consistency,
};

async fn shop(config: ClientConfig) -> Result<(), Box<dyn Error>> {
    let (phone, laptop) = (Client::connect(config.clone()).await?, Client::connect(config).await?);
    let cart = Key::new(b"{ann}/cart")?;

    // Both read the same cart, and neither sees what the other adds.
    let (on_phone, phone_context, _) = read(&phone, &cart).await?;
    let (on_laptop, laptop_context, _) = read(&laptop, &cart).await?;
    write(&phone, &cart, with(on_phone, "a lamp"), phone_context).await?;
    write(&laptop, &cart, with(on_laptop, "two books"), laptop_context).await?;

    // Whoever reads next gets both, merges them, and writes the merge back.
    let (merged, context, versions) = read(&phone, &cart).await?;
    println!("versions: {versions}, together: {}", list(&merged));
    write(&phone, &cart, merged, context).await?;

    let (settled, _, versions) = read(&laptop, &cart).await?;
    println!("versions: {versions}, together: {}", list(&settled));
    Ok(())
}

/// What is in the cart, what to hand back when writing it, and of how many versions it was merged.
async fn read(client: &Client, cart: &Key) -> Result<(BTreeSet<String>, Context, usize), Box<dyn Error>> {
    let found = client.get(cart, Consistency::Quorum).await?;
    let mut articles = BTreeSet::new();
    for sibling in &found.siblings {
        let text = String::from_utf8_lossy(sibling.value.as_bytes()).into_owned();
        articles.extend(text.lines().map(str::to_owned));
    }
    Ok((articles, found.context, found.siblings.len()))
}

async fn write(
    client: &Client,
    cart: &Key,
    articles: BTreeSet<String>,
    context: Context,
) -> Result<(), Box<dyn Error>> {
    let text: Vec<String> = articles.into_iter().collect();
    let write = Write { context: Some(context), ..Write::default() };
    client.put(cart, Value::new(text.join("\n").as_bytes())?, write).await?;
    Ok(())
}

fn with(mut articles: BTreeSet<String>, article: &str) -> BTreeSet<String> {
    articles.insert(article.to_owned());
    articles
}

fn list(articles: &BTreeSet<String>) -> String {
    articles.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

/// `cargo run --example cart` looks for a node on the local network, `… -- --node MULTIADDR` goes to that one.
fn main() -> Result<(), Box<dyn Error>> {
    let mut config = ClientConfig::lan(Name::new("quorate")?);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--node", Some(address)) => {
                config.nodes.push(address.parse()?);
                config.mdns = false;
            }
            _ => return Err("usage: cart [--node MULTIADDR]...".into()),
        }
    }
    async_std::task::block_on(shop(config))
}
