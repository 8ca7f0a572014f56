//! What a BFD session sends and tells, case by case: `conformance/bfd/*.txt`.

mod conformance {
    pub mod bfd;
    pub mod case;
}

#[test]
fn sessions_do_what_the_cases_say() {
    conformance::case::play_all("bfd", 25, |config, inputs| conformance::bfd::play(config, inputs));
}
