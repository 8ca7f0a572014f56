//! The cluster protocol with one rule broken at a time, for the simulator to find out.
//!
//! A check that no broken rule violates checks nothing, and a rule whose loss nothing notices is
//! either not needed or not tested. Each mutant here is a line of `control/src/cluster` changed;
//! the test applies it to a copy of the sources, builds the simulator against that, and asserts
//! that some scenario's check is violated, or a test of whole clusters fails.

use std::path::{Path, PathBuf};

mod bench;

pub use bench::{Bench, Verdict};

/// A rule broken.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name in the table.
    pub name: &'static str,
    /// The file, under `control/src/cluster`.
    pub file: &'static str,
    /// What stands there, exactly once.
    pub before: &'static str,
    /// What stands there instead.
    pub after: &'static str,
    /// The rule of PROTOCOL.md that it breaks.
    pub rule: &'static str,
    /// The scenarios to try first: those in which the rule matters. `SCENARIO@LOSS/SEED` is a
    /// single run.
    pub first: &'static [&'static str],
}

/// All mutants. A candidate's rank ignored is found out by the model, in `tests/model`.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "barrier not waited for",
        file: "node/ownership.rs",
        before: "Some(seq) => barrier.iter().all(|&acked| acked >= seq),",
        after: "Some(_) => true,",
        rule: "Candidate -> Owner: every j in S acknowledged",
        first: &["start-together", "drain-and-return", "crash"],
    },
    Mutant {
        name: "echo not waited for",
        file: "node/receive.rs",
        before: "let echoed = peer.out_batch.is_some() && entry.transfer_accepted == peer.out_number;",
        after: "let echoed = peer.out_batch.is_some();",
        rule: "Yielding -> Idle: j echoed >= x",
        first: &["drain-and-return", "drain-and-leave"],
    },
    Mutant {
        name: "hand-off withdrawn",
        file: "node/transfer.rs",
        before: "let mut astray = self.owned.clone();",
        after: "let mut back = self.yielding.clone(); back.retain_all(self.targets.mine()); \
                self.take_out_of_batches(&back); self.owned.insert_all(&back); \
                self.table_changed |= !back.is_empty(); let mut astray = self.owned.clone();",
        rule: "Yielding is never withdrawn",
        first: &["drain-all", "drain-and-return", "flapping", "chaos"],
    },
    Mutant {
        name: "repeated sequence number accepted",
        file: "node/receive.rs",
        before: "return if seq > peer.heard_seq { Ok(()) } else { Err(OpenError::Replayed) };",
        after: "return Ok(());",
        rule: "5: then strictly increasing seq",
        first: &["replay-of-moves", "replay-after-reboot"],
    },
    Mutant {
        name: "ended session accepted",
        file: "node/receive.rs",
        before: "if peer.is_retired(session) {",
        after: "if peer.is_retired(session) && seq == 0 {",
        rule: "5: retired sessions are remembered",
        first: &["replay-after-reboot", "restart-within-d"],
    },
    Mutant {
        name: "relayed liveness ignored",
        file: "node/receive.rs",
        before: "if !peer.advance(seq, now) {",
        after: "if seq <= u64::MAX {",
        rule: "alive(j): heard directly or relayed",
        first: &["one-way-cut", "pair-cut", "steady"],
    },
    Mutant {
        name: "hold skipped",
        file: "node/phase.rs",
        before: "if self.anybody_claims() {\n            self.hold_until = Some(self.now + self.timing.hold_ns);",
        after: "if self.anybody_claims() {\n            self.hold_until = None;",
        rule: "Start: if anyone holds claims, share stays 0 for hold",
        first: &["crash-and-failback", "restart-within-d", "flapping"],
    },
    Mutant {
        name: "listening skipped",
        file: "node/phase.rs",
        before: "if ticks && self.now >= until ||",
        after: "if ticks && self.now + self.detection_ns() >= until ||",
        rule: "Start: LISTEN for D+h",
        first: &["start-one-by-one", "restart-within-d", "crash-and-failback"],
    },
    Mutant {
        name: "router heard, members not",
        file: "node/phase.rs",
        before: "} else if self.config.partition() != Partition::Majority && self.misses_anybody() {",
        after: "} else if self.config.partition() == Partition::None && self.misses_anybody() {",
        rule: "gateway: who comes back from a cut listens before it serves",
        first: &["gateway-link-cut"],
    },
    Mutant {
        name: "late loop keeps what it had",
        file: "node/phase.rs",
        before: "} else if late > self.detection_ns() - self.timing.heartbeat_ns {",
        after: "} else if late > 1000 * self.detection_ns() {",
        rule: "any -> Idle: my loop is late by more than D - h",
        first: &["stopped-3d", "all-stopped"],
    },
    Mutant {
        name: "lease longer by h",
        file: "node/send.rs",
        before: "let lease = self.detection_ns() - self.timing.heartbeat_ns;",
        after: "let lease = self.detection_ns();",
        rule: "lease_until = now + D - h",
        first: &["stopped-3d"],
    },
    Mutant {
        name: "detection shorter by 2h",
        file: "node/liveness.rs",
        before: "if peer.alive && now >= peer.known_at + detection {",
        after: "if peer.alive && now >= peer.known_at + detection * 3 / 5 {",
        rule: "alive(j): advanced within D",
        first: &["steady", "loss-bursts"],
    },
    Mutant {
        name: "detection longer by 5h",
        file: "node/liveness.rs",
        before: "if peer.alive && now >= peer.known_at + detection {",
        after: "if peer.alive && now >= peer.known_at + 2 * detection {",
        rule: "L1: crash gap <= D+3h",
        first: &["crash"],
    },
    Mutant {
        name: "two owners stay",
        file: "node/ownership.rs",
        before: "if peer.config > mine || comes_first {",
        after: "if peer.config > mine && comes_first {",
        rule: "Owner -> Idle: target claims r without yielding",
        first: &["partition-none", "pair-cut", "delay-burst"],
    },
    Mutant {
        name: "one node is a majority",
        file: "node/vote.rs",
        before: "times.get(members.len() / 2).copied()",
        after: "times.first().copied()",
        rule: "majority needs acknowledged leases from more than N/2",
        first: &["partition-majority", "majority-pauses"],
    },
    Mutant {
        name: "votes for everybody",
        file: "node/vote.rs",
        before: "!counts || (agree || !known.supported) && free",
        after: "!counts || agree || !agree || free",
        rule: "majority: votes are exclusive",
        first: &["majority-pair-cut"],
    },
    Mutant {
        name: "elected without all answers",
        file: "node/vote.rs",
        before: "owners.iter().all(|slot| slot == self.me || answered(slot))",
        after: "owners.iter().all(|slot| slot == self.me || answered(slot) || seq > 0)",
        rule: "majority: everybody answers of whom a voter says that it may own something",
        first: &["chaos-majority@30/2", "chaos-majority@30/5", "majority-pair-cut@30/23"],
    },
    Mutant {
        name: "candidacy shrinks unheard",
        file: "node/receive.rs",
        before: "peer.candidacy.get_or_insert_default().insert_all(buckets);",
        after: "peer.candidacy = Some(buckets.clone());",
        rule: "Candidate -> Owner: no better-ranked candidate",
        first: &["chaos-majority@30/19", "majority-pair-cut@30/21", "chaos-majority@30/50"],
    },
    Mutant {
        name: "join without proof",
        file: "node/receive.rs",
        before: "if !(pending.challenge..=self.seq).contains(&heard_seq) {",
        after: "if !(pending.challenge..=self.seq).contains(&heard_seq) && seq == 0 {",
        rule: "5: a new peer session is accepted only from a JOIN that echoes my session",
        first: &["replay-after-power-cut", "replay-after-reboot"],
    },
    Mutant {
        name: "configurations mixed",
        file: "node/phase.rs",
        before: "if !runs && !(live.all(ready) && (present.contains(self.me) || !self.holds_any())) {",
        after: "if !runs && !live.all(ready) && present.len() > 64 {",
        rule: "Config roll: activate when all live peers have it staged",
        first: &["roll-add", "roll-remove", "roll-reweight"],
    },
    Mutant {
        name: "nobody serves when all are unwell",
        file: "node/phase.rs",
        before: "self.all_down = is_down && self.config.all_down() == AllDown::Serve;",
        after: "self.all_down = is_down && self.config.all_down() != AllDown::Serve && false;",
        rule: "all_down = serve: those that are unwell serve when nobody is well",
        first: &["all-ail-and-crash", "all-ail"],
    },
    Mutant {
        name: "recovery told at once",
        file: "node/phase.rs",
        before: "if somebody_is_well || counting.all(is_back) || ticks && self.now >= until {",
        after: "if somebody_is_well || counting.all(is_back) || self.now <= until {",
        rule: "all_down = serve: those that come back within the hold move nothing",
        first: &["all-ail"],
    },
    Mutant {
        name: "recovery told before all are back",
        file: "node/phase.rs",
        before: "if somebody_is_well || counting.all(is_back) || ticks && self.now >= until {",
        after: "if somebody_is_well || counting.any(is_back) || ticks && self.now >= until {",
        rule: "all_down = serve: nobody says that it is well again before all can, or the hold is over",
        first: &["all-ail"],
    },
    Mutant {
        name: "unwell node keeps what nobody takes",
        file: "node/ownership.rs",
        before: "if self.willing || self.config.all_down() != AllDown::Withdraw {",
        after: "if self.willing || self.config.all_down() == AllDown::Withdraw {",
        rule: "all_down = withdraw: nobody serves when nobody is well",
        first: &["all-ail-withdraw"],
    },
    Mutant {
        name: "drained node announces",
        file: "node/view.rs",
        before: "self.serves() && self.is_willing() && !self.draining && !self.is_to_be_removed()",
        after: "self.serves() && self.is_willing() && !self.is_to_be_removed()",
        rule: "anycast: announce iff healthy, not draining, not fenced",
        first: &["all-ail-but-the-drained"],
    },
    Mutant {
        name: "unwell node announces",
        file: "node/view.rs",
        before: "self.serves() && self.is_willing() && !self.draining && !self.is_to_be_removed()",
        after: "self.serves() && !self.draining && !self.is_to_be_removed()",
        rule: "anycast: announce iff healthy, not draining, not fenced",
        first: &["ailing-service"],
    },
    Mutant {
        name: "owner is who began last",
        file: "node/history.rs",
        before: "if !self.config.sends_on() || buckets.is_empty() {\n            return;\n        }\n        for slot",
        after: "if !self.config.sends_on() || !buckets.is_empty() {\n            return;\n        }\n        for slot",
        rule: "3: forward to the previous owner, then the one before",
        first: &["drain-all@0/7", "drain-all"],
    },
];

/// The mutants that every `cargo test` tries; `scripts/mutants` tries all.
pub const ALWAYS: [&str; 4] =
    ["barrier not waited for", "hand-off withdrawn", "lease longer by h", "detection longer by 5h"];

impl Mutant {
    /// `source` with the rule broken.
    ///
    /// # Errors
    /// A sentence, if the line is not there exactly once: the list has to follow the sources.
    pub fn apply(&self, source: &str) -> Result<String, String> {
        match source.matches(self.before).count() {
            1 => Ok(source.replacen(self.before, self.after, 1)),
            found => Err(format!(
                "mutant {:?}: its line stands {found} times in control/src/cluster/{}, not once; \
                 it is:\n    {}",
                self.name, self.file, self.before
            )),
        }
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).expect("the crate is two levels below the root").to_owned()
}
