//! The hash of a five-tuple, the same for both of its directions.

use std::hash::{BuildHasher, RandomState};

use flow::{Address, FlowKey};

/// What only this process knows of the hash, so that nobody can choose five-tuples that collide.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seed([u64; 5]);

impl Seed {
    /// A seed from the system's randomness.
    pub(crate) fn random() -> Self {
        let random = RandomState::new();
        // A product with an odd factor loses nothing.
        Self(std::array::from_fn(|i| random.hash_one(i) | 1))
    }

    /// The hash of a connection, whichever of its packets' keys it is given.
    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.hash_words(&Words::of(key))
    }

    /// The same, of words. Every input meets a secret before it is multiplied, and no two inputs share a word:
    /// what collides cannot be told from outside, but for two connections whose ends have swapped their ports.
    #[inline]
    pub(crate) fn hash_words(&self, words: &Words) -> u64 {
        let Self([high, low, ends, service, last]) = *self;
        let end = |(h, l): (u64, u64)| fold(h ^ high, l ^ low);
        let both = end(words.src).wrapping_add(end(words.dst));
        // Of the two orders of the ports the smaller number.
        let product = fold(both ^ ends, words.service.min(words.reversed) ^ service);
        // Once more: the multiples of one number, as ports in a row make them, can lie in rows themselves.
        fold(product, last)
    }
}

/// A five-tuple as slots hold it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) src: (u64, u64),
    pub(crate) dst: (u64, u64),
    /// From the lowest bit: destination port, source port, protocol.
    pub(crate) service: u64,
    /// The same with the ports swapped.
    pub(crate) reversed: u64,
}

/// The bits of a word that [`Words`] use for ports and protocol.
pub(super) const KEY_BITS: u64 = 0xff_ffff_ffff;

impl Words {
    #[inline]
    pub(crate) const fn of(key: &FlowKey) -> Self {
        let service = (key.protocol.0 as u64) << 32 | (key.src.port as u64) << 16 | key.dst.port as u64;
        Self::new(halves(key.src.address), halves(key.dst.address), service)
    }

    #[inline]
    pub(super) const fn new(src: (u64, u64), dst: (u64, u64), service: u64) -> Self {
        let ports = (service as u32).rotate_left(16) as u64;
        Self { src, dst, service, reversed: service & !0xffff_ffff | ports }
    }
}

/// The two halves of an address.
#[inline]
const fn halves(address: Address) -> (u64, u64) {
    let bits = u128::from_be_bytes(address.octets());
    ((bits >> 64) as u64, bits as u64)
}

/// Both halves of the product, one upon the other.
#[inline]
const fn fold(a: u64, b: u64) -> u64 {
    let product = a as u128 * b as u128;
    (product >> 64) as u64 ^ product as u64
}

#[cfg(test)]
mod tests {
    use flow::Protocol;

    use super::*;

    #[test]
    fn both_directions_have_one_hash_and_others_have_others() {
        let seed = Seed::random();
        let key = |protocol, src: [u8; 4], port, dst| {
            FlowKey::new(protocol, (Address::v4(src), port), (Address::v4(dst), 80))
        };
        let mut hashes = Vec::new();
        for host in 0..100 {
            for port in 0..100 {
                let key = key(Protocol::TCP, [10, 0, 0, host], 1000 + port, [10, 0, 1, 1]);
                assert_eq!(seed.hash(&key), seed.hash(&key.reversed()));
                hashes.push(seed.hash(&key));
                hashes.push(seed.hash(&FlowKey { protocol: Protocol::UDP, ..key }));
            }
        }
        let all = hashes.len();
        hashes.sort_unstable();
        hashes.dedup();
        assert_eq!(hashes.len(), all);
        // 20,000 into 4,096 buckets by any twelve bits: four or five each, and none with very many.
        for shift in [0, 16, 32, 48, 52] {
            let mut buckets = vec![0; 4096];
            hashes.iter().for_each(|hash| buckets[(hash >> shift) as usize % 4096] += 1);
            let fullest = buckets.iter().max().unwrap();
            assert!(*fullest < 25, "bits from {shift}: {fullest} in one bucket");
        }
    }

    #[test]
    fn ports_in_a_row_spread_under_every_seed() {
        for _ in 0..200 {
            let seed = Seed::random();
            let mut buckets = [[0; 128]; 4];
            for port in 0..1000 {
                let key =
                    FlowKey::new(Protocol::TCP, (Address::v4([10; 4]), port), (Address::v4([11; 4]), 80));
                let hash = seed.hash(&key);
                for (buckets, shift) in buckets.iter_mut().zip([0, 16, 20, 32]) {
                    buckets[(hash >> shift) as usize % 128] += 1;
                }
            }
            // Eight in each on average.
            let fullest = buckets.as_flattened().iter().max().unwrap();
            assert!(*fullest < 34, "{fullest} in one bucket under {seed:?}");
        }
    }

    #[test]
    fn two_processes_differ() {
        let key = FlowKey::new(Protocol::TCP, (Address::v4([10; 4]), 1), (Address::v4([11; 4]), 2));
        assert_ne!(Seed::random().hash(&key), Seed::random().hash(&key));
    }
}
