//! What this host makes of a configuration that is right in itself: said by `vipdp check`, and in the log at the start.

use std::path::Path;

use vipdp_core::offload::OffloadMode;
use vipdp_io::flow_file;
use vipdp_io::link::Link;

use crate::config::{Config, IoConfig, XdpMode};

/// What keeps vipdp from starting on this host, if anything does: a sentence each. At the start they are errors.
pub fn obstacles(config: &Config) -> Vec<String> {
    let protocol = super::cluster_config(config).err();
    let interface = match &config.node.io {
        IoConfig::AfXdp => obstacle_of(config).err(),
        // Its interface may be made later, and has no carrier before vipdp runs.
        IoConfig::Dpdk(_) => None,
    };
    let said = |error: anyhow::Error| format!("vipdp does not start here: {error:#}");
    protocol.into_iter().chain(interface).map(said).collect()
}

fn obstacle_of(config: &Config) -> anyhow::Result<()> {
    let interface = config.node.interface.as_str();
    let link = Link::read(interface)?;
    super::check_own_mac(config, interface, link.mac)?;
    Ok(link.require_running()?)
}

/// What of this host may not be what is wanted with `config`: a sentence each. Nothing of a NIC that is not there.
pub fn notes(config: &Config) -> Vec<String> {
    let nic = match (&config.node.io, Link::read(config.node.interface.as_str())) {
        (IoConfig::AfXdp, Ok(link)) => Some(Nic::of(&link)),
        _ => None,
    };
    let of_nic = nic.into_iter().flat_map(|nic| notes_of_nic(config, nic));
    of_nic.chain(note_of_flows(config)).collect()
}

/// What there is to know about a NIC.
#[derive(Clone, Copy, Debug, Default)]
struct Nic {
    is_vlan: bool,
    is_bond: bool,
    is_virtual: bool,
    has_threads: bool,
    strips_tags: bool,
}

impl Nic {
    fn of(link: &Link) -> Self {
        Self {
            is_vlan: link.is_vlan(),
            is_bond: link.is_bond(),
            is_virtual: link.driver().is_none(),
            has_threads: link.has_threads(),
            strips_tags: link.strips_tags(),
        }
    }
}

fn notes_of_nic(config: &Config, nic: Nic) -> Vec<String> {
    let (file, interface) = (config.node.path.display(), config.node.interface.as_str());
    let is_native = config.node.xdp == XdpMode::Native;
    let mut notes = Vec::new();
    if nic.is_vlan {
        notes.push(format!(
            "{file}: interface: found \"{interface}\", the interface of a VLAN: the XDP program runs in the stack, and \
             packets from hosts on the same machine, whose checksums are not made, are lost; give the NIC as \
             interface, this one as heartbeat_interface, and `vlan` in cluster.toml"
        ));
    }
    if is_native && nic.is_bond {
        notes.push(format!(
            "{file}: xdp: found \"native\" on {interface}, a bond: the kernel may drop all packets to the VIPs; give \
             \"auto\""
        ));
    }
    if is_native && nic.is_virtual && config.node.offload == Some(OffloadMode::Full) {
        notes.push(format!(
            "{file}: xdp: found \"native\" beside offload = \"full\" on {interface}, a virtual NIC: the host may not \
             take packets that were sent from a socket of this machine; give \"auto\""
        ));
    }
    if nic.has_threads {
        notes.push(format!(
            "{file}: interface: found \"{interface}\", which the kernel receives by threads of its own, beside workers \
             that poll: packets may wait for either; write 0 to /sys/class/net/{interface}/threaded"
        ));
    }
    if let (Some(vlan), true) = (config.cluster.vlan, nic.strips_tags) {
        notes.push(format!(
            "{}: vlan: found {vlan}, but {interface} takes the tags off received frames, so that no packet is known to be \
             to the VIPs; run `ethtool -K {interface} rxvlan off`",
            config.node.cluster_path.display()
        ));
    }
    notes
}

fn note_of_flows(config: &Config) -> Option<String> {
    let path: &Path = config.node.flows_file.as_deref()?;
    // Where nothing tells, the start does.
    (!flow_file::is_in_memory(path).ok()?).then(|| {
        format!(
            "{}: flows_file: found \"{}\", not on a file system in memory: workers will wait for the disk now and \
             then; give a file on a tmpfs, as /run is on most hosts",
            config.node.path.display(),
            path.display()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Source;

    /// The base of the tests' configurations with `lines` in the node's file.
    fn config(lines: &str) -> Config {
        config_of("node.toml", lines)
    }

    /// The same with lines at the beginning of the file of this name.
    fn config_of(file: &str, lines: &str) -> Config {
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/config/base");
        let config = Config::from_sources(Path::new("node.toml"), |path| {
            let mut text = std::fs::read_to_string(base.join(path))?;
            if path.ends_with(file) {
                text.insert_str(0, lines);
            }
            Ok(Source { text, mode: 0o600 })
        });
        config.unwrap_or_else(|errors| panic!("{errors}"))
    }

    /// The keys that the notes are about.
    fn noted(lines: &str, nic: Nic) -> Vec<String> {
        let notes = notes_of_nic(&config(lines), nic);
        let key = |note: &String| note.split(": ").nth(1).map(str::to_owned);
        notes.iter().filter_map(key).collect()
    }

    #[test]
    fn a_nic_like_most_is_not_remarked_upon() {
        let nic = Nic::default();
        for lines in ["", "xdp = \"native\"\n", "poll = \"busy\"\noffload = \"full\"\n"] {
            assert_eq!(noted(lines, nic), [""; 0], "{lines}");
        }
    }

    #[test]
    fn a_vlan_and_threads_are_noted_whatever_the_file_says() {
        let nic = Nic { is_vlan: true, has_threads: true, ..Nic::default() };
        assert_eq!(noted("", nic), ["interface", "interface"]);
        let notes = notes_of_nic(&config("poll = \"busy\"\n"), nic);
        assert!(notes[0].contains("\"eth0\", the interface of a VLAN"), "{notes:?}");
        assert!(notes[1].contains("write 0 to /sys/class/net/eth0/threaded"), "{notes:?}");
    }

    #[test]
    fn a_nic_that_takes_tags_off_is_noted_where_the_vips_have_one() {
        let nic = Nic { strips_tags: true, ..Nic::default() };
        assert_eq!(noted("", nic), [""; 0]);
        let tagged = config_of("cluster.toml", "vlan = 100\n");
        assert_eq!(notes_of_nic(&tagged, Nic::default()), [""; 0]);
        let notes = notes_of_nic(&tagged, nic);
        assert!(notes[0].starts_with("cluster.toml: vlan: found 100"), "{notes:?}");
        assert!(notes[0].ends_with("run `ethtool -K eth0 rxvlan off`"), "{notes:?}");
    }

    #[test]
    fn native_is_noted_where_the_kernel_loses_packets_by_it() {
        let bond = Nic { is_bond: true, is_virtual: true, ..Nic::default() };
        let veth = Nic { is_virtual: true, ..Nic::default() };
        let native = "xdp = \"native\"\n";
        let full = "offload = \"full\"\n";
        assert_eq!(noted("", bond), [""; 0]);
        assert_eq!(noted(native, bond), ["xdp"]);
        assert_eq!(noted(native, veth), [""; 0]);
        assert_eq!(noted(full, veth), [""; 0]);
        assert_eq!(noted(&(native.to_owned() + full), veth), ["xdp"]);
    }

    #[test]
    fn a_flow_table_on_a_disk_is_noted() {
        let note = note_of_flows(&config("flows_file = \"/proc/eth0.flows\"\n"));
        assert!(note.is_some_and(|note| note.contains("\"/proc/eth0.flows\"")));
        assert_eq!(note_of_flows(&config("flows_file = \"none\"\n")), None);
    }

    #[test]
    fn an_interface_that_cannot_serve_is_an_obstacle() {
        let mut config = config("");
        let mut said = |interface: &str| {
            config.node.interface = interface.parse().expect("a name");
            obstacles(&config).join("\n")
        };
        assert!(said("lo").contains("interface lo: it is not an Ethernet interface"));
        assert!(said("vdno-such").contains("vdno-such: there is none of that name"));
    }
}
