//! Configuration of the router in front of a tiered cluster: a static route for each VIP over all
//! next hops, and a hash that takes the ports in.
//!
//! Static routes suffice, and nothing has to watch the next hops: an address is always served by
//! somebody. Each platform has its own bound on the next hops of a route, and its own way of
//! keeping flows where they are when next hops are added; the files say both.

use clap::ValueEnum;
use vipdp_core::prefix::Prefix;

use super::Network;

/// A kind of router.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Platform {
    /// Linux, by iproute2.
    Linux,
    /// FRRouting.
    Frr,
    /// BIRD 2.
    Bird,
    /// Cisco IOS and IOS XE.
    Ios,
    /// Arista EOS.
    Eos,
    /// Juniper Junos.
    Junos,
}

impl Platform {
    /// All kinds.
    pub const ALL: [Self; 6] =
        [Self::Linux, Self::Frr, Self::Bird, Self::Ios, Self::Eos, Self::Junos];

    /// The name of the file with the configuration.
    pub const fn file_name(self) -> &'static str {
        match self {
            Self::Linux => "router-linux.sh",
            Self::Frr => "router-frr.conf",
            Self::Bird => "router-bird.conf",
            Self::Ios => "router-ios.txt",
            Self::Eos => "router-eos.txt",
            Self::Junos => "router-junos.txt",
        }
    }

    /// What a line of comment starts with.
    const fn comment(self) -> &'static str {
        match self {
            Self::Linux | Self::Bird | Self::Junos => "#",
            Self::Frr | Self::Ios | Self::Eos => "!",
        }
    }
}

/// A VIP and the next hops of its family.
struct Route {
    vip: Prefix,
    hops: Vec<String>,
}

impl Route {
    fn is_ipv4(&self) -> bool {
        self.vip.network().is_ipv4()
    }

    /// The VIP with its length, also where it is one address.
    fn destination(&self) -> String {
        format!("{}/{}", self.vip.network(), self.vip.prefix_len())
    }
}

/// The configuration of a router of this kind that has `count` next hops.
pub(super) fn configuration(platform: Platform, network: &Network, count: usize) -> String {
    let routes: Vec<Route> = network
        .vips
        .iter()
        .map(|&vip| {
            let hop = |number| network.next_hop(vip.network().is_ipv4(), number);
            let hops = (0..count).filter_map(hop).map(|hop| hop.to_string()).collect();
            Route { vip, hops }
        })
        .collect();
    let text = match platform {
        Platform::Linux => linux(&routes, count),
        Platform::Frr => frr(&routes, count),
        Platform::Bird => bird(&routes, count),
        Platform::Ios => ios(&routes, count),
        Platform::Eos => eos(&routes, count),
        Platform::Junos => junos(&routes, count),
    };
    let shebang = if platform == Platform::Linux { "#!/bin/sh\n" } else { "" };
    let notes = comments(platform, &notes(network, &routes, count));
    format!("{shebang}{notes}{text}")
}

/// What holds for every router.
fn notes(network: &Network, routes: &[Route], count: usize) -> Vec<String> {
    let mut notes = vec![format!("Routes the VIPs of a tiered cluster over {count} next hops.")];
    if network.example {
        notes.push("The VIPs and next hops are examples: put your own in their place.".into());
    }
    for is_ipv4 in [true, false] {
        let Some(route) = routes.iter().find(|route| route.is_ipv4() == is_ipv4) else { continue };
        let (Some(first), Some(last)) = (route.hops.first(), route.hops.last()) else { continue };
        notes.push(format!(
            "Give the router an address in the subnet of {first} to {last}, which are the nodes'."
        ));
    }
    notes.extend(
        [
            "ARP and neighbour discovery stay at their defaults, and need no static entries. With",
            "mac = \"virtual\" an entry stays right when another node takes the address over; with",
            "mac = \"node\" the router must take gratuitous ARP and unsolicited advertisements for",
            "entries that it has, as routers do unless they are told not to.",
        ]
        .map(String::from),
    );
    notes
}

fn comments(platform: Platform, lines: &[impl AsRef<str>]) -> String {
    lines.iter().map(|line| format!("{} {}\n", platform.comment(), line.as_ref())).collect()
}

/// The most members of a next-hop group that `ip nexthop` sends: its request has 1 KiB of room, and
/// a member takes 8 bytes of it.
const IP_GROUP_MAX: usize = 120;
/// The most next hops that `ip route` sends, for IPv4 and IPv6: a request has 4 KiB of room.
const IP_ROUTE_MAX: [usize; 2] = [240, 140];
/// How many next hops Linux can list of a route of either family: a list goes out in pieces of a
/// page, and a route into one piece.
const LISTED_MAX: usize = 120;
/// How many neighbours the kernel keeps without collecting any (`gc_thresh1`).
const NEIGHBOURS_KEPT: usize = 128;

fn linux(routes: &[Route], count: usize) -> String {
    let mut text = String::from("set -eu\n\n# The hash takes the ports in.\n");
    for (family, is_ipv4) in [("ipv4", true), ("ipv6", false)] {
        if routes.iter().any(|route| route.is_ipv4() == is_ipv4) {
            text += &format!("sysctl -qw net.{family}.fib_multipath_hash_policy=1\n");
        }
    }
    // The router's other neighbours need room too.
    if count > NEIGHBOURS_KEPT / 2 {
        let keep = (2 * count).next_power_of_two();
        text += &format!(
            "\n# Room for as many neighbours as there are next hops, in all network namespaces together.\n\
             for family in ipv4 ipv6; do\n    \
                 for limit in 3:{} 2:{} 1:{keep}; do\n        \
                     file=/proc/sys/net/$family/neigh/default/gc_thresh${{limit%:*}}\n        \
                     [ ! -e \"$file\" ] || [ \"$(cat \"$file\")\" -ge \"${{limit#*:}}\" ] ||\n            \
                         echo \"${{limit#*:}}\" >\"$file\"\n    \
                 done\n\
             done\n",
            4 * keep,
            2 * keep
        );
    }
    if count <= IP_GROUP_MAX {
        return text + &linux_groups(routes);
    }
    text + "\n" + &comments(Platform::Linux, &unlisted(count)) + &linux_routes(routes)
}

/// What is odd about routes that Linux cannot list.
fn unlisted(count: usize) -> Vec<String> {
    if count <= LISTED_MAX {
        return Vec::new();
    }
    vec![
        format!(
            "Linux routes over {count} next hops, but cannot list them: `ip route` ends at a route"
        ),
        format!(
            "with many more than {LISTED_MAX}. Ask it for one address instead: `ip route get`."
        ),
    ]
}

/// Next-hop objects in resilient groups, which Linux has from 5.13 on.
fn linux_groups(routes: &[Route]) -> String {
    let mut text = String::from(
        "\ndev=${1:-eth1} # the interface to the nodes\n\n\
         # A resilient group keeps flows where they are when next hops are added: a bucket goes over\n\
         # to a new one once it has been idle for idle_timer seconds, and all that must go after\n\
         # unbalanced_timer seconds, busy or not (0: never). The number of buckets cannot be changed.\n\
         ip -batch - <<EOF\n",
    );
    for (is_ipv4, base) in [(true, 400_000), (false, 600_000)] {
        let Some(route) = routes.iter().find(|route| route.is_ipv4() == is_ipv4) else { continue };
        let mut members = Vec::new();
        for (number, hop) in route.hops.iter().enumerate() {
            let id = base + number;
            text += &format!("nexthop replace id {id} via {hop} dev $dev\n");
            members.push(id.to_string());
        }
        let group = base + 99_999;
        text += &format!(
            "nexthop replace id {group} group {} type resilient buckets 8192 idle_timer 60 \
             unbalanced_timer 3600\n",
            members.join("/")
        );
        for route in routes.iter().filter(|route| route.is_ipv4() == is_ipv4) {
            text += &format!("route replace {} proto static nhid {group}\n", route.destination());
        }
    }
    text + "EOF\n"
}

fn linux_routes(routes: &[Route]) -> String {
    let mut text = String::new();
    for route in routes {
        let most = IP_ROUTE_MAX[usize::from(!route.is_ipv4())];
        if route.hops.len() > most {
            text += &format!(
                "\n# ip(8) sends at most some {most} next hops in a route of this family. Use FRRouting\n\
                 # here, or plan fewer: {} has {}.\n",
                route.destination(),
                route.hops.len()
            );
            continue;
        }
        text += &format!("\nip route replace {} proto static", route.destination());
        for hop in &route.hops {
            text += &format!(" \\\n    nexthop via {hop}");
        }
        text.push('\n');
    }
    text
}

/// How many next hops FRRouting is built for in Debian and in its own packages.
const FRR_MAX: usize = 256;

fn frr(routes: &[Route], count: usize) -> String {
    let mut lines = vec![
        "frr.conf, with staticd. The hash is the kernel's: set in /etc/sysctl.d".to_owned(),
        "  net.ipv4.fib_multipath_hash_policy = 1".to_owned(),
        "  net.ipv6.fib_multipath_hash_policy = 1".to_owned(),
        "The bound on next hops is set when FRRouting is built (zebra --version, --enable-multipath;"
            .to_owned(),
        format!("usually {FRR_MAX}), and lowered by zebra -e."),
    ];
    if count > FRR_MAX {
        lines.push(format!("{count} next hops need a build with more."));
    }
    lines.extend(unlisted(count));
    let mut text = comments(Platform::Frr, &lines);
    text += "!\n";
    for route in routes {
        let command = if route.is_ipv4() { "ip route" } else { "ipv6 route" };
        for hop in &route.hops {
            text += &format!("{command} {} {hop}\n", route.destination());
        }
    }
    text + "!\n"
}

fn bird(routes: &[Route], count: usize) -> String {
    let mut lines = vec![
        "bird.conf of BIRD 2. The hash is the kernel's: set in /etc/sysctl.d".to_owned(),
        "  net.ipv4.fib_multipath_hash_policy = 1".to_owned(),
        "  net.ipv6.fib_multipath_hash_policy = 1".to_owned(),
        "If there is a `protocol kernel` already, add the export to it.".to_owned(),
    ];
    lines.extend(unlisted(count));
    let mut text = comments(Platform::Bird, &lines);
    text += "\nprotocol device {\n}\n";
    for (is_ipv4, family) in [(true, "ipv4"), (false, "ipv6")] {
        if !routes.iter().any(|route| route.is_ipv4() == is_ipv4) {
            continue;
        }
        text += &format!(
            "\nprotocol kernel kernel_{family} {{\n    {family} {{\n        import none;\n        \
             export where proto = \"vipdp_{family}\";\n    }};\n}}\n\n\
             protocol static vipdp_{family} {{\n    {family};\n"
        );
        for route in routes.iter().filter(|route| route.is_ipv4() == is_ipv4) {
            text += &format!("    route {}", route.destination());
            for hop in &route.hops {
                text += &format!("\n        via {hop}");
            }
            text += ";\n";
        }
        text += "}\n";
    }
    text
}

fn ios(routes: &[Route], count: usize) -> String {
    let mut lines = vec![
        "Cisco IOS and IOS XE take 16 or 32 next hops in a route, old versions fewer: `show ip"
            .to_owned(),
        "route PREFIX` says how many it has taken.".to_owned(),
    ];
    if count > 32 {
        lines.push(format!("{count} are more than either takes: plan fewer nodes or tiers."));
    }
    let mut text = comments(Platform::Ios, &lines);
    text += "!\n";
    if routes.iter().any(Route::is_ipv4) {
        text += "ip cef\nip cef load-sharing algorithm include-ports source destination\n";
    }
    if !routes.iter().all(Route::is_ipv4) {
        text += "ipv6 unicast-routing\nipv6 cef\n\
                 ipv6 cef load-sharing algorithm include-ports source destination\n";
    }
    text += "!\n";
    for route in routes {
        let destination = match route.vip.network() {
            std::net::IpAddr::V4(network) => {
                let bits = 32 - u32::from(route.vip.prefix_len());
                let mask = u32::MAX.checked_shl(bits).unwrap_or(0);
                format!("ip route {network} {}", std::net::Ipv4Addr::from_bits(mask))
            }
            std::net::IpAddr::V6(_) => format!("ipv6 route {}", route.destination()),
        };
        for hop in &route.hops {
            text += &format!("{destination} {hop}\n");
        }
    }
    text + "!\n"
}

/// How often each next hop stands in a resilient table when it is full.
const EOS_REDUNDANCY: usize = 4;

fn eos(routes: &[Route], count: usize) -> String {
    let mut lines = vec![
        "Arista EOS hashes addresses and ports by default. Where that was changed, on switches with".to_owned(),
        "Trident and Tomahawk chips (others: `load-balance policies`):".to_owned(),
        "  ip load-sharing trident fields ip source-ip source-port destination-ip destination-port".to_owned(),
        "  ip load-sharing trident fields ipv6 source-ip source-port destination-ip destination-port"
            .to_owned(),
        "Most switches take 64 to 128 next hops in a route, some more. Where they can, these keep".to_owned(),
        "flows where they are when next hops are added; the capacity has room for some:".to_owned(),
    ];
    let capacity = (count + 1).next_power_of_two();
    for route in routes {
        let family = if route.is_ipv4() { "ip" } else { "ipv6" };
        lines.push(format!(
            "  {family} hardware fib ecmp resilience {} capacity {capacity} redundancy {EOS_REDUNDANCY}",
            route.destination()
        ));
    }
    let mut text = comments(Platform::Eos, &lines);
    text += "!\n";
    if routes.iter().any(Route::is_ipv4) {
        text += "ip routing\n";
    }
    if !routes.iter().all(Route::is_ipv4) {
        text += "ipv6 unicast-routing\n";
    }
    text += "!\n";
    for route in routes {
        let command = if route.is_ipv4() { "ip route" } else { "ipv6 route" };
        for hop in &route.hops {
            text += &format!("{command} {} {hop}\n", route.destination());
        }
    }
    text + "!\n"
}

/// The bounds on next hops that Junos can be set to; the first is the default.
const JUNOS_WIDTHS: [usize; 6] = [16, 32, 64, 128, 256, 512];

fn junos(routes: &[Route], count: usize) -> String {
    let lines = [
        "For `load set terminal` in configuration mode. `per-packet` is per flow on every router of",
        "today. MPCs of the MX series and the EX and QFX switches hash the ports by default; older",
        "cards need",
        "  set forwarding-options hash-key family inet layer-3",
        "  set forwarding-options hash-key family inet layer-4",
        "On EX and QFX5000 this keeps flows where they are when next hops are added:",
        "  set forwarding-options enhanced-hash-key ecmp-resilient-hash",
    ];
    let mut text = comments(Platform::Junos, &lines);
    match JUNOS_WIDTHS.into_iter().find(|&width| count <= width) {
        Some(width) if width > JUNOS_WIDTHS[0] => {
            text += &comments(Platform::Junos, &["Not every platform goes so far."]);
            text += &format!("set chassis maximum-ecmp {width}\n");
        }
        Some(_) => {}
        None => {
            let line = format!("{count} next hops are more than Junos takes: plan fewer.");
            text += &comments(Platform::Junos, &[line]);
        }
    }
    for (term, is_ipv4) in [("vips4", true), ("vips6", false)] {
        let statement = format!("set policy-options policy-statement vipdp-ecmp term {term}");
        let mut of_family = routes.iter().filter(|route| route.is_ipv4() == is_ipv4).peekable();
        if of_family.peek().is_none() {
            continue;
        }
        for route in of_family {
            text += &format!("{statement} from route-filter {} exact\n", route.destination());
        }
        text += &format!("{statement} then load-balance per-packet\n{statement} then accept\n");
    }
    text += "set routing-options forwarding-table export vipdp-ecmp\n";
    for route in routes {
        let table = if route.is_ipv4() { "static" } else { "rib inet6.0 static" };
        for hop in &route.hops {
            text += &format!(
                "set routing-options {table} route {} next-hop {hop}\n",
                route.destination()
            );
        }
    }
    text
}
