//! `portcullis flows` beside a real agent: what was allowed and what was not, by whom, and where that is written.

mod scene;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::time::Duration;

use lab::Transport;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, OptionCode, PcapBlockOwned, PcapError, PcapNGOption, PcapNGReader};
use scene::*;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(15);

/// `portcullis flows ARGS` with the scene's agent: its exit code, and what it prints.
fn flows(scene: &Scene, args: &[&str]) -> (Option<i32>, String) {
    let state = scene.home.state_dir();
    let output =
        scene.portcullis(&[&["flows", "--state-dir", state.to_str().expect("a path")], args].concat());
    (output.status.code(), String::from_utf8(output.stdout).expect("text"))
}

/// What the agent remembers under these conditions, once there is something.
fn remembered(scene: &Scene, args: &[&str]) -> Vec<Value> {
    let mut found = Vec::new();
    eventually(&format!("{args:?} finds something"), PATIENCE, || {
        let (code, text) = flows(scene, &[args, &["-o", "jsonl"]].concat());
        assert_eq!(code, Some(0), "{text}");
        found = text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        !found.is_empty()
    });
    found
}

/// `portcullis flows --follow ARGS`, listening.
fn follow(scene: &Scene, args: &[&str]) -> Child {
    let mut command = scene.lab.node().command(BINARY);
    command.args(["flows", "--follow", "--state-dir"]).arg(scene.home.state_dir()).args(args);
    command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("portcullis runs")
}

fn line_of(policy: &str, starts: &str) -> usize {
    policy.lines().position(|line| line.trim_start().starts_with(starts)).expect("such a line") + 1
}

#[test]
fn what_was_allowed_and_what_was_not() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let _agent = scene.agent();
    assert!(scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(scene.reaches(&pod("x/a"), &pod("z/c"), 81, Transport::Udp));

    // Allowed, by a rule that is named with its place.
    let allowed = &remembered(&scene, &["--from", "x/b", "--to", "y/a", "--port", "80/TCP"])[0];
    assert_eq!(allowed["schema"], "portcullis.flow/v1");
    assert_eq!((&allowed["occasion"], &allowed["verdict"]), (&json!("new_connection"), &json!("allow")));
    assert_eq!((&allowed["protocol"], &allowed["to"]["port"]), (&json!("TCP"), &json!(80)));
    assert_eq!((&allowed["from"]["pod"], &allowed["to"]["pod"]), (&json!("x/b"), &json!("y/a")));
    assert_eq!(allowed["egress"], json!({"state": "open"}));
    let rule = &allowed["ingress"]["rule"];
    assert_eq!(rule["name"], "y/a-from-x ingress[0]");
    let origin = rule["origin"].as_str().expect("text");
    assert!(origin.ends_with(&format!("policy.yaml:{}", line_of(Y_A_FROM_X, "- from:"))), "{origin}");
    let interface = |name: &str| {
        let link = scene.lab.pods().iter().find(|link| lab::Place::Pod(link.name.clone()) == pod(name));
        json!(link.expect("a pod").interface)
    };
    assert_eq!((&allowed["in_interface"], &allowed["out_interface"]), (&interface("x/b"), &interface("y/a")));

    // Denied, by a policy that is named with its place.
    let denied = &remembered(
        &scene,
        &["--pod", "z/b", "--address", "10.0.0.0/8", "--verdict", "deny", "--port", "80"],
    )[0];
    assert_eq!((&denied["verdict"], &denied["reason"]), (&json!("deny"), &json!("default_deny")));
    assert_eq!((&denied["from"]["pod"], &denied["to"]["pod"]), (&json!("z/b"), &json!("y/a")));
    assert_eq!(denied["ingress"]["state"], "isolated");
    let policy = &denied["ingress"]["policies"][0];
    assert_eq!(policy["name"], "y/a-from-x");
    let origin = policy["origin"].as_str().expect("text");
    assert!(origin.contains("policy.yaml:"), "{origin}");

    // Where no policy has a say, none is named.
    let open = &remembered(&scene, &["--protocol", "udp", "--port", "81"])[0];
    assert_eq!((&open["egress"], &open["ingress"]), (&json!({"state": "open"}), &json!({"state": "open"})));

    // For people.
    let (_, table) = flows(&scene, &["--reason", "default_deny", "--last", "1"]);
    let words: Vec<&str> = table.split_whitespace().collect();
    assert_eq!(words[1..7], ["deny", "z/b", "->", "y/a", "TCP/80", "default_deny"], "{table}");
    assert!(table.contains("ingress isolated by y/a-from-x (") && table.contains("policy.yaml:"), "{table}");
    println!("{}", flows(&scene, &["--to", "y/a"]).1);

    // Conditions that nothing meets, that mean nothing, and nobody to ask.
    assert_eq!(flows(&scene, &["--pod", "x/b", "--reason", "default_deny"]), (Some(0), String::new()));
    assert_eq!(flows(&scene, &["--reason", "default_denied"]).0, Some(2));
    assert_eq!(flows(&scene, &["--state-dir", "/nowhere"]).0, Some(2), "twice is once too often");
    assert_eq!(scene.portcullis(&["flows", "--state-dir", "/nowhere"]).status.code(), Some(3));
}

#[test]
fn what_comes_is_told_as_it_comes() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let _agent = scene.agent();
    let mut listener = follow(
        &scene,
        &["--to", "y/a", "--port", "80/UDP", "--count", "2", "--timeout", "60s", "-o", "jsonl"],
    );
    let mut lines = BufReader::new(listener.stdout.take().expect("a pipe")).lines();
    // The start of an agent drops more than it remembers: lines of what was lost are none of ours.
    let mut next = || {
        let line = |line: &str| serde_json::from_str::<Value>(line).expect("JSON");
        lines
            .by_ref()
            .map(|text| line(&text.expect("text")))
            .find(|line| line.get("lost").is_none())
            .expect("a line")
    };
    // Only once it listens: until then nothing is told.
    let knock = |from: &str| scene.reaches(&pod(from), &pod("y/a"), 80, Transport::Udp);
    std::thread::scope(|threads| {
        let first = threads.spawn(&mut next);
        eventually("somebody is heard", PATIENCE, || !knock("z/a") && first.is_finished());
        assert_eq!(first.join().expect("a line")["from"]["pod"], "z/a");
    });
    assert!(knock("x/c"));
    let second = next();
    assert!(["x/c", "z/a"].map(|pod| json!(pod)).contains(&second["from"]["pod"]), "{second}");
    assert_eq!(listener.wait().expect("its end").code(), Some(0));

    let waits = follow(&scene, &["--port", "7", "--count", "1", "--timeout", "200ms"]);
    let output = waits.wait_with_output().expect("its end");
    assert_eq!((output.status.code(), output.stdout.len()), (Some(5), 0));

    let mut listener = follow(&scene, &["--from", "z/a"]);
    let mut lines = BufReader::new(listener.stdout.take().expect("a pipe")).lines();
    std::thread::scope(|threads| {
        let first = threads.spawn(|| lines.next().expect("a line").expect("text"));
        eventually("somebody is heard", PATIENCE, || !knock("z/a") && first.is_finished());
        assert!(first.join().expect("a line").contains("z/a"));
    });
    kill(Pid::from_raw(listener.id() as i32), Signal::SIGINT).expect("a signal");
    let mut said = String::new();
    listener.stderr.take().expect("a pipe").read_to_string(&mut said).expect("text");
    assert_eq!(listener.wait().expect("its end").code(), Some(130));
    assert!(said.contains(" seen, ") && said.trim_end().ends_with(" lost"), "{said}");
}

#[test]
fn a_capture_says_of_each_packet_what_became_of_it() {
    let scene = Scene::new("");
    let _servers = scene.servers();
    let _agent = scene.agent();
    assert!(scene.reaches(&pod("x/b"), &pod("y/a"), 80, Transport::Tcp));
    assert!(!scene.reaches(&pod("z/b"), &pod("y/a"), 80, Transport::Tcp));
    remembered(&scene, &["--from", "z/b"]);
    let file = scene.path("flows.pcapng");
    let (code, shown) = flows(&scene, &["--to", "y/a", "--pcapng", file.to_str().expect("a path")]);
    assert_eq!(code, Some(0), "{shown}");

    let (interfaces, packets) = read(&fs::read(&file).expect("a capture"));
    assert_eq!(packets.len(), shown.lines().count());
    let comment = |start: &str| packets.iter().find(|(_, comment)| comment.starts_with(start)).expect(start);
    let (frame, allowed) = comment("allow; x/b -> y/a TCP/80; y/a-from-x ingress[0] (");
    assert!(allowed.contains("policy.yaml:") && allowed.ends_with("; table generation 1"), "{allowed}");
    assert_eq!(packet::Packet::parse(frame).expect("a packet").key.dst.port, 80);
    let (_, denied) = comment("deny: default_deny; z/b -> y/a TCP/80; ingress isolated by y/a-from-x (");
    println!("{allowed}\n{denied}");
    let link = scene.lab.pods().iter().find(|link| lab::Place::Pod(link.name.clone()) == pod("z/b"));
    assert!(interfaces.contains(&link.expect("a pod").interface), "{interfaces:?}");

    // Somebody else's reader, too.
    let output = sh(&format!("tcpdump -n -r {} 2>&1", file.display()));
    assert!(text(&output).contains(".80: Flags [S]"), "{}", text(&output));
}

/// The interfaces of a capture, and its packets with their comments.
fn read(capture: &[u8]) -> (Vec<String>, Vec<(Vec<u8>, String)>) {
    let (mut interfaces, mut packets) = (Vec::new(), Vec::new());
    let mut reader = PcapNGReader::new(1 << 20, capture).expect("a capture");
    loop {
        match reader.next() {
            Ok((length, block)) => {
                match block {
                    PcapBlockOwned::NG(Block::InterfaceDescription(block)) => {
                        interfaces.push(block.if_name().expect("a name").expect("text").to_owned());
                    }
                    PcapBlockOwned::NG(Block::EnhancedPacket(block)) => {
                        assert!((block.if_id as usize) < interfaces.len(), "described before it is used");
                        packets.push((block.packet_data().to_vec(), comment(&block.options)));
                    }
                    _ => {}
                }
                reader.consume(length);
            }
            Err(PcapError::Eof) => return (interfaces, packets),
            Err(PcapError::Incomplete(_)) => reader.refill().expect("more"),
            Err(error) => panic!("{error}"),
        }
    }
}

fn comment(options: &[PcapNGOption<'_>]) -> String {
    let comment = options.iter().find(|option| option.code == OptionCode::Comment).expect("a comment");
    comment.as_str().expect("text").to_owned()
}
