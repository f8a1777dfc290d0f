//! Inline mode in memory: what the kernel punts, what it is told, and what it gets back.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod bed;

use std::collections::HashMap;
use std::sync::Arc;

use bed::*;
use engine::flows::{Course, Millis};
use engine::inline::{APPROVAL, Judge, Judged, Kernel};
use engine::io::Slot;
use engine::loopback::Loopback;
use engine::polling::Turns as _;
use engine::shared::{Owner, Shared};
use engine::wiring::{PortId, Wiring};
use flow::{DropReason, FlowKey, Verdict};
use policy::model::Cluster;
use table::{PolicyTable, Publisher};
use testkit::frames::{FrameBuilder, frame};

const SERVICE: &str = "10.96.0.10";
/// Nobody's, and not of the node: the node puts it in the place of what pods send.
const POOL: &str = "198.51.100.200";

/// The kernel's side, which remembers what it was told.
#[derive(Debug, Default)]
struct Told {
    entered: Vec<Judged>,
    approved: u32,
    provisional: bool,
    /// What the node has translated, by the packets that come of it.
    translated: HashMap<FlowKey, FlowKey>,
}

impl Kernel for Told {
    fn port(&self, id: u16) -> Option<PortId> {
        id.checked_sub(1).map(PortId)
    }

    fn enter(&mut self, verdicts: &[Judged]) {
        self.entered.extend_from_slice(verdicts);
    }

    fn opened(&mut self, key: &FlowKey) -> Option<FlowKey> {
        self.translated.get(key).copied()
    }

    fn approve(&mut self, tag: u16, provisional: bool) -> [u8; APPROVAL] {
        self.approved += 1;
        self.provisional = provisional;
        let mut shown = [0xaa; APPROVAL];
        shown[..2].copy_from_slice(&tag.to_be_bytes());
        shown
    }
}

struct Inline {
    judge: Judge<Loopback, Told>,
    shared: Arc<Shared>,
    tables: Publisher<PolicyTable>,
    wirings: Publisher<Wiring>,
    now: u64,
}

/// What became of a punted frame, and what the kernel was told meanwhile.
#[derive(Debug)]
struct Outcome {
    back: Option<Vec<u8>>,
    dropped: Option<DropReason>,
    told: Vec<Judged>,
}

impl Outcome {
    #[track_caller]
    fn passes(&self) -> &[Judged] {
        assert!(self.back.is_some(), "{self:?}");
        &self.told
    }

    #[track_caller]
    fn drops(&self, reason: DropReason) -> &[Judged] {
        assert_eq!((self.dropped, &self.back), (Some(reason), &None));
        &self.told
    }
}

impl Inline {
    fn new(cluster: Cluster) -> Self {
        let owners = (0..4).map(|slot| Owner { worker: 0, slot: Slot(slot) }).collect();
        let shared = Arc::new(Shared::new(owners, 1024));
        let (mut tables, mut wirings) = (Publisher::new(), Publisher::new());
        let io = Loopback::new(1, 256, 64);
        let (table_reader, wiring_reader) = (tables.reader(), wirings.reader());
        let judge = Judge::new(io, Told::default(), Arc::clone(&shared), table_reader, wiring_reader, 0);
        wirings.publish(wiring().with_services([(address("10.96.0.0"), 12)]));
        tables.publish(table(cluster));
        Self { judge, shared, tables, wirings, now: 10_000 }
    }

    /// The kernel tells of a connection that it carries, whose last packet it saw just now.
    fn carried(&self, key: &FlowKey, course: Course) {
        self.carried_since(key, course, self.now);
    }

    fn carried_since(&self, key: &FlowKey, course: Course, seen: u64) {
        self.shared.flows.carried(key, PortId(0), course, Millis(seen), Millis(self.now));
    }

    fn punt(&mut self, port: usize, departing: bool, frame: FrameBuilder) -> Outcome {
        self.punt_bytes(port, departing, frame.build())
    }

    fn punt_bytes(&mut self, port: usize, departing: bool, bytes: Vec<u8>) -> Outcome {
        self.punt_tagged(((port as u16 + 1) << 1) | u16::from(departing), bytes)
    }

    /// What a pod of this node has sent, and who has another source since, where it leaves.
    fn punt_masked(&mut self, port: usize, frame: FrameBuilder) -> Outcome {
        self.punt_tagged((1 << 11) | ((port as u16 + 1) << 1) | 1, frame.build())
    }

    fn punt_tagged(&mut self, tag: u16, mut bytes: Vec<u8>) -> Outcome {
        bytes.splice(12..12, [0x81, 0, tag.to_be_bytes()[0], tag.to_be_bytes()[1]]);
        let before = self.judge.counters().read();
        assert!(self.judge.io_mut().inject(Slot(0), &bytes));
        self.now += 1;
        assert_eq!(self.judge.turn(Millis(self.now)), 1);
        let after = self.judge.counters().read();
        assert!(after.balances(), "{after:?}");
        let mut reasons = DropReason::ALL.iter().copied();
        let dropped = reasons.rfind(|reason| after.dropped_for(*reason) > before.dropped_for(*reason));
        let back = self.judge.io_mut().sent(Slot(0), <[u8]>::to_vec);
        if let Some(back) = &back {
            let (frame, shown) = back.split_at(back.len() - APPROVAL);
            assert_eq!(frame, bytes, "it goes back as it came");
            assert_eq!(shown[..2], tag.to_be_bytes());
        }
        Outcome { back, dropped, told: std::mem::take(&mut self.judge.kernel_mut().entered) }
    }
}

fn key(src: &str, src_port: u16, dst: &str, dst_port: u16) -> FlowKey {
    FlowKey::new(flow::Protocol::TCP, (address(src), src_port), (address(dst), dst_port))
}

fn syn(src: &str, src_port: u16, dst: &str, dst_port: u16) -> FrameBuilder {
    frame().ip(src, dst).tcp(src_port, dst_port).syn()
}

/// As the pod behind `port` sends it.
fn by(port: usize, frame: FrameBuilder) -> FrameBuilder {
    frame.from(pod_mac(port)).to(port_mac(port))
}

/// As the kernel sends it to the pod behind `port`.
fn toward(port: usize, frame: FrameBuilder) -> FrameBuilder {
    frame.from(port_mac(port)).to(pod_mac(port))
}

#[test]
fn one_punt_tells_the_kernel_about_both_pods() {
    for (a, b) in [(A, B), (A6, B6)] {
        let mut inline = Inline::new(b_accepts(&[80]));
        let outcome = inline.punt(0, false, by(0, syn(a, 4000, b, 80)));
        let [at_a, at_b] = outcome.passes() else { panic!("{outcome:?}") };
        assert_eq!((at_a.port, at_a.key, at_a.pod_opened), (PortId(0), key(a, 4000, b, 80), true));
        assert_eq!((at_b.port, at_b.key, at_b.pod_opened), (PortId(1), key(b, 80, a, 4000), false));
        assert!([at_a, at_b].iter().all(|told| told.verdict == Verdict::Allow && !told.provisional));
    }
}

#[test]
fn a_denial_is_told_for_the_way_it_was_opened_only() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let outcome = inline.punt(0, false, by(0, syn(A, 4000, B, 81)));
    let [told] = outcome.drops(DropReason::DefaultDeny) else { panic!("{outcome:?}") };
    assert_eq!((told.port, told.key, told.pod_opened), (PortId(0), key(A, 4000, B, 81), true));
    assert_eq!(told.verdict, Verdict::Deny);
    // The other end may open one on the same ports.
    let outcome = inline.punt(1, false, by(1, syn(B, 81, A, 4000)));
    assert_eq!(outcome.passes().len(), 2);
}

#[test]
fn a_denied_opening_leaves_the_verdict_on_a_connection_between_the_same_ends() {
    let mut inline = Inline::new(b_accepts(&[80]));
    // b has opened one to c; somebody speaks as c, from the port that it was opened to.
    inline.punt(1, false, by(1, syn(B, 4000, C, 80))).passes();
    let outcome = inline.punt(1, true, toward(1, syn(C, 80, B, 4000)));
    assert_eq!(outcome.drops(DropReason::DefaultDeny), []);
    // Without one it is entered.
    let outcome = inline.punt(1, true, toward(1, syn(C, 80, B, 4001)));
    assert_eq!(outcome.drops(DropReason::DefaultDeny).len(), 1);
}

#[test]
fn a_reply_is_never_judged_as_a_connection_of_its_own() {
    // b may open nothing, and a may reach it on 80.
    let closed = || {
        let accepted = testkit::cluster::rule().on("TCP/80");
        testkit::cluster::cluster()
            .node("node", NODE)
            .pod("x/a", &format!("{A} {A6}"), "")
            .pod("x/b", &format!("{B} {B6}"), "app=b")
            .pod("x/c", &format!("{C} fd00::3"), "")
            .policy(testkit::cluster::policy("x/p").subjects("app=b").ingress([accepted]).egress([]))
            .build()
    };
    let mut inline = Inline::new(closed());
    inline.punt(0, false, by(0, syn(A, 4000, B, 80))).passes();
    // The verdict was lost (evicted, or its epoch has changed): the reply comes here.
    inline.tables.publish(table(closed()));
    let reply = by(1, frame().ip(B, A).tcp(80, 4000).ack());
    let outcome = inline.punt(1, false, reply.clone());
    assert!(
        outcome
            .passes()
            .iter()
            .all(|told| told.key == key(A, 4000, B, 80) || told.key == key(B, 80, A, 4000))
    );
    inline.punt(0, true, toward(0, reply)).passes();
    // Nor does a connection of its own pass as a reply.
    inline.punt(1, false, by(1, syn(B, 80, A, 4000))).drops(DropReason::DefaultDeny);
    // What nobody opened is nobody's reply.
    inline.punt(1, false, by(1, frame().ip(B, A).tcp(80, 4001).ack())).drops(DropReason::NoFlow);
}

#[test]
fn what_the_kernel_carried_through_a_restart_is_known_again() {
    let mut inline = Inline::new(b_accepts(&[80]));
    inline.carried(&key(A, 4000, B, 80), Course::Answered);
    inline.carried(&key(A, 4000, B, 81), Course::Answered);
    inline.punt(1, false, by(1, frame().ip(B, A).tcp(80, 4000).ack())).passes();
    inline.punt(1, false, by(1, frame().ip(B, A).tcp(81, 4000).ack())).drops(DropReason::DefaultDeny);
}

#[test]
fn what_the_kernel_carries_gives_its_place_up_once_it_is_over() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let (opened, ending) = (key(A, 4000, B, 80), key(A, 4001, B, 80));
    inline.punt(0, false, by(0, syn(A, 4000, B, 80))).passes();
    inline.punt(0, false, by(0, syn(A, 4001, B, 80))).passes();
    let last = inline.now;
    // The kernel tells the same of them for as long as it remembers them.
    for _ in 0..5 {
        inline.carried_since(&opened, Course::Opened, last);
        inline.carried_since(&ending, Course::Ending, last);
        inline.now += 5_000;
    }
    assert_eq!(inline.shared.flows.len(), 2);
    inline.now = last + 40_000;
    inline.shared.flows.sweep(Millis(inline.now));
    assert_eq!(inline.shared.flows.len(), 1, "nobody has answered the one");
    inline.now = last + 150_000;
    inline.shared.flows.sweep(Millis(inline.now));
    assert_eq!(inline.shared.flows.len(), 0, "the other has ended");
}

#[test]
fn packets_that_are_always_asked_about_enter_no_verdict_again() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let nop = || frame().options(&[1; 4]);
    let opening = inline.punt(0, false, by(0, nop().ip(A, B).tcp(4000, 80).syn()));
    assert!(!opening.passes().is_empty(), "what follows without options finds a verdict");
    for _ in 0..3 {
        let outcome = inline.punt(0, false, by(0, nop().ip(A, B).tcp(4000, 80).ack()));
        assert!(outcome.passes().is_empty(), "each would count as one more: {outcome:?}");
    }
    let plain = inline.punt(0, false, by(0, frame().ip(A, B).tcp(4000, 80).ack()));
    assert!(!plain.passes().is_empty(), "a verdict that was lost is entered again");
}

#[test]
fn a_service_is_judged_where_its_backend_is_seen() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let outcome = inline.punt(0, false, by(0, syn(A, 4000, SERVICE, 80)));
    let [told] = outcome.passes() else { panic!("{outcome:?}") };
    assert!(told.provisional && told.key == key(A, 4000, SERVICE, 80), "{told:?}");
    assert!(inline.judge.kernel_mut().provisional, "the kernel notes it of the frame");
    // Translated to b: on 80 it passes, on 81 it does not. The verdict at b minds the policies of a, too: what a sends
    // passes its own port under the service's address.
    let outcome = inline.punt(1, true, toward(1, syn(A, 4000, B, 80)));
    let at_b = outcome.passes().iter().find(|told| told.port == PortId(1)).expect("a verdict at b");
    assert!(!inline.judge.kernel_mut().provisional);
    assert_eq!(at_b.other.map(|(port, _)| port), Some(PortId(0)), "{at_b:?}");
    inline.punt(1, true, toward(1, syn(A, 4001, B, 81))).drops(DropReason::DefaultDeny);
    // Translated to somebody elsewhere: seen as it leaves. Not translated at all, it does not leave.
    inline.punt(UPLINK, true, syn(A, 4002, OUTSIDE, 80)).passes();
    inline.punt(UPLINK, true, syn(A, 4000, SERVICE, 80)).drops(DropReason::ServiceUntranslated);
}

#[test]
fn nobody_is_let_through_to_a_loopback_address() {
    let mut inline = Inline::new(b_accepts(&[80]));
    for (source, target) in [(A, "127.0.0.1"), (A, "127.8.0.1"), (A6, "::1")] {
        inline.punt(0, false, by(0, syn(source, 4000, target, 80))).drops(DropReason::IpInvalid);
    }
}

#[test]
fn a_denial_where_a_pod_leaves_the_node_is_told_for_its_own_port() {
    let cluster = testkit::cluster::cluster()
        .node("node", NODE)
        .pod("x/a", &format!("{A} {A6}"), "")
        .pod("x/b", &format!("{B} {B6}"), "app=b")
        .pod("x/c", &format!("{C} fd00::3"), "")
        .policy(testkit::cluster::policy("x/p").subjects("app=b").egress([]))
        .build();
    let mut inline = Inline::new(cluster);
    inline.punt(1, false, by(1, syn(B, 4000, SERVICE, 80))).passes();
    let outcome = inline.punt(UPLINK, true, syn(B, 4000, OUTSIDE, 80));
    let [told] = outcome.drops(DropReason::DefaultDeny) else { panic!("{outcome:?}") };
    assert_eq!((told.port, told.key, told.pod_opened), (PortId(1), key(B, 4000, OUTSIDE, 80), true));
    assert_eq!(told.verdict, Verdict::Deny);
}

/// b accepts port 80, and a may open what is said.
fn people(a_may_open: &str) -> Cluster {
    let rule = |port: &str| testkit::cluster::rule().on(port);
    testkit::cluster::cluster()
        .node("node", NODE)
        .pod("x/a", A, "app=a")
        .pod("x/b", B, "app=b")
        .pod("x/c", C, "")
        .policy(testkit::cluster::policy("x/b").subjects("app=b").ingress([rule("TCP/80")]))
        .policy(testkit::cluster::policy("x/a").subjects("app=a").egress([rule(a_may_open)]))
        .build()
}

#[test]
fn what_a_pod_sends_under_another_source_is_judged_as_who_opened_it() {
    for masked in [NODE, POOL] {
        let [before, after] = tables([people("TCP/80"), people("TCP/81")]);
        let mut inline = Inline::new(b_accepts(&[80]));
        inline.tables.publish(before);
        for port in [80, 81] {
            let translated = &mut inline.judge.kernel_mut().translated;
            translated.insert(key(masked, 5000, B, port), key(A, 4000, SERVICE, port));
            translated.insert(key(masked, 5000, OUTSIDE, port), key(A, 4000, SERVICE, port));
        }
        let outcome = inline.punt_masked(1, toward(1, syn(masked, 5000, B, 80)));
        let [told] = outcome.passes() else { panic!("{outcome:?}") };
        assert_eq!((told.port, told.key, told.pod_opened), (PortId(1), key(B, 80, masked, 5000), false));
        assert_eq!(told.other.map(|(port, _)| port), Some(PortId(0)), "{told:?}");
        // What b sends to the node may one day open something at a port of the node's.
        assert_eq!(told.provisional, masked == NODE, "{told:?}");
        let outcome = inline.punt_masked(1, toward(1, syn(masked, 5000, B, 81)));
        let [told] = outcome.drops(DropReason::DefaultDeny) else { panic!("{outcome:?}") };
        assert_eq!(told.other.map(|(port, _)| port), Some(PortId(0)), "{told:?}");
        // By an uplink it has no pod's port of its own.
        let outcome = inline.punt_masked(UPLINK, syn(masked, 5000, OUTSIDE, 80));
        let [told] = outcome.passes() else { panic!("{outcome:?}") };
        assert_eq!((told.port, told.key), (PortId(UPLINK as u16), key(masked, 5000, OUTSIDE, 80)));
        assert_eq!(told.other.map(|(port, _)| port), Some(PortId(0)), "{told:?}");
        // As soon as the opener may no longer, none of its packets passes.
        inline.tables.publish(after);
        let segment = |to: &str| frame().ip(masked, to).tcp(5000, 80).ack();
        inline.punt_masked(1, toward(1, segment(B))).drops(DropReason::DefaultDeny);
        let outcome = inline.punt_masked(UPLINK, segment(OUTSIDE));
        let [told] = outcome.drops(DropReason::DefaultDeny) else { panic!("{outcome:?}") };
        assert_eq!((told.port, told.key), (PortId(UPLINK as u16), key(masked, 5000, OUTSIDE, 80)));
        // Whom nobody knows to have opened it, has not.
        inline.punt_masked(UPLINK, syn(masked, 5001, OUTSIDE, 80)).drops(DropReason::MasqueradedSource);
        inline.punt_masked(2, toward(2, syn(masked, 5001, C, 80))).drops(DropReason::MasqueradedSource);
    }
}

#[test]
fn nobody_is_let_in_as_the_node_or_as_a_pod_that_the_node_hides() {
    let mut inline = Inline::new(people("TCP/80"));
    let opened = |inline: &mut Inline, key: FlowKey, by: FlowKey| {
        inline.judge.kernel_mut().translated.insert(key, by);
    };
    inline.punt(1, true, toward(1, syn(NODE, 4000, B, 80))).drops(DropReason::MasqueradedSource);
    // What the node sends itself is never punted.
    opened(&mut inline, key(NODE, 4001, B, 80), key(NODE, 4001, B, 80));
    inline.punt(1, true, toward(1, syn(NODE, 4001, B, 80))).drops(DropReason::MasqueradedSource);
    // Not by the pod's port: tracking has believed who came from elsewhere.
    opened(&mut inline, key(NODE, 4002, B, 80), key(A, 4000, SERVICE, 80));
    inline.punt(1, true, toward(1, syn(NODE, 4002, B, 80))).drops(DropReason::MasqueradedSource);
    // A pod whose packet was somebody else's before.
    opened(&mut inline, key(NODE, 4003, B, 80), key(OUTSIDE, 4000, NODE, 30080));
    inline.punt_masked(1, toward(1, syn(NODE, 4003, B, 80))).drops(DropReason::MasqueradedSource);
    // A host whom the node hides is who it is.
    let outcome = inline.punt(1, true, toward(1, syn(NODE, 4003, B, 80)));
    assert_eq!(outcome.passes()[0].key, key(B, 80, NODE, 4003));
}

#[test]
fn an_address_of_the_node_that_another_has_got_is_judged_anew() {
    const STRANGER: &str = "203.0.113.9";
    let from =
        testkit::cluster::rule().on("TCP/80").with(testkit::cluster::block(&format!("{OUTSIDE}/32"), &[]));
    let cluster = testkit::cluster::cluster()
        .node("node", NODE)
        .pod("x/a", A, "")
        .pod("x/b", B, "app=b")
        .policy(testkit::cluster::policy("x/p").subjects("app=b").ingress([from]));
    let mut inline = Inline::new(cluster.build());
    let segment = || frame().ip(NODE, B).tcp(5000, 80).ack();
    let opened = |inline: &mut Inline, by: &str| {
        let opened = key(by, 4000, NODE, 30080);
        inline.judge.kernel_mut().translated.insert(key(NODE, 5000, B, 80), opened);
    };
    opened(&mut inline, OUTSIDE);
    for frame in [syn(NODE, 5000, B, 80), segment()] {
        let outcome = inline.punt(1, true, toward(1, frame));
        let [told] = outcome.passes() else { panic!("{outcome:?}") };
        assert!(told.hidden && told.key == key(B, 80, NODE, 5000), "{told:?}");
    }
    opened(&mut inline, STRANGER);
    for frame in [segment(), syn(NODE, 5000, B, 80)] {
        let outcome = inline.punt(1, true, toward(1, frame));
        let [told] = outcome.drops(DropReason::DefaultDeny) else { panic!("{outcome:?}") };
        assert!(told.hidden && told.verdict == Verdict::Deny, "{told:?}");
    }
    opened(&mut inline, OUTSIDE);
    inline.punt(1, true, toward(1, syn(NODE, 5000, B, 80))).passes();
}

#[test]
fn answers_from_a_port_of_the_node_reach_who_had_asked_there() {
    let mut inline = Inline::new(b_accepts(&[]));
    let answer = || frame().ip(NODE, B).tcp(30080, 4000).syn().ack();
    inline.punt(1, true, toward(1, answer())).drops(DropReason::MasqueradedSource);
    let asked = key(B, 4000, NODE, 30080);
    inline.judge.kernel_mut().translated.insert(asked.reversed(), asked);
    // From a backend elsewhere, and from one here.
    for outcome in [inline.punt(1, true, toward(1, answer())), inline.punt_masked(1, toward(1, answer()))] {
        let [told] = outcome.passes() else { panic!("{outcome:?}") };
        assert_eq!((told.port, told.key, told.pod_opened), (PortId(1), asked, true));
        assert!(told.provisional, "what it goes on to send is judged where it leaves: {told:?}");
    }
    let asked = key(OUTSIDE, 4000, NODE, 30080);
    inline.judge.kernel_mut().translated.insert(asked.reversed(), asked);
    let outcome = inline.punt_masked(UPLINK, frame().ip(NODE, OUTSIDE).tcp(30080, 4000).syn().ack());
    let [told] = outcome.passes() else { panic!("{outcome:?}") };
    assert_eq!((told.port, told.key), (PortId(UPLINK as u16), asked.reversed()));
}

#[test]
fn answers_from_elsewhere_that_a_pod_here_gives_follow_what_was_asked() {
    // An address that the node translates, outside the networks of services: a load balancer's.
    let mut inline = Inline::new(people("TCP/80"));
    let asked = key(A, 4000, POOL, 80);
    let answer = || toward(0, frame().ip(POOL, A).tcp(80, 4000).syn().ack());
    inline.judge.kernel_mut().translated.insert(asked.reversed(), asked);
    inline.punt_masked(0, answer()).drops(DropReason::NoFlow);
    inline.punt(0, false, by(0, syn(A, 4000, POOL, 80))).passes();
    inline.punt_masked(0, answer()).passes();
}

#[test]
fn nobody_speaks_for_another_and_nothing_reaches_another() {
    let mut inline = Inline::new(b_accepts(&[80]));
    inline.punt(0, false, by(0, syn(C, 4000, B, 80))).drops(DropReason::SpoofedSource);
    inline.punt(2, true, toward(2, syn(A, 4000, B, 80))).drops(DropReason::NotForUs);
    inline.punt(UPLINK, true, syn(OUTSIDE, 4000, OUTSIDE, 80)).drops(DropReason::NotForUs);
    inline.punt(7, false, by(0, syn(A, 4000, B, 80))).drops(DropReason::UnknownPod);
}

#[test]
fn fragments_follow_their_first_where_they_come_and_where_they_go() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let datagram = |port| frame().ip(A, B).udp(4000, port).payload(&[7; 4000]);
    for (port, passes) in [(80, true), (81, false)] {
        for (at, departing) in [(0, false), (1, true)] {
            let addressed = if departing { toward(1, datagram(port)) } else { by(0, datagram(port)) };
            for (n, bytes) in addressed.fragments(u32::from(port), 1448).into_iter().enumerate() {
                let outcome = inline.punt_bytes(at, departing, bytes);
                let unmatched = if n == 0 { DropReason::DefaultDeny } else { DropReason::FragmentUnmatched };
                let _told = if passes { outcome.passes() } else { outcome.drops(unmatched) };
            }
        }
    }
}

#[test]
fn icmp_errors_pass_with_what_they_quote_and_are_never_cached() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let quoted = syn(A, 4000, B, 80).build();
    inline.punt(0, false, by(0, syn(A, 4000, B, 80))).passes();
    let error = |about: &[u8]| by(1, frame().ip(B, A).icmp_error(3, 4, about));
    assert_eq!(inline.punt(1, false, error(&quoted)).passes(), []);
    let stranger = syn(A, 4001, B, 80).build();
    inline.punt(1, false, error(&stranger)).drops(DropReason::IcmpUnrelated);
}

#[test]
fn without_a_table_nothing_goes_back() {
    let mut inline = Inline::new(b_accepts(&[80]));
    let mut empty = Publisher::new();
    let reader = empty.reader();
    let io = Loopback::new(1, 256, 64);
    let wiring = inline.wirings.reader();
    inline.judge = Judge::new(io, Told::default(), Arc::clone(&inline.shared), reader, wiring, 0);
    inline.punt(0, false, by(0, syn(A, 4000, B, 80))).drops(DropReason::NoTable);
}
