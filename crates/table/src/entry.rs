//! What the table knows of one address, in eight bytes.

use std::fmt;

/// Class, judged pod and node of an address.
///
/// ```text
///   62    61 .. 46    45 .. 24    23 .. 0
///  host     node        pod        class      node, pod: zero where there is none
/// ```
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash)]
pub(crate) struct Entry(u64);

impl Entry {
    const HOST: u64 = 1 << 62;
    pub(crate) const CLASSES: u32 = 1 << 24;
    pub(crate) const PODS: u32 = 1 << 22;

    /// What is known of an address of which nothing is known.
    pub(crate) const NOBODY: Self = Self::painted(0);

    /// An address that is nobody's in particular.
    pub(crate) const fn painted(class: u32) -> Self {
        debug_assert!(class < Self::CLASSES);
        Self(class as u64)
    }

    /// An address of its own: of a pod, a node, or both. `pod` and `node` are zero where there is none.
    pub(crate) const fn host(class: u32, pod: u32, node: u16) -> Self {
        debug_assert!(class < Self::CLASSES && pod < Self::PODS);
        Self(Self::HOST | (node as u64) << 46 | (pod as u64) << 24 | class as u64)
    }

    #[inline]
    pub(crate) const fn is_host(self) -> bool {
        self.0 & Self::HOST != 0
    }

    /// Whether a judged pod or a node has the address.
    #[inline]
    pub(crate) const fn is_somebody(self) -> bool {
        self.0 & (Self::HOST - 1) >> 24 << 24 != 0
    }

    #[inline]
    pub(crate) const fn class(self) -> u32 {
        self.0 as u32 & (Self::CLASSES - 1)
    }

    /// The slot of the judged pod that owns the address, or zero.
    #[inline]
    pub(crate) const fn pod(self) -> u32 {
        (self.0 >> 24) as u32 & (Self::PODS - 1)
    }

    /// The number of the node, or of the set of nodes, that has the address, or zero.
    #[inline]
    pub(crate) const fn node(self) -> u16 {
        (self.0 >> 46) as u16
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.is_host() { "host" } else { "painted" };
        write!(f, "{kind} class {} pod {} node {}", self.class(), self.pod(), self.node())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_keep_apart() {
        let most = Entry::host(Entry::CLASSES - 1, Entry::PODS - 1, u16::MAX);
        assert_eq!((most.class(), most.pod(), most.node()), (0xff_ffff, 0x3f_ffff, u16::MAX));
        assert!(most.is_host());
        for (class, pod, node) in [(0xff_ffff, 0, 0), (0, 0x3f_ffff, 0), (0, 0, u16::MAX), (0, 0, 0)] {
            let entry = Entry::host(class, pod, node);
            assert_eq!((entry.class(), entry.pod(), entry.node()), (class, pod, node));
            assert!(entry.is_host());
            assert_eq!(entry.is_somebody(), pod != 0 || node != 0);
        }
        assert!(!Entry::painted(5).is_host() && Entry::painted(5).class() == 5);
    }
}
