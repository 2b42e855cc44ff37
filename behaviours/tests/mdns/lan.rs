//! Networks made for one test: namespaces, a cable between two ends, and forged packets.

use std::{
    env,
    io::Write,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    process::{Child, Command, Stdio},
    str::FromStr,
    time::{Duration, Instant},
};

use hickory_proto::{
    op::{Message, MessageType, OpCode, Query},
    rr::{
        Name, RData, Record, RecordType,
        rdata::{PTR, TXT},
    },
};
use libp2p::{Multiaddr, PeerId};
use socket2::{Domain, Socket, Type};

/// Where everybody listens.
pub(crate) const GROUP: &str = "224.0.0.251:5353";
/// Address of the near end of the cable.
pub(crate) const NEAR_ADDRESS: &str = "10.77.0.1";
/// Address of the far end, when it belongs to another host.
pub(crate) const FAR_ADDRESS: &str = "10.77.0.2";
/// Address in a network of which the near end is no part.
pub(crate) const FOREIGN_ADDRESS: &str = "10.88.0.1";

/// Set in the processes that run inside a namespace; says which host of the test they are.
const HOST_VARIABLE: &str = "QUORATE_MDNS_TEST_HOST";
const SERVICE: &str = "_p2p._udp.local.";

/// Runs `story` in a network namespace of its own with nothing but loopback. To be called by the test itself, with a
/// closure, and by nothing else: the name of the closure tells which test to run again.
///
/// Passes with a word of explanation where that cannot be done.
pub(crate) fn in_own_network<F: FnOnce()>(story: F) {
    if env::var_os(HOST_VARIABLE).is_some() {
        run("ip link set lo up");
        return story();
    }
    let test_name = test_of::<F>();
    if !succeeds("unshare -n sh -c 'ip link set lo up && ip link add near type veth peer name far'") {
        eprintln!("SKIPPED {test_name}: network namespaces and virtual cables cannot be made here (root is needed)");
        return;
    }
    let output = this_test(test_name, "near").stderr(Stdio::inherit()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    let passed = output.status.success() && said.contains("test result: ok. 1 passed");
    assert!(passed, "{test_name} did not pass in its own network:\n{said}");
}

/// Whether this process is the second host of a test.
pub(crate) fn is_far_host() -> bool {
    env::var(HOST_VARIABLE).is_ok_and(|host| host == "far")
}

/// Starts the test that is called like the function `test` as a second host, in a namespace of its own.
pub(crate) fn start_far_host<F: Fn()>(_test: F) -> Child {
    this_test(test_of::<F>(), "far").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// Lays a cable, both of whose ends are here; the near one has an address.
pub(crate) fn add_interface() {
    run("ip link add near type veth peer name far");
    run("ip link set far up");
    run(&format!("ip addr add {NEAR_ADDRESS}/24 dev near"));
    run("ip link set near up");
}

/// Gives the far end of the cable to the host whose process is `pid`.
pub(crate) fn move_far_end(pid: u32) {
    run(&format!("ip link set far netns {pid}"));
}

/// On the second host: makes the far end usable.
pub(crate) fn bring_far_end_up() {
    run("ip link set lo up");
    run(&format!("ip addr add {FAR_ADDRESS}/24 dev far"));
    run("ip link set far up");
}

/// Gives the far end an address in another network, and lets the near end hear it although it is one of this host.
pub(crate) fn give_far_end_a_foreign_address() {
    run(&format!("ip addr add {FOREIGN_ADDRESS}/24 dev far"));
    for key in ["all/rp_filter=0", "near/rp_filter=0", "near/accept_local=1"] {
        let (key, value) = key.split_once('=').unwrap();
        std::fs::write(format!("/proc/sys/net/ipv4/conf/{key}"), value).unwrap();
    }
}

/// Runs a command that must succeed.
#[track_caller]
pub(crate) fn run(command: &str) {
    assert!(succeeds(command), "{command}");
}

/// Says something to the process that started this one.
pub(crate) fn tell(line: &str) {
    // The test harness has written half a line before.
    let mut output = std::io::stdout().lock();
    writeln!(output, "\n{line}").unwrap();
    output.flush().unwrap();
}

/// Reads up to the line that begins with `beginning`. Returns its rest.
#[track_caller]
pub(crate) fn expect_line(lines: &mut impl Iterator<Item = String>, beginning: &str) -> String {
    let rest = lines.find_map(|line| line.strip_prefix(beginning).map(str::to_owned));
    rest.unwrap_or_else(|| panic!("the other host ended without saying {beginning:?}"))
}

/// A socket that sends multicast from `address`, from a port that is not that of mDNS.
pub(crate) fn forger(address: &str) -> UdpSocket {
    let address = address.parse().unwrap();
    let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
    socket.set_multicast_if_v4(&address).unwrap();
    socket.bind(&SocketAddr::from((address, 0)).into()).unwrap();
    socket.into()
}

/// A socket that hears what everybody on the cable says, and says nothing itself.
pub(crate) struct Witness(UdpSocket);

impl Witness {
    /// Hears from now on.
    pub(crate) fn new() -> Self {
        let address = NEAR_ADDRESS.parse().unwrap();
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5353)).into()).unwrap();
        socket.join_multicast_v4(&Ipv4Addr::new(224, 0, 0, 251), &address).unwrap();
        Self(socket.into())
    }

    /// Waits, at most for `time`, for a packet that `is_it`. Returns whether it came; those before it are forgotten.
    pub(crate) fn hears(&self, time: Duration, is_it: impl Fn(&Message) -> bool) -> bool {
        let deadline = Instant::now() + time;
        let mut buffer = vec![0; 9000];
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            self.0.set_read_timeout(Some(left)).unwrap();
            let Ok(size) = self.0.recv(&mut buffer) else { return false };
            if Message::from_vec(&buffer[..size]).is_ok_and(|message| is_it(&message)) {
                return true;
            }
        }
    }
}

/// Whether a packet asks for libp2p peers.
pub(crate) fn is_query(message: &Message) -> bool {
    message.metadata.message_type == MessageType::Query
}

/// Whether a packet announces libp2p peers for `ttl_secs`.
pub(crate) fn is_response(message: &Message, ttl_secs: u32) -> bool {
    message.metadata.message_type == MessageType::Response
        && message.answers.iter().chain(&message.additionals).all(|record| record.ttl == ttl_secs)
}

/// An answer in which `peer` announces `addresses`.
pub(crate) fn forged_response(peer: PeerId, addresses: &[Multiaddr], ttl_secs: u32) -> Vec<u8> {
    let mut message = Message::new(0, MessageType::Response, OpCode::Query);
    let label = peer.to_base58();
    let instance = Name::from_str(&format!("{label}.{SERVICE}")).unwrap();
    let pointer = RData::PTR(PTR(instance.clone()));
    message.add_answer(Record::from_rdata(Name::from_str(SERVICE).unwrap(), ttl_secs, pointer));
    for address in addresses {
        let text = RData::TXT(TXT::new(vec![format!("dnsaddr={address}")]));
        message.add_additional(Record::from_rdata(instance.clone(), ttl_secs, text));
    }
    message.to_vec().unwrap()
}

/// A question for libp2p peers.
pub(crate) fn forged_query() -> Vec<u8> {
    let mut message = Message::new(1, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(Name::from_str(SERVICE).unwrap(), RecordType::PTR));
    message.to_vec().unwrap()
}

/// The name of the test in which the closure `F` was written, or which is the function `F`.
fn test_of<F>() -> &'static str {
    let name = std::any::type_name::<F>();
    let (_crate_name, name) = name.split_once("::").unwrap();
    name.trim_end_matches("::{{closure}}")
}

fn this_test(test_name: &str, host: &str) -> Command {
    let mut command = Command::new("unshare");
    command.arg("-n").arg(env::current_exe().unwrap());
    command.args(["--exact", test_name, "--nocapture", "--test-threads=1"]).env(HOST_VARIABLE, host);
    // Everything must work on one thread; and a test can stop the tasks by blocking it.
    command.env("ASYNC_STD_THREAD_COUNT", "1");
    command
}

fn succeeds(command: &str) -> bool {
    Command::new("sh").args(["-c", command]).status().is_ok_and(|status| status.success())
}
