//! Answers from the compiled table, step after step, held against the oracle on random clusters.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

use std::sync::Arc;

use policy::evaluate;
use portcullis::policy_test::executor::{Answer, Executor as _, Question};
use portcullis::policy_test::paper::Paper;
use proptest::prelude::*;
use testkit::arbitrary::clusters_with_connections;

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn paper_says_what_the_oracle_says(steps in proptest::collection::vec(clusters_with_connections(30), 1..4)) {
        let mut paper = Paper::default();
        paper.begin("random").unwrap();
        for (cluster, connections) in &steps {
            paper.step(cluster).unwrap();
            let name: Arc<str> = Arc::from("somebody");
            let questions: Vec<Question> = connections
                .iter()
                .map(|&connection| Question { from: Arc::clone(&name), to: Arc::clone(&name), connection })
                .collect();
            let expected: Vec<Answer> = connections
                .iter()
                .map(|connection| {
                    Answer::Verdict { verdict: evaluate(cluster, connection).verdict(), seen: String::new() }
                })
                .collect();
            prop_assert_eq!(paper.ask(&questions).unwrap(), expected);
        }
    }
}
