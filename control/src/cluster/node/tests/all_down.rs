//! Services that come back while nobody's is well, with `all_down = "serve"`.

use super::*;

const UNWELL: NodeFlags = NodeFlags::UNWILLING;

/// A node, all of whose cluster is unwell, itself included: all serve.
fn all_unwell() -> Rig {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.input(Input::Health { willing: false });
    for peer in [1, 2] {
        says(&mut rig, peer, UNWELL);
    }
    assert!(rig.node.all_down && rig.node.is_willing());
    rig
}

/// A heartbeat of a puppet in this state.
fn says(rig: &mut Rig, peer: u8, flags: NodeFlags) {
    rig.puppets[usize::from(peer)].flags = flags;
    let claims = rig.node.peer(slot(peer)).claims.clone();
    rig.claim(peer, &claims);
}

fn tells(rig: &Rig, flags: NodeFlags) -> bool {
    rig.node.own_flags().contains(flags)
}

#[test]
fn it_is_told_of_when_all_have_come_back() {
    let mut rig = all_unwell();
    let recovered = UNWELL.with(NodeFlags::RECOVERED, true);
    says(&mut rig, 1, recovered);
    rig.input(Input::Health { willing: true });
    assert!(tells(&rig, recovered), "the other puppet is still unwell");
    says(&mut rig, 2, recovered);
    assert!(!tells(&rig, UNWELL) && !tells(&rig, NodeFlags::RECOVERED));
    // And from then on it is known again who is not.
    rig.input(Input::Health { willing: false });
    says(&mut rig, 1, NodeFlags::default());
    assert!(!rig.node.is_willing());
}

#[test]
fn it_is_told_of_when_somebody_else_is_well() {
    let mut rig = all_unwell();
    rig.input(Input::Health { willing: true });
    assert!(tells(&rig, NodeFlags::RECOVERED));
    says(&mut rig, 1, NodeFlags::default());
    assert!(!tells(&rig, UNWELL));
}

#[test]
fn it_is_told_of_after_the_hold() {
    let mut rig = all_unwell();
    rig.input(Input::Health { willing: true });
    rig.pass(10 * SECOND - D, &[1, 2]);
    assert!(tells(&rig, UNWELL));
    rig.pass(2 * D, &[1, 2]);
    assert!(!tells(&rig, UNWELL));
}

#[test]
fn one_that_fails_again_does_not_tell() {
    let mut rig = all_unwell();
    rig.input(Input::Health { willing: true });
    rig.input(Input::Health { willing: false });
    assert!(tells(&rig, UNWELL) && !tells(&rig, NodeFlags::RECOVERED));
    rig.pass(11 * SECOND, &[1, 2]);
    assert!(tells(&rig, UNWELL));
}
