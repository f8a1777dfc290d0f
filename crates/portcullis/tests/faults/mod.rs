//! One line for each fault (docs/faults.md), and the oracle of them all: what is denied never arrives.

#![allow(dead_code, reason = "each test file uses its own part of this")]

use std::fs::OpenOptions;
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::time::{Duration, Instant};

use lab::{Place, Stream, StreamReport, Transport};

use crate::scene::{Scene, eventually, pod};

/// The settings of inline mode.
pub(crate) const INLINE: &str = "mode: inline\n";

/// Longer than the agent's rounds of inspection, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(15);

/// Where `make faults` collects the lines.
const LINES: &str = "PORTCULLIS_FAULTS";

/// Has the product meet a fault. What `run` says about it becomes the line `F1 ok: WHAT, ...`; a panic in it becomes
/// `F1 FAIL: WHAT: ...`, and fails the test as well.
pub(crate) fn fault(name: &str, what: &str, run: impl FnOnce() -> String) {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(said) => tell(&format!("{name} ok: {what}, {said}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it panicked");
            let first: String =
                text.lines().take(2).collect::<Vec<_>>().join(" / ").chars().take(200).collect();
            tell(&format!("{name} FAIL: {what}: {first}"));
            resume_unwind(panic);
        }
    }
}

#[expect(clippy::print_stdout, reason = "the line is what a person looks for")]
fn tell(line: &str) {
    println!("{line}");
    if let Some(path) = std::env::var_os(LINES) {
        let file = OpenOptions::new().create(true).append(true).open(path);
        file.and_then(|mut file| writeln!(file, "{line}")).expect("the lines can be written");
    }
}

/// A UDP stream that policy denies, from z/b to y/a. It was seen to arrive while nobody enforced.
pub(crate) struct Denied {
    stream: Stream,
    before: StreamReport,
}

impl Denied {
    /// The port of the stream, which no server of a [`Scene`] has.
    pub(crate) const PORT: u16 = 9000;

    /// Starts the stream, 1,000 packets a second, and waits until it arrives: before there is an agent.
    pub(crate) fn seen_to_arrive(scene: &Scene) -> Self {
        Self::between(scene, &pod("z/b"), &pod("y/a"))
    }

    /// The same between other pods.
    pub(crate) fn between(scene: &Scene, from: &Place, to: &Place) -> Self {
        let stream = scene.stream(from, to, Self::PORT, Transport::Udp, 1000);
        eventually("denied packets arrive without enforcement", Duration::from_secs(10), || {
            stream.report().delivered > 100
        });
        let before = stream.report();
        Self { stream, before }
    }

    /// From now on none may arrive: an agent enforces. What is still under way is waited for.
    pub(crate) fn count_from_now(&mut self) {
        std::thread::sleep(Duration::from_millis(100));
        self.before = self.stream.report();
    }

    /// How many have arrived since.
    pub(crate) fn through(&self) -> u64 {
        self.stream.report().delivered - self.before.delivered
    }

    /// None has arrived so far.
    #[track_caller]
    pub(crate) fn check(&self) {
        let (now, before) = (self.stream.report(), &self.before);
        let through = now.delivered - before.delivered;
        assert_eq!(through, 0, "of {} denied packets {through} got through", now.sent - before.sent);
    }

    /// Ends the stream once `least` packets were sent: `0 of 1,240,311 denied packets delivered`.
    #[track_caller]
    pub(crate) fn finish(self, least: u64) -> String {
        let before = self.before;
        eventually("denied packets are sent", Duration::from_secs(10), || {
            self.stream.report().sent >= before.sent + least
        });
        let after = self.stream.stop();
        let (sent, through) = (after.sent - before.sent, after.delivered - before.delivered);
        assert_eq!(through, 0, "of {sent} denied packets {through} got through");
        format!("0 of {} denied packets delivered", thousands(sent))
    }
}

/// What policy allows, from x/b to y/a, under way.
pub(crate) fn allowed(scene: &Scene, transport: Transport, rate: u32) -> Stream {
    let stream = scene.stream(&pod("x/b"), &pod("y/a"), 80, transport, rate);
    eventually("allowed records arrive", PATIENCE, || stream.report().delivered > u64::from(rate) / 10);
    stream
}

/// More of a stream arrives; how long that took.
pub(crate) fn goes_on(stream: &Stream) -> Duration {
    let (before, start) = (stream.report().delivered, Instant::now());
    eventually("allowed records arrive again", PATIENCE, || stream.report().delivered > before + 50);
    start.elapsed()
}

/// Ends a stream of what was allowed all the time: it went on. Tells how many packets since `before` have not arrived.
#[track_caller]
pub(crate) fn went_on(stream: Stream, before: &StreamReport) -> u64 {
    let after = stream.stop();
    let (sent, missing) = (after.sent - before.sent, after.lost().saturating_sub(before.lost()));
    assert!(missing < sent / 2, "of {sent} allowed packets {missing} are missing");
    missing
}

/// 1,240,311
pub(crate) fn thousands(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
