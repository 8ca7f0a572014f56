//! Everything on a host that vipdp might change, before and after.

use std::collections::BTreeMap;

use crate::namespace::Namespace;

/// Prints every setting of the network and the files of the NIC that can be written: path, zero
/// byte, line. Counters and clocks are not settings, and cannot be written.
const SETTINGS: &str = "\
    find /proc/sys/net -type f -perm -u+w -exec grep -sHZ '' {} +; \
    find -L /sys/class/net -maxdepth 2 -type f -perm -u+w -exec grep -sHZ '' {} +";

/// Commands whose output lists what there is; each line is one thing. Promiscuity, XDP programs and
/// queues are in the first one.
const LISTS: [&str; 11] = [
    "ip -d link show",
    "ip address show",
    "ip -4 route show table all",
    "ip -6 route show table all",
    "ip -4 rule show",
    "ip -6 rule show",
    "ip maddress show",
    "ip tuntap show",
    "ethtool --show-features eth0",
    "ss -H -l -n -t -u -x -A raw,packet,vsock",
    "nft list ruleset",
];

/// A host's settings and lists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostState(BTreeMap<String, String>);

impl HostState {
    /// Reads the state of the host that a namespace is.
    #[track_caller]
    pub fn read(host: &Namespace) -> Self {
        let output = host.command("sh").args(["-c", SETTINGS]).output().expect("sh runs");
        let text = String::from_utf8(output.stdout).expect("text");
        let mut state: BTreeMap<String, String> = BTreeMap::new();
        for (path, line) in text.lines().filter_map(|line| line.split_once('\0')) {
            state.entry(path.to_owned()).or_default().extend([line, "\n"]);
        }
        assert!(state.len() > 300, "only {} settings of the host were read", state.len());
        for list in LISTS {
            state.insert(list.to_owned(), host.run(list));
        }
        Self(state)
    }

    /// Everything that is not as it was in `earlier`, a line each.
    pub fn changes_since(&self, earlier: &Self) -> Vec<String> {
        let keys: std::collections::BTreeSet<_> = self.0.keys().chain(earlier.0.keys()).collect();
        let none = String::new();
        let mut changes = Vec::new();
        for key in keys {
            let (then, now) =
                (earlier.0.get(key).unwrap_or(&none), self.0.get(key).unwrap_or(&none));
            let lost = then.lines().filter(|line| !now.lines().any(|other| other == *line));
            let new = now.lines().filter(|line| !then.lines().any(|other| other == *line));
            changes.extend(lost.map(|line| format!("{key}: no longer {line}")));
            changes.extend(new.map(|line| format!("{key}: now {line}")));
        }
        changes
    }
}
