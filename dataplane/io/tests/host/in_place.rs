//! The operator's TAP in the place of a NIC that the kernel does not have.

use std::fs;

use vipdp_core::port::Host;
use vipdp_core::wire::ethernet::MacAddr;
use vipdp_io::host::cleanup;
use vipdp_io::link::{Link, LinkNow, LinkWatch};
use vipdp_io::tap::{Tap, TapError};

use super::lab::{Lab, NIC, NIC_MAC, run, until};
use super::{apply, plan};

const LENT: MacAddr = MacAddr([0x02, 0x53, 0, 0, 0, 7]);
const ETH: &str = "eth7";

#[test]
fn what_is_not_made_as_it_should_be_is_refused_with_how_to_make_it() {
    let lab = Lab::new("refuse");
    lab.in_host(|| {
        run("ip tuntap add dev single mode tap");
        run("ip tuntap add dev tunnel mode tun multi_queue");
        let _another = Tap::create("anothers", 2).unwrap();
        for (name, found) in [
            (ETH, "none of that name"),
            (NIC, "no TAP"),
            ("tunnel", "a TUN"),
            ("anothers", "another program"),
            ("single", "a single queue"),
        ] {
            let error = Tap::attach(name, 1).unwrap_err();
            assert!(matches!(error, TapError::NotInPlace { .. }), "{error}");
            let said = error.to_string();
            let command = format!("ip tuntap add dev {name} mode tap multi_queue vnet_hdr");
            assert!(said.contains(found) && said.contains(&command), "{said}");
        }
        run("ip link delete single");
        run("ip link delete tunnel");
    });
}

#[test]
fn the_host_sends_and_receives_by_it_and_its_carrier_is_what_it_is_told() {
    let lab = Lab::new("inplace");
    lab.in_host(|| {
        run(&format!("ip tuntap add dev {ETH} mode tap multi_queue vnet_hdr"));
        run(&format!("ip address add 198.18.9.1/24 dev {ETH}"));
        run(&format!("ip link set {ETH} up"));
        assert!(!Link::read(ETH).unwrap().running, "nobody has it open");
        let mut queues = Tap::attach(ETH, 2).unwrap();
        let carrier = queues[0].carrier().unwrap();
        let running = || Link::read(ETH).unwrap().running;
        until("a carrier", running);
        let mut watch = LinkWatch::open(&Link::read(ETH).unwrap()).unwrap();
        until("no news", || watch.news().is_none());

        // A question of the kernel's for a neighbour, on whichever queue.
        let socket = std::net::UdpSocket::bind("198.18.9.1:0").unwrap();
        socket.send_to(b"?", "198.18.9.2:9").unwrap();
        let mut buffer = [0; 2048];
        until("an ARP request", || {
            queues.iter_mut().any(|queue| {
                let taken = queue.take(&mut buffer);
                taken.is_some_and(|taken| buffer[..taken.len][12..14] == [0x08, 0x06])
            })
        });

        carrier.set(false).unwrap();
        until("the loss of the carrier", || watch.news() == Some(LinkNow::Down));
        assert!(!running());
        carrier.set(true).unwrap();
        until("the carrier's return", || watch.news() == Some(LinkNow::Up));
        // It outlives whoever has it open, without a carrier.
        drop((queues, carrier));
        until("the loss of the carrier", || watch.news() == Some(LinkNow::Down));
        run(&format!("ip link delete {ETH}"));
        until("its removal", || watch.news() == Some(LinkNow::Gone));
        run(&format!("ip tuntap add dev {ETH} mode tap multi_queue"));
        until("another one", || watch.news() == Some(LinkNow::Another));
    });
}

#[test]
fn a_mac_address_that_was_lent_is_given_back() {
    let lab = Lab::new("lent");
    let (state, killed) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mac = || Link::read(NIC).unwrap().mac;
    lab.in_host(|| {
        let (_tap, mut guard) = apply(&plan(state.path()));
        guard.lend_mac(NIC, LENT).unwrap();
        assert_eq!(mac(), LENT);
        let report = guard.restore().unwrap();
        assert_eq!(mac(), NIC_MAC);
        let said = format!("the MAC address of {NIC} is {NIC_MAC} again");
        assert!(report.restored.contains(&said), "{report:?}");

        // By the next process, too, where that one had no time to.
        let (tap, mut guard) = apply(&plan(state.path()));
        guard.lend_mac(NIC, LENT).unwrap();
        let file = format!("{NIC}.state");
        fs::copy(state.path().join(&file), killed.path().join(&file)).unwrap();
        let report = cleanup(killed.path(), NIC).unwrap();
        assert!(report.restored.contains(&said), "{report:?}");
        assert_eq!(mac(), NIC_MAC);

        // What somebody has given it since stays.
        let other = MacAddr([0x02, 0x53, 0, 0, 0, 8]);
        run(&format!("ip link set {NIC} address {other}"));
        let report = guard.restore().unwrap();
        assert_eq!((mac(), report.left_alone.len()), (other, 1), "{report:?}");
        drop(tap);
    });
}
