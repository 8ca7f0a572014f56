//! The figures, and a table of them.

use std::fmt;

use serde::Serialize;

use crate::compare::statistics::Spread;

/// One way to one end.
#[derive(Clone, Debug, Serialize)]
struct Case {
    way: &'static str,
    end: &'static str,
    /// Packets a second, one figure a turn.
    packets_per_s: Vec<f64>,
}

/// What was measured.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Report {
    /// How far the cores were from each other before each round, nanoseconds.
    ping_pong_ns: Vec<f64>,
    cases: Vec<Case>,
}

impl Report {
    pub(super) fn ping_pong(&mut self, nanoseconds: f64) {
        self.ping_pong_ns.push(nanoseconds);
    }

    pub(super) fn add(&mut self, way: &'static str, end: &'static str, packets_per_s: f64) {
        let known = self.cases.iter_mut().find(|case| (case.way, case.end) == (way, end));
        match known {
            Some(case) => case.packets_per_s.push(packets_per_s),
            None => self.cases.push(Case { way, end, packets_per_s: vec![packets_per_s] }),
        }
    }

    /// The median of the ratios to the plain TAP write of the same round, to the same end: a machine that is
    /// slow for a whole round does not change it.
    fn ratio(&self, case: &Case) -> Option<f64> {
        let plain = self.cases.iter().find(|it| it.way == "tap" && it.end == case.end)?;
        let ratios = case.packets_per_s.iter().zip(&plain.packets_per_s).map(|(a, b)| a / b);
        Spread::of(ratios).map(|spread| spread.median)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(Spread { median, min, max }) = Spread::of(self.ping_pong_ns.iter().copied()) {
            writeln!(f, "ping-pong between the cores: {median:.0} ns [{min:.0}..{max:.0}]\n")?;
        }
        writeln!(f, "| way | end | Mpps | of `tap` |\n|---|---|---|---|")?;
        for case in &self.cases {
            let Some(spread) = Spread::of(case.packets_per_s.iter().map(|rate| rate / 1e6)) else {
                continue;
            };
            let Spread { median, min, max } = spread;
            let ratio = self.ratio(case).map_or_else(String::new, |ratio| format!("{ratio:.2}"));
            let (way, end) = (case.way, case.end);
            writeln!(f, "| {way} | {end} | {median:.2} [{min:.2}..{max:.2}] | {ratio} |")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ratios_are_of_the_same_round() {
        let mut report = Report::default();
        for (tap, worker) in [(1e6, 3e6), (2e6, 6e6), (4e6, 4e6)] {
            report.add("tap", "udp", tap);
            report.add("worker-8", "udp", worker);
        }
        let shown = report.to_string();
        assert!(shown.contains("| tap | udp | 2.00 [1.00..4.00] | 1.00 |"), "{shown}");
        assert!(shown.contains("| worker-8 | udp | 4.00 [3.00..6.00] | 3.00 |"), "{shown}");
    }
}
