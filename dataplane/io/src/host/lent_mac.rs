//! The NIC's MAC address, on the TAP that stands in its place where the kernel has no NIC.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage};
use vipdp_core::wire::ethernet::MacAddr;

use super::changes::Changes;
use super::state::LentMac;
use super::{HostError, HostGuard, Report};
use crate::link::{Link, LinkError, NetlinkError};

impl HostGuard {
    /// Gives `interface` the MAC address, until the host is put back.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lend_mac(&mut self, interface: &str, mac: MacAddr) -> Result<(), HostError> {
        let link = Link::read(interface)?;
        if link.mac == mac {
            return Ok(());
        }
        let file = self.file();
        let interface = interface.to_owned();
        file.state.lent_mac = Some(LentMac { interface, original: link.mac.0, ours: mac.0 });
        file.save()?;
        Ok(self.changes.set_mac(&link, mac)?)
    }
}

impl Changes {
    fn set_mac(&mut self, link: &Link, mac: MacAddr) -> Result<(), NetlinkError> {
        let mut request = LinkMessage::default();
        request.header.index = link.index;
        request.attributes = vec![LinkAttribute::Address(mac.0.to_vec())];
        let what = format!("give {} the MAC address {mac}", link.name);
        self.netlink.change(&what, RouteNetlinkMessage::SetLink(request), 0)
    }

    /// Gives the interface its own MAC address back, unless somebody has given it another since.
    pub(super) fn put_back_mac(&mut self, lent: &LentMac, report: &mut Report) {
        let LentMac { interface, original, ours } = lent;
        let [original, ours] = [MacAddr(*original), MacAddr(*ours)];
        let link = match self.find(interface) {
            Ok(link) => link,
            Err(HostError::Link(LinkError::Missing { .. })) => return,
            Err(error) => return report.failed.push(error.to_string()),
        };
        if link.mac == original {
            return;
        }
        if link.mac != ours {
            let current = link.mac;
            let what =
                format!("the MAC address of {interface} is {current}, we had made it {ours}");
            return report.left_alone.push(what);
        }
        match self.set_mac(&link, original) {
            Ok(()) => {
                report.restored.push(format!("the MAC address of {interface} is {original} again"));
            }
            Err(error) => report.failed.push(error.to_string()),
        }
    }
}
