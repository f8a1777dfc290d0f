//! The connection table: what it finds, what it forgets, and what it does when there is no room.

use engine::clock::{Millis, TICK, Ticks};
use engine::connections::{Connections, Entry, Epochs, Full};
use engine::state::{Sender, State};
use flow::{Address, FlowKey, Protocol};

const NOBODY: Epochs = Epochs { src: None, dst: None };

fn key(number: u32) -> FlowKey {
    let [a, b, high, low] = number.to_be_bytes();
    let port = u16::from_be_bytes([high, low]);
    FlowKey::new(Protocol::TCP, (Address::v4([10, a, b, 1]), port), (Address::v4([10, 0, 0, 2]), 80))
}

const fn entry(state: State, opener: u16) -> Entry {
    Entry { state, epochs: NOBODY, acknowledged: [0; 2], opener }
}

fn put(table: &Connections, number: u32, entry: Entry, now: Ticks) -> Result<(), Full> {
    let key = key(number);
    table.put(&key, table.hash(&key), now, |_| Some(entry))
}

fn state(table: &Connections, number: u32) -> Option<State> {
    let key = key(number);
    table.find(&key, table.hash(&key)).map(|found| found.entry.state)
}

const NOW: Ticks = Ticks(1000);

#[test]
fn both_directions_find_one_connection() {
    let table = Connections::new(16, 1);
    let entry = Entry { acknowledged: [7, 8], ..entry(State::Established, 3) };
    put(&table, 1, entry, NOW).unwrap();
    let (there, back) = (key(1), key(1).reversed());
    assert_eq!(table.hash(&there), table.hash(&back));
    let found = table.find(&there, table.hash(&there)).unwrap();
    assert_eq!((found.sender, found.entry, found.seen), (Sender::Initiator, entry, NOW));
    let found = table.find(&back, table.hash(&back)).unwrap();
    assert_eq!((found.sender, found.entry), (Sender::Responder, entry));
    assert_eq!((state(&table, 2), table.len()), (None, 1));
}

#[test]
fn ipv6_and_ports_and_protocols_are_told_apart() {
    let table = Connections::new(64, 1);
    let v6 = |last| Address::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]);
    let keys = [
        FlowKey::new(Protocol::UDP, (v6(1), 1), (v6(2), 2)),
        FlowKey::new(Protocol::UDP, (v6(1), 2), (v6(2), 1)),
        FlowKey::new(Protocol::UDP, (v6(1), 1), (v6(3), 2)),
        FlowKey::new(Protocol::TCP, (v6(1), 1), (v6(2), 2)),
    ];
    for (number, key) in keys.iter().enumerate() {
        let made = entry(State::Replied, number as u16);
        table.put(key, table.hash(key), NOW, |there| there.is_none().then_some(made)).unwrap();
    }
    for (number, key) in keys.iter().enumerate() {
        let found = table.find(key, table.hash(key)).unwrap();
        assert_eq!(usize::from(found.entry.opener), number);
    }
    assert_eq!(table.len(), keys.len());
}

#[test]
fn a_change_changes_the_generation_and_a_packet_does_not() {
    let table = Connections::new(16, 1);
    put(&table, 1, entry(State::HalfOpen, 0), NOW).unwrap();
    let find = || table.find(&key(1), table.hash(&key(1))).unwrap();
    let before = find();
    assert!(table.touch(before.id, before.generation, Ticks(1005)));
    assert_eq!((find().generation, find().seen), (before.generation, Ticks(1005)));
    assert!(table.touch(before.id, before.generation, Ticks(1002)), "a clock that is behind");
    assert_eq!(find().seen, Ticks(1005), "takes nothing back");

    put(&table, 1, entry(State::Answered, 0), Ticks(1006)).unwrap();
    assert_ne!(find().generation, before.generation);
    assert!(!table.touch(before.id, before.generation, Ticks(1007)));

    let answered = find();
    table.sweep(Millis(u64::from(answered.seen.0) * TICK + 31_000).ticks());
    assert_eq!(state(&table, 1), None);
    assert!(!table.touch(answered.id, answered.generation, Ticks(1200)), "what is gone is not touched");
}

#[test]
fn the_established_live_and_the_unanswered_make_room() {
    let table = Connections::new(100, 1);
    for number in 0..60 {
        put(&table, number, entry(State::Established, 0), NOW).unwrap();
    }
    for number in 60..10_000 {
        put(&table, number, entry(State::HalfOpen, 0), NOW).unwrap();
        assert!(table.len() <= 100);
    }
    assert!((0..60).all(|number| state(&table, number) == Some(State::Established)));
    assert!((9960..10_000).all(|number| state(&table, number) == Some(State::HalfOpen)), "the oldest went");
    assert_eq!(table.given_up(), 10_000 - 100);

    for number in 0..40 {
        put(&table, 20_000 + number, entry(State::Established, 0), NOW).unwrap();
    }
    assert_eq!(put(&table, 30_000, entry(State::HalfOpen, 0), NOW), Err(Full::Table));
    assert_eq!(table.len(), 100);
    let far = Ticks(NOW.0 + 30_000);
    assert_eq!(put(&table, 30_000, entry(State::HalfOpen, 0), far), Ok(()), "an expired one is not missed");
}

#[test]
fn what_is_over_goes_before_what_is_half_open() {
    let table = Connections::new(4, 1);
    for (number, state) in
        [(0, State::HalfOpen), (1, State::TimeWait), (2, State::Unreplied), (3, State::ResetByResponder)]
    {
        put(&table, number, entry(state, 0), NOW).unwrap();
    }
    for (number, victim) in [(10, 3), (11, 1), (12, 0), (13, 2)] {
        put(&table, number, entry(State::Replied, 0), NOW).unwrap();
        assert_eq!(state(&table, victim), None, "{victim} goes");
    }
}

#[test]
fn no_port_takes_more_than_half() {
    let table = Connections::new(100, 3);
    for number in 0..1000 {
        put(&table, number, entry(State::Unreplied, 1), NOW).unwrap();
    }
    assert_eq!(table.len(), 50, "its own oldest make room");
    for number in 1000..1050 {
        put(&table, number, entry(State::Established, 2), NOW).unwrap();
    }
    assert_eq!(put(&table, 1050, entry(State::HalfOpen, 2), NOW), Err(Full::Port));
    assert_eq!(put(&table, 1051, entry(State::HalfOpen, 0), NOW), Ok(()), "another port finds room");
    assert!((1000..1050).all(|number| state(&table, number) == Some(State::Established)));
    assert_eq!(table.len(), 100);
}

#[test]
fn expiry_takes_bounded_steps_and_passes_over_what_lives() {
    let table = Connections::new(1000, 1);
    for number in 0..1000 {
        put(&table, number, entry(State::Unreplied, 0), NOW).unwrap();
    }
    let later = Ticks(NOW.0 + 100);
    for number in 0..10 {
        let found = table.find(&key(number), table.hash(&key(number))).unwrap();
        assert!(table.touch(found.id, found.generation, later));
    }
    let (due, mut cursor) = (Ticks(NOW.0 + 120), 0);
    table.expire(due, &mut cursor, 16);
    assert_eq!(table.len(), 1000 - 6, "ten of sixteen looks found a packet since");
    for round in 1..=5 {
        table.expire(due, &mut cursor, 16);
        assert_eq!(table.len(), 1000 - 6 - 16 * round);
    }
    table.sweep(due);
    assert_eq!(table.len(), 10);
    table.sweep(Ticks(due.0 + 130));
    assert!(table.is_empty());
}

#[test]
fn time_may_wrap_around() {
    let table = Connections::new(16, 1);
    let before = Ticks(u32::MAX - 10);
    put(&table, 1, entry(State::Established, 0), before).unwrap();
    put(&table, 2, entry(State::Unreplied, 0), before).unwrap();
    let after = Ticks(50);
    table.sweep(after);
    assert_eq!(table.len(), 2, "nothing expires by the wrap alone");
    let found = table.find(&key(2), table.hash(&key(2))).unwrap();
    assert!(found.is_live(after) && !found.is_live(Ticks(200)));
    table.sweep(Ticks(200));
    assert_eq!((state(&table, 1), state(&table, 2)), (Some(State::Established), None));
    table.sweep(Ticks(30_000));
    assert!(table.is_empty(), "nor does anything live for ever");
}

#[test]
fn a_large_table_fills_to_its_capacity_and_is_within_its_bytes() {
    const CAPACITY: u32 = 200_000;
    let table = Connections::new(CAPACITY as usize, 1);
    for number in 0..CAPACITY {
        assert_eq!(put(&table, number, entry(State::Established, 0), NOW), Ok(()));
    }
    assert_eq!(table.len(), CAPACITY as usize);
    assert!((0..CAPACITY).all(|number| state(&table, number).is_some()));
    assert!(table.bytes() <= 96 * CAPACITY as usize, "{} bytes a flow", table.bytes() / CAPACITY as usize);
    // Remove every second one and fill up again: slots and index cells are used again.
    for number in (0..CAPACITY).step_by(2) {
        put(&table, number, entry(State::ResetByInitiator, 0), NOW).unwrap();
    }
    table.sweep(Ticks(NOW.0 + 50));
    assert_eq!(table.len(), CAPACITY as usize / 2);
    for number in 0..CAPACITY / 2 {
        assert_eq!(put(&table, 1_000_000 + number, entry(State::Established, 0), NOW), Ok(()));
    }
    assert!((1..CAPACITY).step_by(2).all(|number| state(&table, number).is_some()));
    assert_eq!(table.given_up(), 0);
}

#[test]
fn readers_never_see_a_half_written_connection() {
    // One slot: two connections take turns in it, told apart by the port that opened them.
    let table = Connections::new(1, 1);
    let rounds = 200_000;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..rounds {
                let number = round % 2;
                let made = Entry { acknowledged: [number; 2], ..entry(State::HalfOpen, number as u16) };
                put(&table, number, made, NOW).unwrap();
            }
        });
        for number in 0..2 {
            let table = &table;
            scope.spawn(move || {
                let (key, mut seen) = (key(number), 0);
                while seen < 1000 && table.given_up() < u64::from(rounds) - 2 {
                    let Some(found) = table.find(&key, table.hash(&key)) else { continue };
                    assert_eq!(u32::from(found.entry.opener), number);
                    assert_eq!(found.entry.acknowledged, [number; 2]);
                    assert_eq!(found.generation % 2, 0);
                    seen += 1;
                }
            });
        }
    });
}
