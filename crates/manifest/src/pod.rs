//! `v1` Pod, as far as policy looks at it. Other fields are nobody's business here.

use flow::{Address, Protocol};
use policy::model::{Labels, NamedPort, ObjectName, Phase, Pod};

use crate::ports;
use crate::reader::{Entries, Reader, get};
use crate::tree::Node;

/// Reads everything but name and labels.
pub(crate) fn read(
    reader: &mut Reader<'_>,
    (root, object): (&Node, &Entries),
    (metadata, stored): (&Entries, bool),
    name: ObjectName,
    labels: Labels,
) -> Pod {
    // What says who the pod is, and which addresses are its own, is never lost: without it, policies would miss
    // the pod.
    let spec = get(object, "spec").and_then(|node| reader.mapping(node, "`spec`")).unwrap_or_default();
    let status = get(object, "status").and_then(|node| reader.mapping(node, "`status`")).unwrap_or_default();
    let addresses = addresses(reader, status);
    let host_network = get(spec, "hostNetwork").and_then(|node| reader.boolean(node, "`hostNetwork`"));
    reader.leniently(root, stored, |reader| Pod {
        name,
        uid: text(reader, metadata, "uid"),
        labels,
        node: text(reader, spec, "nodeName"),
        addresses,
        host_network: host_network.unwrap_or_default(),
        phase: phase(reader, status),
        started: text(reader, status, "startTime"),
        ports: named_ports(reader, spec),
    })
}

fn text(reader: &mut Reader<'_>, entries: &Entries, field: &str) -> String {
    let node = get(entries, field);
    node.and_then(|node| reader.string(node, &format!("`{field}`"))).unwrap_or_default().to_owned()
}

/// `podIPs`, or `podIP` where there are none.
fn addresses(reader: &mut Reader<'_>, status: &Entries) -> Vec<Address> {
    let mut addresses = Vec::new();
    if let Some(list) = get(status, "podIPs") {
        for item in reader.sequence(list, "`podIPs`").unwrap_or_default() {
            let entries = reader.mapping(item, "an item of `podIPs`").unwrap_or_default();
            addresses.extend(get(entries, "ip").and_then(|node| address(reader, node, "`ip`")));
        }
    }
    if addresses.is_empty() {
        addresses.extend(get(status, "podIP").and_then(|node| address(reader, node, "`podIP`")));
    }
    addresses
}

/// One IP address.
pub(crate) fn address(reader: &mut Reader<'_>, node: &Node, what: &str) -> Option<Address> {
    let text = reader.string(node, what)?;
    match text.parse::<std::net::IpAddr>() {
        Ok(ip) => Some(ip.into()),
        Err(_) => {
            let message = format!("{what}: \"{}\" is not an IP address", text.escape_debug());
            reader.error(node, "invalid-address", message);
            None
        }
    }
}

fn phase(reader: &mut Reader<'_>, status: &Entries) -> Phase {
    let Some(node) = get(status, "phase") else { return Phase::Running };
    match reader.string(node, "`phase`") {
        None | Some("Running" | "Unknown" | "") => Phase::Running,
        Some("Pending") => Phase::Pending,
        Some("Succeeded" | "Failed") => Phase::Ended,
        Some(other) => {
            let message = format!("unsupported phase \"{}\"", other.escape_debug());
            let suggestion = "supported: Pending, Running, Succeeded, Failed, Unknown";
            reader.error_with(node, "unsupported-value", message, suggestion);
            Phase::Running
        }
    }
}

/// The named ports of what serves while the pod runs: containers, and init containers that keep running.
fn named_ports(reader: &mut Reader<'_>, spec: &Entries) -> Vec<NamedPort> {
    let mut named = Vec::new();
    for (field, sidecars_only) in [("containers", false), ("initContainers", true)] {
        let Some(list) = get(spec, field) else { continue };
        for container in reader.sequence(list, &format!("`{field}`")).unwrap_or_default() {
            let entries = reader.mapping(container, &format!("an item of `{field}`")).unwrap_or_default();
            let restarts =
                get(entries, "restartPolicy").and_then(|node| reader.string(node, "`restartPolicy`"));
            if sidecars_only && restarts != Some("Always") {
                continue;
            }
            let Some(list) = get(entries, "ports") else { continue };
            for port in reader.sequence(list, "`ports`").unwrap_or_default() {
                named.extend(reader.item("the name stands for no port", |reader| named_port(reader, port)));
            }
        }
    }
    named
}

fn named_port(reader: &mut Reader<'_>, node: &Node) -> Option<NamedPort> {
    let entries = reader.mapping(node, "an item of `ports`")?;
    let name = reader.string(get(entries, "name")?, "`name`")?;
    if name.is_empty() {
        return None;
    }
    let at = reader.require(node, entries, "containerPort")?;
    let number = ports::number(reader, at, "`containerPort`", "invalid-port")?;
    let protocol = match get(entries, "protocol") {
        Some(at) => ports::protocol(reader, at)?,
        None => Protocol::TCP,
    };
    Some(NamedPort { name: name.to_owned(), protocol, number })
}
