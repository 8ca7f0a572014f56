//! The kernel's own means to accept one client in four: the rules of each.
//!
//! Each is in the shortest form that does the work: one rule that drops what is somebody else's. None
//! has a counter that it could do without.

use super::lab::{Lab, VIP};
use super::rows::Owned;

/// Rules for the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rules {
    /// None: it accepts everything.
    None,
    /// iptables' match `cluster`, which goes by connection tracking (iptables-extensions(8)).
    XtCluster,
    /// nftables' hash of the client's address, before connection tracking would be.
    NftPrerouting,
    /// The same, where frames leave the driver.
    NftNetdev,
    /// The seed's rule, by the last two bits of the client's address, before the routing decision.
    SeedRaw,
    /// The same where the seed has it, after that decision.
    SeedInput,
}

impl Rules {
    /// The command that puts them in place on one of so many nodes, and what it reads.
    pub fn command(self, interface: &str, nodes: u16) -> Option<(Vec<String>, String)> {
        let iptables = |rule: &str| {
            // The legacy tables' own evaluation is faster than nftables' emulation of it.
            let line = format!("iptables-legacy -w -d {VIP} -j DROP {rule}");
            Some((words(&line), String::new()))
        };
        let nft = |family: &str, hook: &str| {
            let rules = format!(
                "table {family} compare {{\n chain incoming {{\n  type filter hook {hook}\n  \
                 ip daddr {VIP} jhash ip saddr mod {nodes} seed 0xdeadbeef != 0 drop\n }}\n}}\n"
            );
            Some((words("nft -f -"), rules))
        };
        match self {
            Self::None => None,
            Self::XtCluster => iptables(&format!(
                "-t mangle -A PREROUTING -m cluster --cluster-total-nodes {nodes} ! --cluster-local-node 1 \
                 --cluster-hash-seed 0xdeadbeef",
            )),
            Self::NftPrerouting => nft("ip", "prerouting priority raw; policy accept;"),
            Self::NftNetdev => {
                nft("netdev", &format!("ingress device {interface} priority 0; policy accept;"))
            }
            // The last bits of an address: as many as name one of the nodes.
            Self::SeedRaw => {
                iptables(&format!("-t raw -A PREROUTING ! -s 0.0.0.0/0.0.0.{}", nodes - 1))
            }
            Self::SeedInput => {
                iptables(&format!("-t filter -A INPUT ! -s 0.0.0.0/0.0.0.{}", nodes - 1))
            }
        }
    }

    /// Whether the kernel keeps an entry for each flow that is accepted.
    pub fn tracks(self) -> bool {
        self == Self::XtCluster
    }

    /// Puts them in place.
    pub(super) fn apply(self, lab: &Lab, owned: Owned) -> anyhow::Result<()> {
        match self.command(lab.node_interface(), owned.nodes()) {
            Some((command, input)) => lab.node().run_with(&command, &input).map(drop),
            None => Ok(()),
        }
    }
}

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_name_the_address_and_drop_what_is_not_ours() {
        let text = |rules: Rules| {
            let (command, input) = rules.command("node0", 4).expect("rules");
            format!("{} {input}", command.join(" "))
        };
        assert_eq!(Rules::None.command("node0", 1), None);
        for rules in [
            Rules::XtCluster,
            Rules::NftPrerouting,
            Rules::NftNetdev,
            Rules::SeedRaw,
            Rules::SeedInput,
        ] {
            let text = text(rules);
            assert!(text.contains(VIP), "{text}");
            assert!(text.to_lowercase().contains("drop"), "{text}");
        }
        assert!(text(Rules::NftNetdev).contains("device node0"));
        assert!(text(Rules::SeedInput).contains("INPUT ! -s 0.0.0.0/0.0.0.3"));
    }
}
