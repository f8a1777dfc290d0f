//! Lookups in the table of the large cluster: 10,000 policies, 100,000 pods, 250 of them local.

use bench::cluster::Shape;
use bench::measure::BATCH;
use bench::traffic::{Family, HOT, Trace};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flow::Verdict;

fn table(c: &mut Criterion) {
    let workload = Shape::LARGE.workload();
    let table = workload.table().expect("within the budget");
    let trace = Trace::of(&workload);
    let mut group = c.benchmark_group("classify");
    group.throughput(Throughput::Elements(HOT as u64));
    for (class, family, batch) in [
        ("ipv4-hot", Family::V4, BATCH),
        ("ipv6-hot", Family::V6, BATCH),
        ("ipv4-hot-one-key-a-call", Family::V4, 1),
        ("ipv6-hot-one-key-a-call", Family::V6, 1),
    ] {
        let keys = trace.hot(family, 1, HOT);
        let mut verdicts = vec![Verdict::Deny; HOT];
        group.bench_function(format!("{class}/time"), |b| {
            b.iter(|| {
                for (keys, verdicts) in keys.chunks(batch).zip(verdicts.chunks_mut(batch)) {
                    table.classify(keys, verdicts);
                }
            });
        });
    }
    group.finish();
}

criterion_group!(benches, table);
criterion_main!(benches);
