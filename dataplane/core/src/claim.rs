//! Frames that claim a next-hop address, and those that ask first whether anybody has it.
//!
//! Unlike answers ([`reply`](crate::reply)), nobody has asked for them: the control thread has them
//! sent. All are for the whole segment: a reply to one host is never heard by the others.
//!
//! | frame | Ethernet source | to | says |
//! |---|---|---|---|
//! | ARP announcement (RFC 5227, section 2.3) | the MAC address claimed | broadcast | request; sender and target are the address |
//! | ARP reply form (RFC 5944, section 4.6) | the same | broadcast | reply; sender and target are the address and the MAC address |
//! | neighbour advertisement (RFC 4861, section 7.2.6) | the same | all nodes | unsolicited, with the override flag |
//! | ARP probe (RFC 5227, section 2.1.1) | the node's own | broadcast | request from the unspecified address |
//! | duplicate address detection (RFC 4862, section 5.4.2) | the node's own | solicited-node group | solicitation from the unspecified address |
//!
//! A claim comes from the MAC address that it claims, so that switches learn in the same moment where
//! that is. A probe must not: it would draw the owner's frames away before anything is decided.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::bucket::Bucket;
use crate::snapshot::{Ingress, Service};
use crate::wire::ethernet::{self, MacAddr, PAYLOAD_MIN};
use crate::wire::{arp, ipv6, ndp, protocol};

/// The two forms of an ARP packet that nobody asked for. Some hosts believe one of them only, so an
/// address is claimed by both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArpForm {
    /// An announcement: what RFC 5227 wants.
    Request,
    /// A reply: what some older hosts want.
    Reply,
}

/// All frames that claim the next-hop address numbered `number` for this node, of each family that
/// has one; none in another mode than the tiered.
pub fn frames(service: &Service, number: Bucket) -> Vec<Vec<u8>> {
    let Ingress::Tiered(tiered) = &service.ingress else { return Vec::new() };
    let mac = tiered.mac_of(number, service.own_mac);
    let mut frames = Vec::new();
    if let Some(address) = tiered.address_v4(number) {
        for form in [ArpForm::Request, ArpForm::Reply] {
            frames.push(arp_claim(address, mac, form, service.vlan));
        }
    }
    if let Some(address) = tiered.address_v6(number) {
        frames.push(advertisement(address, mac, service.vlan));
    }
    frames
}

/// All frames that ask whether anybody has the next-hop address numbered `number`, of each family
/// that has one; none in another mode than the tiered. Its owner answers, if there is one.
pub fn probes(service: &Service, number: Bucket) -> Vec<Vec<u8>> {
    let Ingress::Tiered(tiered) = &service.ingress else { return Vec::new() };
    let own = service.own_mac;
    let v4 = tiered.address_v4(number).map(|address| arp_probe(address, own, service.vlan));
    let v6 = tiered.address_v6(number).map(|address| detection(address, own, service.vlan));
    v4.into_iter().chain(v6).collect()
}

/// An ARP packet to everyone: `address` is at `mac`.
pub fn arp_claim(address: Ipv4Addr, mac: MacAddr, form: ArpForm, vlan: Option<u16>) -> Vec<u8> {
    arp_frame(mac, vlan, |packet| match form {
        ArpForm::Request => arp::emit_request(packet, mac, address, address),
        ArpForm::Reply => arp::emit_reply(packet, mac, address, mac, address),
    })
}

/// An ARP packet to everyone, from a node at `own_mac`: has anybody got `address`?
pub fn arp_probe(address: Ipv4Addr, own_mac: MacAddr, vlan: Option<u16>) -> Vec<u8> {
    arp_frame(own_mac, vlan, |packet| {
        arp::emit_request(packet, own_mac, Ipv4Addr::UNSPECIFIED, address);
    })
}

/// An advertisement to all nodes: `address` is at `mac`, whatever they believe.
pub fn advertisement(address: Ipv6Addr, mac: MacAddr, vlan: Option<u16>) -> Vec<u8> {
    ndp_frame(mac, vlan, address, ndp::ALL_NODES, |message: &mut [u8; ndp::ADVERTISEMENT_LEN]| {
        ndp::emit_advertisement(message, address, mac, ndp::ALL_NODES, false);
    })
}

/// A solicitation of duplicate address detection, from a node at `own_mac`: has anybody got
/// `address`?
pub fn detection(address: Ipv6Addr, own_mac: MacAddr, vlan: Option<u16>) -> Vec<u8> {
    let group = ndp::solicited_node(address);
    let src = Ipv6Addr::UNSPECIFIED;
    ndp_frame(own_mac, vlan, src, group, |message: &mut [u8; ndp::HEADER_LEN]| {
        ndp::emit_detection(message, address, group);
    })
}

fn arp_frame(src: MacAddr, vlan: Option<u16>, emit: impl FnOnce(&mut [u8; arp::LEN])) -> Vec<u8> {
    let mut packet = [0; arp::LEN];
    emit(&mut packet);
    let mut frame = link_header(MacAddr::BROADCAST, src, vlan, ethernet::ARP);
    frame.extend(packet);
    frame.extend([0; PAYLOAD_MIN - arp::LEN]);
    frame
}

fn ndp_frame<const LEN: usize>(
    mac: MacAddr,
    vlan: Option<u16>,
    src: Ipv6Addr,
    dst: Ipv6Addr,
    emit: impl FnOnce(&mut [u8; LEN]),
) -> Vec<u8> {
    let (mut header, mut message) = ([0; ipv6::HEADER_LEN], [0; LEN]);
    ipv6::emit_header(&mut header, LEN as u16, protocol::ICMPV6, ndp::HOP_LIMIT, src, dst);
    emit(&mut message);
    let group = MacAddr::of_ipv6_group(dst).expect("claims and questions go to a group");
    let mut frame = link_header(group, mac, vlan, ethernet::IPV6);
    frame.extend(header);
    frame.extend(message);
    frame
}

fn link_header(dst: MacAddr, src: MacAddr, vlan: Option<u16>, ether_type: u16) -> Vec<u8> {
    let mut header = [dst.0, src.0].concat();
    if let Some(vlan) = vlan {
        header.extend(ethernet::VLAN.to_be_bytes());
        header.extend(vlan.to_be_bytes());
    }
    header.extend(ether_type.to_be_bytes());
    header
}
