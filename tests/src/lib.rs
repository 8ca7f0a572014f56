//! Clusters in network namespaces.
