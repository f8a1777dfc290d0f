//! Takes the workers' records and gives them names: pods, interfaces, rules with file and line.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use engine::records::{self, Record, Records};
use engine::wiring::PortId;
use flow::{Address, Direction, DropReason, FlowKey, Verdict};
use jiff::Timestamp;
use policy::model::{Cluster, ObjectName};
use table::{PolicyTable, Reader};
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::record::{self, End, Flow, Named, Occasion, Schema, Side};
use super::stream::{Hub, Told};

/// How often records are taken.
const ROUND: Duration = Duration::from_millis(20);
/// How many records of each kind a worker tells in a quarter of a second while nobody listens: enough to remember
/// what went wrong just now, and little beside any flood.
const REMEMBERED: u16 = 16;
/// The same while somebody listens.
const LISTENED: u16 = 1024;
/// The most records of one worker in a round; the rest waits in its ring.
const MOST: usize = 512;

/// What it needs to give names.
#[derive(Debug)]
pub struct Witness {
    workers: Vec<Worker>,
    table: Reader<PolicyTable>,
    cluster: watch::Receiver<Option<Arc<Cluster>>>,
    /// Pods that the table does not judge, by address; of the cluster as it was looked at last.
    elsewhere: BTreeMap<Address, ObjectName>,
    ports: Vec<Behind>,
    /// When the workers' clock stood at zero.
    started: Instant,
}

/// A port: its interface, and who is behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Behind {
    /// The interface's name.
    pub interface: String,
    /// The pod, `None` for an uplink.
    pub pod: Option<ObjectName>,
}

#[derive(Debug)]
struct Worker {
    records: Arc<Records>,
    /// How many it had lost when it was last looked at.
    lost: u64,
}

impl Witness {
    /// Of these workers. `ports` are by [`PortId`].
    #[must_use]
    pub fn new(
        records: Vec<Arc<Records>>,
        table: Reader<PolicyTable>,
        cluster: watch::Receiver<Option<Arc<Cluster>>>,
        ports: Vec<Behind>,
        started: Instant,
    ) -> Self {
        let workers = records.into_iter().map(|records| Worker { records, lost: 0 }).collect();
        Self { workers, table, cluster, elsewhere: BTreeMap::new(), ports, started }
    }

    /// Tells `hub` what the workers tell, for as long as it is let.
    pub async fn testify(mut self, hub: Arc<Hub>) {
        let mut rounds = interval(ROUND);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            rounds.tick().await;
            self.round(&hub);
        }
    }

    fn round(&mut self, hub: &Hub) {
        let rate = if hub.listeners() > 0 { LISTENED } else { REMEMBERED };
        let (mut taken, mut lost) = (Vec::new(), 0);
        for (worker, Worker { records, lost: before }) in self.workers.iter_mut().enumerate() {
            records.ask_for(rate);
            taken.extend(std::iter::from_fn(|| records.take()).take(MOST).map(|record| (worker, record)));
            let now = records.lost();
            lost += now - *before;
            *before = now;
        }
        taken.sort_by_key(|(_, record)| record.at);
        // Also when there is nothing to name: an old table is freed once every reader has seen a newer one.
        self.table.get();
        if !taken.is_empty() {
            self.look_at_the_cluster();
        }
        let now = (SystemTime::now(), self.started.elapsed());
        for (worker, record) in taken {
            let flow = self.named(worker, &record, now);
            hub.tell(Told::Flow(Box::new(flow), record.head.bytes().to_vec()));
        }
        if lost > 0 {
            hub.tell(Told::Lost(lost));
        }
    }

    /// Looks who owns which address, if the cluster has changed.
    fn look_at_the_cluster(&mut self) {
        if !self.cluster.has_changed().unwrap_or(false) {
            return;
        }
        let cluster = self.cluster.borrow_and_update().clone();
        self.elsewhere = cluster.map_or_else(BTreeMap::new, |cluster| {
            let named = |(address, index): (_, usize)| (address, cluster.pods[index].name.clone());
            cluster.owners().into_iter().map(named).collect()
        });
    }

    /// A record with names, `now` by the clock on the wall and by the workers'.
    fn named(&mut self, worker: usize, record: &Record, now: (SystemTime, Duration)) -> Flow {
        let ago = now.1.saturating_sub(Duration::from_millis(record.at.0));
        let time = now.0.checked_sub(ago).and_then(|time| Timestamp::try_from(time).ok()).unwrap_or_default();
        // The table in force now, which is the record's or a later one.
        let table = self.table.get();
        let (mut from, mut to) = (End::default(), End::default());
        if let Some(key) = &record.key {
            for (end, of) in [(&mut from, key.src), (&mut to, key.dst)] {
                let judged =
                    table.and_then(|table| table.pod_of(of.address)).map(|pod| pod.name().to_string());
                let known = || self.elsewhere.get(&of.address).map(ToString::to_string);
                end.pod = judged.or_else(known);
                end.address = Some(of.address.ip());
                end.port = key.protocol.has_ports().then_some(of.port);
            }
        } else {
            let behind = record.ingress.and_then(|port| self.ports.get(usize::from(port.0)));
            from.pod = behind.and_then(|behind| behind.pod.as_ref()).map(ToString::to_string);
        }
        let (egress, ingress) = sides(table, record).unzip();
        let interface = |port: PortId| Some(self.ports.get(usize::from(port.0))?.interface.clone());
        Flow {
            schema: Schema::V1,
            time: to_milliseconds(time),
            occasion: occasion(record.occasion),
            verdict: match record.verdict() {
                Verdict::Allow => record::Verdict::Allow,
                Verdict::Deny => record::Verdict::Deny,
            },
            reason: record.reason.map(|reason| reason.name().to_owned()),
            protocol: record.key.map(|key| key.protocol.to_string()),
            from,
            to,
            egress,
            ingress,
            in_interface: record.ingress.and_then(interface),
            out_interface: record.egress.and_then(interface),
            generation: record.generation,
            worker,
            length: record.length,
            packet: None,
        }
    }
}

/// What policy says on both sides, where it was asked. A table that has changed since, and says otherwise, says
/// nothing about the record.
fn sides(table: Option<&PolicyTable>, record: &Record) -> Option<(Side, Side)> {
    let denied = record.reason == Some(DropReason::DefaultDeny);
    if record.occasion == records::Occasion::Frame && !denied {
        return None;
    }
    let (table, key): (_, FlowKey) = (table?, record.key?);
    let why = table.why(&key);
    if (why.verdict() == Verdict::Deny) != denied {
        return None;
    }
    Some((side(table, &why.egress, Direction::Egress), side(table, &why.ingress, Direction::Ingress)))
}

fn side(table: &PolicyTable, side: &table::Side, direction: Direction) -> Side {
    match side {
        table::Side::Open => Side::Open,
        table::Side::Exempt => Side::Exempt,
        table::Side::AllowedBy(id) => {
            let policy = &table.policy(id.policy()).name;
            let name = format!("{policy} {direction}[{}]", id.index());
            Side::Allowed { rule: Named { name, origin: table.rule(*id).origin.clone() } }
        }
        table::Side::Isolated(ids) => {
            let policies = ids.iter().map(|id| table.policy(*id));
            let named = policies
                .map(|policy| Named { name: policy.name.to_string(), origin: policy.origin.clone() })
                .collect();
            Side::Isolated { policies: named }
        }
    }
}

const fn occasion(occasion: records::Occasion) -> Occasion {
    match occasion {
        records::Occasion::NewConnection => Occasion::NewConnection,
        records::Occasion::JudgedAgain => Occasion::JudgedAgain,
        records::Occasion::Frame => Occasion::Frame,
    }
}

/// What the workers' clock knows.
fn to_milliseconds(time: Timestamp) -> Timestamp {
    Timestamp::from_millisecond(time.as_millisecond()).unwrap_or(time)
}

#[cfg(test)]
mod tests {
    use compiler::{Budget, Compiler, Scope};
    use engine::flows::Millis;
    use engine::records::Head;
    use flow::Protocol;
    use table::Publisher;
    use testkit::cluster::{cluster, policy, rule};

    use super::*;

    const A: Address = Address::v4([10, 0, 0, 1]);
    const B: Address = Address::v4([10, 0, 0, 2]);
    const FAR: Address = Address::v4([10, 0, 0, 3]);

    /// y/b accepts TCP port 80; x/a and y/b are judged here, x/far is not.
    fn witness() -> (Witness, Publisher<PolicyTable>) {
        let accepted = policy("y/p").subjects("app=b").ingress([rule().on("TCP/80")]);
        let cluster = cluster()
            .pod("x/a", "10.0.0.1", "")
            .pod("y/b", "10.0.0.2", "app=b")
            .pod("x/far", "10.0.0.3", "")
            .policy(accepted)
            .build();
        let here = Scope::Pods([ObjectName::new("x", "a"), ObjectName::new("y", "b")].into());
        let mut tables = Publisher::new();
        tables.publish(Compiler::new(here, Budget::default()).update(&cluster).unwrap());
        let behind = |interface: &str, pod: Option<&str>| Behind {
            interface: interface.to_owned(),
            pod: pod.map(|name| ObjectName::new("x", name)),
        };
        let ports = vec![behind("veth-a", Some("a")), behind("up", None)];
        let (_sender, told) = watch::channel(None);
        let mut witness = Witness::new(Vec::new(), tables.reader(), told, ports, Instant::now());
        witness.elsewhere = [(FAR, ObjectName::new("x", "far"))].into();
        (witness, tables)
    }

    fn record(src: Address, dst: (Address, u16), reason: Option<DropReason>) -> Record {
        Record {
            at: Millis(1500),
            occasion: records::Occasion::NewConnection,
            key: Some(FlowKey::new(Protocol::TCP, (src, 4000), dst)),
            ingress: Some(PortId(0)),
            egress: None,
            reason,
            generation: 1,
            length: 74,
            head: Head::of(&[0; 74]),
        }
    }

    /// What is told of a record, two seconds after the workers' clock began: at one in the morning of 1970.
    fn named(witness: &mut Witness, record: &Record) -> Flow {
        witness.named(0, record, (SystemTime::UNIX_EPOCH + Duration::from_secs(3600), Duration::from_secs(2)))
    }

    #[test]
    fn a_record_gets_its_names() {
        let (mut witness, _tables) = witness();
        let allowed = named(&mut witness, &record(A, (B, 80), None));
        assert_eq!(allowed.time.to_string(), "1970-01-01T00:59:59.5Z");
        assert_eq!((allowed.from.pod.as_deref(), allowed.to.pod.as_deref()), (Some("x/a"), Some("y/b")));
        assert_eq!((allowed.in_interface.as_deref(), allowed.out_interface), (Some("veth-a"), None));
        let Some(Side::Allowed { rule }) = allowed.ingress else { panic!("{:?}", allowed.ingress) };
        assert_eq!(rule.name, "y/p ingress[0]");

        let denied = named(&mut witness, &record(FAR, (B, 81), Some(DropReason::DefaultDeny)));
        assert_eq!((denied.from.pod.as_deref(), denied.egress), (Some("x/far"), Some(Side::Open)));
        let Some(Side::Isolated { policies }) = denied.ingress else { panic!("{:?}", denied.ingress) };
        assert_eq!(policies.iter().map(|policy| policy.name.as_str()).collect::<Vec<_>>(), ["y/p"]);
    }

    #[test]
    fn the_clock_on_the_wall_may_be_before_1970() {
        let (mut witness, _tables) = witness();
        let now = (SystemTime::UNIX_EPOCH - Duration::from_secs(3600), Duration::from_secs(2));
        let told = witness.named(0, &record(A, (B, 80), None), now);
        assert_eq!(told.time.to_string(), "1969-12-31T22:59:59.5Z");
    }

    #[test]
    fn what_policy_was_not_asked_or_says_otherwise_by_now_is_not_told() {
        let (mut witness, _tables) = witness();
        let sides = |flow: Flow| (flow.egress, flow.ingress);
        let changed = record(A, (B, 80), Some(DropReason::DefaultDeny));
        assert_eq!(sides(named(&mut witness, &changed)), (None, None));
        let dropped =
            Record { occasion: records::Occasion::Frame, ..record(A, (B, 80), Some(DropReason::TxRingFull)) };
        assert_eq!(sides(named(&mut witness, &dropped)), (None, None));

        let unreadable = Record { key: None, ..record(A, (B, 80), Some(DropReason::Truncated)) };
        let told = named(&mut witness, &unreadable);
        assert_eq!((told.from.pod.as_deref(), told.to, told.protocol), (Some("x/a"), End::default(), None));
    }
}
