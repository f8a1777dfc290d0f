//! The items of `ports`, and what else is a port or a protocol.

use flow::Protocol;
use policy::model::{PortMatch, PortSet, Ports};

use crate::names;
use crate::reader::{Reader, get};
use crate::tree::{Node, Value};

const RANGE: &str = "must be between 1 and 65535, inclusive";

/// `ports` of a rule: absent or empty means any.
pub(crate) fn read(reader: &mut Reader<'_>, node: Option<&Node>) -> Ports {
    let items = node.and_then(|node| reader.sequence(node, "`ports`")).unwrap_or_default();
    if items.is_empty() {
        return Ports::Any;
    }
    let read = |item| reader.item("the port matches nothing", |reader| port_match(reader, item));
    Ports::OneOf(items.iter().filter_map(read).collect())
}

fn port_match(reader: &mut Reader<'_>, node: &Node) -> Option<PortMatch> {
    let all_tcp = PortMatch { protocol: Protocol::TCP, port: PortSet::All };
    let entries = match &node.value {
        // A null item is `{}` to the API server.
        Value::Null => return Some(all_tcp),
        Value::Integer(number) => {
            let message = "an item of `ports` must be a mapping, and this is a number";
            reader.error_with(node, "wrong-type", message, format!("write `- port: {number}`"));
            return None;
        }
        _ => reader.mapping(node, "an item of `ports`")?,
    };
    reader.only(entries, &["protocol", "port", "endPort"], None);
    let protocol = match get(entries, "protocol") {
        Some(at) => protocol(reader, at)?,
        None => Protocol::TCP,
    };
    let end = get(entries, "endPort");
    let port = match get(entries, "port") {
        None => {
            if let Some(end) = end {
                reader.error(
                    end,
                    "invalid-end-port",
                    "`endPort` may not be specified when `port` is not specified",
                );
            }
            PortSet::All
        }
        Some(at) => match port(reader, at)? {
            PortSet::Range(first, last) => {
                PortSet::Range(first, end.map_or(Some(last), |end| end_port(reader, end, first))?)
            }
            named => {
                if let Some(end) = end {
                    let message = "`endPort` may not be specified when `port` is non-numeric";
                    reader.error(end, "invalid-end-port", message);
                }
                named
            }
        },
    };
    Some(PortMatch { protocol, port })
}

/// A number or a name.
fn port(reader: &mut Reader<'_>, node: &Node) -> Option<PortSet> {
    match &node.value {
        Value::Text(name) => match names::port_name_fault(name) {
            None => Some(PortSet::Named(name.clone())),
            Some(fault) => {
                let message = format!("`port`: \"{}\" is not a port name: it {fault}", name.escape_debug());
                if name.parse::<u16>().is_ok() {
                    reader.error_with(
                        node,
                        "invalid-port",
                        message,
                        format!("a number has no quotes: {name}"),
                    );
                } else if name.bytes().all(|b| b.is_ascii_digit() || b"-: ".contains(&b)) {
                    reader.error_with(node, "invalid-port", message, "for a range, use `port` and `endPort`");
                } else {
                    reader.error(node, "invalid-port", message);
                }
                None
            }
        },
        value if matches!(value, Value::Integer(_)) || reader.is_ambiguous(node) => {
            number(reader, node, "`port`", "invalid-port").map(|p| PortSet::Range(p, p))
        }
        _ => {
            reader.wrong_type(node, "`port`", "a whole number or a name");
            None
        }
    }
}

fn end_port(reader: &mut Reader<'_>, node: &Node, first: u16) -> Option<u16> {
    let last = number(reader, node, "`endPort`", "invalid-end-port")?;
    if last < first {
        reader.error(node, "invalid-end-port", "`endPort` must be greater than or equal to `port`");
        return None;
    }
    Some(last)
}

/// A port number from 1 to 65535.
pub(crate) fn number(reader: &mut Reader<'_>, node: &Node, what: &str, code: &'static str) -> Option<u16> {
    let number = reader.integer(node, what)?;
    match u16::try_from(number) {
        Ok(port) if port > 0 => Some(port),
        _ => {
            reader.error(node, code, format!("{what} {RANGE}, and this is {number}"));
            None
        }
    }
}

/// TCP, UDP or SCTP, in capitals.
pub(crate) fn protocol(reader: &mut Reader<'_>, node: &Node) -> Option<Protocol> {
    match reader.string(node, "`protocol`")? {
        "TCP" => Some(Protocol::TCP),
        "UDP" => Some(Protocol::UDP),
        "SCTP" => Some(Protocol::SCTP),
        other => {
            let upper = other.to_uppercase();
            let message = format!("unsupported protocol \"{}\"", other.escape_debug());
            let suggestion = match upper.as_str() {
                "TCP" | "UDP" | "SCTP" => format!("did you mean `{upper}`?"),
                _ => String::from("supported: SCTP, TCP, UDP"),
            };
            reader.error_with(node, "unsupported-value", message, suggestion);
            None
        }
    }
}
