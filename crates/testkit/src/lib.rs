//! Readable packets, clusters and truth tables for tests.
