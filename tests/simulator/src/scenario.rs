//! Scenarios: who, what happens when, what must hold, as data.

use vipdp::cluster::config::{AllDown, Partition, Timing};

use crate::check::Check;
use crate::random::Random;
use crate::{MS, SECOND};

/// The timing of all scenarios: the default profile with a shorter hold, which takes less of the
/// simulator's time. No rule of the protocol knows how long the hold is.
pub const TIMING: Timing = Timing { hold_ns: 2 * SECOND, ..Timing::DEFAULT };
/// h, in nanoseconds.
pub const H: u64 = TIMING.heartbeat_ns;
/// D, in nanoseconds.
pub const D: u64 = TIMING.detection_ns();
/// The hold, in nanoseconds.
pub const HOLD: u64 = TIMING.hold_ns;

/// Whom something happens to. Roles are dealt to the places of the network by the seed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Who {
    /// The one in this role.
    One(usize),
    /// The roles below this one.
    Below(usize),
    /// This role and those above.
    From(usize),
    /// All.
    All,
    /// The newcomer: the place after the first members, which nobody has at the beginning.
    New,
}

/// A change of the configuration, which all nodes are to have in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edition {
    /// Generation 2: the newcomer is a member.
    Added,
    /// Generation 2: the one in this role is a tombstone.
    Removed(usize),
    /// Generation 2: the one in this role has three times the weight.
    Reweighted(usize),
    /// Generation 1 with other contents: the one in this role has three times the weight.
    SameGeneration(usize),
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Nothing from the first to the second arrives.
    Cut(Who, Who),
    /// Nothing between the first and the second arrives.
    Split(Who, Who),
    /// Nothing that these send arrives.
    Mute(Who),
    /// Nothing arrives at these.
    Deaf(Who),
    /// All cuts end, and the network is what it was.
    Heal,
    /// Datagrams take up to this time, in nanoseconds.
    Delay(u64),
    /// Per cent of datagrams after which so many on the same way are lost.
    Bursts(u64, u64),
    /// Per cent of datagrams that are duplicated, held up for up to 2h, and damaged.
    Disorder(u64, u64, u64),
    /// Per cent of datagrams that are lost, in place of the run's own rate.
    Loss(u64),
    /// These end without a word.
    Crash(Who),
    /// Those of these that do not run start.
    Start(Who),
    /// The loops of these stand still for a time, in nanoseconds.
    Pause(Who, u64),
    /// The operator wants these emptied, or no more.
    Drain(Who, bool),
    /// The service of these is well, or is not.
    Health(Who, bool),
    /// These reach the router, or do not.
    Gateway(Who, bool),
    /// These read a new configuration.
    Configure(Who, Edition),
    /// Each node reads a new configuration, one after the other with this time between them.
    Roll(Edition, u64),
    /// These send with the first key and accept the others.
    Keys(Who, u8, &'static [u8]),
    /// The first are given all datagrams so far that came from the second.
    Replay(Who, Who),
    /// These hear a stranger answer for a VIP.
    ForeignClaim(Who),
    /// This must be so now.
    Expect(Expect),
    /// Measuring begins anew here.
    Measure,
}

/// What must be so at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Each bucket has one owner.
    OneOwner,
    /// Each bucket has one owner, and these own nothing.
    IdleAre(Who),
    /// Nobody owns anything.
    Nobody,
    /// Of those that run, these are to have routes lead to them, where routes are announced, and nobody
    /// else.
    AnnouncedAre(Who),
    /// These have reported the stranger, and one of all has defended the VIP.
    Defended(Who),
}

/// Something that happens at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// When, in nanoseconds after the beginning.
    pub at: u64,
    /// What.
    pub act: Act,
}

/// What happens in a scenario.
#[derive(Clone, Debug)]
pub enum Script {
    /// This.
    Fixed(Vec<Step>),
    /// Drawn by the seed, for so many nodes.
    Random(fn(&mut Random, usize) -> Vec<Step>),
}

/// When all must be where it belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Settles {
    /// By L4.
    InTime,
    /// After up to so many nanoseconds more: some are kept out for having failed often.
    Damped(u64),
}

/// A scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name on the command line and in the table.
    pub name: &'static str,
    /// How many nodes; the seed chooses.
    pub nodes: &'static [usize],
    /// What a node does when it may be cut off.
    pub partition: Partition,
    /// Who serves when no node that runs is well.
    pub all_down: AllDown,
    /// Over what time shares rise after the hold, in nanoseconds.
    pub ramp: u64,
    /// By how much clocks differ at most, in parts per million.
    pub drift_ppm: u64,
    /// Whether all messages of all runs pass through the wire format; otherwise those of one run
    /// in eight do.
    pub seals: bool,
    /// Whether all nodes run and have settled when the script begins.
    pub settled: bool,
    /// What happens.
    pub script: Script,
    /// What must hold, beside what always must.
    pub checks: Vec<Check>,
    /// When all must be where it belongs.
    pub settles: Settles,
    /// Only one seed in so many is run by `soak`: the scenario is expensive.
    pub one_in: u64,
}

impl Scenario {
    /// A scenario with the protocol's usual demands.
    pub fn new(name: &'static str, nodes: &'static [usize], script: Vec<Step>) -> Self {
        Self {
            name,
            nodes,
            partition: Partition::None,
            all_down: AllDown::Serve,
            ramp: 0,
            drift_ppm: 200,
            seals: false,
            settled: true,
            script: Script::Fixed(script),
            checks: Vec::new(),
            settles: Settles::InTime,
            one_in: 1,
        }
    }

    /// With this demand too.
    #[must_use]
    pub fn check(mut self, check: Check) -> Self {
        self.checks.push(check);
        self
    }

    /// With this policy for partitions.
    #[must_use]
    pub fn partition(mut self, partition: Partition) -> Self {
        self.partition = partition;
        self
    }

    /// With nobody serving when no node that runs is well.
    #[must_use]
    pub fn withdrawing(mut self) -> Self {
        self.all_down = AllDown::Withdraw;
        self
    }

    /// Settling like this.
    #[must_use]
    pub fn settles(mut self, settles: Settles) -> Self {
        self.settles = settles;
        self
    }

    /// With clocks that differ by up to this, in parts per million.
    #[must_use]
    pub fn drift(mut self, ppm: u64) -> Self {
        self.drift_ppm = ppm;
        self
    }

    /// With all messages sealed and opened.
    #[must_use]
    pub fn sealed(mut self) -> Self {
        self.seals = true;
        self
    }

    /// With nobody running when the script begins.
    #[must_use]
    pub fn from_nothing(mut self) -> Self {
        self.settled = false;
        self
    }

    /// Run for one seed in `seeds`.
    #[must_use]
    pub fn one_in(mut self, seeds: u64) -> Self {
        self.one_in = seeds;
        self
    }
}

/// Something that happens `ms` milliseconds after the beginning.
pub fn at(ms: u64, act: Act) -> Step {
    Step { at: ms * MS, act }
}
