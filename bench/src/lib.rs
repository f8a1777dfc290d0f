//! What every benchmark shares: clusters and keys made from a seed.
