//! The conformance cases on paper: by the compiled table, by the reference evaluation, in any order of policies, and
//! as the lab's agent is given them.

mod cases;

use cases::all;
use control::{Source, assemble};
use policy::evaluate;
use policy::model::Cluster;
use portcullis::exit::Failure;
use portcullis::policy_test::executor::{Answer, Executor, Question};
use portcullis::policy_test::paper::Paper;

/// Hands every cluster on as another one that should mean the same.
struct Instead<E>(E, fn(&Cluster) -> Cluster);

impl<E: Executor> Executor for Instead<E> {
    fn begin(&mut self, test: &str) -> Result<(), Failure> {
        self.0.begin(test)
    }

    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.0.step(&(self.1)(cluster))
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
        self.0.ask(questions)
    }
}

/// Answers from the reference evaluation.
#[derive(Default)]
struct Oracle(Cluster);

impl Executor for Oracle {
    fn begin(&mut self, _test: &str) -> Result<(), Failure> {
        Ok(())
    }

    fn step(&mut self, cluster: &Cluster) -> Result<(), Failure> {
        self.0 = cluster.clone();
        Ok(())
    }

    fn ask(&mut self, questions: &[Question]) -> Result<Vec<Answer>, Failure> {
        let answer = |question: &Question| Answer::Verdict {
            verdict: evaluate(&self.0, &question.connection).verdict(),
            seen: String::new(),
        };
        Ok(questions.iter().map(answer).collect())
    }
}

#[test]
fn the_oracle_decides_every_case_as_expected() {
    all("by the oracle", &mut Oracle::default());
}

/// Every step is compiled as the successor of the one before and from nothing, and both must say the same.
#[test]
fn the_compiled_table_decides_every_case_as_expected() {
    let folders = all("by the compiled table", &mut Paper::default());
    for (folder, outcomes) in folders {
        let connections: usize = outcomes.iter().map(|outcome| outcome.connections).sum();
        // Of every pair over both families, where no block of addresses is involved, and of all checks by hand.
        assert_eq!(
            connections,
            if folder == "e2e" { 11_194 } else { 15_617 },
            "{folder}: nothing is left out"
        );
    }
}

#[test]
fn the_order_of_objects_changes_nothing() {
    let reversed = |cluster: &Cluster| {
        let mut cluster = cluster.clone();
        cluster.policies.reverse();
        cluster.pods.reverse();
        cluster.namespaces.reverse();
        cluster
    };
    let turned = |cluster: &Cluster| {
        let mut cluster = cluster.clone();
        let by = cluster.policies.len().min(1);
        cluster.policies.rotate_left(by);
        cluster.pods.rotate_left(4);
        cluster.nodes.reverse();
        cluster
    };
    all("by the compiled table, objects reversed", &mut Instead(Paper::default(), reversed));
    all("by the compiled table, objects turned", &mut Instead(Paper::default(), turned));
    all("by the oracle, objects reversed", &mut Instead(Oracle::default(), reversed));
}

#[test]
fn what_the_labs_agent_is_given_means_the_same() {
    let written = |cluster: &Cluster| {
        let bytes = lab::manifests(cluster).into_bytes();
        let source = Source { name: "written.yaml".to_owned(), bytes };
        assemble(&[source]).unwrap_or_else(|errors| panic!("{}", errors[0])).cluster
    };
    all("by the oracle, written and read again", &mut Instead(Oracle::default(), written));
}
