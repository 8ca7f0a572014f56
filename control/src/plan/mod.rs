//! `vipdp plan`: the next-hop addresses of a cluster in the `tiered` mode, worked out before there
//! is one, and the files that make it.
//!
//! ```text
//! PlanArgs -> Plan (checked) -> report: address table, load after failures, ECMP width, growth
//!                            -> files:  cluster.toml, node-NAME.toml
//!                            -> router: one configuration for each kind of router
//! ```
//!
//! Nothing here touches the host but [`run`], which writes the files where it is told to.

use std::collections::HashSet;
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use clap::Args;
use thiserror::Error;
use vipdp_core::prefix::Prefix;

use crate::cluster::addresses::{self, Addresses, AddressesError};

mod failures;
mod files;
mod report;
mod router;

pub use router::Platform;

/// What to plan, and in which form to print it.
#[derive(Args, Clone, Debug)]
pub struct PlanArgs {
    /// The nodes' names, in the order of their slots.
    #[arg(long, value_name = "NAME,NAME,...", value_delimiter = ',', required = true)]
    pub nodes: Vec<String>,
    /// How many nodes each address has: with one more failure at once, addresses are lost.
    /// Default: 2, with --compact 3.
    #[arg(long, value_name = "2|3")]
    pub tiers: Option<usize>,
    /// Three tiers with as few addresses as two tiers have. Nodes cannot be added to it.
    #[arg(long)]
    pub compact: bool,
    /// Print JSON.
    #[arg(long)]
    pub json: bool,
    /// How many next hops one route of the router can have. Fails if they are too few.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub ecmp_width: Option<u32>,
    /// Nodes to add behind the others: prints what changes. Files are for the larger cluster.
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub add: Vec<String>,
    /// The first next-hop address of IPv4; the others follow it.
    #[arg(long, value_name = "ADDRESS")]
    pub next_hops4: Option<Ipv4Addr>,
    /// The first next-hop address of IPv6; the others follow it.
    #[arg(long, value_name = "ADDRESS")]
    pub next_hops6: Option<Ipv6Addr>,
    /// The service addresses or prefixes that the router routes to the next hops.
    #[arg(long, value_name = "PREFIX,...", value_delimiter = ',')]
    pub vips: Vec<Prefix>,
    /// The router's kind: prints its configuration and nothing else. With --out, writes only this
    /// kind's file.
    #[arg(long, value_enum, value_name = "KIND")]
    pub router: Option<Platform>,
    /// Write the nodes' and the router's configuration into this directory.
    #[arg(long, value_name = "DIRECTORY")]
    pub out: Option<PathBuf>,
    /// The cluster's id, for the files.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub id: u16,
    /// The nodes' NIC on the segment of the next-hop addresses, for the files.
    #[arg(long, value_name = "NIC", default_value = "eth0")]
    pub interface: String,
}

/// Why there is no plan. The messages say what would be right.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// A name that the configuration would not take.
    #[error("{0:?} is no node's name: give 1 to {NAME_LEN_MAX} letters, digits, '.', '-', '_'")]
    Name(String),
    /// Two nodes of one name.
    #[error("node {0:?} is named twice: give each node its own name")]
    Twice(String),
    /// No lists for so many nodes and tiers.
    #[error("{0}")]
    Addresses(#[from] AddressesError),
    /// No lists once the nodes of --add have joined.
    #[error("with the added nodes: {0}")]
    Enlarged(#[source] AddressesError),
    /// VIPs of a family that has no next hops.
    #[error("VIP {vip} has no next hops: give the first of them with {option}")]
    NoNextHops {
        /// The first such VIP.
        vip: Prefix,
        /// The option that gives them.
        option: &'static str,
    },
    /// Next hops that are not all unicast addresses of a network.
    #[error(
        "next hops from {first} on: {count} of them do not all lie among unicast addresses; give a \
         first address with as many free ones behind it"
    )]
    NextHops {
        /// The first next-hop address.
        first: IpAddr,
        /// How many there are.
        count: usize,
    },
    /// A VIP that is a next hop too.
    #[error(
        "VIP {vip} holds next-hop addresses, which are {first} to {last}: give next hops in the \
         subnet between router and nodes, and VIPs outside of it"
    )]
    VipIsNextHop {
        /// The VIP.
        vip: Prefix,
        /// The first next-hop address.
        first: IpAddr,
        /// The last next-hop address.
        last: IpAddr,
    },
    /// A VIP that is no unicast address.
    #[error("{0} is no VIP: give unicast addresses or prefixes that clients can reach")]
    Vip(Prefix),
    /// Two VIPs that share addresses.
    #[error("VIPs {0} and {1} share addresses: give each address once")]
    VipsOverlap(Prefix, Prefix),
    /// More VIPs than the XDP program has room for.
    #[error("{0} VIPs: give at most {VIPS_MAX}; a prefix counts as one")]
    TooManyVips(usize),
    /// An interface name that Linux would not take.
    #[error("{0:?} is no interface: give 1 to 15 characters without '/', ':' and spaces")]
    Interface(String),
}

const NAME_LEN_MAX: usize = 32;
const VIPS_MAX: usize = 256;
/// The longest name of an interface that the kernel takes (IFNAMSIZ less its terminator).
const INTERFACE_LEN_MAX: usize = 15;

/// A cluster and its addresses, checked.
#[derive(Clone, Debug)]
struct Plan {
    nodes: Vec<String>,
    addresses: Addresses,
    /// All nodes and addresses once the nodes of --add have joined.
    enlarged: Option<(Vec<String>, Addresses)>,
    network: Network,
}

/// The addresses of the network around a cluster.
#[derive(Clone, Debug)]
struct Network {
    vips: Vec<Prefix>,
    first4: Option<Ipv4Addr>,
    first6: Option<Ipv6Addr>,
    /// Whether the next hops are ours, made up, since none were given.
    example: bool,
}

impl Plan {
    fn new(args: &PlanArgs) -> Result<Self, PlanError> {
        let tiers = args.tiers.unwrap_or(if args.compact { 3 } else { 2 });
        let mut seen = HashSet::new();
        for name in args.nodes.iter().chain(&args.add) {
            check_name(name)?;
            if !seen.insert(name) {
                return Err(PlanError::Twice(name.clone()));
            }
        }
        check_interface(&args.interface)?;
        let addresses = Addresses::new(args.nodes.len(), tiers, args.compact)?;
        let enlarged = if args.add.is_empty() {
            None
        } else {
            let nodes = [&args.nodes[..], &args.add].concat();
            let addresses = Addresses::new(nodes.len(), tiers, args.compact);
            Some((nodes, addresses.map_err(PlanError::Enlarged)?))
        };
        let count = enlarged.as_ref().map_or(&addresses, |(_, addresses)| addresses).len();
        let network = Network::new(&args.vips, args.next_hops4, args.next_hops6, count)?;
        Ok(Self { nodes: args.nodes.clone(), addresses, enlarged, network })
    }

    /// The nodes and addresses that files are made for: with those that are to be added.
    fn largest(&self) -> (&[String], &Addresses) {
        match &self.enlarged {
            Some((nodes, addresses)) => (nodes, addresses),
            None => (&self.nodes, &self.addresses),
        }
    }

    /// The largest number of nodes whose addresses are at most `width`, and their number, in the
    /// plan's tiers and form; `None` if even the fewest nodes have more.
    fn largest_within(&self, width: usize) -> Option<(usize, usize)> {
        let (tiers, compact) = (self.addresses.tiers(), self.addresses.is_compact());
        let count = |nodes| addresses::count(nodes, if compact { 2 } else { tiers });
        let exists = |nodes: &usize| !(compact && *nodes == 4);
        let fits = |&nodes: &usize| count(nodes) <= width;
        (tiers..=vipdp_core::slot::SLOTS)
            .filter(exists)
            .take_while(fits)
            .last()
            .map(|nodes| (nodes, count(nodes)))
    }
}

fn check_name(name: &str) -> Result<(), PlanError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let right = (1..=NAME_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed);
    if right { Ok(()) } else { Err(PlanError::Name(name.into())) }
}

fn check_interface(name: &str) -> Result<(), PlanError> {
    let allowed = |byte: u8| byte.is_ascii_graphic() && !b"/:\"\\".contains(&byte);
    let right = (1..=INTERFACE_LEN_MAX).contains(&name.len()) && name.bytes().all(allowed);
    if right { Ok(()) } else { Err(PlanError::Interface(name.into())) }
}

/// What stands in the files where nothing was given: addresses that are kept for examples (RFC
/// 5737, RFC 3849) as VIPs, and private ones as next hops.
const VIPS_EXAMPLE: [(IpAddr, u8); 2] = [
    (IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), 24),
    (IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x53, 0, 0, 0, 0, 0)), 64),
];
const FIRST4_EXAMPLE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 64);
const FIRST6_EXAMPLE: Ipv6Addr = Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 1, 0);

impl Network {
    fn new(
        vips: &[Prefix],
        first4: Option<Ipv4Addr>,
        first6: Option<Ipv6Addr>,
        count: usize,
    ) -> Result<Self, PlanError> {
        let nothing_given = vips.is_empty() && first4.is_none() && first6.is_none();
        let example = first4.is_none() && first6.is_none();
        let mut network = Self { vips: vips.to_vec(), first4, first6, example };
        if nothing_given {
            (network.first4, network.first6) = (Some(FIRST4_EXAMPLE), Some(FIRST6_EXAMPLE));
        }
        if vips.is_empty() {
            let family = |&(vip, _): &(IpAddr, u8)| network.first(vip.is_ipv4()).is_some();
            let vips = VIPS_EXAMPLE.into_iter().filter(family);
            network.vips = vips.filter_map(|(vip, len)| Prefix::new(vip, len).ok()).collect();
        }
        network.check(count)?;
        Ok(network)
    }

    fn check(&self, count: usize) -> Result<(), PlanError> {
        if self.vips.len() > VIPS_MAX {
            return Err(PlanError::TooManyVips(self.vips.len()));
        }
        for (at, &vip) in self.vips.iter().enumerate() {
            if !is_unicast(vip.network()) || !is_unicast(vip.last()) {
                return Err(PlanError::Vip(vip));
            }
            if let Some(&other) = self.vips[..at].iter().find(|other| other.overlaps(vip)) {
                return Err(PlanError::VipsOverlap(other, vip));
            }
            let is_ipv4 = vip.network().is_ipv4();
            let option = if is_ipv4 { "--next-hops4" } else { "--next-hops6" };
            let Some(first) = self.first(is_ipv4) else {
                return Err(PlanError::NoNextHops { vip, option });
            };
            let last = self.next_hop(is_ipv4, count - 1).unwrap_or(first);
            if vip.network() <= last && first <= vip.last() {
                return Err(PlanError::VipIsNextHop { vip, first, last });
            }
        }
        for first in [true, false].into_iter().filter_map(|is_ipv4| self.first(is_ipv4)) {
            let last = self.next_hop(first.is_ipv4(), count - 1);
            let link_local = |hop: IpAddr| match hop {
                IpAddr::V4(_) => false,
                IpAddr::V6(hop) => hop.is_unicast_link_local(),
            };
            let right = |hop| is_unicast(hop) && !link_local(hop);
            if !right(first) || !last.is_some_and(right) {
                return Err(PlanError::NextHops { first, count });
            }
        }
        Ok(())
    }

    /// The first next-hop address of a family.
    fn first(&self, is_ipv4: bool) -> Option<IpAddr> {
        if is_ipv4 { self.first4.map(IpAddr::V4) } else { self.first6.map(IpAddr::V6) }
    }

    /// The next-hop address numbered `number` of a family.
    fn next_hop(&self, is_ipv4: bool, number: usize) -> Option<IpAddr> {
        match self.first(is_ipv4)? {
            IpAddr::V4(first) => {
                let hop = first.to_bits().checked_add(u32::try_from(number).ok()?)?;
                Some(Ipv4Addr::from_bits(hop).into())
            }
            IpAddr::V6(first) => {
                Some(Ipv6Addr::from_bits(first.to_bits().checked_add(number as u128)?).into())
            }
        }
    }

    /// The next-hop address numbered `number` of each family that has them, as one text.
    fn next_hops(&self, number: usize) -> String {
        let hops = [true, false].into_iter().filter_map(|is_ipv4| self.next_hop(is_ipv4, number));
        hops.map(|hop| hop.to_string()).collect::<Vec<_>>().join(" ")
    }
}

/// Whether a host can have `address`: neither a group nor one with a meaning of its own.
fn is_unicast(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let first = address.octets()[0];
            (1..224).contains(&first) && first != 127
        }
        IpAddr::V6(address) => {
            !address.is_multicast() && !address.is_unspecified() && !address.is_loopback()
        }
    }
}

/// `vipdp plan`: prints the plan, and writes its files if a directory is given.
///
/// # Errors
/// [`PlanError`]; a file that exists or cannot be written; next hops that do not fit the ECMP
/// width, after everything has been printed.
pub fn run(args: &PlanArgs, out: &mut impl Write) -> anyhow::Result<()> {
    let plan = Plan::new(args)?;
    if args.json && args.router.is_some() && args.out.is_none() {
        anyhow::bail!("--router prints no JSON: leave one of them, or give --out for its file");
    }
    let written = match &args.out {
        Some(directory) => files::write(&plan, args, directory)?,
        None => Vec::new(),
    };
    let mut text = Vec::new();
    if args.json {
        report::json(&plan, args.ecmp_width, &written, &mut text)?;
    } else if let (Some(platform), None) = (args.router, &args.out) {
        let (_, addresses) = plan.largest();
        text = router::configuration(platform, &plan.network, addresses.len()).into_bytes();
    } else {
        report::human(&plan, args.ecmp_width, &written, &mut text)?;
    }
    match out.write_all(&text).and_then(|()| out.flush()) {
        // Who has read enough of a long table closes the pipe.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        result => result?,
    }
    let Some(width) = args.ecmp_width else { return Ok(()) };
    match report::too_narrow(&plan, width) {
        Some(verdict) => anyhow::bail!(verdict),
        None => Ok(()),
    }
}
