//! Connection state alone: the connection table, beside the dashmap that it replaced, and a worker's own cache.
//!
//! Every benchmark walks over its flows in a random order that repeats only after all of them, in bursts as a
//! worker does, so that at a million flows nothing waits in a processor's cache.

use std::hint::black_box;
use std::time::{Duration, Instant};

use bench::BURST;
use criterion::measurement::WallTime;
use criterion::{BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main};
use dashmap::DashMap;
use engine::cache::{Answer, Cache};
use engine::clock::Ticks;
use engine::connections::{Connections, Entry, Epochs};
use engine::state::State;
use engine::wiring::{Hop, PortId};
use flow::{Address, Endpoint, FlowKey, MacAddr, Protocol};

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

fn whole(keys: &[FlowKey]) -> Connections {
    let table = Connections::new(keys.len(), 1);
    for key in keys {
        let entered = table.put(key, table.hash(key), NOW, |_| Some(entry(State::Established)));
        assert!(entered.is_ok(), "room for all");
    }
    table
}

fn look_up(c: &mut Criterion) {
    for (class, count) in CLASSES {
        let mut group = c.benchmark_group(format!("look-up/{class}"));
        group.throughput(Throughput::Elements(BURST as u64));
        let keys = keys(count);

        let ours = whole(&keys);
        eprintln!("{class}: {} bytes a flow", ours.bytes() / count);
        in_bursts(&mut group, "connections", &keys, |burst| {
            for key in burst {
                black_box(ours.find(key, ours.hash(key)));
            }
        });
        in_bursts(&mut group, "connections-warmed", &keys, |burst| {
            let hashes: [u64; BURST] = std::array::from_fn(|i| ours.hash(&burst[i]));
            ours.warm(&hashes);
            for (key, hash) in burst.iter().zip(hashes) {
                black_box(ours.find(key, hash));
            }
        });
        // What a worker does with a packet that it knows: hash, its own line, the connection's mark.
        let mut cache = Cache::new(count);
        for key in &keys {
            let hash = ours.hash(key);
            let found = ours.find(key, hash).expect("it was entered");
            let hop = Hop { port: PortId(1), mac: MacAddr([2, 0, 0, 0, 0, 1]) };
            let (id, generation, sender) = (found.id, found.generation, found.sender);
            cache.put(
                key,
                hash,
                Answer { hop, id, generation, sender, timeout: State::Established.timeout() },
            );
        }
        in_bursts(&mut group, "own-cache", &keys, |burst| {
            let hashes: [u64; BURST] = std::array::from_fn(|i| {
                let hash = ours.hash(&burst[i]);
                cache.warm(&burst[i], hash);
                hash
            });
            for (key, hash) in burst.iter().zip(hashes) {
                let answer = cache.get(key, hash);
                black_box(answer.map(|a| (a.hop, ours.hold(a.id, a.generation, a.timeout, NOW))));
            }
        });
        drop((ours, cache));

        let theirs = dashmap(count);
        for key in &keys {
            theirs
                .insert(pair(key), Known { initiator: key.src, entry: entry(State::Established), seen: NOW });
        }
        in_bursts(&mut group, "dashmap", &keys, |burst| {
            for key in burst {
                black_box(theirs.get(&pair(key)).map(|known| (known.entry, known.initiator, known.seen)));
            }
        });
        group.finish();
    }
}

/// Fills an empty table with everything, and lets everything expire: the time of one whole round.
fn insert_and_expire(c: &mut Criterion) {
    for (class, count) in CLASSES {
        let mut group = c.benchmark_group(format!("whole-table/{class}"));
        group.throughput(Throughput::Elements(count as u64));
        group.sample_size(10);
        let keys = keys(count);
        let later = Ticks(NOW.0 + State::Established.timeout().0 + 1);

        let ours = Connections::new(count, 1);
        let timed =
            |rounds, work: &mut dyn FnMut() -> Duration| (0..rounds).map(|_| work()).sum::<Duration>();
        let fill = || {
            let start = Instant::now();
            for key in &keys {
                let entered = ours.put(key, ours.hash(key), NOW, |_| Some(entry(State::Established)));
                debug_assert!(entered.is_ok());
            }
            start.elapsed()
        };
        let expire = || {
            let start = Instant::now();
            ours.sweep(later);
            start.elapsed()
        };
        group.bench_function("insert/connections", |b| {
            b.iter_custom(|rounds| {
                timed(rounds, &mut || {
                    let spent = fill();
                    expire();
                    spent
                })
            });
        });
        group.bench_function("expire/connections", |b| {
            b.iter_custom(|rounds| {
                timed(rounds, &mut || {
                    fill();
                    expire()
                })
            });
        });
        assert!(ours.is_empty());
        drop(ours);

        let theirs = dashmap(count);
        let fill = || {
            let start = Instant::now();
            for key in &keys {
                let known = Known { initiator: key.src, entry: entry(State::Established), seen: NOW };
                theirs.entry(pair(key)).or_insert(known);
            }
            start.elapsed()
        };
        // It has no order, so it looks at everything.
        let expire = || {
            let start = Instant::now();
            theirs.retain(|_, known| !later.expired(known.seen, known.entry.state.timeout()));
            start.elapsed()
        };
        group.bench_function("insert/dashmap", |b| {
            b.iter_custom(|rounds| {
                timed(rounds, &mut || {
                    let spent = fill();
                    expire();
                    spent
                })
            });
        });
        group.bench_function("expire/dashmap", |b| {
            b.iter_custom(|rounds| {
                timed(rounds, &mut || {
                    fill();
                    expire()
                })
            });
        });
        group.finish();
    }
}

criterion_group!(benches, look_up, insert_and_expire);
criterion_main!(benches);
