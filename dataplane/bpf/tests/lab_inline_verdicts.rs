//! Inline mode: what is entered is read back, all of it. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod inline_node;
mod veth;

use std::collections::HashSet;
use std::net::Ipv6Addr;

use bpf::inline::{CachedFlow, Inline};
use flow::{FlowKey, Protocol};
use inline_node::{ELSEWHERE, POD, flow};
use veth::{Pins, in_netns};

/// So many that there are entries with one hash at every place where a reader could stop.
const MANY: u16 = 20_000;

#[test]
fn every_verdict_is_read_once_however_many_there_are() {
    in_netns(|| {
        let pins = Pins::new();
        let programs = Inline::load(pins.dir(), 4 * u32::from(MANY)).unwrap();
        let mut cache = programs.cache().unwrap();
        let six = |last: u16| Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last);
        let entered: Vec<CachedFlow> = (0..MANY)
            .flat_map(|port| {
                let four = FlowKey::new(Protocol::UDP, (POD, port), (ELSEWHERE, 53));
                [four, FlowKey::new(Protocol::TCP, (six(1), port), (six(2), 80))]
            })
            .map(|key| CachedFlow { key, ..flow(ELSEWHERE, true) })
            .collect();
        assert_eq!(cache.enter(&entered), 0, "all find room");
        let mut read = Vec::new();
        cache.each(|flow| read.push(flow.key)).unwrap();
        assert_eq!(read.len(), entered.len());
        let read: HashSet<FlowKey> = read.into_iter().collect();
        assert_eq!(read, entered.iter().map(|flow| flow.key).collect());
        cache.remove(&entered);
        cache.each(|flow| panic!("{flow:?} was removed")).unwrap();
    });
}
