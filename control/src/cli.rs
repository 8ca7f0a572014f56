//! The command line: what `vipdp` is asked to do, and the parts of it that need no running node
//! of their own.

use std::fs::File;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::{Args, Parser, Subcommand};

use crate::admin::{self, Request, Response};
use crate::config::{Config, HASH_KEY_LEN, HEARTBEAT_KEY_LEN, HeartbeatKey, key_file};
use crate::plan::PlanArgs;
use crate::runtime::{notes, random};
use crate::status::Status;

/// Where the node's file is unless the command line says otherwise.
pub const CONFIG_DEFAULT: &str = "/etc/vipdp/node.toml";

/// Several backends, one service address, no load balancer in front.
///
/// Without a command, vipdp runs until it gets SIGTERM or SIGINT.
#[derive(Clone, Debug, Parser)]
#[command(name = "vipdp", version, max_term_width = 100)]
pub struct Cli {
    /// The node's file.
    #[arg(long, short, global = true, value_name = "FILE", default_value = CONFIG_DEFAULT)]
    pub config: PathBuf,

    /// What to do instead of running.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to do instead of running.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Check the configuration, and say everything that is wrong with it.
    Check,
    /// Show what the running node knows: members, buckets, workers, drops, flows.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
        /// The node to ask.
        #[command(flatten)]
        node: NodeArgs,
    },
    /// Make the running node give away its buckets, and take no new ones.
    Drain(NodeArgs),
    /// Make the running node take its buckets again.
    Undrain(NodeArgs),
    /// Make the running node read its configuration anew: members, weights, keys.
    Reload(NodeArgs),
    /// Plan the next-hop addresses of a tiered cluster, and write the files for it and its router.
    Plan(Box<PlanArgs>),
    /// Put back what a killed vipdp left changed on this host.
    Cleanup,
    /// Make a key file with new secrets, for all nodes of a cluster.
    Keygen {
        /// The file to make. It must not exist yet.
        file: PathBuf,
        /// The number of its heartbeat key.
        #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..))]
        id: u8,
    },
}

/// Which running node to ask.
#[derive(Args, Clone, Debug)]
pub struct NodeArgs {
    /// Its admin socket. Default: the one that the node's file says.
    #[arg(long, value_name = "PATH")]
    pub socket: Option<PathBuf>,
}

impl NodeArgs {
    fn socket(&self, config: &Path) -> anyhow::Result<PathBuf> {
        match &self.socket {
            Some(socket) => Ok(socket.clone()),
            None => Ok(Config::load(config)
                .context("the configuration is wrong; --socket works without it")?
                .node
                .admin),
        }
    }
}

/// `vipdp check`: writes one line about a configuration that is right, and one for each thing in it,
/// and of this host beside it, that may not be what is wanted.
///
/// # Errors
/// If it is wrong, with one line for everything that is.
pub fn check(config: &Path, out: &mut impl Write) -> anyhow::Result<()> {
    let config = Config::load(config)?;
    let (member, cluster) = (config.own_member(), &config.cluster);
    writeln!(
        out,
        "right: node {} (slot {}) of {} in cluster {}, generation {}, hash {:016x}",
        member.name,
        member.slot,
        cluster.members.len(),
        cluster.id,
        cluster.generation,
        config.cluster_hash
    )?;
    let here = notes::obstacles(&config).into_iter().chain(notes::notes(&config));
    for note in config.notes().into_iter().chain(here) {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
}

/// `vipdp status`: writes the running node's status, as JSON if `json`.
///
/// # Errors
/// If the node does not answer, or refuses.
pub fn status(
    config: &Path,
    node: &NodeArgs,
    json: bool,
    out: &mut impl Write,
) -> anyhow::Result<()> {
    let status: Box<Status> = match ask(config, node, Request::Status {})? {
        Response::Status { status } => status,
        other => bail!("the node answered a status request with {other:?}"),
    };
    if json {
        serde_json::to_writer(&mut *out, &status)?;
        writeln!(out)?;
    } else {
        write!(out, "{status}")?;
    }
    Ok(())
}

/// `vipdp drain` (`on`) and `vipdp undrain`.
///
/// # Errors
/// If the node does not answer, or refuses.
pub fn drain(config: &Path, node: &NodeArgs, on: bool) -> anyhow::Result<()> {
    order(config, node, if on { Request::Drain {} } else { Request::Undrain {} })
}

/// `vipdp reload`.
///
/// # Errors
/// If the node does not answer, or refuses the new configuration.
pub fn reload(config: &Path, node: &NodeArgs) -> anyhow::Result<()> {
    order(config, node, Request::Reload {})
}

fn order(config: &Path, node: &NodeArgs, request: Request) -> anyhow::Result<()> {
    match ask(config, node, request)? {
        Response::Done => Ok(()),
        other => bail!("the node answered {request:?} with {other:?}"),
    }
}

fn ask(config: &Path, node: &NodeArgs, request: Request) -> anyhow::Result<Response> {
    match admin::request(&node.socket(config)?, request)? {
        Response::Error { message, .. } => bail!("the node refuses: {message}"),
        response => Ok(response),
    }
}

/// `vipdp keygen`: makes a key file at `path`, for its owner's eyes only.
///
/// # Errors
/// If it exists, or cannot be written.
pub fn keygen(path: &Path, id: u8) -> anyhow::Result<()> {
    let mut secrets = [0; HASH_KEY_LEN + HEARTBEAT_KEY_LEN];
    random::fill(&mut secrets).context("no random bytes from /dev/urandom")?;
    let mut key = HeartbeatKey { id, secret: [0; HEARTBEAT_KEY_LEN] };
    let mut hash_key = [0; HASH_KEY_LEN];
    hash_key.copy_from_slice(&secrets[..HASH_KEY_LEN]);
    key.secret.copy_from_slice(&secrets[HASH_KEY_LEN..]);
    let made = File::options().write(true).create_new(true).mode(0o600).open(path);
    let mut file = made.map_err(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => anyhow::anyhow!(
            "{} exists; its secrets are not overwritten: remove it first, or name another file",
            path.display()
        ),
        _ => anyhow::Error::new(error).context(format!("cannot make {}", path.display())),
    })?;
    file.write_all(key_file(&hash_key, &key).as_bytes())
        .and_then(|()| file.sync_all())
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn the_configuration_may_stand_before_and_behind_the_command() {
        let before = Cli::parse_from(["vipdp", "--config", "a.toml", "status", "--json"]);
        let behind = Cli::parse_from(["vipdp", "status", "--json", "--config", "a.toml"]);
        assert_eq!(before.config, Path::new("a.toml"));
        assert_eq!(behind.config, before.config);
        assert!(matches!(behind.command, Some(Command::Status { json: true, .. })));
        assert_eq!(Cli::parse_from(["vipdp"]).config, Path::new(CONFIG_DEFAULT));
        assert!(Cli::try_parse_from(["vipdp", "keygen", "f", "--id", "0"]).is_err());
    }
}
