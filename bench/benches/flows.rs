//! Connection state alone: the connection table, beside the dashmap that it replaced, and a worker's own cache.
//!
//! Every benchmark walks over its flows in a random order that repeats only after all of them, in bursts as a
//! worker does, so that at a million flows nothing waits in a processor's cache.

use std::hint::black_box;

use bench::BURST;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use engine::clock::Ticks;
use engine::connections::{Connections, Entry, Epochs};
use engine::state::State;
use flow::{Address, Endpoint, FlowKey, Protocol};

const NOW: Ticks = Ticks(1000);
const CLASSES: [(&str, usize); 2] = [("4k", 4096), ("1M", 1 << 20)];

/// That many connections, in no order.
fn keys(count: usize) -> Vec<FlowKey> {
    (0..count as u64)
        .map(|number| {
            // An odd factor permutes the numbers.
            let [_, _, _, _, _, a, high, low] =
                (number.wrapping_mul(0x9e37_79b1) & (count as u64 - 1)).to_be_bytes();
            let port = u16::from_be_bytes([high, low]);
            FlowKey::new(Protocol::TCP, (Address::v4([10, 1, 2, a]), port), (Address::v4([10, 0, 0, 2]), 80))
        })
        .collect()
}

const fn entry(state: State) -> Entry {
    Entry { state, epochs: Epochs { src: None, dst: None }, acknowledged: [0; 2], opener: 0 }
}

/// What a dashmap would hold.
#[derive(Clone, Copy)]
struct Known {
    initiator: Endpoint,
    entry: Entry,
    seen: Ticks,
}

type Pair = (Endpoint, Endpoint, Protocol);

fn pair(key: &FlowKey) -> Pair {
    if key.src <= key.dst { (key.src, key.dst, key.protocol) } else { (key.dst, key.src, key.protocol) }
}

fn dashmap(capacity: usize) -> DashMap<Pair, Known> {
    DashMap::with_capacity_and_shard_amount(capacity + capacity / 4, 64)
}

/// Calls `each` with the next burst of keys, over and over.
fn in_bursts(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    keys: &[FlowKey],
    mut each: impl FnMut(&[FlowKey]),
) {
    let mut bursts = keys.chunks_exact(BURST).cycle();
    group.bench_function(name, |b| b.iter(|| each(bursts.next().expect("some"))));
}

fn table(c: &mut Criterion) {
    for (class, count) in CLASSES {
        let mut group = c.benchmark_group(class);
        group.throughput(Throughput::Elements(BURST as u64));
        let keys = keys(count);

        let ours = Connections::new(count, 1);
        for key in &keys {
            let entered = ours.put(key, ours.hash(key), NOW, |_| Some(entry(State::Established)));
            assert!(entered.is_ok());
        }
        in_bursts(&mut group, "look-up/connections", &keys, |burst| {
            for key in burst {
                black_box(ours.find(key, ours.hash(key)));
            }
        });
        in_bursts(&mut group, "look-up-warmed/connections", &keys, |burst| {
            let hashes: [u64; BURST] = std::array::from_fn(|i| ours.hash(&burst[i]));
            ours.warm(&hashes);
            for (key, hash) in burst.iter().zip(hashes) {
                black_box(ours.find(key, hash));
            }
        });
        drop(ours);
        let theirs = dashmap(count);
        for key in &keys {
            theirs
                .insert(pair(key), Known { initiator: key.src, entry: entry(State::Established), seen: NOW });
        }
        in_bursts(&mut group, "look-up/dashmap", &keys, |burst| {
            for key in burst {
                black_box(theirs.get(&pair(key)).map(|known| (known.entry, known.initiator, known.seen)));
            }
        });
        drop(theirs);
        group.finish();
    }
}

criterion_group!(benches, table);
criterion_main!(benches);
