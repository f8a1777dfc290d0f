//! Ranges of addresses, both families in one line of 128-bit numbers.
//!
//! IPv4 lies where its mapped form does (RFC 4291, section 2.5.5.2), in the middle of IPv6. No range of one family
//! reaches into the other: a block of IPv6 leaves out the mapped addresses, which never travel on a wire.

use flow::Address;
use ipnet::IpNet;
use policy::model::IpBlock;

/// The first and the last of some addresses that follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Range {
    pub(crate) first: u128,
    pub(crate) last: u128,
}

/// IPv4.
const V4: Range = Range { first: 0xffff_0000_0000, last: 0xffff_ffff_ffff };
/// IPv6 before and after IPv4.
const V6: [Range; 2] =
    [Range { first: 0, last: V4.first - 1 }, Range { first: V4.last + 1, last: u128::MAX }];

/// The place of an address on the line.
pub(crate) const fn number(address: Address) -> u128 {
    u128::from_be_bytes(address.octets())
}

/// The address at a place of the line.
pub(crate) const fn address(number: u128) -> Address {
    Address::v6(number.to_be_bytes())
}

/// The addresses that a block covers, as ranges that neither overlap nor touch, in order.
pub(crate) fn covered(block: &IpBlock) -> Box<[Range]> {
    let one_family = |hole: &&IpNet| {
        matches!((hole, block.cidr), (IpNet::V4(_), IpNet::V4(_)) | (IpNet::V6(_), IpNet::V6(_)))
    };
    let holes = united(block.except.iter().filter(one_family).map(of).collect());
    let whole = of(&block.cidr);
    let families: &[Range] = match block.cidr {
        IpNet::V4(_) => &[V4],
        IpNet::V6(_) => &V6,
    };
    let mut ranges = Vec::new();
    for part in families.iter().filter_map(|family| family.within(whole)) {
        let mut first = Some(part.first);
        for hole in holes.iter().filter_map(|hole| hole.within(part)) {
            if let Some(first) = first.filter(|&first| first < hole.first) {
                ranges.push(Range { first, last: hole.first - 1 });
            }
            first = hole.last.checked_add(1);
        }
        if let Some(first) = first.filter(|&first| first <= part.last) {
            ranges.push(Range { first, last: part.last });
        }
    }
    ranges.into()
}

/// The line cut where the family changes.
pub(crate) fn by_family(range: Range) -> impl Iterator<Item = Range> {
    [V6[0], V4, V6[1]].into_iter().filter_map(move |family| family.within(range))
}

/// Unites ranges that overlap or touch, in order.
pub(crate) fn united(mut ranges: Vec<Range>) -> Vec<Range> {
    ranges.sort_unstable();
    ranges.dedup_by(|next, range| {
        let one = next.first <= range.last.saturating_add(1);
        if one {
            range.last = range.last.max(next.last);
        }
        one
    });
    ranges
}

fn of(net: &IpNet) -> Range {
    match net {
        IpNet::V4(net) => Range {
            first: V4.first | u128::from(net.network().to_bits()),
            last: V4.first | u128::from(net.broadcast().to_bits()),
        },
        IpNet::V6(net) => Range { first: net.network().to_bits(), last: net.broadcast().to_bits() },
    }
}

impl Range {
    /// The addresses that are in both.
    fn within(self, other: Self) -> Option<Self> {
        let both = Self { first: self.first.max(other.first), last: self.last.min(other.last) };
        (both.first <= both.last).then_some(both)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use policy::model::{Isolation, Peer, Peers};
    use proptest::prelude::*;
    use testkit::arbitrary;

    fn block(cidr: &str, except: &[&str]) -> IpBlock {
        IpBlock {
            cidr: cidr.parse().unwrap(),
            except: except.iter().map(|hole| hole.parse().unwrap()).collect(),
        }
    }

    fn agree(block: &IpBlock, ranges: &[Range], place: Address) {
        let at = number(place);
        let covers = ranges.iter().filter(|range| (range.first..=range.last).contains(&at)).count();
        assert_eq!(covers, usize::from(block.contains(place)), "{place} in {block:?}: {ranges:?}");
    }

    #[test]
    fn no_block_reaches_into_the_other_family() {
        for block in [
            block("::/0", &[]),
            block("::/0", &["0.0.0.0/0"]),
            block("::/0", &["::/64", "8000::/1"]),
            block("::/0", &["::/1"]),
            block("::ffff:0:0/96", &[]),
            block("::ffff:10.0.0.0/104", &[]),
            block("0.0.0.0/0", &["::/0", "10.0.0.0/8", "10.1.0.0/16", "255.255.255.255/32"]),
            block("10.0.0.0/8", &["10.0.0.0/8"]),
            block("10.0.0.0/30", &["10.0.0.0/32", "10.0.0.2/32", "10.0.0.2/31"]),
        ] {
            let ranges = covered(&block);
            assert!(
                ranges.is_sorted()
                    && ranges.windows(2).all(|two| two[0].last + 1 < two[1].first
                        || two[1].first == V6[1].first
                        || two[1].first == V4.first)
            );
            for range in ranges.iter().copied().chain([V4, V6[0], V6[1]]) {
                for at in
                    [range.first, range.last, range.first.saturating_sub(1), range.last.saturating_add(1)]
                {
                    agree(&block, &ranges, address(at));
                }
            }
            assert!(ranges.iter().all(|&range| by_family(range).eq([range])));
        }
    }

    #[test]
    fn ranges_that_touch_are_united() {
        let range = |first, last| Range { first, last };
        let ranges = vec![range(7, u128::MAX), range(1, 2), range(3, 4), range(9, 9)];
        assert_eq!(united(ranges), [range(1, 4), range(7, u128::MAX)]);
        assert_eq!(by_family(range(0, u128::MAX)).collect::<Vec<_>>(), [V6[0], V4, V6[1]]);
    }

    proptest! {
        #[test]
        fn a_block_covers_what_the_model_says(cluster in arbitrary::clusters()) {
            let rules = cluster.policies.iter().flat_map(|policy| [&policy.ingress, &policy.egress]);
            let rules = rules.filter_map(|isolation| match isolation {
                Isolation::Open => None,
                Isolation::Isolated { rules } => Some(rules),
            });
            for rule in rules.flatten() {
                let Peers::OneOf(peers) = &rule.peers else { continue };
                for peer in peers {
                    let Peer::Block(block) = peer else { continue };
                    let ranges = covered(block);
                    arbitrary::places(&cluster).into_iter().for_each(|place| agree(block, &ranges, place));
                }
            }
        }
    }
}
