//! What `--help` says is true: examples are command lines that are understood, and every command has some.

use clap::{CommandFactory as _, Parser as _};
use portcullis::cli::Cli;

/// A command with its subcommands' names before its own, and what it shows above its usage.
fn helps(command: &clap::Command, name: &str, found: &mut Vec<(String, String)>) {
    let examples = command.get_before_help().map(ToString::to_string).unwrap_or_default();
    found.push((name.to_owned(), examples));
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
        helps(sub, &format!("{name} {}", sub.get_name()), found);
    }
}

fn all() -> Vec<(String, String)> {
    let mut found = Vec::new();
    helps(&Cli::command(), "portcullis", &mut found);
    found
}

/// The command lines of portcullis in an example, without what the shell does with them.
fn command_lines(examples: &str) -> Vec<Vec<&str>> {
    let lines = examples.lines().filter_map(|line| line.find("portcullis ").map(|at| &line[at..]));
    lines
        .map(|line| line.split_whitespace().take_while(|word| !["#", ">", "|"].contains(word)).collect())
        .collect()
}

#[test]
fn every_command_has_examples() {
    for (name, examples) in all() {
        assert!(!command_lines(&examples).is_empty(), "{name} has no example: {examples:?}");
    }
}

#[test]
fn every_example_is_understood_and_is_of_its_command() {
    for (name, examples) in all() {
        for line in command_lines(&examples) {
            let parsed = Cli::try_parse_from(&line);
            assert!(parsed.is_ok(), "{}: {}", line.join(" "), parsed.unwrap_err());
            assert!(line.join(" ").starts_with(&name), "{name}: {line:?}");
        }
    }
}

#[test]
fn explain_offers_no_family_that_it_refuses() {
    let line = "portcullis explain --from x/a --to y/b --port 80 -f manifests --family";
    let asked = |family: &str| Cli::try_parse_from(line.split(' ').chain([family]));
    assert!(asked("4").is_ok() && asked("6").is_ok());
    let refused = asked("both").unwrap_err().to_string();
    assert!(refused.contains("[possible values: 4, 6]"), "{refused}");
}
