//! The compiled immutable answer, its lookup and its publication.
