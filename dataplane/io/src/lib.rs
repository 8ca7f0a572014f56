//! The edge of the data plane.
