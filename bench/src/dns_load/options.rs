//! The command line.

use std::net::IpAddr;
use std::num::NonZeroU64;

use clap::Parser;
use hickory_proto::rr::{DNSClass, Name, RecordType};

use super::message::Question;
use super::plan::Prefix;

/// Sends DNS queries from many client addresses and accounts for every response.
///
/// Ends after --queries or --duration, whichever comes first, or at SIGINT or SIGTERM; in each case it waits for
/// what is under way and prints its report.
#[derive(Debug, Clone, Parser)]
#[command(name = "dns-load", version)]
pub struct Options {
    /// Address of a server; repeat it for several. Families take turns.
    #[arg(long = "server", required = true, value_name = "ADDRESS")]
    pub servers: Vec<IpAddr>,

    /// Block of addresses that queries come from, as 10.64.0.0/16 or fd64::/64; repeat it for several. Packets
    /// to the addresses must reach this machine (ip route add local BLOCK dev lo).
    #[arg(long = "sources", required = true, value_name = "BLOCK")]
    pub sources: Vec<Prefix>,

    /// Destination port.
    #[arg(long, default_value_t = 53)]
    pub port: u16,

    /// How many queries to send.
    #[arg(long, value_name = "N")]
    pub queries: Option<NonZeroU64>,

    /// How long to send, seconds.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<NonZeroU64>,

    /// Queries a second, evenly spaced.
    #[arg(long, value_name = "N", default_value = "2000")]
    pub rate: NonZeroU64,

    /// How long a query may stay unanswered before it counts as lost, milliseconds.
    #[arg(long, value_name = "MS", default_value = "1000")]
    pub timeout_ms: NonZeroU64,

    /// How long a socket stays open past its answer so that a second answer is seen, milliseconds.
    #[arg(long, value_name = "MS", default_value_t = 300)]
    pub linger_ms: u64,

    /// Fail unless there is a different source address for every query.
    #[arg(long)]
    pub distinct: bool,

    /// Name to ask for.
    #[arg(long, default_value = "id.server.")]
    pub qname: Name,

    /// Class to ask in (IN, CH).
    #[arg(long, default_value = "CH")]
    pub class: DNSClass,

    /// Record type to ask for.
    #[arg(long = "type", default_value = "TXT", value_name = "TYPE")]
    pub record_type: RecordType,

    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Options {
    /// The question that every query asks.
    pub fn question(&self) -> Question {
        let mut name = self.qname.clone();
        name.set_fqdn(true);
        Question { name, class: self.class, record_type: self.record_type }
    }

    /// How many queries will be sent at most, if there is a limit.
    pub fn queries_max(&self) -> Option<u64> {
        let by_time = self.duration.map(|seconds| seconds.get().saturating_mul(self.rate.get()));
        match (self.queries.map(NonZeroU64::get), by_time) {
            (Some(queries), Some(by_time)) => Some(queries.min(by_time)),
            (queries, by_time) => queries.or(by_time),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(arguments: &str) -> Result<Options, clap::Error> {
        let base = "dns-load --server 192.0.2.53 --sources 10.64.0.0/16 ";
        Options::try_parse_from(format!("{base}{arguments}").split_whitespace())
    }

    #[test]
    fn the_default_question_asks_for_the_servers_identity() {
        let question = parse("").unwrap().question();
        assert_eq!(question.name, Name::from_ascii("id.server.").unwrap());
        assert_eq!((question.class, question.record_type), (DNSClass::CH, RecordType::TXT));
    }

    #[test]
    fn a_name_is_absolute_with_and_without_its_dot() {
        let with = parse("--qname www.example. --class IN --type A").unwrap().question();
        let without = parse("--qname www.example --class IN --type A").unwrap().question();
        assert_eq!(with, without);
        assert_eq!((with.class, with.record_type), (DNSClass::IN, RecordType::A));
    }

    #[test]
    fn the_sooner_of_queries_and_duration_ends_it() {
        assert_eq!(parse("").unwrap().queries_max(), None);
        assert_eq!(parse("--queries 70").unwrap().queries_max(), Some(70));
        assert_eq!(parse("--duration 3 --rate 100").unwrap().queries_max(), Some(300));
        let both = parse("--duration 3 --rate 100 --queries 1000").unwrap();
        assert_eq!(both.queries_max(), Some(300));
    }

    #[test]
    fn mistakes_are_refused() {
        for mistake in
            ["--rate 0", "--queries 0", "--sources 10.0.0.0/40", "--class XX", "--type -"]
        {
            assert!(parse(mistake).is_err(), "{mistake}");
        }
    }
}
