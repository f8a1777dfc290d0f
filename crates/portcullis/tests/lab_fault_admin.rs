//! Whoever asks the agent, and however: packets do not notice.

mod faults;
mod scene;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::thread;
use std::time::Duration;

use faults::{Denied, fault};
use lab::Transport;
use scene::*;

/// Clients at a time.
const CLIENTS: usize = 100;
const ROUNDS: usize = 3;

/// One client: some ask and read the answer, some ask and leave, some say nothing. Whether it was answered in full.
fn client(socket: &Path, number: usize) -> bool {
    let mut stream = UnixStream::connect(socket).expect("the agent listens");
    if number.is_multiple_of(5) {
        // It keeps its place until the agent has had enough of it.
        thread::sleep(Duration::from_millis(300));
        return false;
    }
    stream.write_all(b"GET /v1/status HTTP/1.1\r\nhost: a\r\n\r\n").expect("a request");
    if number.is_multiple_of(3) {
        return false;
    }
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 200") && answer.trim_end().ends_with('}'), "{answer}");
    true
}

#[test]
fn f34_a_hundred_clients_come_and_go() {
    fault("F34", "100 clients at a time ask for the status, leave, or say nothing", || {
        let scene = Scene::new("");
        let mut denied = Denied::seen_to_arrive(&scene);
        let agent = scene.agent();
        denied.count_from_now();
        let allowed = scene.stream(&pod("x/b"), &pod("y/a"), 80, Transport::Udp, 500);
        eventually("allowed packets arrive", Duration::from_secs(15), || allowed.report().delivered > 100);
        let files = || entries_of(&format!("/proc/{}/fd", agent.id()));
        let before = files();
        let socket = scene.home.state_dir().join("admin.sock");
        let mut answered = 0;
        for _ in 0..ROUNDS {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|number| {
                    let socket = socket.clone();
                    thread::spawn(move || client(&socket, number))
                })
                .collect();
            answered +=
                clients.into_iter().filter_map(|client| client.join().ok()).filter(|full| *full).count();
        }
        let patient =
            (0..CLIENTS).filter(|number| !number.is_multiple_of(5) && !number.is_multiple_of(3)).count();
        assert_eq!(answered, ROUNDS * patient, "who waited was answered");
        eventually("every connection is closed", Duration::from_secs(15), || files() <= before);
        let seen = allowed.stop();
        let lost = seen.sent - seen.delivered;
        // What was under way when the stream ended may be among them.
        assert!(lost * 100 <= seen.sent, "{lost} of {} allowed packets were lost", seen.sent);
        let said = denied.finish(500);
        format!("{answered} answered, {lost} of {} allowed packets lost, {said}", seen.sent)
    });
}

fn entries_of(folder: &str) -> usize {
    std::fs::read_dir(folder).expect("the agent runs").count()
}
