//! The numbers of what a draft and its tables have. They mean nothing to another draft.

/// A class of addresses of a draft and its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ClassId(pub(crate) u32);

impl ClassId {
    /// The class that every address is in at first: no peer matches it, and it names no port.
    pub const OUTSIDE: Self = Self(0);
}

/// A row of a draft and its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RowId(pub(crate) u32);

impl RowId {
    /// The row of a pod that no policy isolates: everything passes.
    pub const OPEN: Self = Self(0);
}

/// A judged pod of a draft and its tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodId(pub(crate) u32);

/// A node. Whoever writes the table numbers them, below [`Draft::MAX_NODES`](crate::Draft::MAX_NODES).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub u16);
