//! Checks side by side.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use vipdp::damping::Damping;
use vipdp::health::{CheckConfig, Monitor, ProbeConfig, State, Thresholds};

use crate::lab::{AMPLE, NO_DAMPING, VIP, check, in_a_namespace, port, wait_for};

fn address() -> SocketAddr {
    SocketAddr::new(VIP.parse().unwrap(), port())
}

fn states(monitor: &Monitor) -> Vec<State> {
    monitor.view().iter().map(|view| view.judgement.state).collect()
}

#[test]
fn a_node_without_checks_is_healthy() {
    let monitor = Monitor::start(&[], NO_DAMPING, || {}).unwrap();
    assert!(monitor.healthy());
    assert!(monitor.view().is_empty());
}

#[test]
fn a_node_is_healthy_while_all_checks_are_up_and_every_change_rings() {
    in_a_namespace(|| {
        let (one, two) = (address(), address());
        let config = [one, two].map(|address| CheckConfig {
            thresholds: Thresholds { rise: 2, fall: 3 },
            ..check(ProbeConfig::Tcp(address), AMPLE)
        });
        let rings = Arc::new(AtomicU32::new(0));
        let bell = Arc::clone(&rings);
        let first = TcpListener::bind(one).unwrap();
        let ring = move || {
            bell.fetch_add(1, Ordering::Relaxed);
        };
        let monitor = Monitor::start(&config, NO_DAMPING, ring).unwrap();
        assert!(!monitor.healthy(), "before the first verdict");
        wait_for("one is up, the other down", || {
            (states(&monitor) == [State::Up, State::Down]).then_some(())
        });
        assert!(!monitor.healthy());
        let second = TcpListener::bind(two).unwrap();
        wait_for("both are up", || monitor.healthy().then_some(()));
        assert_eq!(states(&monitor), [State::Up, State::Up]);
        let well = monitor.view()[1].judgement.counts.well;
        drop(second);
        wait_for("one is down again", || (!monitor.healthy()).then_some(()));
        let view = monitor.view().remove(1);
        assert_eq!((view.judgement.state, view.judgement.counts.falls), (State::Down, 1));
        assert!(view.judgement.counts.well >= well && view.judgement.counts.ill >= 3);
        assert_eq!(rings.load(Ordering::Relaxed), 4, "up, down, up, down");
        drop(first);
    });
}

#[test]
fn a_check_that_flaps_is_suppressed_and_taken_back() {
    in_a_namespace(|| {
        let address = address();
        // As in earnest, but for the time: seconds for minutes.
        let damping = Damping {
            penalty: 1000,
            half_life_ns: 1_000_000_000,
            suppress: 1900,
            reuse: 1000,
            max_ns: 3_000_000_000,
        };
        let monitor =
            Monitor::start(&[check(ProbeConfig::Tcp(address), AMPLE)], damping, || {}).unwrap();
        let mut service = None;
        for _ in 0..100 {
            service = Some(TcpListener::bind(address).unwrap());
            let well = |monitor: &Monitor| monitor.view()[0].judgement.counts.well;
            let before = well(&monitor);
            wait_for("it was found well", || (well(&monitor) > before).then_some(()));
            if monitor.view()[0].judgement.state == State::Suppressed {
                break;
            }
            service = None;
            wait_for("it was found ill", || (!monitor.healthy()).then_some(()));
        }
        let view = monitor.view().remove(0);
        assert_eq!(view.judgement.state, State::Suppressed, "{view:?}");
        assert!(view.judgement.suppressed_for_ns > 0, "{view:?}");
        assert!(!monitor.healthy());
        wait_for("it is taken back", || monitor.healthy().then_some(()));
        drop(service);
    });
}

/// A server that says nothing keeps no thread.
#[test]
fn checks_stop_while_they_wait() {
    in_a_namespace(|| {
        let address = address();
        let silent = TcpListener::bind(address).unwrap();
        let probe = vipdp::health::HttpProbe {
            secure: false,
            address,
            host: VIP.into(),
            path: "/".into(),
            statuses: [200].into(),
            body: None,
            verify: true,
        };
        let config = vec![check(ProbeConfig::Http(probe), 100 * AMPLE); 32];
        let monitor = Monitor::start(&config, NO_DAMPING, || {}).unwrap();
        let accepted: Vec<_> = (0..32).map(|_| silent.accept().unwrap()).collect();
        let begin = Instant::now();
        drop(monitor);
        assert!(begin.elapsed() < Duration::from_secs(10), "{:?}", begin.elapsed());
        drop(accepted);
    });
}
