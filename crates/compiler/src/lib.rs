//! Cluster to policy table.
