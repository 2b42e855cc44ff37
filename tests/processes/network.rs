//! Machines on one network: network namespaces on a bridge.
//!
//! Each namespace belongs to one process that waits for the end of its input, so that all of it vanishes with the test,
//! however that ends. Nothing is made in the namespace in which the test itself runs.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};

use crate::harness::{Place, system};

/// So many namespaces, each with an address 10.77.0.<n>/24, on one bridge.
pub(crate) struct Network {
    bridge: Holder,
    hosts: Vec<Holder>,
}

/// A process that keeps a namespace.
struct Holder {
    child: Child,
}

impl Network {
    /// Makes it; or says why that cannot be done on this machine.
    pub(crate) fn new(count: usize) -> Result<Network, String> {
        let bridge = Holder::new()?;
        bridge.run("ip link set lo up")?;
        bridge.run("ip link add br0 type bridge")?;
        bridge.run("ip link set br0 up")?;
        let mut hosts = Vec::new();
        for number in 1..=count {
            let host = Holder::new()?;
            let pid = host.child.id();
            bridge.run(&format!("ip link add port{number} type veth peer name eth0 netns {pid}"))?;
            bridge.run(&format!("ip link set port{number} master br0 up"))?;
            host.run("ip link set lo up")?;
            host.run(&format!("ip addr add 10.77.0.{number}/24 dev eth0"))?;
            host.run("ip link set eth0 up")?;
            hosts.push(host);
        }
        Ok(Network { bridge, hosts })
    }

    /// The namespace at `index`.
    pub(crate) fn place(&self, index: usize) -> Place {
        Place { enter: self.hosts[index].enter() }
    }

    /// Plugs the cable of a namespace in (`up`) or out (`down`).
    pub(crate) fn set_cable(&self, index: usize, state: &str) {
        self.bridge.run(&format!("ip link set port{} {state}", index + 1)).unwrap();
    }
}

impl Holder {
    fn new() -> Result<Holder, String> {
        let mut command = Command::new("unshare");
        command.args(["--net", "cat"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().map_err(|error| format!("unshare: {error}"))?;
        // Once it answers, it is in its namespace.
        let asked = child.stdin.as_mut().map(|input| input.write_all(b"?\n"));
        let mut answer = String::new();
        let read = child.stdout.take().map(|output| BufReader::new(output).read_line(&mut answer));
        let holder = Holder { child };
        match (asked, read, answer.as_str()) {
            (Some(Ok(())), Some(Ok(_)), "?\n") => Ok(holder),
            _ => Err("network namespaces cannot be made here (it takes root, or CAP_SYS_ADMIN)".to_owned()),
        }
    }

    fn enter(&self) -> Vec<String> {
        let target = self.child.id().to_string();
        ["nsenter", "--target", &target, "--net", "--"].map(str::to_owned).to_vec()
    }

    fn run(&self, line: &str) -> Result<(), String> {
        let words: Vec<String> = self.enter().into_iter().chain(line.split(' ').map(str::to_owned)).collect();
        match system(&words) {
            (true, _) => Ok(()),
            (false, said) => Err(format!("{line}: {}", said.trim())),
        }
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // One that has ended already needs no killing.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
