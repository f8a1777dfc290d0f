//! Parsing and rewriting, one packet at a time.

use std::hint::black_box;

use bench::a_to_b;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use packet::{Packet, rewrite};
use testkit::frames::frame;

fn packet(c: &mut Criterion) {
    let v6 = frame().ip("fd00::1", "fd00::2").tcp(4000, 80).ack();
    let mut group = c.benchmark_group("parse");
    group.throughput(Throughput::Elements(1));
    for (class, frame) in [
        ("ipv4-udp", a_to_b().udp(4000, 80).build()),
        ("ipv6-tcp", v6.build()),
        ("ipv4-options", a_to_b().options(&[1, 1, 1, 0]).udp(4000, 80).build()),
        ("ipv6-extension", v6.clone().extension(60, &[1, 4]).build()),
        ("ping", a_to_b().ping(7).payload(&[7; 56]).build()),
        ("fragment", a_to_b().udp(4000, 80).payload(&[7; 2000]).fragments(7, 1480).swap_remove(0)),
        ("vlan", a_to_b().udp(4000, 80).vlan(0).build()),
    ] {
        group.bench_function(format!("{class}/time"), |b| b.iter(|| Packet::parse(black_box(&frame))));
    }
    group.finish();

    let mut group = c.benchmark_group("rewrite");
    group.throughput(Throughput::Elements(1));
    for (class, payload) in [("64B", 18), ("1500B", 1472)] {
        let partial = a_to_b().udp(4000, 80).payload(&vec![7; payload]).partial_checksum().build();
        let packet = Packet::parse(&partial).expect("a packet");
        let mut bytes = partial.clone();
        group.bench_function(format!("checksum-{class}/time"), |b| {
            b.iter(|| {
                bytes[40..42].copy_from_slice(&partial[40..42]);
                rewrite::complete_checksum(black_box(&mut bytes), &packet);
            });
        });
    }
    group.finish();
}

criterion_group!(benches, packet);
criterion_main!(benches);
