//! The transition table of one address, and what is said, published and told beside it.
//!
//! Of three members with three tiers, slot 0 is the node under test; it is first, second or third
//! on the list of the address in question. The others are puppets that claim it.

use vipdp_core::snapshot::Holding;

use super::*;
use crate::cluster::config::{AllDown, ConfigId, Lists, Member, Parameters};
use crate::cluster::node::State;

const MS: u64 = 1_000_000;
const H: u64 = 50 * MS;
const T: u64 = 5 * H;

pub(super) fn slot(number: u8) -> Slot {
    Slot::new(number).unwrap()
}

pub(super) fn mac(number: u8) -> MacAddr {
    MacAddr([2, 0, 0, 0, 0, number])
}

pub(super) fn macs(members: u8) -> Box<MemberMacs> {
    let mut macs = Box::new([None; SLOTS]);
    for number in 0..members {
        macs[usize::from(number)] = Some(mac(number));
    }
    macs
}

pub(super) fn parameters(members: u8, tiers: usize) -> Parameters {
    let member = |number| Member { slot: slot(number), weight: 1, tombstone: false };
    Parameters {
        cluster: 1,
        id: ConfigId { generation: 1, hash: 0 },
        members: (0..members).map(member).collect(),
        timing: Timing::DEFAULT,
        partition: Partition::None,
        all_down: AllDown::Withdraw,
        steers: false,
        lists: Lists::Addresses { tiers, compact: false },
        assignment_seed: [0; 16],
    }
}

pub(super) fn ip(number: Bucket) -> IpAddr {
    std::net::Ipv4Addr::from_bits(0x0a00_0040 + u32::from(number.get())).into()
}

struct Rig {
    node: WireNode,
    now: u64,
    /// The address in question.
    number: Bucket,
    deadline: u64,
    /// The last table, and the end of its lease.
    holdings: Holdings,
    lease_until: u64,
    owners: Arc<PreviousOwners>,
}

impl Rig {
    /// A node that has just started, and the address with the tiers `list`.
    fn new(list: [u8; 3]) -> Self {
        Self::with(list, parameters(3, 3))
    }

    fn with(list: [u8; 3], parameters: Parameters) -> Self {
        let config = Arc::new(ClusterConfig::new(parameters).unwrap());
        let number = Bucket::all()
            .find(|&number| config.assignment().preference(number) == list.map(slot))
            .expect("each order has an address");
        let node = WireNode::new(config, macs(3), slot(0), 1, 0);
        Self::of(node, number)
    }

    fn of(node: WireNode, number: Bucket) -> Self {
        Self {
            node,
            now: 0,
            number,
            deadline: 0,
            holdings: Holdings::none(),
            lease_until: 0,
            owners: Arc::new(PreviousOwners::none()),
        }
    }

    /// A node that has listened, in silence.
    fn after_listening(list: [u8; 3]) -> Self {
        let mut rig = Self::new(list);
        rig.run_until(T);
        assert_eq!(rig.node.state(), State::Active);
        rig
    }

    /// A node in the tier `tier` of the address, which it owns.
    fn owning(list: [u8; 3]) -> Self {
        let mut rig = Self::after_listening(list);
        rig.run_until(T + rig.tier() * T);
        assert!(rig.owns());
        rig
    }

    fn tier(&self) -> u64 {
        self.node.addresses[self.number.index()].tier(slot(0)).unwrap() as u64
    }

    /// What an input leads to, as far as the address in question goes.
    fn input(&mut self, input: WireInput) -> Vec<&'static str> {
        let mut out = Vec::new();
        self.node.step(self.now, input, &mut out);
        let Some(WireOutput::Node(Output::NextDeadline(deadline))) = out.pop() else {
            panic!("no deadline");
        };
        assert!(deadline >= self.now, "a deadline in the past");
        self.deadline = deadline;
        out.into_iter().filter_map(|output| self.name(output)).collect()
    }

    fn name(&mut self, output: WireOutput) -> Option<&'static str> {
        let of = |numbers: &BucketSet| numbers.contains(self.number);
        let output = match output {
            WireOutput::Repeat(numbers) => return of(&numbers).then_some("says"),
            WireOutput::Node(output) => output,
        };
        match output {
            Output::PublishTable { holdings, lease_until_ns, owners } => {
                (self.holdings, self.lease_until) = (holdings, lease_until_ns);
                self.owners = owners;
                None
            }
            Output::Claim(numbers) => of(&numbers).then_some("claims"),
            Output::Release(numbers) => of(&numbers).then_some("releases"),
            Output::Defend(address) => (address == ip(self.number)).then_some("defends"),
            Output::Alarm(Alarm::DuplicateSlot { session: 0 }) => Some("duplicate"),
            Output::Alarm(Alarm::ConfigMismatch { .. }) => Some("mismatch"),
            Output::Alarm(Alarm::ForeignClaim { .. }) => Some("foreign"),
            Output::Alarm(Alarm::Late { .. }) => Some("late"),
            Output::Alarm(Alarm::Fenced(true)) => Some("fenced"),
            Output::Alarm(Alarm::Fenced(false)) => Some("unfenced"),
            Output::Alarm(Alarm::Activated { .. }) => Some("activated"),
            other => panic!("not without heartbeats: {other:?}"),
        }
    }

    /// Ticks whenever asked for, up to and with `until`; what was not saying the same again.
    fn run_until(&mut self, until: u64) -> Vec<(u64, &'static str)> {
        let mut seen = Vec::new();
        while self.deadline <= until {
            self.now = self.now.max(self.deadline);
            let outputs = self.input(WireInput::Tick);
            seen.extend(outputs.into_iter().filter(|&it| it != "says").map(|it| (self.now, it)));
        }
        self.now = until;
        seen
    }

    fn claim_by(&mut self, from: u8) -> Vec<&'static str> {
        let (number, mac) = (self.number, mac(from));
        self.input(WireInput::Claim { number, address: ip(number), mac })
    }

    fn owns(&self) -> bool {
        let owned = self.holdings.get(self.number) == Holding::Owned;
        assert_eq!(owned, self.node.owned.contains(self.number), "the table says what is owned");
        owned
    }
}

/// Each tier's list, and who is better and worse.
const FIRST: [u8; 3] = [0, 1, 2];
const SECOND: [u8; 3] = [1, 0, 2];
const THIRD: [u8; 3] = [1, 2, 0];

#[test]
fn a_tier_takes_what_no_better_one_claims_within_its_time() {
    for (list, tier) in [(FIRST, 0), (SECOND, 1), (THIRD, 2)] {
        let mut rig = Rig::new(list);
        assert_eq!(rig.run_until(10 * T), [(T + tier * T, "claims")], "{list:?}");
        assert!(rig.owns());
    }
}

#[test]
fn a_better_tier_s_claim_starts_the_time_anew() {
    for (list, better, tier) in [(SECOND, 1, 1), (THIRD, 1, 2), (THIRD, 2, 2)] {
        let mut rig = Rig::after_listening(list);
        for _ in 0..20 {
            assert_eq!(rig.run_until(rig.now + T - 1), []);
            assert!(rig.claim_by(better).is_empty());
        }
        let last = rig.now;
        assert_eq!(rig.run_until(last + 10 * T), [(last + tier * T, "claims")], "{list:?}");
    }
}

#[test]
fn a_worse_tier_s_claim_hinders_nobody() {
    for (list, worse) in [(FIRST, 1), (FIRST, 2), (SECOND, 2)] {
        let mut rig = Rig::new(list);
        let due = T + rig.tier() * T;
        while rig.now < due - H {
            assert_eq!(rig.run_until(rig.now + H), []);
            assert!(rig.claim_by(worse).is_empty(), "nothing to answer with");
        }
        assert_eq!(rig.run_until(due), [(due, "claims")], "{list:?}");
    }
}

#[test]
fn an_owner_releases_to_a_better_tier_and_answers_a_worse_one() {
    for (list, other, expected) in [
        (FIRST, 1, "says"),
        (FIRST, 2, "says"),
        (SECOND, 1, "releases"),
        (SECOND, 2, "says"),
        (THIRD, 1, "releases"),
        (THIRD, 2, "releases"),
    ] {
        let mut rig = Rig::owning(list);
        rig.run_until(rig.now + H / 8);
        assert_eq!(rig.claim_by(other), [expected], "{list:?}, claimed by {other}");
        assert_eq!(rig.owns(), expected == "says");
        // Answers do not follow one another faster than they can settle anything.
        assert!(rig.claim_by(other).is_empty());
    }
}

#[test]
fn what_is_owned_is_said_at_least_once_per_interval() {
    let mut rig = Rig::owning(FIRST);
    // Until there is nothing left to take: that is said at once, with all the rest.
    rig.run_until(4 * T);
    let (mut last, mut gaps) = (rig.now, Vec::new());
    while gaps.len() < 200 {
        rig.now = rig.deadline;
        if rig.input(WireInput::Tick).contains(&"says") {
            gaps.push(rig.now - last);
            last = rig.now;
        }
        assert_eq!(rig.lease_until, last + T - H);
    }
    assert!(gaps.iter().skip(1).all(|gap| (H * 3 / 4..=H).contains(gap)), "{gaps:?}");
    assert!(gaps.iter().max() > gaps.iter().min(), "nodes fall out of step");
}

#[test]
fn a_node_that_listens_takes_nothing_and_answers_nothing() {
    let mut rig = Rig::new(FIRST);
    rig.run_until(T - 1);
    assert_eq!(rig.node.state(), State::Listen);
    assert!(rig.claim_by(1).is_empty() && !rig.owns());
    assert_eq!(rig.run_until(T), [(T, "claims")]);
}

#[test]
fn a_node_that_is_drained_or_unwilling_releases_and_returns_at_once() {
    let drain = (WireInput::Drain(true), WireInput::Drain(false));
    let health = (WireInput::Health { willing: false }, WireInput::Health { willing: true });
    for (off, on) in [drain, health] {
        for list in [FIRST, SECOND, THIRD] {
            let mut rig = Rig::owning(list);
            assert_eq!(rig.input(off.clone()), ["releases"]);
            assert!(!rig.owns());
            assert_eq!(rig.run_until(rig.now + 10 * T), []);
            assert!(rig.claim_by(if list == THIRD { 1 } else { 2 }).is_empty());
            let tier = rig.tier();
            let due = if list == THIRD { rig.now + tier * T } else { rig.now };
            assert!(rig.input(on.clone()).is_empty());
            assert_eq!(rig.run_until(rig.now + 10 * T), [(due, "claims")], "{list:?}");
        }
    }
}

#[test]
fn a_late_loop_releases_and_listens_if_its_lease_may_have_run_out() {
    let mut rig = Rig::owning(FIRST);
    rig.now = rig.deadline + T - H;
    assert_eq!(rig.input(WireInput::Tick), ["says"], "within the lease");
    let lease_until = rig.lease_until;
    rig.now = rig.deadline + T - H + 1;
    assert!(rig.now <= lease_until + H, "the lease that was left had little left");
    assert_eq!(rig.input(WireInput::Tick), ["late", "releases"]);
    assert!(!rig.owns() && rig.node.state() == State::Listen);
    let woken = rig.now;
    assert_eq!(rig.run_until(woken + 2 * T), [(woken + T, "claims")]);
}

#[test]
fn a_late_loop_does_not_take_for_silence_what_it_may_not_have_heard() {
    let mut rig = Rig::after_listening(SECOND);
    rig.run_until(rig.now + H / 2);
    rig.claim_by(1);
    let heard = rig.now;
    let late = 3 * H;
    rig.now = rig.deadline + late;
    assert!(rig.input(WireInput::Tick).is_empty());
    assert_eq!(rig.run_until(heard + 10 * T), [(heard + late + T, "claims")]);
}

#[test]
fn a_late_loop_has_not_listened_meanwhile_to_those_it_never_heard() {
    let mut rig = Rig::after_listening(SECOND);
    let late = 3 * H;
    rig.now = rig.deadline + late;
    assert!(rig.input(WireInput::Tick).is_empty());
    assert_eq!(rig.run_until(10 * T), [(T + late + T, "claims")]);
}

#[test]
fn a_slow_start_listens_all_the_same() {
    let mut rig = Rig::new(FIRST);
    rig.now = 10 * T;
    assert!(rig.input(WireInput::Tick).is_empty());
    assert_eq!(rig.run_until(20 * T), [(11 * T, "claims")]);
}

#[test]
fn strangers_are_reported_and_defended_against_now_and_then() {
    for (mut rig, expected) in [
        (Rig::owning(FIRST), &["foreign", "defends"][..]),
        (Rig::after_listening(SECOND), &["foreign"][..]),
    ] {
        assert_eq!(rig.claim_by(99), expected);
        assert!(rig.claim_by(99).is_empty());
        rig.run_until(rig.now + DEFEND_INTERVAL_NS - 1);
        assert!(rig.claim_by(99).is_empty());
        rig.run_until(rig.now + 1);
        assert_eq!(rig.claim_by(99), ["foreign", "defends"], "both own it by now");
    }
}

#[test]
fn a_claim_from_the_node_s_own_address_is_a_duplicate_and_changes_nothing() {
    let mut rig = Rig::owning(SECOND);
    assert_eq!(rig.claim_by(0), ["duplicate"]);
    assert!(rig.claim_by(0).is_empty() && rig.owns());
    rig.run_until(rig.now + Timing::DEFAULT.hold_ns);
    assert_eq!(rig.claim_by(0), ["duplicate"]);
}

#[test]
fn a_claim_by_a_member_outside_the_list_is_a_mismatch_and_changes_nothing() {
    let mut parameters = parameters(3, 2);
    parameters.members[2].tombstone = true;
    let config = ClusterConfig::new(parameters).unwrap();
    let list = [slot(0), slot(1)];
    let number = Bucket::all().find(|&it| config.assignment().preference(it) == list).unwrap();
    let node = WireNode::new(Arc::new(config), macs(3), slot(0), 1, 0);
    let mut rig = Rig::of(node, number);
    rig.run_until(T);
    assert_eq!(rig.claim_by(2), ["mismatch"]);
    assert!(rig.claim_by(2).is_empty() && rig.owns());
    // An address of another configuration, with more members.
    let (number, mac) = (Bucket::new(6).unwrap(), mac(1));
    assert!(rig.input(WireInput::Claim { number, address: ip(number), mac }).is_empty());
}

#[test]
fn nobody_waits_for_a_member_that_was_removed() {
    for (list, removed, due) in [(SECOND, 1, T), (THIRD, 1, 2 * T), (THIRD, 2, 2 * T)] {
        let mut parameters = parameters(3, 3);
        parameters.members[removed].tombstone = true;
        let mut rig = Rig::with(list, parameters);
        assert_eq!(rig.run_until(10 * T), [(due, "claims")], "{list:?} without {removed}");
    }
    let mut parameters = parameters(3, 3);
    parameters.members[0].tombstone = true;
    assert_eq!(Rig::with(FIRST, parameters).run_until(10 * T), []);
}

#[test]
fn a_node_that_does_not_reach_the_router_serves_nothing() {
    let mut parameters = parameters(3, 3);
    parameters.partition = Partition::Gateway;
    let mut rig = Rig::with(FIRST, parameters);
    assert!(rig.input(WireInput::Gateway(true)).is_empty());
    assert_eq!(rig.run_until(T), [(T, "claims")]);
    assert_eq!(rig.input(WireInput::Gateway(false)), ["fenced", "releases"]);
    assert_eq!(rig.node.state(), State::Fenced);
    assert_eq!(rig.run_until(10 * T), []);
    // It may not have heard the others either.
    assert_eq!(rig.input(WireInput::Gateway(true)), ["unfenced"]);
    assert_eq!(rig.run_until(20 * T), [(11 * T, "claims")]);
}

#[test]
fn a_node_without_a_link_serves_nothing_and_listens_before_it_serves_again() {
    let mut rig = Rig::with(FIRST, parameters(3, 3));
    assert_eq!(rig.run_until(T), [(T, "claims")]);
    assert_eq!(rig.input(WireInput::Link(false)), ["fenced", "releases"]);
    assert_eq!(rig.node.state(), State::Fenced);
    assert_eq!(rig.run_until(10 * T), []);
    assert_eq!(rig.input(WireInput::Link(true)), ["unfenced"]);
    assert_eq!(rig.run_until(20 * T), [(11 * T, "claims")]);
}

#[test]
fn a_newer_configuration_keeps_what_keeps_its_tiers() {
    let next = |change: fn(&mut Parameters)| {
        let mut parameters = parameters(3, 3);
        parameters.id.generation = 2;
        change(&mut parameters);
        let config = Arc::new(ClusterConfig::new(parameters).unwrap());
        WireInput::Config(config, macs(4))
    };
    let appended = next(|it| it.members.push(Member { slot: slot(3), ..it.members[0] }));
    let removed = next(|it| it.members[2].tombstone = true);
    let older = next(|it| it.id.generation = 1);

    let mut rig = Rig::owning(FIRST);
    assert!(rig.input(older).is_empty());
    let numbers = rig.node.numbers().count();
    assert_eq!(rig.input(appended), ["activated"]);
    assert!(rig.owns() && rig.node.numbers().count() > numbers);
    // The new addresses are taken like all others: the node's own at once.
    let owned = rig.node.owned.len();
    rig.run_until(rig.now);
    assert!(rig.node.owned.len() > owned);

    let mut rig = Rig::owning(FIRST);
    assert_eq!(rig.input(removed), ["releases", "activated"]);
    assert_eq!(rig.run_until(rig.now), [(rig.now, "claims")], "without the third tier");
}

#[test]
fn who_owns_and_owned_an_address_is_known_while_they_are_heard() {
    let mut rig = Rig::after_listening(THIRD);
    let owners = |rig: &Rig| rig.owners.get(rig.number);
    assert_eq!(owners(&rig), Owners::default());
    rig.claim_by(2);
    assert_eq!(owners(&rig), Owners { now: Some(slot(2)), before: [None; 2] });
    rig.claim_by(1);
    let both = Owners { now: Some(slot(1)), before: [Some(slot(2)), None] };
    assert_eq!(owners(&rig), both);
    // The one who gives way may have repeated its claim once more.
    rig.claim_by(2);
    assert_eq!(owners(&rig), both);
    assert_eq!(rig.owners.next_alive(slot(0), slot(0)), Some(slot(1)));
    // Both fall silent: nobody has it, and nobody is asked.
    rig.run_until(rig.now + T + H);
    assert_eq!(owners(&rig), Owners::default());
    assert_eq!(rig.owners.next_alive(slot(0), slot(0)), None);
    // Nor are their connections reset, until a restart would be over.
    assert!(rig.owners.is_incomplete());
    let silent = rig.now - T - H;
    rig.run_until(silent + RETURN_NS - 1);
    assert!(rig.owners.is_incomplete());
    rig.run_until(silent + RETURN_NS + H);
    assert!(!rig.owners.is_incomplete());
    assert!(rig.owns());
    assert_eq!(owners(&rig).now, Some(slot(0)));
    // Whoever returns, it knows whom to ask.
    rig.claim_by(2);
    assert_eq!(owners(&rig), Owners { now: Some(slot(2)), before: [None; 2] });
    rig.claim_by(1);
    assert_eq!(owners(&rig), both);
    assert!(!rig.owners.is_incomplete());
}

#[test]
fn the_view_says_who_owns_what_and_who_is_heard() {
    use crate::cluster::node::Life;
    let mut rig = Rig::after_listening(SECOND);
    rig.claim_by(1);
    let view = rig.node.view();
    assert_eq!(view.owners[rig.number.index()], Some(slot(1)));
    let lives: Vec<_> = view.members.iter().map(|member| member.life).collect();
    assert_eq!(lives, [Life::Own, Life::Heard, Life::NeverHeard]);
    assert_eq!(view.members[1].mac, Some(mac(1)));
    assert_eq!((view.members[0].claims, view.members[1].claims), (2, 1));
    rig.run_until(rig.now + T);
    assert_eq!(rig.node.view().members[1].life, Life::Dead);
    assert_eq!(rig.node.view().owners[rig.number.index()], Some(slot(0)));
}
