//! Files to index to compile to publish.
