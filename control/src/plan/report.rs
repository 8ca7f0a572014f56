//! A plan as it is printed: for people, and as JSON.

use std::io::{self, Write};
use std::path::PathBuf;

use serde::Serialize;

use super::failures::{self, Outcome};
use super::{Network, Plan};
use crate::cluster::addresses::Addresses;

/// The names of the tiers.
const TIERS: [&str; 3] = ["primary", "secondary", "tertiary"];
/// Widths that routers have, and that are judged where none is given.
const WIDTHS: [u32; 5] = [8, 16, 32, 64, 128];
/// Up to so many nodes it is printed who takes over what.
const NODES_IN_FULL: usize = 16;

/// Prints the plan for people.
pub(super) fn human(
    plan: &Plan,
    ecmp_width: Option<u32>,
    written: &[PathBuf],
    out: &mut impl Write,
) -> io::Result<()> {
    let addresses = &plan.addresses;
    let form = if addresses.is_compact() { ", compact" } else { "" };
    writeln!(
        out,
        "{} nodes, {} tiers{form}: {} next-hop addresses, {} per node in each tier\n",
        plan.nodes.len(),
        addresses.tiers(),
        addresses.len(),
        addresses.len() / plan.nodes.len()
    )?;
    address_table(&plan.nodes, addresses, 0, &plan.network, out)?;
    writeln!(out)?;
    node_table(&plan.nodes, addresses, out)?;
    writeln!(out)?;
    if plan.nodes.len() <= NODES_IN_FULL {
        takeovers(&plan.nodes, addresses, out)?;
        writeln!(out)?;
    }
    load_table(&plan.nodes, addresses, out)?;
    writeln!(out)?;
    ecmp(plan, ecmp_width, out)?;
    if let Some((nodes, enlarged)) = &plan.enlarged {
        writeln!(out)?;
        growth(plan, nodes, enlarged, out)?;
    }
    if !written.is_empty() {
        writeln!(out)?;
        if plan.network.example {
            writeln!(
                out,
                "The files have addresses made up as examples: give --vips, --next-hops4, --next-hops6."
            )?;
        }
    }
    for path in written {
        writeln!(out, "wrote {}", path.display())?;
    }
    Ok(())
}

/// Prints rows of cells in columns below a header; columns of numbers are flush right.
fn table(rows: &[Vec<String>], out: &mut impl Write) -> io::Result<()> {
    let columns = rows.first().map_or(0, Vec::len);
    let cells = |column: usize| rows.iter().map(move |row| row[column].as_str());
    let width = |column: usize| cells(column).map(str::len).max().unwrap_or(0);
    let is_number = |column: usize| cells(column).skip(1).all(|cell| cell.parse::<f64>().is_ok());
    let columns: Vec<_> = (0..columns).map(|column| (width(column), is_number(column))).collect();
    for row in rows {
        let cells = row.iter().zip(&columns).map(|(cell, &(width, is_number))| match is_number {
            true => format!("{cell:>width$}"),
            false => format!("{cell:<width$}"),
        });
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

fn address_table(
    nodes: &[String],
    addresses: &Addresses,
    from: usize,
    network: &Network,
    out: &mut impl Write,
) -> io::Result<()> {
    let tiers = TIERS[..addresses.tiers()].iter().map(|&tier| tier.to_owned());
    let hop = |text: String| (!network.example).then_some(text);
    let mut rows: Vec<Vec<String>> = vec![
        ["address".to_owned()].into_iter().chain(hop("next hop".into())).chain(tiers).collect(),
    ];
    for (number, list) in addresses.lists().enumerate().skip(from) {
        let names = list.iter().map(|&node| nodes[usize::from(node)].clone());
        let number_and_hop = [number.to_string()].into_iter().chain(hop(network.next_hops(number)));
        rows.push(number_and_hop.chain(names).collect());
    }
    table(&rows, out)
}

/// The numbers of the addresses in which `node` stands in `tier`.
fn of_node(addresses: &Addresses, node: usize, tier: usize) -> Vec<usize> {
    let has = |(_, list): &(usize, &[u8])| usize::from(list[tier]) == node;
    addresses.lists().enumerate().filter(has).map(|(number, _)| number).collect()
}

fn listed(numbers: &[usize]) -> String {
    numbers.iter().map(usize::to_string).collect::<Vec<_>>().join(",")
}

fn node_table(nodes: &[String], addresses: &Addresses, out: &mut impl Write) -> io::Result<()> {
    let tiers = TIERS[..addresses.tiers()].iter().map(|&tier| tier.to_owned());
    let mut rows: Vec<Vec<String>> = vec![["node".to_owned()].into_iter().chain(tiers).collect()];
    for (node, name) in nodes.iter().enumerate() {
        let numbers = (0..addresses.tiers()).map(|tier| listed(&of_node(addresses, node, tier)));
        rows.push([name.clone()].into_iter().chain(numbers).collect());
    }
    table(&rows, out)
}

fn takeovers(nodes: &[String], addresses: &Addresses, out: &mut impl Write) -> io::Result<()> {
    let mut rows = vec![vec!["fails".to_owned(), "is taken over by (its addresses)".to_owned()]];
    for (failed, name) in nodes.iter().enumerate() {
        let heirs = failures::heirs(addresses, failed as u8)
            .into_iter()
            .map(|(heir, taken)| format!("{} ({})", nodes[usize::from(heir)], listed(&taken)));
        rows.push(vec![name.clone(), heirs.collect::<Vec<_>>().join(" ")]);
    }
    table(&rows, out)
}

fn load_table(nodes: &[String], addresses: &Addresses, out: &mut impl Write) -> io::Result<()> {
    writeln!(
        out,
        "Load in addresses per surviving node; the router gives each address its share:"
    )?;
    let header = ["down", "least", "most", "most/mean", "lost"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for size in 0..=2 {
        let outcomes = failures::outcomes(addresses, size);
        for (outcome, count) in failures::alike(&outcomes) {
            let down = match size {
                0 => "none".to_owned(),
                _ if count == outcomes.len() => format!("any {size}"),
                _ => format!("{count} of {}, as {}", outcomes.len(), names(nodes, &outcome.failed)),
            };
            rows.push(vec![
                down,
                outcome.least.to_string(),
                outcome.most.to_string(),
                format!("{:.3}", outcome.most_by_mean()),
                lost(outcome.lost.len(), addresses.len()),
            ]);
        }
    }
    table(&rows, out)?;
    if addresses.tiers() == 3 {
        let most = failures::most_lost(addresses);
        writeln!(out, "Three down at once: at most {} lost.", lost(most, addresses.len()))?;
    }
    Ok(())
}

fn names(nodes: &[String], places: &[u8]) -> String {
    let names = places.iter().map(|&place| nodes[usize::from(place)].as_str());
    names.collect::<Vec<_>>().join("+")
}

fn lost(lost: usize, all: usize) -> String {
    match lost {
        0 => "none".into(),
        _ => {
            let percent = 100.0 * lost as f64 / all as f64;
            let digits = if percent < 1.0 { 2 } else { 1 };
            format!("{lost} of {all} ({percent:.digits$} %)")
        }
    }
}

fn ecmp(plan: &Plan, width: Option<u32>, out: &mut impl Write) -> io::Result<()> {
    let next_hops = plan.largest().1.len();
    let with = if plan.enlarged.is_some() { ", with the added nodes" } else { "" };
    write!(out, "ECMP: {next_hops} next hops in one route{with}. ")?;
    let Some(width) = width else {
        let fits = |wanted: bool| {
            let widths = WIDTHS.iter().filter(|&&width| (next_hops <= width as usize) == wanted);
            widths.map(u32::to_string).collect::<Vec<_>>()
        };
        return match (fits(true), fits(false)) {
            (fit, narrow) if narrow.is_empty() => {
                writeln!(out, "They fit widths of {} and more.", fit.join(", "))
            }
            (fit, narrow) if fit.is_empty() => {
                writeln!(out, "They fit none of the common widths {}.", narrow.join(", "))
            }
            (fit, narrow) => writeln!(
                out,
                "They fit widths of {}; they do not fit {}.",
                fit.join(", "),
                narrow.join(", ")
            ),
        };
    };
    match too_narrow(plan, width) {
        Some(_) => writeln!(out, "They do not fit a width of {width}."),
        None => {
            write!(out, "They fit a width of {width}")?;
            match plan.largest_within(width as usize) {
                Some((nodes, next_hops)) => {
                    writeln!(out, ", which has room for {nodes} nodes ({next_hops} next hops).")
                }
                None => writeln!(out, "."),
            }
        }
    }
}

/// What is wrong with a router's ECMP width, if it has too few next hops.
pub(super) fn too_narrow(plan: &Plan, width: u32) -> Option<String> {
    let next_hops = plan.largest().1.len();
    if next_hops <= width as usize {
        return None;
    }
    let (tiers, compact) = (plan.addresses.tiers(), plan.addresses.is_compact());
    let fewer = match (tiers, compact) {
        (3, false) => "two tiers, the compact form",
        (3, true) => "two tiers",
        _ => "the same nodes in clusters of their own",
    };
    let remedy = match plan.largest_within(width as usize) {
        Some((nodes, next_hops)) => {
            format!("give at most {nodes} nodes ({next_hops} next hops), {fewer}, or")
        }
        None if tiers == 3 => format!("give {fewer}, or"),
        None => "give".to_owned(),
    };
    let remedy = format!("{remedy} a router with more room");
    Some(format!("{next_hops} next hops do not fit an ECMP width of {width}: {remedy}"))
}

fn growth(
    plan: &Plan,
    nodes: &[String],
    enlarged: &Addresses,
    out: &mut impl Write,
) -> io::Result<()> {
    let (old, new) = (plan.addresses.len(), enlarged.len());
    let added = nodes[plan.nodes.len()..].join(", ");
    let changed = changed(&plan.addresses, enlarged);
    if changed == 0 {
        writeln!(
            out,
            "Adding {added}: addresses {old} to {} are appended; 0 to {} stay as they are. Each node \
             then has {} of {new}.\nThe router spreads anew then: flows move to other addresses, unless \
             its ECMP is resilient (see its file).\n",
            new - 1,
            old - 1,
            new / nodes.len(),
        )?;
        return address_table(nodes, enlarged, old, &plan.network, out);
    }
    writeln!(
        out,
        "Adding {added}: {changed} of {old} addresses get other nodes, and {} are appended. The \
         compact form does not only append:\nbuild the larger cluster beside this one, on next hops \
         of its own.\n",
        new - old
    )?;
    address_table(nodes, enlarged, 0, &plan.network, out)
}

/// How many addresses of the smaller plan have other nodes in the larger one.
fn changed(smaller: &Addresses, larger: &Addresses) -> usize {
    smaller.lists().zip(larger.lists()).filter(|(before, after)| before != after).count()
}

#[derive(Serialize)]
struct Report<'a> {
    addresses: Vec<Address<'a>>,
    failures: Vec<Failure<'a>>,
    ecmp: Ecmp,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<Added<'a>>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    files: &'a [PathBuf],
}

#[derive(Serialize)]
struct Address<'a> {
    index: usize,
    tiers: Vec<&'a str>,
}

/// The load when just these nodes are down, in addresses per survivor.
#[derive(Serialize)]
struct Failure<'a> {
    failed: Vec<&'a str>,
    least: usize,
    most: usize,
    mean: f64,
    lost: &'a [usize],
}

#[derive(Serialize)]
struct Ecmp {
    next_hops: usize,
    widths: Vec<Width>,
}

#[derive(Serialize)]
struct Width {
    width: u32,
    fits: bool,
}

#[derive(Serialize)]
struct Added<'a> {
    nodes: &'a [String],
    /// How many of the addresses before get other nodes: 0 but in the compact form.
    changed: usize,
    /// The addresses that were not there before.
    addresses: Vec<Address<'a>>,
}

fn addresses_json<'a>(nodes: &'a [String], addresses: &Addresses, from: usize) -> Vec<Address<'a>> {
    let address = |(index, list): (usize, &[u8])| Address {
        index,
        tiers: list.iter().map(|&node| nodes[usize::from(node)].as_str()).collect(),
    };
    addresses.lists().enumerate().skip(from).map(address).collect()
}

/// Prints the plan as one JSON object.
pub(super) fn json(
    plan: &Plan,
    ecmp_width: Option<u32>,
    written: &[PathBuf],
    out: &mut impl Write,
) -> io::Result<()> {
    let outcomes: Vec<Outcome> =
        (1..=2).flat_map(|size| failures::outcomes(&plan.addresses, size)).collect();
    let failures = outcomes.iter().map(|outcome| Failure {
        failed: outcome.failed.iter().map(|&node| plan.nodes[usize::from(node)].as_str()).collect(),
        least: outcome.least,
        most: outcome.most,
        mean: outcome.mean(),
        lost: &outcome.lost,
    });
    let next_hops = plan.largest().1.len();
    let widths = ecmp_width.map_or(WIDTHS.to_vec(), |width| vec![width]);
    let width = |width: u32| Width { width, fits: next_hops <= width as usize };
    let report = Report {
        addresses: addresses_json(&plan.nodes, &plan.addresses, 0),
        failures: failures.collect(),
        ecmp: Ecmp { next_hops, widths: widths.into_iter().map(width).collect() },
        added: plan.enlarged.as_ref().map(|(nodes, enlarged)| Added {
            nodes: &nodes[plan.nodes.len()..],
            changed: changed(&plan.addresses, enlarged),
            addresses: addresses_json(nodes, enlarged, plan.addresses.len()),
        }),
        files: written,
    };
    serde_json::to_writer(&mut *out, &report)?;
    writeln!(out)
}
