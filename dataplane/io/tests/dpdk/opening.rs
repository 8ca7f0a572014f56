//! What cannot be opened, and how that is said; what a start finds of those before.

use std::fs;
use std::path::Path;

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

#[test]
fn a_start_removes_what_killed_processes_left() {
    alone("opening::a_start_removes_what_killed_processes_left", || {
        let directory = |process| Path::new("/var/run/dpdk").join(format!("vipdp-{process}"));
        // No process has so high a number: the kernel's highest is 4194304.
        let ended = directory(4_200_000_002);
        let living = directory(std::os::unix::process::parent_id());
        for directory in [&ended, &living] {
            fs::create_dir_all(directory).expect("created");
        }
        let nic = open("net_ring0");
        let own = directory(std::process::id());
        assert!(own.exists() && living.exists() && !ended.exists());
        drop(nic);
        assert!(!own.exists());
        fs::remove_dir(living).expect("removed");
    });
}
