//! The arithmetic of sharing frames out between rings.

use crate::XskError;

/// The largest fill and transmit rings; a power of two, as the kernel wants.
const LARGEST_RING: u32 = 2048;
/// Fewer frames than this in a ring do not carry a port over one burst of 64.
const SMALLEST_SHARE: u32 = 64;
/// `XDP_PACKET_HEADROOM` in linux/bpf.h.
const HEADROOM: u32 = 256;
/// An Ethernet header and one VLAN tag.
const LINK_HEADER: u32 = 18;

/// How many frames of which size go where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plan {
    /// Bytes of one chunk.
    pub chunk: u32,
    /// Frames that each receive queue's fill ring is kept filled with.
    pub fill: u32,
    /// Frames that may be on their way out through one queue at a time.
    pub tx: u32,
    /// Entries of each ring: the power of two that holds either share.
    pub ring: u32,
}

/// Shares `frames` out between `queues` receive queues whose largest MTU is `mtu`.
///
/// Each queue's share of either half is `frames / 2 / queues`, at most 2048: 4096 frames give a single
/// queue 2048 to receive into and 2048 to send with, eight queues 256 each. Frames left over by the bound
/// stay free. A chunk has 2048 bytes, less 256 of headroom, while packets and their link headers fit the
/// rest (an MTU of 1774), and 4096 bytes beyond.
///
/// # Errors
///
/// `TooFewFrames` when a share is below 64, `MtuTooLarge` when no chunk takes a packet.
pub fn plan(frames: u32, queues: u32, mtu: u32) -> Result<Plan, XskError> {
    let queues = queues.max(1);
    let share = (frames / 2 / queues).min(LARGEST_RING);
    if share < SMALLEST_SHARE {
        return Err(XskError::TooFewFrames { frames, queues, needed: queues * 2 * SMALLEST_SHARE });
    }
    let chunk = [2048, 4096].into_iter().find(|chunk| mtu.saturating_add(LINK_HEADER) <= chunk - HEADROOM);
    let chunk = chunk.ok_or(XskError::MtuTooLarge { mtu, limit: 4096 - HEADROOM - LINK_HEADER })?;
    Ok(Plan { chunk, fill: share, tx: share, ring: share.next_power_of_two() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_rings_together_never_hold_more_frames_than_there_are() {
        for frames in [128, 1000, 4096, 65536] {
            for queues in 1..64 {
                let Ok(plan) = plan(frames, queues, 1500) else { continue };
                assert!((plan.fill + plan.tx) * queues <= frames, "{frames} {queues} {plan:?}");
                assert!(plan.ring.is_power_of_two() && plan.fill <= plan.ring && plan.tx <= plan.ring);
            }
        }
        assert_eq!(plan(4096, 1, 1500).unwrap(), Plan { chunk: 2048, fill: 2048, tx: 2048, ring: 2048 });
        assert_eq!(plan(4096, 8, 1500).unwrap(), Plan { chunk: 2048, fill: 256, tx: 256, ring: 256 });
    }

    #[test]
    fn too_few_frames_say_how_many_are_needed() {
        let error = plan(4096, 33, 1500).unwrap_err();
        let XskError::TooFewFrames { needed, .. } = error else { panic!("{error}") };
        assert_eq!(needed, 33 * 128);
        assert!(plan(needed, 33, 1500).is_ok());
    }

    #[test]
    fn the_chunk_follows_the_mtu() {
        for (mtu, chunk) in [(1500, 2048), (1774, 2048), (1775, 4096), (3822, 4096)] {
            assert_eq!(plan(4096, 1, mtu).unwrap().chunk, chunk, "MTU {mtu}");
        }
        assert!(matches!(plan(4096, 1, 3823), Err(XskError::MtuTooLarge { limit: 3822, .. })));
        assert!(plan(4096, 1, u32::MAX).is_err());
    }
}
