//! The XDP program in C, its maps and its pinned links.
