//! Frames through AF_XDP sockets on veth pairs, and where every one of them is afterwards. Needs root.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

#[path = "../../bpf/tests/veth/mod.rs"]
mod veth;

use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use bpf::{Fallback, Kind, PortEntry, Steering};
use engine::io::{Census, PacketIo, Slot};
use flow::MacAddr;
use veth::frames::{IPV4, ethernet, ipv4, udp};
use veth::{Pins, Tap, in_netns, ip, veth_named};
use xsk::{Config, Frame, XskError, XskIo};

use ::bpf;

const POD: [u8; 6] = [2, 0, 0, 0, 0, 0x10];
const HOST: [u8; 6] = [2, 0, 0, 0, 0, 0x20];
const A: Slot = Slot(0);
const B: Slot = Slot(1);
const PATIENCE: Duration = Duration::from_secs(3);
const QUIET: Duration = Duration::from_millis(50);

fn frame(number: u32) -> Vec<u8> {
    let (src, dst) = (Ipv4Addr::new(10, 0, 0, 1), Ipv4Addr::new(10, 0, 0, 2));
    ethernet(POD, HOST, IPV4, &ipv4(src, dst, 17, &udp(number)))
}

/// Two pods, `a` and `b`, whose host ends are driven by one worker's sockets.
struct Pair {
    io: XskIo,
    steering: Steering,
    pins: Pins,
}

const NEAR: [&str; 2] = ["near-a", "near-b"];
const FAR: [&str; 2] = ["far-a", "far-b"];

impl Pair {
    fn new(config: Config) -> Self {
        veth_named(NEAR[0], FAR[0]);
        veth_named(NEAR[1], FAR[1]);
        let mut pair = Self {
            io: XskIo::new(config, &NEAR).unwrap(),
            steering: Steering::load().unwrap(),
            pins: Pins::new(),
        };
        pair.steer(A);
        pair.steer(B);
        pair.balanced(0);
        pair
    }

    /// Sockets into the map, then the program onto the interface.
    fn steer(&mut self, slot: Slot) {
        let base = slot.0 as u32 * 4;
        for (queue, socket) in self.io.sockets(slot).enumerate() {
            self.steering.insert_socket(base + queue as u32, socket).unwrap();
        }
        let attached = self.steering.attach(NEAR[slot.0], Kind::Pod, self.pins.dir()).unwrap();
        let queues = self.io.sockets(slot).len() as u32;
        let (mac, fallback) = (Some(MacAddr(POD)), Fallback::Drop);
        let entry = PortEntry { base, queues, mac, fallback, strips_priority_tags: false };
        self.steering.set_port(attached.ifindex, entry).unwrap();
    }

    /// Receives `count` frames of `slot`, or as many as come within the patience.
    fn receive(&mut self, slot: Slot, count: usize) -> Vec<Frame> {
        receive(&mut self.io, slot, count)
    }

    fn forward(&mut self, to: Slot, frames: Vec<Frame>) -> usize {
        let mut refused = 0;
        for frame in frames {
            if let Err(back) = self.io.transmit(to, frame) {
                refused += 1;
                self.io.recycle(back);
            }
        }
        self.io.flush();
        refused
    }

    fn balanced(&self, held: usize) -> Census {
        let census = self.io.census();
        assert!(census.balances(), "{census:?}");
        assert_eq!(census.held, held, "{census:?}");
        census
    }

    /// Flushes until all that was sent has come back and the fill rings are full again.
    fn settle(&mut self) -> Census {
        let plan = self.io.plan();
        let full = Census {
            fill: 2 * plan.fill as usize,
            free: self.io.census().total - 2 * plan.fill as usize,
            ..self.io.census()
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.io.flush();
            let census = self.balanced(0);
            if census.tx == 0 && census.fill == full.fill {
                assert_eq!(census.free, full.free, "{census:?}");
                return census;
            }
            assert!(Instant::now() < deadline, "frames do not come back: {census:?}");
            self.io.wait(Duration::from_millis(1));
        }
    }

    fn recycle(&mut self, frames: Vec<Frame>) {
        frames.into_iter().for_each(|frame| self.io.recycle(frame));
    }
}

fn receive(io: &mut XskIo, slot: Slot, count: usize) -> Vec<Frame> {
    let mut all = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while all.len() < count && Instant::now() < deadline {
        let mut burst = Vec::with_capacity((count - all.len()).min(64));
        io.receive(slot, &mut burst);
        if burst.is_empty() {
            io.wait(Duration::from_millis(5));
        }
        all.append(&mut burst);
    }
    all
}

#[test]
fn a_frame_goes_from_one_pod_to_the_other_without_a_copy() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        let (a, b, stack) = (Tap::open(FAR[0]), Tap::open(FAR[1]), Tap::open(NEAR[0]));
        a.send(&frame(7));
        let mut frames = pair.receive(A, 1);
        assert_eq!(frames.len(), 1);
        pair.balanced(1);
        assert_eq!(pair.io.bytes(&frames[0]), frame(7));
        let at = frame(7).len() - 26 + 8;
        pair.io.bytes_mut(&mut frames[0])[at..at + 4].copy_from_slice(&8_u32.to_be_bytes());
        let data = pair.io.bytes(&frames[0]).as_ptr();
        assert_eq!(pair.forward(B, frames), 0);
        assert!(b.sees(&frame(8), PATIENCE));
        assert!(!stack.sees(&frame(7), QUIET), "the kernel got a copy");
        pair.settle();
        // Last in, first out: the chunk that was sent is the next one used.
        let next = pair.io.allocate(b"x").unwrap();
        assert_eq!(pair.io.bytes(&next).as_ptr(), data);
        pair.io.recycle(next);
        assert_eq!(pair.steering.counters(0).unwrap().redirected, 1);
    });
}

#[test]
fn without_a_bound_socket_nothing_reaches_the_stack() {
    in_netns(|| {
        let Pair { io, steering, pins } = Pair::new(Config::default());
        let (a, stack) = (Tap::open(FAR[0]), Tap::open(NEAR[0]));
        drop(io);
        // The kernel takes a closed socket out of the map by itself, a moment later.
        std::thread::sleep(Duration::from_millis(50));
        let before = steering.counters(0).unwrap();
        for number in 0..20 {
            a.send(&frame(number));
        }
        assert!(!stack.sees(&frame(0), QUIET));
        assert_eq!(steering.counters(0).unwrap().dropped - before.dropped, 20);

        // At once again: the queue is free within the patience of the bind.
        let mut io = XskIo::new(Config::default(), &NEAR).unwrap();
        let mut steering = steering;
        steering.insert_socket(0, io.sockets(A).next().unwrap()).unwrap();
        a.send(&frame(21));
        let frames = receive(&mut io, A, 1);
        assert_eq!(io.bytes(&frames[0]), frame(21));
        frames.into_iter().for_each(|frame| io.recycle(frame));
        drop(pins);
    });
}

#[test]
fn all_frames_of_a_large_flush_arrive() {
    // With the kernel's batch of 32, and with a larger one.
    for tx_budget in [None, Config::default().tx_budget] {
        in_netns(|| {
            let mut pair = Pair::new(Config { tx_budget, ..Config::default() });
            let b = Tap::open(FAR[1]);
            // Less than the 256 entries of veth's own ring.
            let count = 200;
            for number in 0..count {
                let frame = pair.io.allocate(&frame(number)).unwrap();
                pair.io.transmit(B, frame).unwrap();
            }
            assert_eq!(pair.balanced(0).tx, 200);
            pair.io.flush();
            for number in 0..count {
                assert!(b.sees(&frame(number), PATIENCE), "{number} of {count}, budget {tx_budget:?}");
            }
            pair.settle();
        });
    }
}

#[test]
fn frames_balance_after_bursts_from_both_sides() {
    in_netns(|| {
        let mut pair = Pair::new(Config { frames: 512, ..Config::default() });
        let (a, b) = (Tap::open(FAR[0]), Tap::open(FAR[1]));
        for round in 0..50 {
            for number in 0..40 {
                a.send(&frame(round * 100 + number));
                b.send(&frame(round * 100 + number));
            }
            let (from_a, from_b) = (pair.receive(A, 40), pair.receive(B, 40));
            assert_eq!((from_a.len(), from_b.len()), (40, 40));
            pair.balanced(80);
            assert_eq!(pair.forward(B, from_a) + pair.forward(A, from_b), 0);
            pair.settle();
        }
        let statistics = pair.io.statistics(A).unwrap();
        assert_eq!((statistics.len(), statistics[0].rx_dropped, statistics[0].tx_invalid), (1, 0, 0));
    });
}

#[test]
fn an_overload_is_dropped_and_counted_and_loses_no_frame() {
    in_netns(|| {
        let mut pair = Pair::new(Config { frames: 512, ..Config::default() });
        let a = Tap::open(FAR[0]);
        let room = pair.io.plan().fill as usize;
        for number in 0..3 * room as u32 {
            a.send(&frame(number));
        }
        let frames = pair.receive(A, room);
        assert_eq!(frames.len(), room);
        let dropped = pair.io.statistics(A).unwrap()[0].rx_fill_ring_empty;
        assert!(dropped >= 1, "{dropped}");
        // More than a port's share of frames on their way out is refused, not lost.
        let refused = frames.len() - pair.io.plan().tx as usize;
        assert_eq!(pair.forward(B, frames), refused);
        pair.settle();
        a.send(&frame(99_999));
        let frames = pair.receive(A, 1);
        assert_eq!(pair.io.bytes(&frames[0]), frame(99_999));
        pair.recycle(frames);
        pair.settle();
    });
}

#[test]
fn a_transmit_share_that_is_used_up_gives_frames_back() {
    in_netns(|| {
        let mut pair = Pair::new(Config { frames: 512, ..Config::default() });
        let share = pair.io.plan().tx as usize;
        for _ in 0..share {
            let frame = pair.io.allocate(&frame(1)).unwrap();
            pair.io.transmit(B, frame).unwrap();
        }
        let extra = pair.io.allocate(&frame(2)).unwrap();
        let extra = pair.io.transmit(B, extra).unwrap_err();
        // The other port has its own share.
        pair.io.transmit(A, extra).unwrap();
        pair.settle();
        let too_large = vec![0; pair.io.plan().chunk as usize];
        assert!(pair.io.allocate(&too_large).is_none());
        pair.settle();
    });
}

#[test]
fn a_link_that_goes_down_pauses_and_loses_nothing() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        let (a, b) = (Tap::open(FAR[0]), Tap::open(FAR[1]));
        ip("link set near-b down");
        for number in 0..50 {
            let frame = pair.io.allocate(&frame(number)).unwrap();
            pair.io.transmit(B, frame).unwrap();
        }
        pair.io.flush();
        assert!(pair.io.is_paused(B) && !pair.io.is_paused(A));
        assert_eq!(pair.balanced(0).tx, 50);
        // The other port works meanwhile.
        a.send(&frame(1000));
        let frames = pair.receive(A, 1);
        assert_eq!(frames.len(), 1);
        pair.recycle(frames);

        ip("link set near-b up");
        pair.io.flush();
        assert!(!pair.io.is_paused(B));
        assert!(b.sees(&frame(49), PATIENCE));
        pair.settle();
        // Both directions, on the same socket. The kernel's link watch comes to the far end in its own time, and what
        // is sent there before is lost.
        let deadline = Instant::now() + PATIENCE;
        while !is_up(FAR[1]) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        b.send(&frame(2000));
        let frames = pair.receive(B, 1);
        assert_eq!(pair.io.bytes(&frames[0]), frame(2000));
        pair.recycle(frames);
        pair.settle();
    });
}

fn is_up(interface: &str) -> bool {
    let output = std::process::Command::new("ip").args(["link", "show", interface]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).contains("state UP")
}

/// Deletes a pod's veth pair while frames are in all of its rings.
fn delete_under_load(pair: &mut Pair, slot: Slot) {
    let far = Tap::open(FAR[slot.0]);
    far.send(&frame(1));
    far.send(&frame(2));
    let received = pair.receive(slot, 1);
    pair.recycle(received);
    ip(&format!("link set {} down", NEAR[slot.0]));
    for _ in 0..10 {
        let frame = pair.io.allocate(&frame(3)).unwrap();
        pair.io.transmit(slot, frame).unwrap();
    }
    pair.io.flush();
    ip(&format!("link del {}", NEAR[slot.0]));
    let frame = pair.io.allocate(&frame(4)).unwrap();
    if let Err(back) = pair.io.transmit(slot, frame) {
        pair.io.recycle(back);
    }
    pair.io.flush();
    assert!(pair.io.is_paused(slot));
    pair.balanced(0);
    assert!(pair.io.statistics(slot).is_ok(), "readable still");
}

fn serves(pair: &mut Pair, from: Slot, to: Slot, number: u32) {
    let (source, sink) = (Tap::open(FAR[from.0]), Tap::open(FAR[to.0]));
    source.send(&frame(number));
    let frames = pair.receive(from, 1);
    assert_eq!(frames.len(), 1, "nothing arrives from {from:?}");
    assert_eq!(pair.forward(to, frames), 0);
    assert!(sink.sees(&frame(number), PATIENCE), "nothing arrives at {to:?}");
}

/// Reopens a port, and what had to be closed for it, until all are open: which ports were.
fn reopen(pair: &mut Pair, slot: Slot) -> Vec<Slot> {
    let deadline = Instant::now() + PATIENCE;
    let (mut waiting, mut opened) = (vec![slot], Vec::new());
    while let Some(slot) = waiting.pop() {
        for (slot, result) in pair.io.reopen(slot) {
            waiting.retain(|other| *other != slot);
            match result {
                Ok(bound) => {
                    assert_eq!(bound.sockets.len(), pair.io.sockets(slot).len());
                    opened.push(slot);
                }
                Err(XskError::Taken { .. }) if Instant::now() < deadline => waiting.insert(0, slot),
                Err(error) => panic!("{slot:?}: {error}"),
            }
        }
        assert!(pair.io.census().balances());
        std::thread::sleep(Duration::from_millis(1));
    }
    opened.sort_unstable_by_key(|slot| slot.0);
    opened.dedup();
    for slot in &opened {
        pair.steer(*slot);
    }
    opened
}

#[test]
fn a_port_is_reopened_alone_after_its_veth_was_made_anew() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        for round in 0..5 {
            delete_under_load(&mut pair, B);
            // While the interface is missing, the port stays closed and its frames are back.
            let missing = pair.io.reopen(B);
            assert!(matches!(&missing[..], [(B, Err(XskError::NoSuchInterface { .. }))]), "{missing:?}");
            let refused = pair.io.allocate(&frame(5)).unwrap();
            let refused = pair.io.transmit(B, refused).unwrap_err();
            pair.io.recycle(refused);
            assert_eq!((pair.balanced(0).tx, pair.io.sockets(B).len()), (0, 0));
            assert_eq!(pair.io.census().fill, pair.io.plan().fill as usize);

            veth_named(NEAR[1], FAR[1]);
            assert_eq!(reopen(&mut pair, B), [B]);
            serves(&mut pair, A, B, round);
            serves(&mut pair, B, A, round);
            pair.settle();
            // Nothing has changed since: nothing is opened anew.
            let sockets = |pair: &Pair| pair.io.sockets(B).map(|s| s.as_raw_fd()).collect::<Vec<_>>();
            let before = sockets(&pair);
            assert_eq!(reopen(&mut pair, B), [B]);
            assert_eq!(sockets(&pair), before);
            serves(&mut pair, A, B, round);
        }
    });
}

#[test]
fn all_ports_are_reopened_after_the_anchor_was_made_anew() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        for round in 0..3 {
            let far = Tap::open(FAR[1]);
            far.send(&frame(1));
            let old = pair.receive(B, 1);
            delete_under_load_holding(&mut pair, old.len());
            veth_named(NEAR[0], FAR[0]);
            assert_eq!(reopen(&mut pair, A), [A, B]);
            // A frame of the memory before is out of reach, and its return changes nothing.
            for mut frame in old {
                assert!(pair.io.bytes(&frame).is_empty() && pair.io.bytes_mut(&mut frame).is_empty());
                let back = pair.io.transmit(B, frame).unwrap_err();
                pair.io.recycle(back);
            }
            serves(&mut pair, A, B, round);
            serves(&mut pair, B, A, round);
            pair.settle();
        }
        // A port other than the anchor goes on without it, and needs a new memory only for a new socket.
        ip("link del near-a");
        assert!(pair.io.close(A).is_empty());
        assert_eq!(reopen(&mut pair, B), [B]);
        pair.balanced(0);
        ip("link del near-b");
        veth_named(NEAR[1], FAR[1]);
        assert_eq!(reopen(&mut pair, B), [B], "the new anchor");
        veth_named(NEAR[0], FAR[0]);
        assert_eq!(reopen(&mut pair, A), [A]);
        serves(&mut pair, A, B, 77);
        pair.settle();
    });
}

#[test]
fn an_anchor_that_is_closed_alive_takes_the_memory_with_it() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        let others = pair.io.close(A);
        assert!(matches!(&others[..], [(B, _)]), "{others:?}");
        assert_eq!(pair.io.sockets(A).len(), 0);
        pair.balanced(0);
        reopen(&mut pair, B);
        assert_eq!(reopen(&mut pair, A), [A]);
        serves(&mut pair, A, B, 1);
        pair.settle();
    });
}

#[test]
fn a_port_that_starts_without_its_interface_is_opened_when_it_comes() {
    in_netns(|| {
        veth_named(NEAR[1], FAR[1]);
        let io = XskIo::new(Config::default(), &NEAR).unwrap();
        let mut pair = Pair { io, steering: Steering::load().unwrap(), pins: Pins::new() };
        assert_eq!((pair.io.sockets(A).len(), pair.io.sockets(B).len()), (0, 1));
        pair.steer(B);
        pair.balanced(0);
        veth_named(NEAR[0], FAR[0]);
        assert_eq!(reopen(&mut pair, A), [A]);
        serves(&mut pair, A, B, 1);
        serves(&mut pair, B, A, 2);
        pair.settle();
    });
}

#[test]
fn more_queues_and_a_larger_mtu_make_the_memory_anew() {
    in_netns(|| {
        let mut pair = Pair::new(Config { frames: 1024, ..Config::default() });
        ip("link del near-b");
        ip(
            "link add near-b numrxqueues 4 numtxqueues 4 type veth peer name far-b numrxqueues 4 numtxqueues 4",
        );
        ip("link set far-b arp off up");
        ip("link set near-b arp off up");
        // The new interface has four queues, the memory was laid out for one.
        assert_eq!(reopen(&mut pair, B), [A, B]);
        assert_eq!((pair.io.sockets(A).len(), pair.io.sockets(B).len()), (1, 4));
        assert_eq!(pair.io.plan().fill, 1024 / 2 / 5);
        serves(&mut pair, A, B, 1);
        assert_eq!(pair.io.plan().chunk, 2048);
        ip("link set near-b mtu 3000");
        assert_eq!(reopen(&mut pair, B), [A, B]);
        assert_eq!(pair.io.plan().chunk, 4096);
        serves(&mut pair, B, A, 2);
        pair.balanced(0);
        // What fits no chunk closes its port, and leaves the other one alone.
        ip("link set near-b mtu 9000");
        let refused = pair.io.reopen(B);
        assert!(matches!(&refused[..], [(B, Err(XskError::MtuTooLarge { mtu: 9000, .. }))]), "{refused:?}");
        assert_eq!((pair.io.sockets(A).len(), pair.io.sockets(B).len()), (1, 0));
        ip("link set near-b mtu 1500");
        assert_eq!(reopen(&mut pair, B), [B]);
        serves(&mut pair, A, B, 3);
    });
}

fn delete_under_load_holding(pair: &mut Pair, held: usize) {
    pair.balanced(held);
    ip("link del near-a");
    pair.io.flush();
    pair.balanced(held);
}

#[test]
fn every_receive_queue_is_bound() {
    in_netns(|| {
        ip(
            "link add near-q numrxqueues 2 numtxqueues 2 type veth peer name far-q numrxqueues 2 numtxqueues 2",
        );
        ip("link set far-q up");
        ip("link set near-q up");
        let io = XskIo::new(Config::default(), &["near-q"]).unwrap();
        assert_eq!(io.sockets(A).len(), 2);
        assert_eq!(io.plan().fill, 1024, "the frames are shared out between the queues");
        assert!(io.census().balances() && io.census().fill == 2048);
        let error = XskIo::new(Config::default(), &["near-q"]).err().unwrap();
        assert!(matches!(error, XskError::Taken { queue: 0, .. }), "{error}");
    });
}

#[test]
fn what_cannot_be_opened_says_why() {
    in_netns(|| {
        let refused =
            |frames, names: &[&str]| XskIo::new(Config { frames, ..Config::default() }, names).err().unwrap();
        veth_named("near", "far");
        assert!(matches!(refused(100, &["near"]), XskError::TooFewFrames { needed: 128, .. }));
        ip("link set near mtu 9000");
        assert!(matches!(refused(4096, &["near"]), XskError::MtuTooLarge { mtu: 9000, .. }));
        ip("link set near mtu 2000");
        let mut io = XskIo::new(Config::default(), &["near"]).unwrap();
        assert_eq!(io.plan().chunk, 4096);
        ip("link set near mtu 9000");
        let refused = io.reopen(A);
        assert!(matches!(&refused[..], [(A, Err(XskError::MtuTooLarge { mtu: 9000, .. }))]), "{refused:?}");
    });
}

#[test]
fn waiting_ends_with_a_frame_or_with_time() {
    in_netns(|| {
        let mut pair = Pair::new(Config::default());
        let start = Instant::now();
        pair.io.wait(Duration::from_millis(20));
        assert!(start.elapsed() >= Duration::from_millis(20));
        let b = Tap::open(FAR[1]);
        let start = Instant::now();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                std::thread::sleep(Duration::from_millis(30));
                b.send(&frame(1));
            });
            pair.io.wait(PATIENCE);
        });
        assert!(start.elapsed() < PATIENCE, "a frame wakes whoever waits");
        let frames = pair.receive(B, 1);
        assert_eq!(frames.len(), 1);
        pair.recycle(frames);
    });
}
