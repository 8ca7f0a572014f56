//! The scenarios of PROTOCOL.md, section 6.

use vipdp::cluster::config::Partition;

use crate::check::Check;
use crate::random::Random;
use crate::scenario::Who::{All, Below, From, New, One};
use crate::scenario::{Act, D, Edition, Expect, HOLD, Scenario, Script, Settles, Step, TIMING, at};
use crate::{MS, SECOND};

/// Loss rates that each scenario is run with, in per cent.
pub const LOSSES: [u64; 4] = [0, 1, 5, 30];

/// When a node that failed often is back at the latest: penalties end within five minutes.
const DAMPED: u64 = 310 * SECOND;

/// All scenarios.
pub fn all() -> Vec<Scenario> {
    [
        steady(),
        crashes(),
        planned(),
        ailing(),
        cuts(),
        guards(),
        pauses(),
        rolls(),
        networks(),
        hostile(),
        wide(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The scenario with this name.
pub fn named(name: &str) -> Option<Scenario> {
    all().into_iter().find(|scenario| scenario.name == name)
}

fn steady() -> Vec<Scenario> {
    let minute = || vec![at(60_000, Act::Expect(Expect::OneOwner))];
    vec![
        Scenario::new("steady", &[3, 4, 5], minute()).check(Check::Steady).check(Check::S2),
        Scenario::new("steady-2", &[2], minute()).check(Check::Steady),
        Scenario::new("steady-drift", &[3, 4], minute())
            .drift(20_000)
            .check(Check::Steady)
            .check(Check::S2),
        Scenario::new("start-together", &[2, 3, 5, 8], vec![at(0, Act::Start(All))]).from_nothing(),
        Scenario::new(
            "start-one-by-one",
            &[3, 4],
            vec![
                at(0, Act::Start(One(0))),
                at(170, Act::Start(One(1))),
                at(530, Act::Start(From(2))),
            ],
        )
        .from_nothing(),
    ]
}

fn crashes() -> Vec<Scenario> {
    let crash = |who| Act::Crash(One(who));
    vec![
        Scenario::new("crash", &[2, 3, 4, 5, 8], vec![at(0, crash(0))]).check(Check::L1),
        Scenario::new("double-crash", &[3, 4, 5, 8], vec![at(0, Act::Crash(Below(2)))])
            .check(Check::L1),
        Scenario::new("staggered-double", &[3, 4, 5, 8], vec![at(0, crash(0)), at(140, crash(1))])
            .check(Check::L1),
        Scenario::new(
            "restart-within-d",
            &[2, 3, 4, 5],
            vec![at(0, crash(0)), at(120, Act::Start(One(0)))],
        )
        .check(Check::L2 { down_ns: 120 * MS }),
        Scenario::new(
            "crash-and-failback",
            &[2, 3, 4, 5],
            vec![at(0, crash(0)), at(1500, Act::Measure), at(1500, Act::Start(One(0)))],
        )
        .check(Check::S2),
        Scenario::new("flapping", &[3, 4], flaps()).settles(Settles::Damped(DAMPED)),
    ]
}

/// Down and up again, seven times in a quarter of a minute.
fn flaps() -> Vec<Step> {
    (0..7)
        .flat_map(|turn| {
            let from = turn * 2600;
            [at(from, Act::Crash(One(0))), at(from + 400, Act::Start(One(0)))]
        })
        .collect()
}

fn planned() -> Vec<Scenario> {
    let drain = |who, drain| Act::Drain(who, drain);
    vec![
        Scenario::new(
            "drain-and-return",
            &[2, 3, 4, 5],
            vec![
                at(0, drain(One(0), true)),
                at(1500, Act::Expect(Expect::IdleAre(One(0)))),
                at(1500, drain(One(0), false)),
            ],
        )
        .check(Check::S2),
        Scenario::new(
            "drain-and-leave",
            &[3, 4, 5],
            vec![at(0, drain(One(0), true)), at(2000, Act::Crash(One(0)))],
        )
        .check(Check::S2),
        Scenario::new(
            "drain-all",
            &[2, 3, 4],
            vec![
                at(0, drain(One(0), true)),
                at(30, drain(From(1), true)),
                at(2000, Act::Expect(Expect::OneOwner)),
                at(2000, drain(All, false)),
            ],
        )
        .check(Check::S2),
        Scenario {
            ramp: 3 * SECOND,
            ..Scenario::new(
                "ramp",
                &[2, 3],
                vec![at(0, drain(One(0), true)), at(1500, drain(One(0), false))],
            )
        }
        .settles(Settles::Damped(4 * SECOND))
        .check(Check::S2),
    ]
}

/// The hold, in milliseconds.
const HOLD_MS: u64 = HOLD / MS;

fn ailing() -> Vec<Scenario> {
    let well = |who, well| Act::Health(who, well);
    let expect = |ms, expected| at(ms, Act::Expect(expected));
    let one_ails = || {
        vec![
            at(0, well(One(0), false)),
            expect(1500, Expect::IdleAre(One(0))),
            expect(1500, Expect::AnnouncedAre(From(1))),
            at(1500, well(One(0), true)),
            expect(1600, Expect::AnnouncedAre(All)),
        ]
    };
    let all_ail = || vec![at(0, well(One(0), false)), at(300, well(From(1), false))];
    vec![
        Scenario::new("ailing-service", &[3, 4], one_ails()).check(Check::S2),
        Scenario::new("ailing-service-withdraw", &[3, 4], one_ails())
            .withdrawing()
            .check(Check::S2),
        // All serve while nobody is well, and those that come back within the hold move nothing.
        Scenario::new(
            "all-ail",
            &[2, 3, 4],
            [
                all_ail(),
                vec![
                    expect(2500, Expect::OneOwner),
                    expect(2500, Expect::AnnouncedAre(All)),
                    at(HOLD_MS + 3000, Act::Measure),
                    at(HOLD_MS + 3000, well(One(0), true)),
                    at(HOLD_MS + 3400, well(One(1), true)),
                    at(HOLD_MS + 3900, well(From(1), true)),
                    // When the first has waited out its hold, all say so.
                    expect(2 * HOLD_MS + 4500, Expect::AnnouncedAre(All)),
                ],
            ]
            .concat(),
        )
        .check(Check::Steady)
        .check(Check::S2),
        Scenario::new(
            "all-ail-and-crash",
            &[3, 4],
            [all_ail(), vec![at(4000, Act::Measure), at(4000, Act::Crash(One(0)))]].concat(),
        )
        .check(Check::L1),
        Scenario::new(
            "all-ail-and-one-returns",
            &[2, 3, 4],
            [
                all_ail(),
                vec![
                    at(4000, well(One(0), true)),
                    expect(HOLD_MS + 5500, Expect::IdleAre(From(1))),
                    expect(HOLD_MS + 5500, Expect::AnnouncedAre(One(0))),
                ],
            ]
            .concat(),
        )
        .check(Check::S2),
        // Of those that are alive one is drained: it does not count.
        Scenario::new(
            "all-ail-but-the-drained",
            &[3, 4],
            vec![
                at(0, Act::Drain(One(0), true)),
                at(1000, well(From(1), false)),
                expect(3500, Expect::IdleAre(One(0))),
                expect(3500, Expect::AnnouncedAre(From(1))),
                at(4000, well(From(1), true)),
                at(6500, Act::Drain(One(0), false)),
            ],
        )
        .check(Check::S2),
        // Nobody serves while nobody is well; who comes back first takes all at once.
        Scenario::new(
            "all-ail-withdraw",
            &[2, 3, 4],
            [
                all_ail(),
                vec![
                    expect(2000, Expect::Nobody),
                    expect(2000, Expect::AnnouncedAre(Below(0))),
                    at(2500, well(One(0), true)),
                    expect(3500, Expect::IdleAre(From(1))),
                    expect(3500, Expect::AnnouncedAre(One(0))),
                    at(3500, well(From(1), true)),
                ],
            ]
            .concat(),
        )
        .withdrawing(),
    ]
}

fn cuts() -> Vec<Scenario> {
    // A cut, who must be served after a while, and the cut's end.
    let cut = |act| vec![at(0, act), at(4000, Act::Expect(Expect::OneOwner)), at(4000, Act::Heal)];
    let split = || vec![at(0, Act::Split(Below(2), From(2))), at(4000, Act::Heal)];
    vec![
        Scenario::new(
            "one-way-cut-2",
            &[2],
            vec![at(0, Act::Cut(One(0), One(1))), at(4000, Act::Heal)],
        )
        .settles(Settles::Damped(DAMPED)),
        Scenario::new("one-way-cut", &[3, 5], cut(Act::Cut(One(0), One(1)))),
        Scenario::new("pair-cut", &[3, 4, 5], cut(Act::Split(One(0), One(1)))),
        Scenario::new("mute", &[3, 4, 5], cut(Act::Mute(One(0)))),
        // A deaf node cannot know that it is not alone.
        Scenario::new("deaf", &[3, 4, 5], vec![at(0, Act::Deaf(One(0))), at(4000, Act::Heal)]),
        Scenario::new(
            "deaf-majority",
            &[3, 4, 5],
            vec![
                at(0, Act::Deaf(One(0))),
                at(4000, Act::Expect(Expect::IdleAre(One(0)))),
                at(4000, Act::Heal),
            ],
        )
        .partition(Partition::Majority)
        .check(Check::S4),
        Scenario::new("partition-none", &[4, 5], split()),
    ]
}

fn guards() -> Vec<Scenario> {
    let gateway = |who, reached| Act::Gateway(who, reached);
    vec![
        Scenario::new(
            "partition-majority",
            &[3, 5],
            vec![
                at(0, Act::Split(One(0), From(1))),
                at(3000, Act::Expect(Expect::IdleAre(One(0)))),
                at(3000, Act::Heal),
            ],
        )
        .partition(Partition::Majority)
        .check(Check::S4),
        Scenario::new(
            "majority-pauses",
            &[3, 5],
            vec![at(0, Act::Pause(One(0), 3 * D)), at(100, Act::Deaf(One(1))), at(3000, Act::Heal)],
        )
        .partition(Partition::Majority)
        .drift(20_000)
        .check(Check::S4),
        Scenario::new(
            "majority-pair-cut",
            &[3, 4, 5],
            vec![at(0, Act::Split(One(0), One(1))), at(4000, Act::Heal)],
        )
        .partition(Partition::Majority)
        .check(Check::S4),
        // A node that starts behind a cut learns only from others who is there.
        Scenario::new(
            "majority-restart-cut",
            &[3, 4, 5],
            vec![
                at(0, Act::Split(One(0), One(1))),
                at(500, Act::Crash(One(0))),
                at(1500, Act::Start(One(0))),
                at(6000, Act::Heal),
            ],
        )
        .partition(Partition::Majority)
        .check(Check::S4),
        Scenario::new(
            "gateway-lost-one",
            &[2, 3],
            vec![
                at(0, gateway(One(0), false)),
                at(1500, Act::Expect(Expect::IdleAre(One(0)))),
                at(1500, gateway(One(0), true)),
            ],
        )
        .partition(Partition::Gateway),
        Scenario::new(
            "gateway-lost-both",
            &[2, 3],
            vec![
                at(0, gateway(One(0), false)),
                at(60, gateway(From(1), false)),
                at(1500, Act::Expect(Expect::Nobody)),
                at(1500, gateway(From(1), true)),
                at(1600, gateway(One(0), true)),
            ],
        )
        .partition(Partition::Gateway),
        // The router may be heard before the first heartbeat.
        Scenario::new(
            "gateway-link-cut",
            &[2, 3],
            vec![
                at(0, Act::Split(One(0), From(1))),
                at(150, gateway(One(0), false)),
                at(2000, Act::Expect(Expect::IdleAre(One(0)))),
                at(2000, gateway(One(0), true)),
                at(2000, Act::Heal),
            ],
        )
        .partition(Partition::Gateway)
        .check(Check::Guarded),
        Scenario::new(
            "gateway-and-mute",
            &[2],
            vec![
                at(0, Act::Mute(One(0))),
                at(2500, Act::Expect(Expect::IdleAre(One(0)))),
                at(2500, Act::Heal),
            ],
        )
        .partition(Partition::Gateway),
    ]
}

fn pauses() -> Vec<Scenario> {
    vec![
        Scenario::new("stopped-0.6d", &[3, 4, 5], vec![at(0, Act::Pause(One(0), D * 6 / 10))])
            .check(Check::Lapse { stopped_ns: D * 6 / 10 }),
        Scenario::new("stopped-3d", &[2, 3, 4, 5], vec![at(0, Act::Pause(One(0), 3 * D))]),
        Scenario::new("all-stopped", &[2, 3, 4], vec![at(0, Act::Pause(All, 2 * SECOND))]),
    ]
}

fn rolls() -> Vec<Scenario> {
    let add = || vec![at(0, Act::Roll(Edition::Added, 110 * MS)), at(1500, Act::Start(New))];
    vec![
        Scenario::new("roll-add", &[2, 3, 4, 7], add()).check(Check::S2),
        Scenario::new(
            "roll-add-crash",
            &[3, 4, 5],
            vec![
                at(0, Act::Roll(Edition::Added, 110 * MS)),
                at(150, Act::Crash(One(0))),
                at(1500, Act::Start(New)),
                at(1700, Act::Start(One(0))),
            ],
        ),
        Scenario::new(
            "roll-remove",
            &[3, 4, 5],
            vec![
                at(0, Act::Drain(One(0), true)),
                at(1500, Act::Roll(Edition::Removed(0), 110 * MS)),
                at(3000, Act::Crash(One(0))),
            ],
        )
        .check(Check::S2),
        Scenario::new(
            "roll-reweight",
            &[2, 3, 5],
            vec![at(0, Act::Roll(Edition::Reweighted(0), 70 * MS))],
        )
        .check(Check::S2),
        Scenario::new(
            "same-generation",
            &[3, 4],
            vec![
                at(0, Act::Configure(One(0), Edition::SameGeneration(1))),
                at(2000, Act::Expect(Expect::OneOwner)),
                at(2000, Act::Roll(Edition::Reweighted(1), 70 * MS)),
            ],
        ),
    ]
}

fn networks() -> Vec<Scenario> {
    vec![
        Scenario::new("delay-burst", &[3, 4], vec![at(0, Act::Delay(2 * D)), at(1000, Act::Heal)])
            .settles(Settles::Damped(DAMPED)),
        Scenario::new(
            "reordering",
            &[3, 4, 5],
            vec![
                at(0, Act::Disorder(20, 20, 5)),
                at(1000, Act::Drain(One(0), true)),
                at(3000, Act::Drain(One(0), false)),
            ],
        )
        .check(Check::S2),
        Scenario::new(
            "loss-bursts",
            &[3, 4, 5],
            vec![
                at(0, Act::Bursts(2, 4)),
                at(1000, Act::Drain(One(0), true)),
                at(3000, Act::Drain(One(0), false)),
            ],
        ),
        Scenario {
            script: Script::Random(chaos),
            ..Scenario::new("chaos", &[2, 3, 4, 5, 6], Vec::new())
        }
        .settles(Settles::Damped(DAMPED)),
        Scenario {
            script: Script::Random(chaos),
            ..Scenario::new("chaos-majority", &[3, 4, 5], Vec::new())
        }
        .partition(Partition::Majority)
        .settles(Settles::Damped(DAMPED))
        .check(Check::S4),
    ]
}

fn hostile() -> Vec<Scenario> {
    vec![
        Scenario::new(
            "replay-after-reboot",
            &[2, 3, 4],
            vec![
                at(300, Act::Crash(One(0))),
                at(1000, Act::Start(One(0))),
                at(1010, Act::Replay(One(0), All)),
                at(1200, Act::Replay(All, One(0))),
                at(2000, Act::Replay(All, All)),
            ],
        ),
        // Nobody remembers the sessions that ended before.
        Scenario::new(
            "replay-after-power-cut",
            &[2, 3, 4],
            vec![
                at(0, Act::Crash(One(0))),
                at(500, Act::Start(One(0))),
                at(2000, Act::Crash(All)),
                at(2200, Act::Start(All)),
                at(2300, Act::Replay(All, All)),
                at(3000, Act::Replay(All, All)),
            ],
        ),
        Scenario::new(
            "replay-of-moves",
            &[3, 4],
            vec![
                at(0, Act::Drain(One(0), true)),
                at(1500, Act::Drain(One(0), false)),
                at(1800, Act::Replay(All, All)),
                at(2500, Act::Replay(All, One(0))),
            ],
        )
        .check(Check::S2),
        Scenario::new(
            "key-rotation",
            &[2, 3, 4],
            vec![
                at(0, Act::Keys(One(0), 1, &[1, 2])),
                at(300, Act::Keys(From(1), 1, &[1, 2])),
                at(600, Act::Keys(One(0), 2, &[1, 2])),
                at(900, Act::Keys(From(1), 2, &[1, 2])),
                at(1200, Act::Keys(One(0), 2, &[2])),
                at(1500, Act::Keys(From(1), 2, &[2])),
                at(2000, Act::Replay(All, All)),
                at(3000, Act::Expect(Expect::OneOwner)),
            ],
        )
        .sealed()
        .check(Check::Steady)
        .check(Check::S2),
        Scenario::new(
            "foreign-claim",
            &[2, 3],
            vec![at(0, Act::ForeignClaim(All)), at(50, Act::Expect(Expect::Defended(All)))],
        )
        .check(Check::Steady)
        .check(Check::S2),
    ]
}

fn wide() -> Vec<Scenario> {
    vec![
        Scenario::new("wide-crash", &[16, 32, 64], vec![at(0, Act::Crash(One(0)))])
            .check(Check::L1)
            .one_in(50),
        Scenario::new(
            "wide-drain",
            &[16, 64],
            vec![at(0, Act::Drain(One(0), true)), at(1500, Act::Drain(One(0), false))],
        )
        .check(Check::S2)
        .one_in(50),
    ]
}

/// Forty things at random within some twenty seconds, then the end of all faults.
fn chaos(random: &mut Random, count: usize) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut now = 0;
    for _ in 0..40 {
        now += random.below(SECOND);
        steps.extend(disturbance(random, count).into_iter().map(|act| Step { at: now, act }));
    }
    steps.push(Step { at: now, act: Act::Heal });
    // What is on its way arrives, and who sleeps wakes up.
    now += 2 * SECOND;
    let ends = [Act::Start(All), Act::Drain(All, false), Act::Health(All, true)];
    steps.extend(ends.map(|act| Step { at: now, act }));
    steps
}

fn disturbance(random: &mut Random, count: usize) -> Vec<Act> {
    let mut one = || One(random.below(count as u64) as usize);
    let (node, other) = (one(), one());
    match random.below(15) {
        0 => vec![Act::Crash(node)],
        1 | 2 => vec![Act::Start(node)],
        3 => vec![Act::Crash(node), Act::Start(node)],
        4 => vec![Act::Pause(node, random.below(5 * D))],
        5 if node != other => vec![Act::Cut(node, other)],
        6 if node != other => vec![Act::Split(node, other)],
        7 => vec![Act::Heal],
        8 => vec![Act::Loss([0, 1, 5, 30][random.below(4) as usize])],
        9 => vec![Act::Delay([MS, 20 * MS, 300 * MS][random.below(3) as usize])],
        10 => vec![Act::Drain(node, random.below(2) == 0)],
        11 => vec![Act::Health(node, random.below(2) == 0)],
        12 => vec![Act::Disorder(10, 10, 2)],
        13 => vec![Act::Replay(node, other)],
        14 => vec![Act::Bursts(2, 6)],
        _ => Vec::new(),
    }
}

const _: () = assert!(HOLD > 4 * D && TIMING.multiplier == 5);
