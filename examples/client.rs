//! A client peer: finds the cluster, writes a key, reads it back.
#![expect(clippy::print_stdout, reason = "that is how an example shows what it does")]
use quorate::client::{Client, ClientConfig, Write};
use quorate::ident::{Key, Name, Value};
use quorate::wire::client::Consistency;

async fn greet(config: ClientConfig) -> Result<(), Box<dyn std::error::Error>> {
    let client = Client::connect(config).await?;

    let key = Key::new(b"greeting")?;
    let seen = client.get(&key, Consistency::Quorum).await?.context;
    let write = Write { context: Some(seen), ..Write::default() };
    let stored = client.put(&key, Value::new(b"hello")?, write).await?;
    println!("stored by {} nodes", stored.acks);

    // Usually one; several when somebody wrote at the same moment without having read the other's value.
    for sibling in client.get(&key, Consistency::Quorum).await?.siblings {
        println!("found {}", String::from_utf8_lossy(sibling.value.as_bytes()));
    }
    Ok(())
}

/// `cargo run --example client` looks for a node on the local network, `… -- --node MULTIADDR` goes to that one.
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut config = ClientConfig::lan(Name::new("quorate")?);
    let mut arguments = std::env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match (argument.as_str(), arguments.next()) {
            ("--node", Some(address)) => {
                config.nodes.push(address.parse()?);
                config.mdns = false;
            }
            _ => return Err("usage: client [--node MULTIADDR]...".into()),
        }
    }
    async_std::task::block_on(greet(config))
}
