//! A cluster that nothing comes to leaves its cores alone, and answers the first query that comes.
//!
//! ```text
//!   vd-client --- vd-router --(lan)-- br0 -+- vd-n1
//!    dns-load                              +- vd-n2  vipdp, knot; poll = "adaptive"
//! ```

use std::fs;
use std::time::{Duration, Instant};

use vipdp_tests::lab::{Lab, Options};
use vipdp_tests::load::Load;

const NODES: [&str; 2] = ["n1", "n2"];
/// How long nothing comes: fifty times as long as a worker sleeps at most.
const IDLE: Duration = Duration::from_secs(1);
/// What all threads of an idle vipdp may take of a core. It is less than one in a hundred; with a worker that never
/// sleeps it is all of the core that nobody else wants.
const SHARE_MAX: f64 = 0.1;

#[test]
fn an_idle_node_leaves_its_core_alone_and_answers_the_first_query() {
    idles(&Lab::up(&Options { nodes: 2, ..Options::default() }));
}

#[test]
fn so_it_does_when_answers_leave_through_the_data_plane() {
    idles(&Lab::up(&Options { nodes: 2, egress: "tap", ..Options::default() }));
}

/// Twice, so that the second time is after load.
fn idles(lab: &Lab) {
    for _ in 0..2 {
        let (begin, before) = (Instant::now(), NODES.map(|node| run_time(lab, node)));
        // Not to wait for anything: this is the time in which nothing is to happen.
        std::thread::sleep(IDLE);
        for (node, before) in NODES.iter().zip(before) {
            let share =
                (run_time(lab, node) - before).as_secs_f64() / begin.elapsed().as_secs_f64();
            lab.say(&format!("{node} took {:.2} % of a core", share * 100.0));
            assert!(share < SHARE_MAX, "{node}, idle, takes {share:.2} of a core");
            // Asleep, and not taken for stuck.
            let status = lab.status(node);
            assert!(status.node.willing && status.buckets.owned > 0, "{:?}", status.node);
        }
        // One from each of some clients, so that both nodes are asked.
        let report = Load::start(lab, "--queries 16 --rate 100 --distinct").finish();
        report.assert_all_answered_once();
        assert_eq!(report.totals.sent, 16);
    }
}

/// How long all threads of a node's vipdp have run.
#[track_caller]
fn run_time(lab: &Lab, node: &str) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{}/task", lab.pid(node))).expect("vipdp runs");
    let run_ns = tasks.map(|task| {
        let path = task.expect("a thread").path().join("schedstat");
        let text = fs::read_to_string(path).expect("the scheduler counts");
        let first = text.split_whitespace().next().expect("the time that the thread has run");
        first.parse::<u64>().expect("nanoseconds")
    });
    Duration::from_nanos(run_ns.sum())
}
