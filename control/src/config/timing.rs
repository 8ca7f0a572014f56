//! `profile` and `[timing]`: when a node counts as down, and how long things linger.
//!
//! With h = `heartbeat_ms`, m = `multiplier` and D = m * h: a node is down when it has not been
//! heard for D, and stops accepting new flows D - h after its control thread stood still. All
//! other times are in relation to D.

use std::time::Duration;

use super::reader::{Errors, Place, Section};

/// When a node counts as down, and how long things linger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimingConfig {
    /// h: the time between two heartbeats.
    pub heartbeat: Duration,
    /// m: a node that was not heard for `multiplier` heartbeats is down.
    pub multiplier: u8,
    /// How long a node that came back waits before it takes its buckets. At least 4 D, so that a
    /// node that goes up and down does not drag clients with it.
    pub hold: Duration,
    /// Over what time, after the hold, its share of the buckets rises to its full measure; zero for
    /// at once.
    pub ramp: Duration,
    /// How long the old owner of a bucket keeps the flows it has. At least `hold`.
    pub linger: Duration,
}

impl TimingConfig {
    /// Whether heartbeats are so fast that the control thread needs real-time scheduling.
    pub fn wants_realtime(&self) -> bool {
        self.heartbeat < Duration::from_millis(FAST_MS)
    }

    /// D: how long after its last heartbeat a node counts as down.
    pub fn detection(&self) -> Duration {
        self.heartbeat * u32::from(self.multiplier)
    }
}

/// A named pair of h and m, as in the protocol's section on timing.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Profile {
    Default,
    Fast,
    Relaxed,
}

impl Profile {
    const fn heartbeat_ms(self) -> u64 {
        match self {
            Self::Default => 50,
            Self::Fast => 10,
            Self::Relaxed => 100,
        }
    }
}

/// Below 5 ms the heartbeats of 64 nodes would take more than a thread's time; above 2 s nobody
/// would call it fail-over.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 5..=2000;
/// Below 3 a single lost heartbeat would nearly be a failure.
const MULTIPLIER: std::ops::RangeInclusive<u64> = 3..=20;
const MULTIPLIER_DEFAULT: u64 = 5;
const HOLD_S: std::ops::RangeInclusive<u64> = 1..=3600;
const HOLD_S_DEFAULT: u64 = 10;
const RAMP_S: std::ops::RangeInclusive<u64> = 0..=3600;
const LINGER_S: std::ops::RangeInclusive<u64> = 1..=7 * 86_400;
const LINGER_S_DEFAULT: u64 = 3600;
/// Heartbeats faster than this, in milliseconds, are for small clusters.
const FAST_MS: u64 = 20;
/// How many members a cluster with fast heartbeats may have: each sends to all others.
const FAST_MEMBERS_MAX: usize = 16;
/// How many detection times a hold lasts at least.
const HOLD_DETECTIONS: u64 = 4;

/// Reads `profile` and `[timing]`. Wrong values are reported and read as their defaults.
pub(super) fn read(section: &mut Section<'_>, members: usize, errors: &mut Errors) -> TimingConfig {
    let profile = section.optional("profile", errors, |f| {
        let choices =
            [("default", Profile::Default), ("fast", Profile::Fast), ("relaxed", Profile::Relaxed)];
        f.choice(&choices)
    });
    let heartbeat_default =
        profile.as_ref().map_or(Profile::Default, |profile| profile.value).heartbeat_ms();
    let (mut heartbeat, mut multiplier, mut hold, mut linger) = (None, None, None, None);
    let mut ramp_s = 0;
    if let Some(mut timing) = section.table("timing", errors) {
        heartbeat =
            timing.optional("heartbeat_ms", errors, |f| f.integer(HEARTBEAT_MS, "milliseconds"));
        multiplier = timing
            .optional("multiplier", errors, |f| f.integer(MULTIPLIER, "a number of heartbeats"));
        hold = timing.optional("hold_s", errors, |f| f.integer(HOLD_S, "seconds"));
        ramp_s = timing.or_default("ramp_s", 0, errors, |f| f.integer(RAMP_S, "seconds"));
        linger = timing.optional("linger_s", errors, |f| f.integer(LINGER_S, "seconds"));
        timing.finish(errors);
    }
    let heartbeat_place = heartbeat.as_ref().map(|located| located.place.clone());
    let hold_place = hold.as_ref().map(|located| located.place.clone());
    let linger_place = linger.as_ref().map(|located| located.place.clone());
    let multiplier_place = multiplier.as_ref().map(|located| located.place.clone());

    let heartbeat_ms = heartbeat.map_or(heartbeat_default, |located| located.value);
    let multiplier = multiplier.map_or(MULTIPLIER_DEFAULT, |located| located.value);
    let hold_s = hold.map_or(HOLD_S_DEFAULT, |located| located.value);
    let linger_s = linger.map_or(LINGER_S_DEFAULT.max(hold_s), |located| located.value);

    let mut blame = |places: [Option<Place<'_>>; 2], found: String, remedy: String| {
        // One of the keys stands in the file, for the defaults fit together.
        if let Some(place) = places.into_iter().flatten().next() {
            errors.push(place.error_found(found, remedy));
        }
    };
    if heartbeat_ms < FAST_MS && members > FAST_MEMBERS_MAX {
        blame(
            [heartbeat_place.clone(), profile.map(|profile| profile.place)],
            format!("a heartbeat every {heartbeat_ms} ms for {members} members"),
            format!(
                "give at least {FAST_MS} ms, or at most {FAST_MEMBERS_MAX} members: each member \
                 hears all others"
            ),
        );
    }
    let detection_ms = heartbeat_ms * multiplier;
    let hold_min_s = (HOLD_DETECTIONS * detection_ms).div_ceil(1000);
    if hold_s < hold_min_s {
        blame(
            [hold_place.clone(), heartbeat_place.or(multiplier_place)],
            format!("hold_s = {hold_s} with a detection time of {detection_ms} ms"),
            format!(
                "give hold_s at least {hold_min_s}: {HOLD_DETECTIONS} times heartbeat_ms * \
                 multiplier"
            ),
        );
    }
    if linger_s < hold_s {
        blame(
            [linger_place, hold_place],
            format!("linger_s = {linger_s} with hold_s = {hold_s}"),
            format!("give linger_s at least {hold_s}: flows must outlast the hold"),
        );
    }
    TimingConfig {
        heartbeat: Duration::from_millis(heartbeat_ms),
        multiplier: multiplier as u8,
        hold: Duration::from_secs(hold_s),
        ramp: Duration::from_secs(ramp_s),
        linger: Duration::from_secs(linger_s),
    }
}
