//! The control plane of vipdp.

pub mod admin;
pub mod cli;
pub mod config;
pub mod status;
