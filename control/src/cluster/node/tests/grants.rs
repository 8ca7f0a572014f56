//! To whom a bucket is handed.

use super::*;

/// A NIC that had no link, or a switch, may deliver late what was said long ago.
#[test]
fn nothing_is_granted_to_one_whose_words_are_old() {
    let mut rig = Rig::new([0, 1, 2], Partition::None);
    rig.bring(Owner);
    for _ in 0..=D / H {
        rig.pass(H, &[2]);
        let claims = rig.node.peer(slot(1)).claims.clone();
        // It says that it hears the node, and acknowledges nothing new.
        rig.say(1, Body::Heartbeat { claims });
    }
    rig.input(Input::Drain(true));
    rig.tick();
    assert_eq!(rig.at(), Owner);
    let claims = rig.node.peer(slot(1)).claims.clone();
    rig.claim(1, &claims);
    rig.tick();
    assert_eq!(rig.at(), Yielding);
}
