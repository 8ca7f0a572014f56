//! Load and measurement for vipdp.
