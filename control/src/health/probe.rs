//! The probes of all kinds, ready to be run again and again.

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ClientConfig;

use super::command::Runner;
use super::error::ProbeError;
use super::patience::Patience;
use super::{DnsProbe, HttpProbe, ProbeConfig, dns, http, tls};

/// A probe, and what it keeps from turn to turn.
#[derive(Debug)]
pub(super) enum Probe {
    /// Opens a TCP connection.
    Tcp(SocketAddr),
    /// Asks a web server; with what TLS needs if it is spoken.
    Http(Box<HttpProbe>, Option<Arc<ClientConfig>>),
    /// Asks a DNS server.
    Dns(Box<DnsProbe>),
    /// Runs a command.
    Command(Runner),
}

/// Why a probe cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum UnfitProbe {
    /// TLS could not be set up.
    #[error("TLS cannot be set up")]
    Tls(#[from] rustls::Error),
    /// The command's arguments or its input are not to be had.
    #[error("the command cannot be prepared")]
    Command(#[from] std::io::Error),
}

impl Probe {
    pub(super) fn new(config: &ProbeConfig) -> Result<Self, UnfitProbe> {
        Ok(match config {
            ProbeConfig::Tcp(address) => Self::Tcp(*address),
            ProbeConfig::Http(config) => {
                let tls = config.secure.then(|| tls::client(config.verify)).transpose()?;
                Self::Http(Box::new(config.clone()), tls)
            }
            ProbeConfig::Dns(config) => Self::Dns(Box::new(config.clone())),
            ProbeConfig::Command(config) => Self::Command(Runner::new(config)?),
        })
    }

    /// Asks the service once.
    pub(super) fn run(&mut self, patience: &Patience<'_>) -> Result<(), ProbeError> {
        match self {
            &mut Self::Tcp(address) => match patience.connect(address) {
                Ok(_) => Ok(()),
                Err(source) => Err(ProbeError::Connect { address, source }),
            },
            Self::Http(config, tls) => http::probe(config, tls.as_ref(), patience),
            Self::Dns(config) => dns::probe(config, patience),
            Self::Command(runner) => runner.run(patience),
        }
    }
}
