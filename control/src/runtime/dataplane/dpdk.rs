//! The data plane over DPDK, which has the NIC in the kernel's place.
//!
//! ```text
//!   NIC -- DpdkPort -- worker --+-- tap         accepted packets, as with AF_XDP
//!                               +-- interface   the operator's TAP in the NIC's place: all that is not ours
//! ```
//!
//! Nothing is read from the NIC before the workers run, and nothing after they have ended: so no packet
//! to a VIP comes to a host that is not to have it, and nobody need keep it from the host.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tracing::{info, warn};
use vipdp_core::anycast::Steering;
use vipdp_core::classify::TunnelEnd;
use vipdp_core::worker::NicHost;
use vipdp_io::dpdk::{self, DpdkPort, MTU_MAX, Nic};
use vipdp_io::link::{Link, LinkError};
use vipdp_io::tap::{Carrier, Tap, TapQueue};

use super::DataPlane;
use crate::config::{AnycastConfig, Config, DpdkConfig, IngressMode};
use crate::runtime::reach::{Door, Intake, Reach};

/// How long the TAP in the NIC's place may take to carry frames, once the NIC has a link, and its addresses to be
/// usable: IPv6 asks for a second whether anybody else has them (RFC 4862, section 5.4; RFC 7527).
const SETTLED_MAX: Duration = Duration::from_secs(5);

/// How often that is looked at.
const SETTLED_POLL: Duration = Duration::from_millis(10);

/// Sets everything up; see [`DataPlane::start`].
pub(super) fn start(config: &Config, dpdk: &DpdkConfig) -> Result<DataPlane> {
    let interface = config.node.interface.as_str();
    Tap::require(interface)?;
    let link = Link::read(interface)?;
    if !link.up {
        return Err(LinkError::Down { name: link.name }.into());
    }
    let reach = Reach::new(config)?;
    let (nic, ports) = open(config, dpdk, &link, &reach)?;
    super::super::check_own_mac(config, &dpdk.devargs, nic.mac())?;
    let queues = nic.queues();
    let taps = super::taps(config, queues)?;
    let mut host = super::host_plan(config, &reach).apply()?;
    // Before there is a carrier, with the first of which the interface gets an IPv6 link-local address made of the
    // MAC address that it has then (RFC 4291, appendix A). Routers take the one for the other: FRR sends IPv4 by
    // way of an unnumbered BGP peer to the MAC address that is in its link-local one.
    host.lend_mac(interface, nic.mac())?;
    let nic_taps = Tap::attach(interface, queues as usize)?;
    let carrier = nic_taps[0].carrier().context("no descriptor for the carrier")?;
    carrier.set(nic.link().is_up).context("cannot set the carrier")?;
    let link = await_settled(interface, |link| link.running)?;
    link.require_running()?;

    let membership = reach.join(&link)?;
    let service = super::service(config, &link, host.tap(), &reach);
    let (flows, flow_file) = super::flow_table(config, &service.client_hash)?;
    let shared = super::shared(&service, flows, super::super::is_by_wire(config));
    let nic_hosts = nic_hosts(config, nic_taps);
    let workers = super::start_workers(config, &shared, ports, taps, nic_hosts)?;
    follow_link(&nic, carrier, interface);
    await_settled(interface, |_| Link::is_settled(interface).unwrap_or(true))?;
    let egress = Some(super::egress_table(config, &link)?);
    Ok(DataPlane {
        workers,
        host,
        intake: Intake { door: Door::Dpdk(nic), membership },
        link,
        shared,
        flow_file,
        service,
        egress,
        queues,
        offload: None,
    })
}

fn open(
    config: &Config,
    dpdk: &DpdkConfig,
    link: &Link,
    reach: &Reach,
) -> Result<(Nic, Vec<DpdkPort>)> {
    ensure!(
        link.mtu <= MTU_MAX,
        "interface {}: its MTU is {}, while frames hold {MTU_MAX} with DPDK; `ip link set {0} mtu {MTU_MAX}`",
        link.name,
        link.mtu
    );
    let cores = super::cores(config).len().max(1) as u32;
    let (nic, ports) = Nic::open(&dpdk::Options {
        queues: dpdk.queues.unwrap_or(cores),
        hugepages: dpdk.hugepages,
        macs: reach.macs().to_vec(),
        mtu: link.mtu,
        ..dpdk::Options::new(&dpdk.devargs)
    })?;
    let queues = nic.queues();
    if let Some(wanted) = dpdk.queues.filter(|&wanted| wanted > queues) {
        warn!(wanted, queues, "the NIC has fewer queues than are wanted");
    }
    if nic.is_promiscuous() {
        info!(
            driver = nic.driver(),
            "the NIC receives all frames: it has no filter, or no room in it"
        );
    }
    Ok((nic, ports))
}

/// The host's sides of the NIC, one for each worker.
fn nic_hosts(config: &Config, taps: Vec<TapQueue>) -> Vec<Option<NicHost<TapQueue>>> {
    let tunnel_end = match config.cluster.mode {
        IngressMode::Anycast(AnycastConfig { steering: Some(Steering::Gue { port }) }) => {
            config.own_member().address.map(|address| TunnelEnd { address, port })
        }
        _ => None,
    };
    taps.into_iter().map(|host| Some(NicHost { host, tunnel_end })).collect()
}

/// Has the TAP's carrier follow the NIC's link.
fn follow_link(nic: &Nic, carrier: Carrier, interface: &str) {
    let interface = interface.to_owned();
    nic.watch_link(move |is_up| {
        info!(interface, is_up, "the NIC's link has changed");
        if let Err(error) = carrier.set(is_up) {
            warn!(interface, %error, "the carrier cannot be set: is the interface gone?");
        }
    });
}

/// Waits until the interface `is_settled`, or no longer, and returns it as it then is.
fn await_settled(interface: &str, is_settled: impl Fn(&Link) -> bool) -> Result<Link, LinkError> {
    let end = Instant::now() + SETTLED_MAX;
    loop {
        let link = Link::read(interface)?;
        if is_settled(&link) || Instant::now() > end {
            return Ok(link);
        }
        std::thread::sleep(SETTLED_POLL);
    }
}
