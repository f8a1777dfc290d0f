//! What other threads want done with a worker's ports: the worker does it itself, between two turns.

use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, bounded};

type Errand<Io> = Box<dyn FnOnce(&mut Io) + Send>;

/// Errands that wait at most. Whoever meets a full box asks a worker that no longer turns.
const BOX: usize = 16;

/// A worker's box of errands: it empties it between two turns.
#[derive(Debug)]
pub struct Errands<Io>(Receiver<Errand<Io>>);

/// Where errands for one worker are posted.
#[derive(Debug)]
pub struct Mailbox<Io>(Sender<Errand<Io>>);

/// The worker did not answer in time, or has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAnswer;

/// A box, and where it is filled.
#[must_use]
pub fn errands<Io>() -> (Mailbox<Io>, Errands<Io>) {
    let (sender, receiver) = bounded(BOX);
    (Mailbox(sender), Errands(receiver))
}

impl<Io> Errands<Io> {
    /// Does what was posted so far. An empty box costs two loads.
    pub(crate) fn run(&self, io: &mut Io) {
        for errand in self.0.try_iter().take(BOX) {
            errand(io);
        }
    }
}

impl<Io: 'static> Mailbox<Io> {
    /// Has the worker do something, soon: an idle worker wakes up every ten milliseconds.
    ///
    /// # Errors
    ///
    /// The worker has ended, or has left its errands undone for long.
    pub fn post(&self, errand: impl FnOnce(&mut Io) + Send + 'static) -> Result<(), NoAnswer> {
        self.0.try_send(Box::new(errand)).map_err(|_full_or_gone| NoAnswer)
    }

    /// Has the worker do something, and waits for what it says.
    ///
    /// # Errors
    ///
    /// No answer within `patience`; the errand may still be done later.
    pub fn ask<T: Send + 'static>(
        &self,
        patience: Duration,
        errand: impl FnOnce(&mut Io) -> T + Send + 'static,
    ) -> Result<T, NoAnswer> {
        let (sender, receiver) = bounded(1);
        self.post(move |io| {
            // Nobody may be waiting any more.
            drop(sender.try_send(errand(io)));
        })?;
        receiver.recv_timeout(patience).map_err(|_late_or_gone| NoAnswer)
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn an_errand_is_done_by_whoever_has_the_box() {
        let (mailbox, errands) = errands::<u32>();
        let worker = thread::spawn(move || {
            let mut io = 41;
            while io < 43 {
                errands.run(&mut io);
                thread::yield_now();
            }
            io
        });
        let patience = Duration::from_secs(10);
        let answer = mailbox.ask(patience, |io| {
            *io += 1;
            *io
        });
        assert_eq!(answer, Ok(42));
        mailbox.post(|io| *io += 1).unwrap();
        assert_eq!(worker.join().unwrap(), 43);
        assert_eq!(mailbox.ask(patience, |io| *io), Err(NoAnswer), "nobody has the box any more");
    }

    #[test]
    fn a_box_that_nobody_empties_is_full_some_time() {
        let (mailbox, _errands) = errands::<u32>();
        assert_eq!(mailbox.ask(Duration::from_millis(1), |io| *io), Err(NoAnswer));
        let posted = (0..100).take_while(|_| mailbox.post(|_| {}).is_ok()).count();
        assert_eq!(posted, BOX - 1);
    }
}
