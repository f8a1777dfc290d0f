//! A pod that pretends to be somebody else, over real links. Needs root.

mod duel;
mod faults;
mod scene;

use std::time::Duration;

use duel::{CLOSED, Duel, OPEN, address};
use faults::fault;
use flow::MacAddr;
use lab::{Family, RawPort, Transport};
use scene::*;
use testkit::frames::{
    arp_reply, arp_request, frame, neighbour_advertisement, neighbour_discovery, neighbour_solicitation,
};

/// Datagrams of the attacker to the victim's open port, under addresses that are not its own.
fn forged(duel: &Duel<'_>) -> Vec<(String, Vec<u8>)> {
    let friend = duel.pod("x/b");
    let node = |family| duel.scene.address(&lab::Place::Node, family).to_string();
    let mut frames = Vec::new();
    for (family, others) in [
        (Family::V4, ["127.0.0.1", "0.0.0.0", "224.0.0.5", "255.255.255.255", "198.51.100.1"]),
        (Family::V6, ["::1", "::", "ff02::5", "fe80::1", "2001:db8:100::1"]),
    ] {
        let sources = [address(friend, family), address(duel.victim, family), node(family)];
        for source in sources.into_iter().chain(others.map(str::to_owned)) {
            let datagram = duel.ip_as(&source, family).udp(5000, OPEN).payload(b"forged").build();
            frames.push((format!("from {source}"), datagram));
        }
        // Another's MAC address, with its own address and with that MAC's.
        let own = duel.ip(family).from(friend.pod_mac).udp(5000, CLOSED).build();
        let theirs =
            duel.ip_as(&address(friend, family), family).from(friend.pod_mac).udp(5000, OPEN).build();
        frames.extend([("another's MAC".to_owned(), own), ("another altogether".to_owned(), theirs)]);
    }
    frames
}

/// ARP and neighbour discovery of the attacker in the name of x/b, and as a router.
fn impostures(duel: &Duel<'_>) -> Vec<Vec<u8>> {
    let friend = duel.pod("x/b");
    let (mac, gateway) = (duel.attacker.pod_mac, duel.attacker.host_mac);
    let (v4, v6) = (address(friend, Family::V4), address(friend, Family::V6));
    let own = address(duel.attacker, Family::V6);
    let advertisement = |to: MacAddr, destination: &str| {
        let lifetime = [64, 0, 0x0f, 0xff];
        let timers = [0; 8];
        // A prefix of its own (RFC 4861, section 4.6.2), on the link and for addresses.
        let mut prefix = vec![3, 4, 64, 0xc0];
        prefix.extend([0xff; 8]);
        prefix.extend([0; 4]);
        prefix.extend([0xfd, 0xba, 0xd0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
        frame()
            .from(mac)
            .to(to)
            .ip("fe80::bad", destination)
            .ttl(255)
            .icmp(134, 0, lifetime)
            .payload(&timers)
            .payload(&prefix)
            .build()
    };
    let all_nodes = MacAddr([0x33, 0x33, 0, 0, 0, 1]);
    vec![
        arp_request(mac, &v4, "169.254.1.1"),
        arp_reply(mac, &v4, gateway, "169.254.1.1"),
        arp_request(friend.pod_mac, &v4, "169.254.1.1"),
        neighbour_solicitation(mac, &v6, "fe80::1"),
        neighbour_advertisement(mac, &v6, gateway, "fe80::1"),
        neighbour_discovery(mac, gateway, &own, "fe80::1", 136, &v6, Some((2, mac))),
        neighbour_discovery(mac, gateway, &own, "fe80::1", 135, "fe80::1", Some((1, friend.pod_mac))),
        advertisement(all_nodes, "ff02::1"),
        advertisement(gateway, &address(duel.victim, Family::V6)),
    ]
}

#[test]
fn f25_a_pod_that_is_somebody_else() {
    fault("F25", "forged addresses, MACs, ARP, neighbour discovery, router advertisements, replies", || {
        let scene = Scene::new("");
        // z/b may send nothing to y/a.
        let duel = Duel::new(&scene, "z/b", "y/a");
        let forged = forged(&duel);
        let impostures = impostures(&duel);
        let frames: Vec<Vec<u8>> = forged.iter().map(|(_, frame)| frame.clone()).collect();
        let before = duel.storm(&frames);
        assert!(
            before.frames.len() > 4,
            "without an agent {} of {} arrive",
            before.frames.len(),
            before.sent
        );
        // What the attacker's side of the node learns of x/b.
        let friend = duel.pod("x/b");
        let neighbours = || text(&scene.node(&format!("ip neigh show dev {}", duel.attacker.interface)));
        duel.storm(&impostures);
        assert!(neighbours().contains(&address(friend, Family::V4)), "the kernel believes: {}", neighbours());
        let flush = format!("ip neigh flush dev {}", duel.attacker.interface);
        assert!(scene.node(&flush).status.success());
        let routes = || {
            let shown = duel.victim.namespace.command("ip").args(["-6", "route"]).output().expect("ip runs");
            text(&shown)
        };
        let routes_before = routes();

        let mut agent = scene.agent();
        let entries = |agent: &portcullis::lab_agent::LabAgent| {
            let figures = agent.figures().expect("figures");
            figures["portcullis_conntrack_entries"]
        };
        // The bystander's mark makes the one connection that there is.
        duel.accounted(&mut agent, &frames[..1]);
        let connections = entries(&agent);
        for (what, frame) in &forged {
            let seen = duel.accounted(&mut agent, std::slice::from_ref(frame));
            assert_eq!((seen.frames.len(), seen.at_closed), (0, 0), "{what}");
        }
        assert_eq!(entries(&agent), connections, "no connection comes of it");

        let inside = RawPort::open(scene.lab.node(), &duel.attacker.interface).expect("a raw socket");
        let seen = duel.accounted(&mut agent, &impostures);
        assert_eq!(seen.frames.len(), 0);
        let passed =
            inside.receive_where(Duration::from_millis(300), |frame| impostures.contains(&frame.to_vec()));
        assert_eq!(passed.expect("a link"), None, "the kernel gets none of them");
        assert!(!neighbours().contains(&address(friend, Family::V4)), "{}", neighbours());
        assert_eq!(routes(), routes_before);

        // An answer in the victim's name to a question that it never asked, and then what it would let in.
        for family in Family::ALL {
            let (own, victim) = (address(duel.attacker, family), address(duel.victim, family));
            let answer = duel.link_layer().ip(&victim, &own).udp(CLOSED, 4444).build();
            let attack = duel.ip(family).udp(4444, CLOSED).payload(b"attack").build();
            for round in 0..10 {
                for frame in [&answer, &attack] {
                    let seen = duel.accounted(&mut agent, std::slice::from_ref(frame));
                    assert_eq!((seen.frames.len(), seen.at_closed), (0, 0), "{family}, round {round}");
                }
            }
        }
        assert_eq!(entries(&agent), connections);

        // What pods need of their link goes on.
        let _servers = lab::Servers::start_at(&scene.lab, &[pod("z/c")], &[8080]).expect("servers");
        for name in ["z/b", "x/b"] {
            let namespace = &duel.pod(name).namespace;
            for family in ["-4", "-6"] {
                let flushed =
                    namespace.command("ip").args([family, "neigh", "flush", "dev", "eth0"]).status();
                assert!(flushed.expect("ip runs").success());
            }
            for family in Family::ALL {
                let to = scene.address(&pod("z/c"), family);
                let outcome = lab::probe(&scene.lab, &pod(name), to, 8080, Transport::Tcp, TIMEOUT * 10);
                assert!(matches!(outcome, Ok(lab::Outcome::Reached(_))), "{name}, {family}: {outcome:?}");
            }
        }
        format!(
            "0 of {} delivered or believed ({} delivered without an agent), no connection of {} probes",
            forged.len() + impostures.len(),
            before.frames.len(),
            40
        )
    });
}
