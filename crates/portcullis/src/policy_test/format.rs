//! The form of a test file: what people write. Whether it fits the manifests is not asked here.

mod written;

use std::borrow::Cow;
use std::collections::BTreeMap;

use manifest::Embedded;
use schemars::{JsonSchema, SchemaGenerator, json_schema};
use serde_saphyr::Spanned;

/// A test of network policies: one document of a YAML file. A file may hold several.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Document {
    /// The version of this form.
    #[allow(dead_code, reason = "deserialising it is the check")]
    pub schema: Schema,
    /// The name of the test in reports. Two tests of one file have different names.
    #[schemars(with = "String")]
    pub name: Spanned<String>,
    /// What the test is about, for readers.
    #[serde(default)]
    pub description: Option<String>,
    /// The objects that the test starts from: files, or folders of which the manifests count. A relative path
    /// starts at the folder of the test file.
    #[schemars(with = "Vec<String>")]
    pub manifests: Vec<Spanned<String>>,
    /// What is expected of these objects as they are. A test has either this and `matrices`, or `steps`.
    #[serde(default)]
    #[schemars(with = "Vec<Expectation>")]
    pub expect: Vec<Spanned<Expectation>>,
    /// The same as tables of pairs.
    #[serde(default)]
    #[schemars(with = "Vec<Matrix>")]
    pub matrices: Vec<Spanned<Matrix>>,
    /// Changes of the objects, one after the other, and what is expected after each.
    #[serde(default)]
    #[schemars(with = "Vec<Step>")]
    pub steps: Vec<Spanned<Step>>,
}

/// The JSON schema of the form, for editors. Each document of a file has it.
#[must_use]
pub fn schema() -> String {
    let schema =
        schemars::generate::SchemaSettings::draft07().into_generator().into_root_schema_for::<Document>();
    serde_json::to_string_pretty(&schema).expect("a schema is JSON") + "\n"
}

/// The version of the form.
#[derive(Clone, Copy, Debug, serde::Deserialize, JsonSchema)]
pub enum Schema {
    /// This one.
    #[serde(rename = "portcullis.test/v1")]
    V1,
}

/// Some changes, and what is expected after them. They are made in the order of the fields here, and they last:
/// the next step starts from what this one leaves.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// The name of the step in reports.
    #[serde(default)]
    pub name: Option<String>,
    /// From now on exactly these policies are in effect: files, folders, or objects written here. Left out:
    /// those of the step before. `[]`: none.
    #[serde(default)]
    #[schemars(with = "Option<Vec<Manifest>>")]
    pub policies: Option<Vec<Manifest>>,
    /// Objects that are added, or that replace those of the same kind and name: files, folders, or objects
    /// written here.
    #[serde(default)]
    pub apply: Vec<Manifest>,
    /// Objects that are removed, as `Kind/namespace/name`, or `Kind/name` for a Namespace or Node.
    #[serde(default)]
    #[schemars(with = "Vec<String>")]
    pub delete: Vec<Spanned<String>>,
    /// Labels that are changed.
    #[serde(default)]
    #[schemars(with = "Vec<LabelChange>")]
    pub label: Vec<Spanned<LabelChange>>,
    /// What is expected then.
    #[serde(default)]
    #[schemars(with = "Vec<Expectation>")]
    pub expect: Vec<Spanned<Expectation>>,
    /// The same as tables of pairs.
    #[serde(default)]
    #[schemars(with = "Vec<Matrix>")]
    pub matrices: Vec<Spanned<Matrix>>,
}

/// A path of a file or folder, or a Kubernetes object.
#[derive(Debug)]
pub struct Manifest(pub Embedded);

impl JsonSchema for Manifest {
    fn schema_name() -> Cow<'static, str> {
        "Manifest".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({
            "description": "The path of a file or folder, from the folder of the test file; or a Kubernetes object, \
                            as kubectl takes it.",
            "anyOf": [
                { "type": "string" },
                { "type": "object", "required": ["apiVersion", "kind"] }
            ]
        })
    }
}

/// A change of the labels of one pod or namespace.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelChange {
    /// The pod, as `namespace/name`. Either this or `namespace`.
    #[serde(default)]
    pub pod: Option<String>,
    /// The namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Labels that it gets.
    #[serde(default)]
    pub set: BTreeMap<String, String>,
    /// Keys of labels that it loses. It must have them.
    #[serde(default)]
    pub remove: Vec<String>,
}

/// One expectation: of every connection from each of `from` to each of `to`, on each port, in each family.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Expectation {
    /// Who opens the connection.
    #[schemars(with = "Party")]
    pub from: Spanned<Party>,
    /// To whom.
    #[schemars(with = "Party")]
    pub to: Spanned<Party>,
    /// On which destination ports.
    #[schemars(with = "Ports")]
    pub ports: Spanned<Ports>,
    /// In which address family.
    #[serde(default)]
    pub family: Option<Family>,
    /// What becomes of it.
    pub verdict: Verdict,
}

/// A table of pairs, for each of some ports.
#[derive(Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Matrix {
    /// On which destination ports; every cell holds for all of them.
    #[schemars(with = "Ports")]
    pub ports: Spanned<Ports>,
    /// In which address family.
    #[serde(default)]
    pub family: Option<Family>,
    /// To whom: `namespace/pod` or an address.
    #[schemars(with = "Vec<String>")]
    pub columns: Vec<Spanned<String>>,
    /// From whom (`namespace/pod` or an address), and a cell for each column: `.` allowed, `X` denied, `?` not
    /// asked. Spaces count for nothing.
    #[schemars(with = "BTreeMap<String, String>")]
    pub rows: BTreeMap<String, Spanned<String>>,
}

/// One end of a connection, or several.
#[derive(Debug, PartialEq, JsonSchema)]
#[schemars(untagged)]
pub enum Party {
    /// A pod as `namespace/pod`, or an address of anybody.
    One(String),
    /// All pods that these selectors match; there must be one at least.
    Pods(PodSelector),
    /// Each of these.
    Several(Vec<Self>),
}

/// Some pods. All that is given must match; of both ends together, a pod with itself is no pair.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PodSelector {
    /// The name of their namespace.
    #[serde(default)]
    pub namespace: Option<String>,
    /// Their namespace's labels; left out: of all namespaces.
    #[serde(default, rename = "namespaceSelector")]
    pub namespace_selector: Option<LabelSelector>,
    /// Their own labels; left out: all pods.
    #[serde(default, rename = "podSelector")]
    pub pod_selector: Option<LabelSelector>,
}

/// A label selector, as Kubernetes has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelSelector {
    /// Labels that must be there.
    #[serde(default, rename = "matchLabels")]
    pub match_labels: BTreeMap<String, String>,
    /// Further requirements.
    #[serde(default, rename = "matchExpressions")]
    pub match_expressions: Vec<LabelExpression>,
}

/// One requirement on one key.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct LabelExpression {
    /// The label's key.
    pub key: String,
    /// What is required.
    pub operator: LabelOperator,
    /// The values of `In` and `NotIn`.
    #[serde(default)]
    pub values: Vec<String>,
}

/// What a requirement asks of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
pub enum LabelOperator {
    /// It is there with one of the values.
    In,
    /// It is not there, or with none of the values.
    NotIn,
    /// It is there.
    Exists,
    /// It is not there.
    DoesNotExist,
}

/// Destination ports as they are written: one, or a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ports(pub Vec<String>);

impl JsonSchema for Ports {
    fn schema_name() -> Cow<'static, str> {
        "Ports".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        let port = || {
            json_schema!({
                "anyOf": [
                    { "type": "integer", "minimum": 0, "maximum": 65535 },
                    { "type": "string", "pattern": "^[0-9]{1,5}(/(TCP|UDP|SCTP))?$" }
                ]
            })
        };
        json_schema!({
            "description": "Destination ports as `number/PROTOCOL`: `80/TCP`, `53/UDP`, `9000/SCTP`. \
                            A bare number is one of TCP. One, or a list.",
            "anyOf": [
                port(),
                { "type": "array", "items": port(), "minItems": 1 }
            ]
        })
    }
}

/// An address family. Where none is given: each that both ends have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
    /// Both, and both ends must have both.
    Both,
}

impl JsonSchema for Family {
    fn schema_name() -> Cow<'static, str> {
        "Family".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> schemars::Schema {
        json_schema!({
            "description": "An address family. `both`: both ends must have both. Left out: each that both ends have.",
            "enum": [4, 6, "both"]
        })
    }
}

/// What becomes of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// It is allowed.
    Allow,
    /// It is denied.
    Deny,
}
