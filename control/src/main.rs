//! The `vipdp` command.

use std::io::stdout;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use vipdp::cli::{self, Cli, Command};
use vipdp::config::Config;
use vipdp::{plan, runtime};

fn main() -> ExitCode {
    match execute(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vipdp: {}", with_causes(&error));
            ExitCode::FAILURE
        }
    }
}

fn execute(cli: &Cli) -> Result<()> {
    match &cli.command {
        None => run(cli),
        Some(Command::Check) => cli::check(&cli.config, &mut stdout().lock()),
        Some(Command::Status { json, node }) => {
            cli::status(&cli.config, node, *json, &mut stdout().lock())
        }
        Some(Command::Drain(node)) => cli::drain(&cli.config, node, true),
        Some(Command::Undrain(node)) => cli::drain(&cli.config, node, false),
        Some(Command::Reload(node)) => cli::reload(&cli.config, node),
        Some(Command::Plan(args)) => plan::run(args, &mut stdout().lock()),
        Some(Command::Cleanup) => cleanup(cli),
        Some(Command::Keygen { file, id }) => cli::keygen(file, *id),
    }
}

/// The error and its causes, but those that the error itself has told already.
fn with_causes(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |said, cause| {
        let cause = cause.to_string();
        match said.as_str() {
            "" => cause,
            said if said.contains(&cause) => said.to_owned(),
            said => format!("{said}: {cause}"),
        }
    })
}

fn run(cli: &Cli) -> Result<()> {
    let config = Config::load(&cli.config)?;
    tracing_subscriber::fmt()
        .with_max_level(tracing::Level::from(config.node.log))
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .init();
    runtime::run(&cli.config, &config)
}

fn cleanup(cli: &Cli) -> Result<()> {
    use std::io::Write;

    let config = Config::load(&cli.config)?;
    let interface = config.node.interface.as_str();
    let report = vipdp_io::host::cleanup(&config.node.state_dir, interface)
        .with_context(|| format!("cannot clean up after a vipdp on {interface}"))?;
    let mut out = stdout().lock();
    for (what, lines) in [
        ("restored", &report.restored),
        ("left alone, changed by somebody else", &report.left_alone),
        ("not restored", &report.failed),
    ] {
        for line in lines {
            writeln!(out, "{what}: {line}")?;
        }
    }
    #[cfg(feature = "dpdk")]
    for directory in vipdp_io::dpdk::remove_left(&config.node.state_dir)
        .context("cannot remove what DPDK left of killed processes")?
    {
        writeln!(out, "removed: {}", directory.display())?;
    }
    #[cfg(feature = "dpdk")]
    if let vipdp::config::IoConfig::Dpdk(dpdk) = &config.node.io
        && let Some(interface) = vipdp_io::dpdk::detach_left(&dpdk.devargs)
            .context("cannot remove the XDP program that DPDK left")?
    {
        writeln!(out, "removed: DPDK's XDP program on {interface}")?;
    }
    anyhow::ensure!(report.failed.is_empty(), "not everything could be put back");
    Ok(())
}
