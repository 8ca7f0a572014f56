//! The control plane of vipdp.
