//! A service that comes and goes, as the check that judges it has the cluster see it.

use vipdp::cluster::node::Input;
use vipdp::damping::Damping;
use vipdp::health::{Judge, Outcome, Thresholds};
use vipdp_simulator::network::{Network, parameters};
use vipdp_simulator::{MS, SECOND};

/// The defaults of `[[check]]` and `[check_damping]`.
const THRESHOLDS: Thresholds = Thresholds { rise: 2, fall: 3 };
const DAMPING: Damping = Damping::DEFAULT;
const INTERVAL: u64 = SECOND;

/// What came of a service that is well and ill by turns, for `well` and `ill` turns of its check.
struct Seen {
    /// How often what the node would announce changed.
    announcements: u32,
    /// How often a bucket changed hands.
    moves: u64,
}

/// Ten minutes of it at node 0 of four, judged by `damping`.
fn seen(well: u64, ill: u64, damping: Damping) -> Seen {
    let mut network = Network::settled(parameters(4), 17);
    let mut judge = Judge::new(THRESHOLDS, damping, network.now);
    for _ in 0..THRESHOLDS.rise {
        judge.step(network.now, Outcome::Well);
    }
    let mut announced = network.host(0).node.announces();
    assert!(announced && judge.is_up());
    let mut announcements = 0;
    for turn in 0..600 * SECOND / INTERVAL {
        let outcome = if turn % (well + ill) < well { Outcome::Well } else { Outcome::Ill };
        if judge.step(network.now, outcome).is_some() {
            let willing = judge.is_up();
            network.input(0, Input::Health { willing });
        }
        for _ in 0..INTERVAL / (100 * MS) {
            network.run(100 * MS);
            let now = network.host(0).node.announces();
            announcements += u32::from(now != announced);
            announced = now;
        }
    }
    assert_eq!(network.coverage.worst_dual, 0);
    assert_eq!(network.coverage.worst_gap, 0);
    Seen { announcements, moves: network.coverage.changes }
}

#[test]
fn single_failures_move_nothing() {
    // Fewer in a row than the service takes to fall.
    for (well, ill) in [(1, 1), (5, 2)] {
        let Seen { announcements, moves } = seen(well, ill, DAMPING);
        assert_eq!((announcements, moves), (0, 0), "{well} well, {ill} ill");
    }
}

#[test]
fn a_service_that_flaps_is_left_out_and_flaps_neither_routes_nor_buckets() {
    let none = Damping { penalty: 0, ..DAMPING };
    for (well, ill) in [(4, 4), (12, 4), (20, 5)] {
        let undamped = seen(well, ill, none);
        let damped = seen(well, ill, DAMPING);
        // It falls three times until it is suppressed, and once more each time it is let in again,
        // which takes at least the decay from `suppress` to `reuse`: 79 s.
        let bound = 2 * 3 + 2 * (600 / 79 + 1);
        assert!(
            damped.announcements <= bound && 2 * damped.announcements <= undamped.announcements,
            "{well} well, {ill} ill: {} changes, {} undamped",
            damped.announcements,
            undamped.announcements
        );
        assert!(
            damped.moves <= u64::from(bound) * 1024 && damped.moves <= undamped.moves,
            "{well} well, {ill} ill: {} moves, {} undamped",
            damped.moves,
            undamped.moves
        );
    }
}
