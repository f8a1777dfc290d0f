//! Publication in the open: threads of the system, tables, and an allocator that counts. Every order of turns on a
//! smaller scale is tried by the tests of `publish.rs`.

use std::hint;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::{Duration, Instant};

use flow::{Address, Direction, FlowKey, Protocol, Verdict};
use table::{
    ClassId, Draft, LocalPod, Name, PeerId, PolicyTable, Publisher, Reader, RowId, SetId, Signature,
};

const READERS: usize = 3;
const BURST: usize = 32;
/// No thread is held up for so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is published, with where it may die.
struct Version<T> {
    number: u64,
    value: T,
    home: ThreadId,
    deaths: Arc<Deaths>,
}

/// How versions ended.
#[derive(Default)]
struct Deaths {
    all: AtomicU64,
    astray: AtomicU64,
}

impl<T> Version<T> {
    fn new(number: u64, value: T, deaths: &Arc<Deaths>) -> Self {
        Self { number, value, home: thread::current().id(), deaths: Arc::clone(deaths) }
    }
}

impl<T> Drop for Version<T> {
    fn drop(&mut self) {
        self.deaths.all.fetch_add(1, Ordering::Relaxed);
        if thread::current().id() != self.home {
            self.deaths.astray.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Deaths {
    fn assert(&self, all: u64) {
        assert_eq!(self.all.load(Ordering::Relaxed), all, "every version is freed once");
        assert_eq!(self.astray.load(Ordering::Relaxed), 0, "versions died on a reader's thread");
    }
}

/// Threads that read over and over.
struct Readers {
    threads: Vec<JoinHandle<u64>>,
    /// The version that each has seen last.
    seen: Arc<[AtomicU64]>,
    /// Set once the last version is out.
    done: Arc<AtomicBool>,
    /// Those that have let go of their version.
    gone: Arc<AtomicUsize>,
}

impl Readers {
    /// Lets each thread `check` what it sees, until the `last` version, which it must see with its first call after
    /// it is out.
    fn start<T: Send + Sync + 'static>(
        publisher: &mut Publisher<Version<T>>,
        last: u64,
        check: impl Fn(&Version<T>) + Copy + Send + 'static,
    ) -> Self {
        let seen: Arc<[AtomicU64]> = (0..READERS).map(|_| AtomicU64::new(0)).collect();
        let (done, gone) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..READERS).map(|me| {
            let (mut reader, seen) = (publisher.reader(), Arc::clone(&seen));
            let (done, gone) = (Arc::clone(&done), Arc::clone(&gone));
            thread::spawn(move || {
                let versions = read(&mut reader, &seen[me], &done, last, check);
                drop(reader);
                gone.fetch_add(1, Ordering::Release);
                versions
            })
        });
        let threads = threads.collect();
        Self { threads, seen, done, gone }
    }

    /// Waits until all have seen a version.
    fn wait_for(&self, number: u64) {
        self.wait_until(|| self.seen.iter().all(|seen| seen.load(Ordering::Relaxed) >= number));
    }

    /// The last version is out: waits until all readers have let go of it.
    fn finish(&self) {
        self.done.store(true, Ordering::Release);
        self.wait_until(|| self.gone.load(Ordering::Acquire) == READERS);
    }

    fn wait_until(&self, so: impl Fn() -> bool) {
        let since = Instant::now();
        while !so() {
            let ended = self.threads.iter().filter(|thread| thread.is_finished()).count();
            assert!(ended <= self.gone.load(Ordering::Acquire), "a reader has panicked");
            assert!(since.elapsed() < PATIENCE, "a reader is left behind");
            thread::yield_now();
        }
    }

    /// How many versions each has seen.
    fn join(self) -> Vec<u64> {
        self.threads.into_iter().map(|thread| thread.join().expect("a reader that is content")).collect()
    }
}

/// Reads until the last version. How many there were.
fn read<T>(
    reader: &mut Reader<Version<T>>,
    seen: &AtomicU64,
    done: &AtomicBool,
    last: u64,
    check: impl Fn(&Version<T>),
) -> u64 {
    let (mut newest, mut versions) = (0, 0);
    loop {
        let ends = done.load(Ordering::Acquire);
        if let Some(version) = reader.get() {
            check(version);
            assert!(version.number >= newest, "went back from {newest} to {}", version.number);
            versions += u64::from(version.number > newest);
            newest = version.number;
            seen.store(newest, Ordering::Relaxed);
        }
        if ends {
            assert_eq!(newest, last, "left behind");
            return versions;
        }
        hint::spin_loop();
    }
}

/// A draft in which only one of two classes of clients may call the servers.
struct Servers {
    draft: Draft,
    row: RowId,
    clients: [ClassId; 2],
}

/// The address of a client of a class, or of a server.
const fn address(what: usize, number: usize, v6: bool) -> Address {
    let (what, number) = (what as u8, number as u8);
    if v6 {
        Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, what, 0, number])
    } else {
        Address::v4([10, 0, what, number])
    }
}

impl Servers {
    const CLIENTS: usize = 4;
    const SERVERS: usize = 2;

    fn new() -> Self {
        let mut draft = Draft::new();
        let row = draft.add_row(Direction::Ingress, Arc::default(), Arc::default());
        let clients = [0, 1].map(|what| {
            let peers = [PeerId::new(what)];
            let class = draft.add_class(Signature { peers: peers.into(), ports: Arc::default() });
            for number in 0..Self::CLIENTS {
                draft.set_host(address(what as usize, number, false), class, None, &[]);
                draft.set_host(address(what as usize, number, true), class, None, &[]);
            }
            class
        });
        for number in 0..Self::SERVERS {
            let addresses = vec![address(2, number, false), address(2, number, true)];
            let name = Name::new("x", format!("server-{number}"));
            let pod = LocalPod::new(name, String::new(), addresses.clone(), Arc::default());
            let pod = draft.add_pod(pod, None, RowId::OPEN, row);
            for address in addresses {
                draft.set_host(address, ClassId::OUTSIDE, Some(pod), &[]);
            }
        }
        Self { draft, row, clients }
    }

    /// The table that lets in the clients of this class, and only them.
    fn open_to(&mut self, what: usize) -> PolicyTable {
        self.draft.fill_row(self.row, SetId::NONE, &[(self.clients[what], SetId::EVERY)]);
        self.draft.freeze()
    }
}

/// A burst of calls, half of them of each class.
fn calls() -> [FlowKey; BURST] {
    std::array::from_fn(|at| {
        let (client, server, v6) = (at / 4, at / 2 % Servers::SERVERS, at % 2 == 0);
        let (what, number) = (client / Servers::CLIENTS, client % Servers::CLIENTS);
        FlowKey::new(Protocol::TCP, (address(what, number, v6), 40000), (address(2, server, v6), 80))
    })
}

fn verdicts(table: &PolicyTable, calls: &[FlowKey; BURST]) -> [Verdict; BURST] {
    let mut verdicts = [Verdict::Deny; BURST];
    table.classify(calls, &mut verdicts);
    verdicts
}

#[test]
fn each_burst_is_judged_by_one_table_and_all_memory_comes_home() {
    const LAST: u64 = 2000;
    // Even versions are open to one class, odd ones to the other: every verdict changes with every version.
    let calls = calls();
    let expected = [0, 1].map(|what| verdicts(&Servers::new().open_to(what), &calls));
    assert!(expected[0].iter().zip(&expected[1]).all(|(one, other)| one != other), "{expected:?}");

    let deaths = Arc::new(Deaths::default());
    let mut publisher = Publisher::<Version<PolicyTable>>::new();
    let readers = Readers::start(&mut publisher, LAST, move |version| {
        assert_eq!(verdicts(&version.value, &calls), expected[(version.number % 2) as usize], "a mix");
    });
    let mut left: Vec<Weak<Version<PolicyTable>>> = Vec::with_capacity(LAST as usize);
    let memory = allocation_counter::measure(|| {
        let mut servers = Servers::new();
        for number in 1..=LAST {
            // Written while readers are at tables that share its pages.
            let table = servers.open_to((number % 2) as usize);
            let version = publisher.publish(Version::new(number, table, &deaths));
            left.push(Arc::downgrade(&version));
            if number % 10 == 0 {
                readers.wait_for(number);
            }
        }
        readers.finish();
        assert_eq!(publisher.collect(), 0, "nobody holds an old version");
        deaths.assert(LAST - 1);
        // It was made before the counting; its successor takes as much.
        drop(std::mem::take(&mut publisher));
        assert!(left.iter().all(|version| version.strong_count() == 0), "{LAST} versions are gone");
        left.clear();
    });
    deaths.assert(LAST);
    assert!(memory.bytes_total > LAST * 1000, "there was memory to free: {memory:?}");
    // What is left is the publisher's own: less than one version.
    assert!(memory.bytes_current.abs() < 1000, "all memory came back, to this thread: {memory:?}");
    for versions in readers.join() {
        assert!(versions >= LAST / 10, "a reader saw {versions} versions only");
    }
}

#[test]
fn publications_as_fast_as_they_can_be() {
    const LAST: u64 = 20_000;
    let deaths = Arc::new(Deaths::default());
    let mut publisher = Publisher::<Version<Box<u64>>>::new();
    let readers = Readers::start(&mut publisher, LAST, |version| {
        assert_eq!(*version.value, version.number * 2, "a mix of two versions");
    });
    for number in 1..=LAST {
        let version = publisher.publish(Version::new(number, Box::new(number * 2), &deaths));
        assert_eq!(version.number, number);
        if number % 1000 == 0 {
            readers.wait_for(number);
        }
    }
    readers.finish();
    assert_eq!(publisher.collect(), 0);
    deaths.assert(LAST - 1);
    drop(publisher);
    deaths.assert(LAST);
    for versions in readers.join() {
        assert!(versions >= LAST / 1000, "a reader saw {versions} versions only");
    }
}
