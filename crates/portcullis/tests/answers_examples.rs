//! What `explain` and `reach` print for the examples, and with which codes they end.

use std::path::Path;
use std::process::{Command, Output};

fn portcullis(line: &str) -> Output {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    Command::new(env!("CARGO_BIN_EXE_portcullis"))
        .args(line.split(' '))
        .args(["-f", "docs/examples/cluster.yaml", "-f", "docs/examples/policies"])
        .current_dir(root)
        .output()
        .expect("it runs")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn explain_names_the_rule_that_allows() {
    let output = portcullis("explain --from shop/client --to shop/server --port 80");
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        stdout(&output),
        "shop/client -> shop/server 80/TCP (10.244.1.11 -> 10.244.1.12): allowed
  egress of shop/client: open: no policy isolates shop/client
  ingress of shop/server: allowed by shop/allow-same-namespace ingress[0] \
         (docs/examples/policies/allow-same-namespace.yaml:15)
"
    );
}

#[test]
fn explain_names_the_isolating_policies_and_the_nearest_miss() {
    let line = "explain --from shop/client --to shop/server --port 81";
    let output = portcullis(line);
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(
        stdout(&output),
        "shop/client -> shop/server 81/TCP (10.244.1.11 -> 10.244.1.12): denied
  egress of shop/client: open: no policy isolates shop/client
  ingress of shop/server: isolated, and no rule allows it
    isolated by shop/allow-other-namespace (docs/examples/policies/allow-other-namespace.yaml:7)
    isolated by shop/allow-same-namespace (docs/examples/policies/allow-same-namespace.yaml:6)
    nearest miss: rule shop/allow-same-namespace ingress[0] \
         (docs/examples/policies/allow-same-namespace.yaml:15) matches the peer, but allows 80/TCP, not 81/TCP
"
    );
    assert_eq!(portcullis(&format!("{line} --exit-zero")).status.code(), Some(0));
}

#[test]
fn explain_ends_with_2_when_nobody_is_called_so() {
    let output = portcullis("explain --from shop/clint --to shop/server --port 80");
    assert_eq!(output.status.code(), Some(2));
    let message = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(message.contains("there is no pod shop/clint: did you mean shop/client"), "{message}");
}

#[test]
fn reach_prints_each_format() {
    let of = |format: &str| {
        let output =
            portcullis(&format!("reach --from shop/client --to shop/server --ports 80,81 -o {format}"));
        assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
        stdout(&output)
    };
    assert_eq!(
        of("table"),
        "\
FROM         TO           FAMILY  PORT    VERDICT  RULE
shop/client  shop/server  4       80/TCP  allow    shop/allow-same-namespace ingress[0]
shop/client  shop/server  4       81/TCP  deny     shop/allow-other-namespace ingress, shop/allow-same-namespace ingress
"
    );
    assert_eq!(
        of("json"),
        r#"{"schema":"portcullis.reach/v1","entries":[
{"from":"shop/client","to":"shop/server","family":4,"protocol":"TCP","port":80,"verdict":"allow","rule":"shop/allow-same-namespace ingress[0]"},
{"from":"shop/client","to":"shop/server","family":4,"protocol":"TCP","port":81,"verdict":"deny","rule":"shop/allow-other-namespace ingress, shop/allow-same-namespace ingress"}
]}
"#
    );
    assert_eq!(of("jsonl").lines().count(), 2);
    assert!(of("csv").ends_with(
        "shop/client,shop/server,4,TCP,81,deny,\"shop/allow-other-namespace ingress, shop/allow-same-namespace ingress\"\n"
    ));
    assert!(of("md").contains(
        "| shop/client | shop/server | 4 | 80/TCP | allow | shop/allow-same-namespace ingress[0] |\n"
    ));
    let matrix = "FROM \\ TO    shop/server\nshop/client";
    assert_eq!(of("matrix"), format!("80/TCP\n{matrix}  .\n\n81/TCP\n{matrix}  X\n"));
}

#[test]
fn reach_answers_for_every_ordered_pair() {
    let output = portcullis("reach -o csv");
    assert_eq!(stdout(&output).lines().count(), 1 + 8 * 7);
    assert_eq!(portcullis("reach --from nowhere").status.code(), Some(2));
}

#[test]
fn what_is_not_read_is_told() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let reach = |folder: &Path| {
        let command = Command::new(env!("CARGO_BIN_EXE_portcullis"))
            .args(["reach", "-f"])
            .arg(folder)
            .current_dir(&root)
            .output()
            .expect("it runs");
        (command.status.code(), String::from_utf8_lossy(&command.stderr).into_owned())
    };
    let (code, said) = reach(Path::new("docs/examples"));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("docs/examples/policies: warning[unread-folder]"), "{said}");
    let empty = tempfile::tempdir().expect("a folder");
    let (code, said) = reach(empty.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("the folder holds no *.yaml, *.yml or *.json"), "{said}");
    std::fs::write(empty.path().join("later.yaml"), "# nothing yet\n").expect("a file");
    let (code, said) = reach(empty.path());
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("no file holds an object that policy looks at"), "{said}");
    let (code, said) = reach(Path::new("missing.yaml"));
    assert_eq!(code, Some(2), "{said}");
    assert!(said.contains("help: there is no such file or folder"), "{said}");
}
