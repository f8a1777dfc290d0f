//! What the programs know of a port and what they count, in the byte layout of the C program.

use flow::MacAddr;

/// What becomes of a frame for the engine when no socket is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fallback {
    /// It is dropped: nothing passes unjudged.
    #[default]
    Drop,
    /// It goes to the kernel's stack: traffic flows unfiltered.
    Pass,
}

/// One port as its XDP program sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEntry {
    /// The index of its first queue in the socket map; its counters are kept under this number, too.
    pub base: u32,
    /// How many queues it has there.
    pub queues: u32,
    /// The pod's MAC address; while it is unknown, nothing goes to the kernel. Meaningless for an uplink.
    pub mac: Option<MacAddr>,
    /// What happens to frames for a socket that is not there.
    pub fallback: Fallback,
    /// Whether a pod's frame with one priority tag is sorted by what is behind it. Meaningless for an uplink.
    pub strips_priority_tags: bool,
}

pub(crate) const PORT_BYTES: usize = 20;
pub(crate) const COUNTER_BYTES: usize = 24;

/// `enum xdp_action` in linux/bpf.h.
const XDP_DROP: u8 = 1;
const XDP_PASS: u8 = 2;

impl PortEntry {
    /// `struct port` of the C program.
    pub(crate) fn to_bytes(self) -> [u8; PORT_BYTES] {
        let mut bytes = [0; PORT_BYTES];
        bytes[0..4].copy_from_slice(&self.base.to_ne_bytes());
        bytes[4..8].copy_from_slice(&self.queues.to_ne_bytes());
        if let Some(mac) = self.mac {
            bytes[8..14].copy_from_slice(&mac.0);
            bytes[14] = 1;
        }
        bytes[15] = match self.fallback {
            Fallback::Drop => XDP_DROP,
            Fallback::Pass => XDP_PASS,
        };
        bytes[16] = u8::from(self.strips_priority_tags);
        bytes
    }
}

/// How many frames a port's program sent where, since it was loaded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// To the kernel's stack.
    pub passed: u64,
    /// To a socket (which may still have dropped them, for want of a free frame).
    pub redirected: u64,
    /// Dropped, because no socket was bound.
    pub dropped: u64,
}

impl Counters {
    /// The sum over all CPUs of `struct counters` of the C program.
    pub(crate) fn sum<'a>(cpus: impl IntoIterator<Item = &'a [u8; COUNTER_BYTES]>) -> Self {
        let number = |bytes: &[u8; COUNTER_BYTES], at: usize| {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            u64::from_ne_bytes(word)
        };
        cpus.into_iter().fold(Self::default(), |total, cpu| Self {
            passed: total.passed + number(cpu, 0),
            redirected: total.redirected + number(cpu, 8),
            dropped: total.dropped + number(cpu, 16),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_has_the_layout_of_the_c_program() {
        let entry = PortEntry {
            base: 7,
            queues: 2,
            mac: Some(MacAddr([2, 0, 0, 0, 0, 9])),
            fallback: Fallback::Pass,
            strips_priority_tags: true,
        };
        let mut expected = Vec::new();
        expected.extend(7_u32.to_ne_bytes());
        expected.extend(2_u32.to_ne_bytes());
        expected.extend([2, 0, 0, 0, 0, 9, 1, 2, 1, 0, 0, 0]);
        assert_eq!(entry.to_bytes().to_vec(), expected);
        let unknown = PortEntry { mac: None, fallback: Fallback::Drop, strips_priority_tags: false, ..entry };
        assert_eq!(unknown.to_bytes()[8..], [0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0]);
    }

    #[test]
    fn counters_are_summed_over_cpus() {
        let mut cpu = [0; COUNTER_BYTES];
        cpu[0..8].copy_from_slice(&1_u64.to_ne_bytes());
        cpu[8..16].copy_from_slice(&20_u64.to_ne_bytes());
        cpu[16..24].copy_from_slice(&300_u64.to_ne_bytes());
        let sum = Counters::sum([&cpu, &cpu]);
        assert_eq!(sum, Counters { passed: 2, redirected: 40, dropped: 600 });
    }
}
