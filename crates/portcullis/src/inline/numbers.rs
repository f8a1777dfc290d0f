//! The numbers by which the kernel's programs know the ports.

use std::collections::{BTreeSet, HashMap};

use bpf::inline::MAX_PORTS;
use engine::wiring::PortId;

/// Which number each port has in the kernel's keys and tags; none has 0.
///
/// Verdicts are kept by number. So a port keeps the one under which a predecessor served its interface, wherever the
/// configuration lists it now, and verdicts stay their pod's.
#[derive(Debug)]
pub(super) struct Numbers {
    numbers: Vec<u16>,
    ports: HashMap<u16, PortId>,
    /// Those that are a predecessor's.
    kept: BTreeSet<u16>,
}

impl Numbers {
    /// Of ports of which a predecessor knew some by these numbers.
    pub(super) fn new(before: &[Option<u16>]) -> Self {
        let mut kept = BTreeSet::new();
        let before: Vec<Option<u16>> = before
            .iter()
            .map(|number| number.filter(|number| (1..MAX_PORTS).contains(number) && kept.insert(*number)))
            .collect();
        let mut free = (1..MAX_PORTS).filter(|number| !kept.contains(number));
        // Beyond the last, the kernel's maps have no place, and say so.
        let mut next = || free.next().unwrap_or(MAX_PORTS);
        let numbers: Vec<u16> = before.into_iter().map(|number| number.unwrap_or_else(&mut next)).collect();
        let ports = numbers.iter().copied().zip((0..).map(PortId)).collect();
        Self { numbers, ports, kept }
    }

    /// The number of a port.
    pub(super) fn of(&self, port: PortId) -> u16 {
        self.numbers[usize::from(port.0)]
    }

    /// The port with this number.
    pub(super) fn port(&self, number: u16) -> Option<PortId> {
        self.ports.get(&number).copied()
    }

    /// The port with this number, if a predecessor knew it by that, too: what another port had is not its own.
    pub(super) fn port_of_before(&self, number: u16) -> Option<PortId> {
        self.port(number).filter(|_| self.kept.contains(&number))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers(before: &[Option<u16>]) -> Vec<u16> {
        let numbers = Numbers::new(before);
        let ports = (0..before.len()).map(|n| PortId(n as u16));
        let ports = ports.inspect(|port| assert_eq!(numbers.port(numbers.of(*port)), Some(*port)));
        ports.map(|port| numbers.of(port)).collect()
    }

    #[test]
    fn ports_keep_their_numbers_and_new_ones_get_those_that_are_free() {
        assert_eq!(numbers(&[None, None, None]), [1, 2, 3]);
        assert_eq!(numbers(&[Some(3), None, Some(1), None]), [3, 2, 1, 4]);
    }

    #[test]
    fn what_was_not_kept_is_nobodys_of_before() {
        let numbers = Numbers::new(&[Some(2), None]);
        assert_eq!((numbers.port_of_before(2), numbers.port(1)), (Some(PortId(0)), Some(PortId(1))));
        assert_eq!((numbers.port_of_before(1), numbers.port(0), numbers.port(3)), (None, None, None));
    }

    #[test]
    fn numbers_that_cannot_be_are_given_anew() {
        assert_eq!(numbers(&[Some(0), Some(7), Some(7), Some(MAX_PORTS)]), [1, 7, 2, 3]);
    }
}
