//! What cannot be opened, and how that is said.

use vipdp_io::dpdk::{Nic, OpenError, Options};

use crate::alone::alone;
use crate::{open, options};

fn error(options: &Options) -> OpenError {
    Nic::open(options).map(drop).expect_err("it cannot be opened")
}

#[test]
fn it_starts_once_in_a_process() {
    alone("opening::it_starts_once_in_a_process", || {
        drop(open("net_ring0"));
        assert!(matches!(error(&options("net_ring0")), OpenError::Again));
    });
}

#[test]
fn options_that_will_not_do_start_nothing() {
    alone("opening::options_that_will_not_do_start_nothing", || {
        let refused = error(&Options { mtu: 9000, ..options("net_ring0") });
        assert!(matches!(refused, OpenError::Mtu(9000)), "{refused}");
        drop(open("net_ring0"));
    });
}

#[test]
fn a_device_that_is_not_there_is_named() {
    alone("opening::a_device_that_is_not_there_is_named", || {
        let error = error(&options("0000:ff:1f.7"));
        assert!(matches!(error, OpenError::NoDevice(_)), "{error}");
        assert!(error.to_string().contains("0000:ff:1f.7"), "{error}");
        assert!(error.to_string().contains("dpdk-devbind.py"), "{error}");
    });
}

#[test]
fn a_driver_that_is_not_there_is_named() {
    alone("opening::a_driver_that_is_not_there_is_named", || {
        let error = error(&options("net_nothing0"));
        assert!(matches!(error, OpenError::Eal { .. } | OpenError::NoDevice(_)), "{error}");
        assert!(error.to_string().contains("net_nothing0"), "{error}");
    });
}

#[test]
fn an_interface_that_is_not_there_is_refused() {
    alone("opening::an_interface_that_is_not_there_is_refused", || {
        let error = error(&options("net_af_packet0,iface=nothing0"));
        assert!(matches!(error, OpenError::Eal { .. } | OpenError::NoDevice(_)), "{error}");
    });
}
