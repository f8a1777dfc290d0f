//! Hostile frames from inside a pod, over real links: each is first seen to do its harm while only the kernel forwards.
//! The parser alone meets ten million more (`make fuzz`). Needs root.

mod duel;
mod faults;
mod scene;

use std::collections::HashSet;
use std::time::Duration;

use duel::{CLOSED, Duel, OPEN, is_allowed};
use faults::{fault, thousands};
use lab::Family;
use packet::{Datagram, LaterFragment, Packet};
use scene::*;
use testkit::frames::{DESTINATION_OPTIONS, FRAGMENT, FrameBuilder, HOP_BY_HOP, ROUTING};

/// Where the IP header begins.
const L3: usize = 14;

/// Puts the lengths and the IPv4 checksum of a cut frame right, so that only what is cut is wrong.
fn mended(frame: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = frame.to_vec();
    let l3 = (bytes.len() - L3) as u16;
    match bytes[L3] >> 4 {
        4 if l3 >= 20 => bytes[16..18].copy_from_slice(&l3.to_be_bytes()),
        6 if l3 >= 40 => bytes[18..20].copy_from_slice(&(l3 - 40).to_be_bytes()),
        _ => return None,
    }
    Some(summed(bytes))
}

/// With the checksum of its IPv4 header put right, if it is one.
fn summed(mut frame: Vec<u8>) -> Vec<u8> {
    if frame[L3] >> 4 == 4 && frame.len() >= L3 + 20 {
        frame[24..26].copy_from_slice(&[0, 0]);
        let end = frame.len().min(L3 + usize::from(frame[L3] & 0x0f) * 4) & !1;
        let words = frame[L3..end].chunks(2).map(|word| u32::from_be_bytes([0, 0, word[0], word[1]]));
        let sum = words.sum::<u32>();
        let sum = (sum & 0xffff) + (sum >> 16);
        frame[24..26].copy_from_slice(&(!((sum & 0xffff) + (sum >> 16)) as u16).to_be_bytes());
    }
    frame
}

/// Every cut of a frame, and every lie about its lengths and version.
fn ways_to_spoil(whole: &[u8]) -> Vec<Vec<u8>> {
    let v4 = whole[L3] >> 4 == 4;
    let cut = (L3..=L3 + 66).chain([whole.len()]).filter_map(|length| whole.get(..length));
    let mut spoilt: Vec<Vec<u8>> = cut.map(<[u8]>::to_vec).collect();
    let cut: Vec<_> =
        spoilt.iter().filter(|frame| frame.len() > L3).filter_map(|frame| mended(frame)).collect();
    spoilt.extend(cut);
    let at = |offset: usize, bytes: &[u8]| {
        let mut frame = whole.to_vec();
        frame[L3 + offset..L3 + offset + bytes.len()].copy_from_slice(bytes);
        summed(frame)
    };
    let length = (whole.len() - L3) as u16;
    let lengths = [0, 1, 19, 20, 27, 28, 33, length - 1, length + 1, 1500, u16::MAX];
    if v4 {
        spoilt.extend((0..16).filter(|words| *words != 5).map(|words| at(0, &[0x40 | words])));
        spoilt.extend(lengths.map(|length| at(2, &length.to_be_bytes())));
        spoilt.extend([at(0, &[0x65]), at(0, &[0x55]), at(0, &[0x05])]);
    } else {
        spoilt.extend(lengths.iter().map(|length| at(4, &length.saturating_sub(40).to_be_bytes())).skip(4));
        spoilt.extend([at(0, &[0x40]), at(0, &[0x70]), at(0, &[0x00])]);
    }
    spoilt
}

/// Bytes without a meaning behind the right MAC addresses.
fn noise(duel: &Duel<'_>, count: u64) -> Vec<Vec<u8>> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let head = duel.ip(Family::V4).udp(1, CLOSED).build();
    let mut frame = |number: u64| {
        let ethertype: [u8; 2] = if number.is_multiple_of(2) { [0x08, 0x00] } else { [0x86, 0xdd] };
        let length = 20 + (next() % 100) as usize;
        let noise = (0..length).map(|_| next() as u8);
        head[..12].iter().copied().chain(ethertype).chain(noise).collect()
    };
    (0..count).map(&mut frame).collect()
}

#[test]
fn f21_frames_that_are_cut_or_lie() {
    fault("F21", "frames cut at every length, lengths and versions that lie, noise", || {
        let scene = Scene::new("");
        let duel = Duel::new(&scene, "x/b", "y/a");
        let wholes = Family::ALL.map(|family| {
            let ip = || duel.ip(family);
            [
                ip().udp(4000, CLOSED).payload(&[7; 40]),
                ip().tcp(4000, CLOSED).syn().payload(&[7; 40]),
                ip().ping(7).payload(&[7; 40]),
                ip().udp(4000, OPEN).payload(&[7; 40]),
                ip().tcp(4000, OPEN).syn().payload(&[7; 40]),
            ]
        });
        let mut frames: Vec<Vec<u8>> =
            wholes.iter().flatten().flat_map(|whole| ways_to_spoil(&whole.build())).collect();
        frames.extend(noise(&duel, 4000));
        let before = duel.storm(&frames);
        let harm = before.frames.iter().filter(|frame| !is_allowed(frame)).count();
        assert!(harm > 200 && before.at_closed > 0, "{harm} frames, {} datagrams", before.at_closed);

        let mut agent = scene.agent();
        let seen = duel.accounted(&mut agent, &frames);
        seen.holds_only_what_is_allowed();
        format!(
            "0 of {} denied frames delivered ({harm} without an agent), every one has its reason",
            thousands(seen.sent - seen.frames.len() as u64)
        )
    });
}

/// Fragments that try to bring a datagram to the closed port, or anything past a first one that was not allowed.
fn hostile_fragments(duel: &Duel<'_>, family: Family) -> Vec<Vec<u8>> {
    let udp = |port| duel.ip(family).udp(4000, port).payload(&[7; 392]);
    let tcp = |port| duel.ip(family).tcp(4000, port).syn().payload(&[7; 380]);
    let mut frames = udp(CLOSED).fragments(1, 200);
    // Tiny: the ports alone, then the rest; and a header that is split.
    frames.extend([udp(CLOSED).piece(2, 0..8, true), udp(CLOSED).piece(2, 8..400, false)]);
    frames.extend([tcp(CLOSED).piece(3, 0..8, true), tcp(CLOSED).piece(3, 8..400, false)]);
    frames.extend([tcp(OPEN).piece(4, 0..16, true), tcp(OPEN).piece(4, 16..400, false)]);
    // An allowed first one that is written over: from its flags on, from its ports on, whole.
    frames.extend([tcp(OPEN).piece(5, 0..200, true), tcp(CLOSED).piece(5, 8..400, false)]);
    frames.extend([udp(OPEN).piece(6, 0..200, true), udp(CLOSED).piece(6, 0..200, true)]);
    frames.push(udp(CLOSED).piece(6, 200..400, false));
    // Teardrop: one inside another.
    frames.extend([udp(OPEN).piece(7, 0..200, true), udp(OPEN).piece(7, 104..144, false)]);
    // Alone, before the first one, of another datagram.
    frames.push(udp(OPEN).piece(8, 200..400, false));
    frames.extend([udp(CLOSED).piece(9, 200..400, false), udp(CLOSED).piece(9, 0..200, true)]);
    frames.extend([udp(OPEN).piece(10, 0..200, true), udp(CLOSED).piece(11, 200..400, false)]);
    // Beyond 65,535 bytes.
    frames.extend([udp(OPEN).piece(12, 0..200, true), udp(OPEN).piece(12, 65_528..65_928, false)]);
    frames
}

#[test]
fn f22_fragments() {
    fault("F22", "fragments: tiny, overlapping, alone, of 100,000 datagrams", || {
        let scene = Scene::new("");
        let duel = Duel::new(&scene, "x/b", "y/a");
        let hostile: Vec<Vec<u8>> =
            Family::ALL.into_iter().flat_map(|family| hostile_fragments(&duel, family)).collect();
        let before = duel.storm(&hostile);
        assert!(before.at_closed >= 2, "the kernel puts together what nobody judges: {}", before.at_closed);

        let mut agent = scene.agent();
        let mut begun: HashSet<Datagram> = HashSet::new();
        let mut leaks = |frames: &[Vec<u8>]| {
            frames
                .iter()
                .filter(|frame| match Packet::parse(frame) {
                    Ok(packet) => {
                        begun.extend(packet.datagram());
                        !is_allowed(frame)
                    }
                    Err(_) => {
                        LaterFragment::parse(frame).is_none_or(|later| !begun.contains(&later.datagram))
                    }
                })
                .count()
        };
        let seen = duel.accounted(&mut agent, &hostile);
        assert_eq!((seen.at_closed, leaks(&seen.frames)), (0, 0), "of {} fragments", seen.sent);

        let memory = resident(&agent);
        let many: Vec<Vec<u8>> = (0..100_000_u32)
            .map(|number| {
                let family = Family::ALL[(number % 2) as usize];
                // More that is allowed would fill the memory that the victim's kernel has for fragments.
                let port = if number.is_multiple_of(101) { OPEN } else { CLOSED };
                let datagram = duel.ip(family).udp(4000, port).payload(&[7; 192]);
                let range = if number % 4 < 3 { 0..104 } else { 104..200 };
                let more = range.start == 0;
                datagram.piece(100 + number, range, more)
            })
            .collect();
        let flood = duel.accounted(&mut agent, &many);
        assert_eq!((flood.at_closed, leaks(&flood.frames)), (0, 0));
        let grown = resident(&agent).saturating_sub(memory);
        assert!(grown < 8 << 20, "{grown} bytes for fragments");

        // What is allowed passes in pieces, there and back.
        for family in Family::ALL {
            eventually("4,000 bytes pass, there and back", Duration::from_secs(10), || {
                duel.exchange(family, 4000)
            });
        }
        let sent = hostile.len() + many.len();
        format!(
            "of {} fragments none brought what is denied, 4,000-byte datagrams pass in both families",
            thousands(sent as u64)
        )
    });
}

fn resident(agent: &portcullis::lab_agent::LabAgent) -> usize {
    let statm = std::fs::read_to_string(format!("/proc/{}/statm", agent.id())).expect("the agent runs");
    statm.split_whitespace().nth(1).expect("pages").parse::<usize>().expect("a number") * 4096
}

/// Chains of extension headers, and whether what is behind them can be judged.
fn chains(duel: &Duel<'_>) -> Vec<(String, FrameBuilder, bool)> {
    const PAD: &[u8] = &[1, 4, 0, 0, 0, 0];
    let ip = || duel.ip(Family::V6);
    let mut chains = vec![
        ("hop-by-hop", ip().extension(HOP_BY_HOP, PAD), true),
        ("a routing header that has arrived", ip().extension(ROUTING, &[4, 0, 0, 0, 0, 0]), true),
        ("an atomic fragment", ip().extension(FRAGMENT, &[0; 6]), true),
        ("an authentication header", ip().extension(51, &[0; 14]), true),
        ("two fragment headers", ip().extension(FRAGMENT, &[0; 6]).extension(FRAGMENT, &[0; 6]), false),
        ("hop-by-hop late", ip().extension(DESTINATION_OPTIONS, PAD).extension(HOP_BY_HOP, PAD), false),
        ("hop-by-hop twice", ip().extension(HOP_BY_HOP, PAD).extension(HOP_BY_HOP, PAD), false),
        ("routing type 0", ip().extension(ROUTING, &[0, 0, 0, 0, 0, 0]), false),
        ("a route still to go", ip().extension(ROUTING, &[4, 1, 0, 0, 0, 0]), false),
        ("a jumbogram", ip().extension(HOP_BY_HOP, &[194, 4, 0, 1, 0, 0]), false),
        ("encryption", ip().extension(50, PAD), false),
        ("no next header", ip().extension(59, PAD), false),
        ("an unknown header", ip().extension(200, PAD), false),
        ("shim6", ip().extension(140, PAD), false),
    ]
    .into_iter()
    .map(|(name, sentence, judged)| (name.to_owned(), sentence, judged))
    .collect::<Vec<_>>();
    chains.extend((0..=20).map(|count| {
        let chain = (0..count).fold(ip(), |sentence, _| sentence.extension(DESTINATION_OPTIONS, PAD));
        (format!("{count} destination options"), chain, count <= 1)
    }));
    chains
}

#[test]
fn f23_extension_headers() {
    fault("F23", "chains of IPv6 extension headers", || {
        let scene = Scene::new("");
        let duel = Duel::new(&scene, "x/b", "y/a");
        let chains = chains(&duel);
        let to = |port: u16| -> Vec<Vec<u8>> {
            chains
                .iter()
                .map(|(_, chain, _)| chain.clone().udp(4000, port).payload(b"chain").build())
                .collect()
        };
        let before = duel.storm(&to(CLOSED));
        assert!(before.frames.len() > 20 && before.at_closed > 5, "{} datagrams", before.at_closed);

        let mut agent = scene.agent();
        let closed = duel.accounted(&mut agent, &to(CLOSED));
        assert_eq!((closed.frames.len(), closed.at_closed), (0, 0));
        let mut passed = 0;
        for ((name, _, judged), frame) in chains.iter().zip(to(OPEN)) {
            let seen = duel.accounted(&mut agent, &[frame]);
            assert_eq!(seen.frames.len(), usize::from(*judged), "{name}");
            passed += seen.frames.len();
        }
        format!(
            "0 of {} denied packets delivered ({} without an agent); of those to an open port, {passed} are judged",
            closed.sent, before.at_closed
        )
    });
}

/// What can stand between MAC addresses and an IPv4 packet.
const LINK_LAYERS: [(&str, &[u8]); 9] = [
    ("VLAN 0", &[0x81, 0, 0, 0]),
    ("VLAN 5", &[0x81, 0, 0, 5]),
    ("802.1ad 0", &[0x88, 0xa8, 0, 0]),
    ("QinQ", &[0x88, 0xa8, 0, 5, 0x81, 0, 0, 0]),
    ("VLAN 0 twice", &[0x81, 0, 0, 0, 0x81, 0, 0, 0]),
    ("three tags", &[0x81, 0, 0, 0, 0x81, 0, 0, 0, 0x81, 0, 0, 0]),
    ("LLC/SNAP", &[0, 44, 0xaa, 0xaa, 3, 0, 0, 0]),
    ("LLC/SNAP and VLAN 0", &[0, 48, 0xaa, 0xaa, 3, 0, 0, 0, 0x81, 0, 0, 0]),
    ("an 802.3 length", &[0, 46]),
];

fn around(frame: &[u8], what: &[u8]) -> Vec<u8> {
    let mut bytes = frame.to_vec();
    bytes.splice(12..12, what.iter().copied());
    bytes
}

#[test]
fn f24_tags_and_link_layers() {
    fault("F24", "VLAN tags, stacked tags, LLC", || {
        let scene = Scene::new("");
        let duel = Duel::new(&scene, "x/b", "y/a");
        let plain = |family: Family, port: u16| duel.ip(family).udp(4000, port).payload(&[7; 8]).build();
        let wrapped = |port: u16| -> Vec<Vec<u8>> {
            let frames = Family::ALL.map(|family| plain(family, port));
            frames.iter().flat_map(|frame| LINK_LAYERS.map(|(_, what)| around(frame, what))).collect()
        };
        let before = duel.storm(&wrapped(CLOSED));
        assert!(before.at_closed >= 4, "the kernel looks behind priority tags: {}", before.at_closed);
        {
            let mut agent = scene.agent();
            let seen = duel.accounted(&mut agent, &[wrapped(CLOSED), wrapped(OPEN)].concat());
            assert_eq!((seen.frames.len(), seen.at_closed), (0, 0), "dropped by default");
            agent.terminate().expect("an end");
        }
        let config = std::fs::read_to_string(scene.home.config()).expect("a configuration");
        std::fs::write(scene.home.config(), config + "vlan: strip0\n").expect("a configuration");
        let mut agent = scene.agent();
        let closed = duel.accounted(&mut agent, &wrapped(CLOSED));
        assert_eq!((closed.frames.len(), closed.at_closed), (0, 0), "a tag changes no verdict");
        let open = duel.accounted(&mut agent, &wrapped(OPEN));
        assert_eq!(open.frames.len(), 2, "one priority tag, in both families: {:x?}", open.frames);
        for (family, frame) in Family::ALL.into_iter().zip(&open.frames) {
            let untagged = plain(family, OPEN);
            assert_eq!(frame.len(), untagged.len(), "{family}: it leaves without the tag");
            assert_eq!(frame[L3 + 12..], untagged[L3 + 12..], "{family}");
        }
        format!(
            "0 of {} delivered; with strip0 a priority tag changes no verdict",
            2 * closed.sent + open.sent
        )
    });
}
