//! The control plane of vipdp.

pub mod admin;
pub mod bfd;
pub mod bgp;
pub mod cli;
pub mod cluster;
pub mod config;
pub mod damping;
pub mod health;
mod jitter;
pub mod plan;
pub mod routes;
pub mod runtime;
pub mod speaker;
pub mod status;
