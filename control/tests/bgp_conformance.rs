//! What a BGP session says to what comes in, case by case: `conformance/bgp/*.txt`.
//!
//! What the session writes is read by the codec crate's own reader, and UPDATEs so that nothing in
//! them stays untold.

mod conformance {
    pub mod bgp;
    pub mod case;
}

#[test]
fn sessions_do_what_the_cases_say() {
    conformance::case::play_all("bgp", 50, |config, inputs| conformance::bgp::play(config, inputs));
}
