//! Inline mode and a pod whose root means ill: he sends what frames he likes, and knows the connections of others
//! (docs/inline.md, "Who would get past it"). Needs root.

mod duel;
mod scene;

use std::time::Duration;

use duel::{CLOSED, Duel, OPEN, Seen, address};
use lab::Family;
use packet::{Kind, Packet};
use scene::*;

const PATIENCE: Duration = Duration::from_secs(15);
/// A port of the attacker.
const ASKED: u16 = 4009;
/// Frames of a kind.
const TIMES: usize = 5;

/// What arrived for the victim of what an attacker sends: fragments and packets of IP, whole or not.
fn arrived(duel: &Duel<'_>, seen: &Seen) -> Vec<Vec<u8>> {
    let to_victim = |frame: &&Vec<u8>| frame.starts_with(&duel.victim.pod_mac.0);
    seen.frames.iter().filter(to_victim).cloned().collect()
}

#[test]
fn who_was_asked_may_answer_and_no_more() {
    // Just after a start, segments in mid-stream may open their connections again.
    let scene = Scene::new("mode: inline\nrecovery_window: 0s\n");
    let duel = Duel::new(&scene, "x/a", "y/a");
    let agent = scene.agent();
    for family in Family::ALL {
        let frame = || duel.ip(family);
        let denied = vec![frame().udp(ASKED, CLOSED).payload(b"unasked").build(); TIMES];
        assert_eq!(duel.storm(&denied).at_closed, 0, "{family}: nobody has asked");
        duel.victim_asks(family, ASKED);
        let answers = vec![frame().udp(ASKED, CLOSED).payload(b"answer").build(); TIMES];
        // What is known of them as denied gives way as soon as the question has been judged.
        eventually("the answers arrive", PATIENCE, || duel.storm(&answers).at_closed == TIMES as u64);

        let (request, reply) = if family == Family::V4 { (8, 0) } else { (128, 129) };
        let mut frames = vec![
            frame().udp(ASKED + 1, CLOSED).payload(b"from another port").build(),
            frame().udp(ASKED, CLOSED + 1).payload(b"to another port").build(),
            frame().tcp(ASKED, CLOSED).syn().build(),
            frame().tcp(ASKED, CLOSED).syn().ack().build(),
            frame().tcp(ASKED, CLOSED).ack().payload(b"in mid-stream").build(),
            frame().tcp(ASKED, CLOSED).rst().build(),
            frame().sctp(ASKED, CLOSED).chunk(1).payload(&[0; 20]).build(),
            frame().protocol(253).payload(&[7; 40]).build(),
            frame().icmp(request, 0, [0; 4]).payload(b"a ping").build(),
            frame().icmp(reply, 0, [0; 4]).payload(b"that nobody has asked for").build(),
        ];
        frames.extend(frame().udp(ASKED + 1, CLOSED).payload(&[7; 2000]).fragments(7, 1000));
        frames.extend(frame().tcp(ASKED, CLOSED).syn().payload(&[7; 2000]).fragments(8, 1000));
        for _ in 0..TIMES {
            let seen = duel.storm(&frames);
            assert_eq!(seen.at_closed, 0, "{family}");
            assert_eq!(arrived(&duel, &seen), Vec::<Vec<u8>>::new(), "{family}");
        }
    }
    drop(agent);
}

/// A datagram to the victim in three pieces.
fn pieces(duel: &Duel<'_>, family: Family, port: u16, number: u32) -> [Vec<u8>; 3] {
    let datagram = duel.ip(family).udp(5000, port).payload(&[7; 2000]);
    datagram.fragments(number, 1000).try_into().expect("three pieces")
}

#[test]
fn fragments_under_one_number_bring_nothing_to_a_closed_port() {
    let scene = Scene::new("mode: inline\n");
    let duel = Duel::new(&scene, "x/a", "y/a");
    eventually("it arrives without an agent", PATIENCE, || {
        duel.storm(&pieces(&duel, Family::V4, CLOSED, 99)).at_closed == 1
    });
    let agent = scene.agent();
    for family in Family::ALL {
        for number in 0..40 {
            let [first, middle, last] = pieces(&duel, family, OPEN, number);
            let [closed, ..] = pieces(&duel, family, CLOSED, number);
            // Of two datagrams with one number, in every order in which the closed one comes between.
            let order = match number % 4 {
                0 => [&first, &closed, &middle, &last],
                1 => [&closed, &first, &middle, &last],
                2 => [&closed, &middle, &last, &closed],
                _ => [&middle, &last, &closed, &first],
            };
            let seen = duel.storm(&order.map(Clone::clone));
            assert_eq!(seen.at_closed, 0, "{family} {number}");
            let to_closed =
                |frame: &&Vec<u8>| Packet::parse(frame).is_ok_and(|packet| packet.key.dst.port == CLOSED);
            assert_eq!(arrived(&duel, &seen).iter().find(to_closed), None, "{family} {number}");
        }
    }
    drop(agent);
}

/// Errors to the victim about what it has sent to another pod, as any host on the way could send them.
fn errors(duel: &Duel<'_>, family: Family) -> Vec<Vec<u8>> {
    let kinds = if family == Family::V4 { [(3, 3), (3, 4), (11, 0)] } else { [(1, 4), (2, 0), (3, 0)] };
    let (victim, friend) = (address(duel.victim, family), address(duel.pod("y/b"), family));
    let quoted = duel.link_layer().ip(&victim, &friend).udp(CLOSED, OPEN).payload(b"asked").build();
    let error = |(kind, code)| duel.ip(family).icmp_error(kind, code, &quoted).build();
    kinds.map(error).into()
}

#[test]
fn errors_about_the_connections_of_others_arrive_nowhere() {
    let scene = Scene::new("mode: inline\n");
    let duel = Duel::new(&scene, "x/a", "y/a");
    let arrive = |family| {
        duel.victim_asks_of(duel.pod("y/b"), family, OPEN);
        let seen = duel.storm(&errors(&duel, family));
        let is_error = |frame: &&Vec<u8>| {
            Packet::parse(frame).is_ok_and(|packet| matches!(packet.kind, Kind::IcmpError { .. }))
        };
        arrived(&duel, &seen).iter().filter(is_error).count()
    };
    for family in Family::ALL {
        // The first ones may come before neighbours know each other.
        eventually("they arrive without an agent", PATIENCE, || arrive(family) == 3);
    }
    let agent = scene.agent();
    for _ in 0..TIMES {
        for family in Family::ALL {
            assert_eq!(arrive(family), 0, "{family}");
        }
    }
    drop(agent);
}
