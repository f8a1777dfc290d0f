//! Inline mode: no packet circulates, and only what the worker has approved is taken back. Needs root.

mod duel;
mod inline_kernel;
mod scene;

use std::thread::sleep;
use std::time::Duration;

use duel::{CLOSED, Duel, OPEN, address};
use inline_kernel::Kernel;
use lab::{Family, RawPort, Transport};
use scene::*;

/// The default of `flows.capacity`.
const CAPACITY: u32 = 262_144;
/// Punts in a second when nobody sends: now and then a kernel asks for its neighbour or its groups. One packet that
/// circulates makes hundreds of thousands.
const QUIET: u64 = 50;

/// Frames that no verdict of the kernel answers, or only some of them.
fn odd_ones(duel: &Duel<'_>) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    for family in Family::ALL {
        for port in [OPEN, CLOSED] {
            let datagram = duel.ip(family).udp(5000, port).payload(&[7; 2000]);
            let pieces = datagram.fragments(77, 1000);
            frames.extend(pieces.iter().rev().cloned());
            frames.extend(pieces);
            frames.push(datagram.payload(b"short").build());
        }
        let (request, unreachable) = if family == Family::V4 { (8, 3) } else { (128, 1) };
        let about = duel.ip(family).udp(9, 9).payload(b"never sent").build();
        frames.extend([
            duel.ip(family).icmp(request, 0, [0, 7, 0, 1]).payload(b"ping").build(),
            duel.ip(family).icmp(13, 0, [0, 7, 0, 1]).build(),
            duel.ip(family).icmp_error(unreachable, 1, &about).build(),
            duel.ip(family).protocol(253).payload(b"unknown").build(),
            duel.ip(family).ttl(1).udp(5001, OPEN).build(),
            duel.ip(family).vlan(5).udp(5002, OPEN).build(),
            duel.ip_as(&address(duel.pod("x/b"), family), family).udp(5003, OPEN).build(),
            duel.link_layer()
                .ip(&address(duel.attacker, family), &address(duel.attacker, family))
                .udp(1, 2)
                .build(),
        ]);
    }
    frames.push(duel.ip(Family::V4).options(&[1, 1, 1, 0]).udp(5004, OPEN).build());
    frames.push(duel.ip(Family::V6).extension(60, &[0; 6]).udp(5005, OPEN).build());
    frames
}

/// Everybody has stopped sending: punts stop as well.
#[track_caller]
fn falls_quiet(kernel: &Kernel) {
    sleep(Duration::from_secs(1));
    let before = kernel.sum(|counted| counted.punted);
    sleep(Duration::from_secs(2));
    let punts = kernel.sum(|counted| counted.punted) - before;
    assert!(punts < 2 * QUIET, "{punts} punts in 2 s while nobody sends");
}

#[test]
fn what_the_kernel_cannot_remember_does_not_circulate() {
    let scene = Scene::new("mode: inline\n");
    let agent = scene.agent();
    let kernel = Kernel::of(&scene, CAPACITY);
    let duel = Duel::new(&scene, "x/a", "y/a");
    let frames = odd_ones(&duel);
    let before = kernel.sum(|counted| counted.punted);
    for _ in 0..5 {
        duel.storm(&frames);
    }
    let punted = kernel.sum(|counted| counted.punted) - before;
    assert!(
        punted > frames.len() as u64,
        "{punted} punts of 5 times {} frames\n{}",
        frames.len(),
        agent.log()
    );
    falls_quiet(&kernel);
}

#[test]
fn a_full_map_and_epochs_that_change_make_nothing_circulate() {
    let scene = Scene::new("mode: inline\nflows: {capacity: 1024}\n");
    let agent = scene.agent();
    let kernel = Kernel::of(&scene, 1024);
    let duel = Duel::new(&scene, "x/a", "y/a");
    let stream = scene.stream(&pod("x/b"), &pod("y/c"), 80, Transport::Udp, 1000);
    eventually("the stream runs", Duration::from_secs(10), || stream.report().delivered > 100);
    let from = |ports: std::ops::Range<u16>| -> Vec<Vec<u8>> {
        ports.map(|port| duel.ip(Family::V4).udp(port, OPEN).build()).collect()
    };
    // Some connections are there when the policy changes; later ones find no room.
    for (round, policy) in (0..).zip([Y_A_FROM_X, Y_A_FROM_Z, Y_A_FROM_X, Y_A_FROM_Z]) {
        scene.home.apply("policy.yaml", policy).expect("a manifest");
        duel.storm(&from(10_000..10_200));
        duel.storm(&from(20_000 + 500 * round..20_500 + 500 * round));
    }
    let before = stream.report().delivered;
    eventually("who was there first goes on", Duration::from_secs(10), || {
        stream.report().delivered > before + 500
    });
    drop(stream.stop());
    falls_quiet(&kernel);
    assert!(kernel.sum(|counted| counted.stale) > 0, "epochs have changed\n{}", agent.log());
}

/// A frame as it was on the wire of the punt pair: the kernel has taken its tag out, but the approval names it.
fn tagged(frame: &[u8]) -> Vec<u8> {
    let tag = &frame[frame.len() - 12..frame.len() - 10];
    let tag = u16::from_ne_bytes([tag[0], tag[1]]).to_be_bytes();
    [&frame[..12], &[0x81, 0x00], &tag[..], &frame[12..]].concat()
}

#[test]
fn frames_that_the_worker_has_not_approved_are_delivered_nowhere() {
    let scene = Scene::new("mode: inline\n");
    let _agent = scene.agent();
    let kernel = Kernel::of(&scene, CAPACITY);
    let duel = Duel::new(&scene, "x/a", "y/a");
    // Whoever may open packet sockets in the node: at the far end they send what comes in at the near one.
    let [near, far] = ["portcullis0", "portcullis1"]
        .map(|end| RawPort::open(scene.lab.node(), end).expect("the punt pair"));

    let payload = b"seen and shown again";
    let question = duel.ip(Family::V4).udp(6000, OPEN).payload(payload).build();
    assert_eq!(duel.storm(std::slice::from_ref(&question)).frames.len(), 1);
    let holds = |frame: &[u8]| frame.windows(payload.len()).any(|window| window == payload);
    let approved = near.receive_where(Duration::from_secs(5), holds).expect("a link").expect("approved");
    let approved = tagged(&approved);
    let mut another = approved.clone();
    let sequence = another.len() - 16;
    another[sequence + 2] ^= 1;
    let to_pod = |tag: u16| {
        let mut frame = duel.link_layer().to(duel.victim.pod_mac);
        frame = frame.ip(&address(duel.attacker, Family::V4), &address(duel.victim, Family::V4));
        let plain = frame.udp(6001, CLOSED).payload(&[0; 32]).build();
        [&plain[..12], &[0x81, 0x00], &tag.to_be_bytes()[..], &plain[12..]].concat()
    };
    let mut forged: Vec<Vec<u8>> = vec![approved, another, question];
    // All ports both ways, and ports that there are not.
    forged.extend((0..24).map(to_pod));
    forged.extend([1023 << 1, 1024 << 1, u16::MAX].map(to_pod));

    let before = kernel.sum(|counted| counted.forged);
    let reinjected = || kernel.sum(|counted| counted.reinjected);
    let honest = reinjected();
    for _ in 0..3 {
        forged.iter().for_each(|frame| far.send(frame).expect("the pair is up"));
    }
    let all = 3 * forged.len() as u64;
    eventually("all of them are forged", Duration::from_secs(10), || {
        kernel.sum(|counted| counted.forged) - before >= all
    });
    let seen = duel.storm(&[]);
    assert_eq!((seen.frames, seen.at_closed), (vec![], 0));
    assert!(reinjected() - honest < QUIET, "{} were taken back", reinjected() - honest);

    // At the near end they send what the worker takes for punted: it is judged like everything else.
    for tag in 0..24 {
        near.send(&to_pod(tag)).expect("the pair is up");
    }
    let seen = duel.storm(&[]);
    assert_eq!((seen.frames, seen.at_closed), (vec![], 0));
    falls_quiet(&kernel);
}
