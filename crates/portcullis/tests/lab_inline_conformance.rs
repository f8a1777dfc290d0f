//! The conformance cases on real packets that the kernel carries, once userspace has judged them: by the addresses of pods,
//! and by those of Services. Needs root.

mod cases;

use cases::{all, are_untried_on_paper, binary, on_real_packets};
use flow::Protocol;
use lab::RulesOf;
use policy::model::Cluster;
use portcullis::config::Mode;
use portcullis::exit::Failure;
use portcullis::policy_test::executor::{Answer, Executor, Question};
use portcullis::policy_test::on_lab::OnLab;

#[test]
fn packets_fare_as_every_case_expects_where_the_kernel_carries_them() {
    on_real_packets(Mode::Inline);
}

/// Has questions answered by cluster IP, and counts them.
struct Counting {
    on_lab: OnLab,
    cluster: Cluster,
    counts: Counts,
}

/// How many connections were tried.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    /// To cluster IPs, on the ports that Services serve in the upstream tests (80 and 81).
    tcp: usize,
    udp: usize,
    sctp: usize,
    /// To cluster IPs, on others.
    on_other_ports: usize,
    /// To the addresses of nodes and of hosts outside.
    by_address: usize,
}

/// Of both folders.
const COUNTS: Counts = Counts { tcp: 23_658, udp: 1_694, sctp: 874, on_other_ports: 529, by_address: 51 };

impl Executor for Counting {
    fn begin(&mut self, test: &str) -> Result<(), Failure> {
        self.on_lab.begin(test)
    }

    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.cluster = cluster.clone();
        self.on_lab.step(cluster)
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
        let answers = self.on_lab.ask(questions)?;
        let owners = self.cluster.owners();
        let Counts { tcp, udp, sctp, on_other_ports, by_address } = &mut self.counts;
        for (Question { connection, .. }, answer) in questions.iter().zip(&answers) {
            let Answer::Verdict { seen, .. } = answer else { continue };
            let by_cluster_ip = seen.contains(", asked at 10.96.0.") || seen.contains(", asked at fd00:96::");
            assert_eq!(by_cluster_ip, owners.contains_key(&connection.dst), "{connection:?}: {seen}");
            let count = match (connection.protocol, connection.port) {
                _ if !by_cluster_ip => &mut *by_address,
                (Protocol::TCP, 80 | 81) => &mut *tcp,
                (Protocol::UDP, 80 | 81) => &mut *udp,
                (Protocol::SCTP, 80 | 81) => &mut *sctp,
                _ => &mut *on_other_ports,
            };
            *count += 1;
        }
        Ok(answers)
    }
}

#[test]
fn packets_fare_so_by_cluster_ip_too() {
    for rules in RulesOf::ALL {
        let on_lab = OnLab::by_cluster_ip(binary(), rules);
        let mut counting = Counting { on_lab, cluster: Cluster::default(), counts: Counts::default() };
        let folders = all(&format!("by cluster IP ({rules:?})"), &mut counting);
        let Counting { on_lab, counts, .. } = counting;
        on_lab.down().expect("nothing stays");
        are_untried_on_paper(&folders);
        assert_eq!(counts, COUNTS);
    }
}
