//! The network of the lab: namespaces as pods, two nodes that route, one shaped link between them.
//!
//! The nodes route rather than bridge on purpose: the receiving IP stack detaches a packet from the socket that
//! sent it. Over a bridge TCP's small-queue limit would reach through to the bottleneck and keep its queue empty,
//! which no real network does.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use tokio::io::AsyncWriteExt;

use crate::process::{self, Process, StartError};
use crate::tools::{self, Missing};

/// Where `ip netns` keeps its namespaces; on a private tmpfs inside the lab.
const NAMESPACES: &str = "/run/netns";
/// Bucket size of every shaper in bytes. It never changes while a shaper lives: shrinking a TBF's burst below the
/// length of a queued packet stalls the queue for good. Longer packets are cut to size when they are queued.
pub const BURST_BYTES: u32 = 32 * 1024;
/// The device of a node that leads to the other node.
const UPLINK: &str = "uplink";

/// One of the nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Where the senders are; its way to the other node is the bottleneck.
    A,
    /// Where the critical service and the sinks are.
    B,
    /// A node that pods can move to: in the network it hangs at node A's router, so that its way to B is the same bottleneck.
    C,
}

impl Side {
    /// The node's name, also in the Kubernetes API.
    #[must_use]
    pub fn node(self) -> &'static str {
        match self {
            Self::A => "lab-node-a",
            Self::B => "lab-node-b",
            Self::C => "lab-node-c",
        }
    }

    /// The node that routes for it.
    fn router(self) -> Self {
        match self {
            Self::A | Self::C => Self::A,
            Self::B => Self::B,
        }
    }

    fn subnet(self) -> u8 {
        match self {
            Self::A | Self::C => 1,
            Self::B => 2,
        }
    }

    fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.subnet(), 1)
    }

    fn uplink(self) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, 0, self.subnet())
    }

    fn other(self) -> Self {
        match self {
            Self::A | Self::C => Self::B,
            Self::B => Self::A,
        }
    }
}

/// The shaped link from node A to node B.
#[derive(Debug, Clone, Copy, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Link {
    /// Rate in bits per second, Ethernet headers included.
    pub rate_bps: u64,
    /// Length of its FIFO in bytes.
    pub fifo_bytes: u64,
}

/// The network could not be made or read.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A program is not on this machine.
    #[error(transparent)]
    Missing(#[from] Missing),
    /// A process that keeps a namespace alive could not be started.
    #[error(transparent)]
    Start(#[from] StartError),
    /// A configuration command said no.
    #[error("{command} failed: {message}")]
    Refused {
        /// What was run.
        command: String,
        /// What it wrote to standard error.
        message: String,
    },
    /// The kernel's counters could not be read.
    #[error("cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The system's answer.
        source: io::Error,
    },
    /// There is no such pod.
    #[error("the lab's network has no endpoint {0}")]
    NoEndpoint(String),
}

/// Bytes that passed an interface since it was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sent, in bytes with Ethernet headers.
    pub tx_bytes: u64,
    /// Received, in bytes with Ethernet headers.
    pub rx_bytes: u64,
}

/// State of the bottleneck's queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bottleneck {
    /// Bytes sent since it was made.
    pub sent_bytes: u64,
    /// Packets dropped since it was made because the queue was full.
    pub drops: u64,
    /// Bytes waiting now.
    pub backlog_bytes: u64,
}

/// A pod's network: a namespace with `eth0` in it.
#[derive(Debug)]
struct Endpoint {
    address: Ipv4Addr,
    namespace: PathBuf,
    /// Holds the namespace open, and its `/proc` shows the counters.
    pause: Process,
}

/// The made network.
#[derive(Debug)]
pub struct Network {
    endpoints: BTreeMap<String, Endpoint>,
    node_a: Process,
    node_b: Process,
}

impl Network {
    /// Makes two nodes, the shaped link and one endpoint per name.
    ///
    /// # Errors
    /// When a program is missing or the kernel refuses something.
    pub async fn build(
        link: Link,
        endpoints: &[(String, Side)],
        logs: &Path,
    ) -> Result<Self, Error> {
        for node in [Side::A, Side::B] {
            add_namespace(node.node()).await?;
        }
        batch(
            "ip",
            Some(Side::A.node()),
            &format!(
                "link add {UPLINK} type veth peer name {UPLINK} netns {}\n",
                Side::B.node()
            ),
        )
        .await?;
        for node in [Side::A, Side::B] {
            batch("ip", Some(node.node()), &node_commands(node)).await?;
            let forward = "echo 1 > /proc/sys/net/ipv4/ip_forward";
            execute("sh", Some(node.node()), &["-c", forward], "").await?;
        }
        batch("tc", Some(Side::A.node()), &bottleneck_commands(link)).await?;
        let node_a = pause(Side::A.node(), logs)?;
        let node_b = pause(Side::B.node(), logs)?;

        let mut made = BTreeMap::new();
        for (index, (name, side)) in endpoints.iter().enumerate() {
            let host = u8::try_from(index + 10).map_err(|_| Error::Refused {
                command: "making the network".to_owned(),
                message: "more than 245 endpoints".to_owned(),
            })?;
            let address = Ipv4Addr::new(10, 77, side.subnet(), host);
            add_namespace(name).await?;
            let router = side.router().node();
            batch("ip", Some(router), &node_port_commands(name, host)).await?;
            batch("ip", Some(name), &endpoint_commands(address, *side)).await?;
            made.insert(
                name.clone(),
                Endpoint {
                    address,
                    namespace: namespace(name),
                    pause: pause(name, logs)?,
                },
            );
        }
        Ok(Self {
            endpoints: made,
            node_a,
            node_b,
        })
    }

    /// Removes everything that [`Network::build`] made.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn destroy(mut self) -> Result<(), Error> {
        let mut commands = String::new();
        for (name, endpoint) in &mut self.endpoints {
            endpoint.pause.kill().await;
            let _ = writeln!(commands, "netns del {name}");
        }
        self.node_a.kill().await;
        self.node_b.kill().await;
        for node in [Side::A, Side::B] {
            let _ = writeln!(commands, "netns del {}", node.node());
        }
        batch("ip", None, &commands).await
    }

    /// The address of an endpoint.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub fn address(&self, endpoint: &str) -> Result<Ipv4Addr, Error> {
        Ok(self.endpoint(endpoint)?.address)
    }

    /// The file that stands for an endpoint's network namespace.
    ///
    /// # Errors
    /// When there is no such endpoint.
    pub fn namespace(&self, endpoint: &str) -> Result<&Path, Error> {
        Ok(&self.endpoint(endpoint)?.namespace)
    }

    /// What passed an endpoint's `eth0` so far.
    ///
    /// # Errors
    /// When there is no such endpoint or the kernel does not answer.
    pub fn counters(&self, endpoint: &str) -> Result<Counters, Error> {
        read_counters(&self.counters_file(endpoint)?)
    }

    /// The file in `/proc` that shows an endpoint's counters; see [`read_counters`].
    ///
    /// # Errors
    /// When there is no such endpoint or its namespace has lost its process.
    pub fn counters_file(&self, endpoint: &str) -> Result<PathBuf, Error> {
        let pid = self
            .endpoint(endpoint)?
            .pause
            .id()
            .ok_or_else(|| Error::NoEndpoint(endpoint.to_owned()))?;
        Ok(PathBuf::from(format!("/proc/{pid}/net/dev")))
    }

    fn endpoint(&self, name: &str) -> Result<&Endpoint, Error> {
        self.endpoints
            .get(name)
            .ok_or_else(|| Error::NoEndpoint(name.to_owned()))
    }
}

/// Reads `eth0` from a file of the form of `/proc/net/dev`.
///
/// # Errors
/// When the file cannot be read or has no `eth0`.
pub fn read_counters(file: &Path) -> Result<Counters, Error> {
    let failed = |source| Error::Io {
        what: format!("read {}", file.display()),
        source,
    };
    let text = fs::read_to_string(file).map_err(failed)?;
    parse_counters(&text, "eth0").ok_or_else(|| failed(io::Error::other("it shows no eth0")))
}

/// State of the bottleneck's queue now.
///
/// # Errors
/// When `tc` is missing or says something else than expected.
pub async fn bottleneck() -> Result<Bottleneck, Error> {
    let output = run(
        "tc",
        Some(Side::A.node()),
        &["-s", "-j", "qdisc", "show", "dev", UPLINK],
        "",
    )
    .await?;
    parse_bottleneck(&output).ok_or_else(|| Error::Refused {
        command: "tc -s -j qdisc show".to_owned(),
        message: format!("it shows no shaper: {output}"),
    })
}

/// Changes the bottleneck while it lives; what waits in its queue stays.
///
/// # Errors
/// When the kernel refuses.
pub async fn change_bottleneck(link: Link) -> Result<(), Error> {
    batch("tc", Some(Side::A.node()), &bottleneck_commands(link)).await
}

/// Sets the egress shaper of an endpoint. A shaper once made is only changed, never removed, so that no packet is lost.
///
/// # Errors
/// When the kernel refuses.
pub async fn shape(endpoint: &str, bytes_per_second: u64, queue_bytes: u64) -> Result<(), Error> {
    batch(
        "tc",
        Some(endpoint),
        &format!(
            "qdisc replace dev eth0 root handle 1: tbf rate {bytes_per_second}bps burst {BURST_BYTES} limit {queue_bytes}\n"
        ),
    )
    .await
}

fn node_commands(node: Side) -> String {
    let (subnet, uplink) = (node.subnet(), node.uplink());
    let (gateway, other) = (node.gateway(), node.other());
    format!(
        "link set lo up
link set {UPLINK} address {mac}
address add {uplink}/24 dev {UPLINK}
link set {UPLINK} up
neighbour replace {other_uplink} lladdr {other_mac} dev {UPLINK} nud permanent
link add pods type bridge
link set pods address {gateway_mac}
address add {gateway}/24 dev pods
link set pods up
route add 10.77.{other_subnet}.0/24 via {other_uplink}
",
        mac = mac(0, subnet),
        other_mac = mac(0, other.subnet()),
        other_uplink = other.uplink(),
        other_subnet = other.subnet(),
        gateway_mac = mac(subnet, 1),
    )
}

fn bottleneck_commands(link: Link) -> String {
    format!(
        "qdisc replace dev {UPLINK} root handle 1: tbf rate {}bit burst {BURST_BYTES} limit {}\n",
        link.rate_bps, link.fifo_bytes
    )
}

fn node_port_commands(namespace: &str, host: u8) -> String {
    format!(
        "link add pod{host} type veth peer name eth0 netns {namespace}
link set pod{host} master pods
link set pod{host} up
"
    )
}

fn endpoint_commands(address: Ipv4Addr, side: Side) -> String {
    let [_, _, subnet, host] = address.octets();
    // The gateway is a permanent neighbour: address resolution must never wait behind a full queue.
    format!(
        "link set lo up
link set eth0 address {mac}
address add {address}/24 dev eth0
link set eth0 up
neighbour replace {gateway} lladdr {gateway_mac} dev eth0 nud permanent
route add default via {gateway}
",
        mac = mac(subnet, host),
        gateway = side.gateway(),
        gateway_mac = mac(subnet, 1),
    )
}

fn mac(subnet: u8, host: u8) -> String {
    format!("02:4c:47:00:{subnet:02x}:{host:02x}")
}

fn namespace(name: &str) -> PathBuf {
    Path::new(NAMESPACES).join(name)
}

async fn add_namespace(name: &str) -> Result<(), Error> {
    batch("ip", None, &format!("netns add {name}\n")).await
}

fn pause(name: &str, logs: &Path) -> Result<Process, Error> {
    let mut command = process::command(&tools::find("sleep")?, Some(&namespace(name)))?;
    command.arg("infinity");
    Ok(Process::start(
        &format!("pause of {name}"),
        command,
        &logs.join("pause.log"),
    )?)
}

/// Runs `ip` or `tc` with a list of commands, in a namespace if one is named.
async fn batch(program: &str, namespace: Option<&str>, commands: &str) -> Result<(), Error> {
    run(program, namespace, &["-batch", "-"], commands)
        .await
        .map(drop)
}

async fn run(
    program: &str,
    namespace: Option<&str>,
    args: &[&str],
    input: &str,
) -> Result<String, Error> {
    match namespace {
        // `ip -n` and `tc -n` enter the namespace themselves.
        Some(name) => {
            let args: Vec<&str> = ["-n", name]
                .into_iter()
                .chain(args.iter().copied())
                .collect();
            execute(program, None, &args, input).await
        }
        None => execute(program, None, args, input).await,
    }
}

async fn execute(
    program: &str,
    inside: Option<&str>,
    args: &[&str],
    input: &str,
) -> Result<String, Error> {
    let described = || format!("{program} {} with\n{input}", args.join(" "));
    let failed = |source| Error::Io {
        what: format!("run {}", described()),
        source,
    };
    let inside = inside.map(namespace);
    let mut command = process::command(&tools::find(program)?, inside.as_deref())?;
    let mut child = command
        .args(args)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(failed)?;
    if let Some(mut stdin) = child.stdin.take() {
        // The program may have ended already, having refused an option; its status tells.
        let _ = stdin.write_all(input.as_bytes()).await;
    }
    let output = child.wait_with_output().await.map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(Error::Refused {
        command: described(),
        message: String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    })
}

fn parse_counters(text: &str, device: &str) -> Option<Counters> {
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(device)?.strip_prefix(':'))?;
    let mut columns = line.split_whitespace();
    Some(Counters {
        rx_bytes: columns.next()?.parse().ok()?,
        // Eight columns about receiving come first.
        tx_bytes: columns.nth(7)?.parse().ok()?,
    })
}

fn parse_bottleneck(json: &str) -> Option<Bottleneck> {
    let qdiscs: serde_json::Value = serde_json::from_str(json).ok()?;
    let shaper = qdiscs
        .as_array()?
        .iter()
        .find(|qdisc| qdisc["kind"] == "tbf")?;
    Some(Bottleneck {
        sent_bytes: shaper["bytes"].as_u64()?,
        drops: shaper["drops"].as_u64()?,
        backlog_bytes: shaper["backlog"].as_u64()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_come_from_the_right_columns_of_proc_net_dev() {
        let text = "Inter-|   Receive                            |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:      11       2    0    0    0     0          0         0       11       2    0    0    0     0       0          0
  eth0:123456789    2    0    0    0     0          0         0 42       2    0    0    0     0       0          0
";
        let counters = parse_counters(text, "eth0").unwrap();
        assert_eq!(counters.rx_bytes, 123_456_789);
        assert_eq!(counters.tx_bytes, 42);
        assert_eq!(parse_counters(text, "eth1"), None);
    }

    #[test]
    fn the_bottleneck_is_the_shaper_among_the_qdiscs() {
        let json = r#"[{"kind":"noqueue","handle":"0:","root":true},{"kind":"tbf","handle":"1:","root":true,
            "options":{"rate":25000000},"bytes":7,"packets":1,"drops":3,"overlimits":0,"requeues":0,"backlog":1500,"qlen":1}]"#;
        assert_eq!(
            parse_bottleneck(json),
            Some(Bottleneck {
                sent_bytes: 7,
                drops: 3,
                backlog_bytes: 1500
            })
        );
        assert_eq!(parse_bottleneck("[]"), None);
    }

    #[test]
    fn the_two_ends_of_the_link_know_each_other() {
        let a = node_commands(Side::A);
        assert!(a.contains("neighbour replace 10.77.0.2 lladdr 02:4c:47:00:00:02"));
        assert!(node_commands(Side::B).contains("link set uplink address 02:4c:47:00:00:02"));
        assert!(a.contains("route add 10.77.2.0/24 via 10.77.0.2"));
    }
}
