//! Whether the agent lives, and whether it is ready: checks with their reasons, as Kubernetes writes them.

use super::snapshot::{PortState, Status};

/// One thing that must be so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Check {
    name: &'static str,
    /// Why it is not so.
    failure: Option<String>,
}

/// What must be so for the agent to be left running. That it was asked and has answered is the first of these.
#[must_use]
pub(super) fn live(status: &Status) -> Vec<Check> {
    let hung = status.workers.iter().find(|worker| worker.hangs);
    let hung = hung.map(|worker| {
        format!("worker {} has not turned for {:.1} s", worker.worker, worker.heartbeat_age_seconds)
    });
    vec![Check { name: "control", failure: None }, Check { name: "workers", failure: hung }]
}

/// What must be so for pods to be served. Once it is, it stays so: a source that goes away takes no table with it, and
/// an interface that goes away is known to be absent.
#[must_use]
pub(super) fn ready(status: &Status) -> Vec<Check> {
    let no_table = status.table.is_none().then(|| "no policy table has been published yet".to_owned());
    let unknown = status.ports.iter().find(|port| port.state == PortState::Unknown);
    let unknown = unknown.map(|port| format!("nothing is known of {} yet", port.interface));
    vec![Check { name: "table", failure: no_table }, Check { name: "ports", failure: unknown }]
}

/// What to say when the agent's own task does not answer.
#[must_use]
pub(super) fn silent() -> Vec<Check> {
    vec![Check { name: "control", failure: Some(super::Silent.to_string()) }]
}

/// Whether all is well, and the text that says so: `ok`, or, with a failure or when `verbose`, a line for each check.
#[must_use]
pub(super) fn report(name: &str, checks: &[Check], verbose: bool) -> (bool, String) {
    let well = checks.iter().all(|check| check.failure.is_none());
    if well && !verbose {
        return (true, "ok".to_owned());
    }
    let lines = checks.iter().map(|Check { name, failure }| match failure {
        None => format!("[+]{name} ok\n"),
        Some(why) => format!("[-]{name} failed: {why}\n"),
    });
    let end = if well { "passed" } else { "failed" };
    (well, format!("{}{name} check {end}\n", lines.collect::<String>()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::snapshot::{Port, Table, Worker};

    #[test]
    fn a_worker_that_hangs_is_not_alive() {
        let mut status = Status { workers: vec![Worker::default()], ..Status::default() };
        assert_eq!(report("livez", &live(&status), false), (true, "ok".to_owned()));
        assert_eq!(
            report("livez", &live(&status), true).1,
            "[+]control ok\n[+]workers ok\nlivez check passed\n"
        );
        status.workers.push(Worker {
            worker: 1,
            hangs: true,
            heartbeat_age_seconds: 3.25,
            ..Worker::default()
        });
        let expected =
            "[+]control ok\n[-]workers failed: worker 1 has not turned for 3.2 s\nlivez check failed\n";
        assert_eq!(report("livez", &live(&status), false), (false, expected.to_owned()));
        assert!(!report("livez", &silent(), false).0);
    }

    #[test]
    fn readiness_waits_for_a_table_and_for_every_port() {
        let mut status = Status { ports: vec![Port::default()], ..Status::default() };
        let said = report("readyz", &ready(&status), false).1;
        assert!(said.contains("[-]table failed") && said.contains("[-]ports failed"), "{said}");
        status.table = Some(Table::default());
        status.ports[0].state = PortState::Attached;
        assert!(report("readyz", &ready(&status), false).0);
        // It is known why this one carries nothing.
        status.ports[0].state = PortState::Absent;
        assert!(report("readyz", &ready(&status), false).0);
    }
}
