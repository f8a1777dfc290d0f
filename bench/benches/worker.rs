//! The whole worker loop on in-memory ports: what a packet costs without a kernel.

use bench::{BURST, Node, a_to_b};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};

const FLOWS: usize = 4096;

fn worker(c: &mut Criterion) {
    let mut group = c.benchmark_group("turn");
    group.throughput(Throughput::Elements(BURST as u64));

    let known: Vec<_> = (0..BURST as u16).map(|port| a_to_b().udp(1000 + port, 80).build()).collect();
    let denied: Vec<_> = (0..BURST as u16).map(|port| a_to_b().udp(1000 + port, 81).build()).collect();
    for (class, frames, passed) in [("known-flow", &known, BURST), ("denied", &denied, 0)] {
        let mut node = Node::new(4096);
        group.bench_function(format!("{class}/time"), |b| {
            // Filling the ports and emptying them is the generator's cost, not the worker's.
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    node.arrive(frames);
                    let start = std::time::Instant::now();
                    let handled = node.turn();
                    spent += start.elapsed();
                    assert_eq!((handled, node.drain()), (BURST as u64, passed));
                }
                spent
            });
        });
    }

    // The same while somebody listens: every denied frame makes a record.
    for (class, frames, passed) in [("known-flow-recorded", known, BURST), ("denied-recorded", denied, 0)] {
        let mut node = Node::new(4096);
        group.bench_function(format!("{class}/time"), |b| {
            b.iter_custom(|rounds| {
                let mut spent = std::time::Duration::ZERO;
                for _ in 0..rounds {
                    node.record();
                    node.arrive(&frames);
                    let start = std::time::Instant::now();
                    let handled = node.turn();
                    spent += start.elapsed();
                    assert_eq!((handled, node.drain()), (BURST as u64, passed));
                }
                spent
            });
        });
    }

    // As many flows as fit a core's cache, each burst of others.
    let mut node = Node::new(4 * FLOWS);
    let bursts: Vec<Vec<_>> = (0..FLOWS as u16)
        .step_by(BURST)
        .map(|first| {
            (first..first + BURST as u16).map(|port| a_to_b().udp(1000 + port, 80).build()).collect()
        })
        .collect();
    let mut bursts = bursts.iter().cycle();
    group.bench_function("known-4k-flows/time", |b| {
        b.iter_custom(|rounds| {
            let mut spent = std::time::Duration::ZERO;
            for _ in 0..rounds {
                node.arrive(bursts.next().expect("some"));
                let start = std::time::Instant::now();
                let handled = node.turn();
                spent += start.elapsed();
                assert_eq!((handled, node.drain()), (BURST as u64, BURST));
            }
            spent
        });
    });

    for (class, recorded) in [("new-flow", false), ("new-flow-recorded", true)] {
        let frames: Vec<_> = (0..BURST as u16).map(|port| a_to_b().udp(1000 + port, 80).build()).collect();
        let fill = || {
            let mut node = Node::new(4096);
            if recorded {
                node.record();
            }
            node.arrive(&frames);
            node
        };
        group.bench_function(format!("{class}/time"), |b| {
            b.iter_batched_ref(fill, Node::turn, BatchSize::SmallInput);
        });
    }
    group.finish();
}

criterion_group!(benches, worker);
criterion_main!(benches);
