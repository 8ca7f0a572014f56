//! What was found.

use std::fmt;

use serde::{Serialize, Serializer};

/// What the samples are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Unit {
    /// Nanoseconds per packet: less is better.
    NsPerPacket,
    /// Packets per second: more is better.
    PacketsPerS,
}

/// What was found: of each case the median, the least and the most, and how fast it is beside the first.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    unit: Unit,
    cases: Vec<Case>,
}

#[derive(Clone, Debug, Serialize)]
struct Case {
    name: String,
    #[serde(serialize_with = "as_spread")]
    samples: Vec<f64>,
}

impl Case {
    /// Median, least and most.
    fn spread(&self) -> [f64; 3] {
        let mut samples = self.samples.clone();
        samples.sort_unstable_by(f64::total_cmp);
        let at = |at: usize| samples.get(at).copied().unwrap_or(f64::NAN);
        [at(samples.len() / 2), at(0), at(samples.len().saturating_sub(1))]
    }
}

fn as_spread<S: Serializer>(samples: &[f64], serializer: S) -> Result<S::Ok, S::Error> {
    let case = Case { name: String::new(), samples: samples.to_vec() };
    case.spread().serialize(serializer)
}

impl Report {
    pub(super) fn new(unit: Unit) -> Self {
        Self { unit, cases: Vec::new() }
    }

    pub(super) fn sample(&mut self, name: &str, sample: f64) {
        match self.cases.iter_mut().find(|case| case.name == name) {
            Some(case) => case.samples.push(sample),
            None => self.cases.push(Case { name: name.to_owned(), samples: vec![sample] }),
        }
    }

    /// How fast a case is beside the first: packets in the same time, by the medians and by the best turns.
    fn ratios(&self, case: &Case) -> [f64; 2] {
        let [first, of_case] = [&self.cases[0], case].map(Case::spread);
        match self.unit {
            Unit::NsPerPacket => [first[0] / of_case[0], first[1] / of_case[1]],
            Unit::PacketsPerS => [of_case[0] / first[0], of_case[2] / first[2]],
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale, places) = match self.unit {
            Unit::NsPerPacket => ("ns a packet", 1.0, 2),
            Unit::PacketsPerS => ("million packets/s", 1e-6, 3),
        };
        writeln!(
            f,
            "| | {unit} | least | most | packets beside the first | by the best turns |\n\
             |---|---|---|---|---|---|"
        )?;
        for case in &self.cases {
            let [median, least, most] = case.spread().map(|figure| figure * scale);
            let [by_median, by_best] = self.ratios(case);
            writeln!(
                f,
                "| {} | {median:.places$} | {least:.places$} | {most:.places$} | {by_median:.2} | {by_best:.2} |",
                case.name,
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn medians_and_ratios_are_of_what_was_sampled() {
        let mut report = Report::new(Unit::NsPerPacket);
        for (first, second) in [(9.0, 20.0), (10.0, 19.0), (400.0, 21.0)] {
            report.sample("bare", first);
            report.sample("worker", second);
        }
        let text = report.to_string();
        assert!(text.contains("| bare | 10.00 | 9.00 | 400.00 | 1.00 | 1.00 |"), "{text}");
        assert!(text.contains("| worker | 20.00 | 19.00 | 21.00 | 0.50 | 0.47 |"), "{text}");
        let mut report = Report::new(Unit::PacketsPerS);
        report.sample("first", 2e6);
        report.sample("second", 1e6);
        assert!(report.to_string().contains("| second | 1.000 | 1.000 | 1.000 | 0.50 | 0.50 |"));
    }
}
