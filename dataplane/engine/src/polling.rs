//! How a worker waits for frames.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::errands::Errands;
use crate::flows::Millis;
use crate::io::PacketIo;

/// A worker of any mode.
pub trait Turns {
    /// What it drives.
    type Io: PacketIo;

    /// Empty turns before it sleeps, if it polls adaptively.
    const SPINS: u32;

    /// One round over its ports; returns how many frames it has handled.
    fn turn(&mut self, now: Millis) -> u64;

    /// Its packet memory and rings.
    fn io_mut(&mut self) -> &mut Self::Io;
}

/// How a worker waits for frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Polling {
    /// It never sleeps: for a core of its own.
    Busy,
    /// It spins for a while, then sleeps until a frame arrives.
    Adaptive,
}

/// How long a sleep lasts at most. What does not wake the sleeper (a frame from another worker, the stop
/// flag) waits this long at worst.
const NAP: Duration = Duration::from_millis(10);

/// Turns a worker until `stop` is set, and does its errands in between. `clock` gives the time, once per turn.
pub fn run<W: Turns>(
    worker: &mut W,
    polling: Polling,
    mut clock: impl FnMut() -> Millis,
    stop: &AtomicBool,
    errands: &Errands<W::Io>,
) {
    let mut empty = 0;
    while !stop.load(Ordering::Relaxed) {
        errands.run(worker.io_mut());
        if worker.turn(clock()) > 0 {
            empty = 0;
        } else if polling == Polling::Adaptive {
            empty += 1;
            if empty >= W::SPINS {
                worker.io_mut().wait(NAP);
            }
        } else {
            std::hint::spin_loop();
        }
    }
}
