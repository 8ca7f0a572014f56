//! Which flow each packet is of.

use rand::SeedableRng;
use rand::rngs::StdRng;
use rand_distr::{Distribution, Zipf};
use thiserror::Error;

/// How many draws there are; they come round again after that. `bpf/pktgen.bpf.c` has the same
/// number.
pub const DRAWS: usize = 1 << 20;

/// The flows of a run: every pair of a source address and a source port, by number. Flow `n` has
/// address `n % addresses` and port `n / addresses`, and `run_len` turns one after another.
#[derive(Debug)]
pub struct Flows {
    addresses: u32,
    ports: u32,
    run_len: u32,
    draws: Option<Box<[u32]>>,
}

/// The flows of a run cannot be drawn so.
#[derive(Debug, Error)]
#[error("flows by Zipf's law with the exponent {exponent}: give one that is 0 or more")]
pub struct FlowsError {
    exponent: f64,
}

impl Flows {
    /// Flows that take turns, or that are drawn by Zipf's law with this exponent.
    ///
    /// # Errors
    /// If there is no such law.
    pub fn new(
        addresses: u32,
        ports: u32,
        run_len: u32,
        zipf: Option<f64>,
    ) -> Result<Self, FlowsError> {
        let draws = zipf.map(|exponent| draw(u64::from(addresses) * u64::from(ports), exponent));
        Ok(Self { addresses, ports, run_len, draws: draws.transpose()? })
    }

    /// How many source addresses there are.
    pub fn addresses(&self) -> u32 {
        self.addresses
    }

    /// How many source ports each of them has.
    pub fn ports(&self) -> u32 {
        self.ports
    }

    /// How many turns a flow has one after another.
    pub fn run_len(&self) -> u32 {
        self.run_len
    }

    /// The number of the flow of each run of turns, if they are drawn.
    pub fn draws(&self) -> Option<&[u32]> {
        self.draws.as_deref()
    }

    /// Address and port, counted from the first, of the packet of this turn.
    pub fn at(&self, turn: u64) -> (u32, u32) {
        // Runs count modulo 2^32, as in the BPF program.
        let run = (turn / u64::from(self.run_len)) as u32;
        let flow = match &self.draws {
            Some(draws) => draws[run as usize % DRAWS],
            None => run,
        };
        (flow % self.addresses, flow / self.addresses % self.ports)
    }
}

/// The same each time, so that runs can be compared.
fn draw(flows: u64, exponent: f64) -> Result<Box<[u32]>, FlowsError> {
    let ranks =
        Zipf::new(flows.min(1 << 32) as f64, exponent).map_err(|_| FlowsError { exponent })?;
    let mut random = StdRng::seed_from_u64(1);
    // Ranks count from one.
    Ok((0..DRAWS).map(|_| (ranks.sample(&mut random) - 1.0) as u32).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flows_take_turns() {
        let flows = Flows::new(3, 2, 1, None).unwrap();
        let turns: Vec<_> = (0..7).map(|turn| flows.at(turn)).collect();
        assert_eq!(turns, [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 0)]);
    }

    #[test]
    fn a_flow_has_a_run_of_turns() {
        let flows = Flows::new(2, 1, 3, None).unwrap();
        let turns: Vec<_> = (0..7).map(|turn| flows.at(turn).0).collect();
        assert_eq!(turns, [0, 0, 0, 1, 1, 1, 0]);
    }

    #[test]
    fn drawn_flows_follow_the_law() {
        let flows = Flows::new(1000, 1, 1, Some(1.0)).unwrap();
        let mut counts = [0u32; 1000];
        for turn in 0..DRAWS as u64 {
            counts[flows.at(turn).0 as usize] += 1;
        }
        // The harmonic number H(1000) is 7.485: the first of a thousand has 13.36 % of all.
        let part = |flow: usize| f64::from(counts[flow]) / DRAWS as f64;
        for (rank, expected) in [(1, 0.1336), (2, 0.0668), (10, 0.01336)] {
            assert!((part(rank - 1) / expected - 1.0).abs() < 0.05, "{rank}: {}", part(rank - 1));
        }
        assert!(Flows::new(1000, 1, 1, Some(-1.0)).is_err());
    }
}
