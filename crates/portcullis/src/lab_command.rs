//! `portcullis lab`: a node with pods on this machine, to try things out.

use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

use anyhow::anyhow;
use lab::{Host, Lab, Topology};
use policy::model::Cluster;

use crate::cli::LabName;
use crate::exit::{self, Failure, system, usage};

/// Builds a lab that stays; the exit code.
///
/// # Errors
///
/// Manifests that cannot be read (exit code 2), or a system that refuses (3).
pub fn up(manifests: &[PathBuf], lab: &LabName) -> Result<u8, Failure> {
    let mut topology = if manifests.is_empty() {
        Topology::nine(&lab.name)
    } else {
        Topology::from_cluster(&lab.name, "", &load(manifests)?)
    };
    topology.outside = outside();
    let mut lab = Lab::up(&topology).map_err(system)?;
    lab.persist().map_err(system)?;
    let mut out = io::stdout().lock();
    let name = lab.name();
    let mut text = format!("lab `{name}` is up: node, outside, {} pods\n\n", lab.pods().len());
    for pod in lab.pods() {
        let addresses: Vec<String> = pod.addresses.iter().map(ToString::to_string).collect();
        text += &format!("  {:<24} {:<10} {}\n", pod.name.to_string(), pod.interface, addresses.join(" "));
    }
    text += &format!(
        "\ninside:   portcullis lab run --name {name} --in node -- ip route\n\
         down:     portcullis lab down --name {name}\n\n\
         # configuration of an agent for it: `portcullis lab run --name {name} -- portcullis run --config FILE`\n{}",
        lab.config(false)
    );
    text += "manifests: .  # the folder of Namespace, Pod, Node and NetworkPolicy objects\n";
    out.write_all(text.as_bytes()).map_err(system)?;
    Ok(exit::OK)
}

/// Becomes the command, inside a namespace of the lab.
///
/// # Errors
///
/// No such lab or place (exit code 2), or a command that cannot be run (3).
pub fn enter(lab: &LabName, place: &str, command: &[String]) -> Result<u8, Failure> {
    let namespace = lab::namespace_path(&lab.name, place);
    if !namespace.exists() {
        let places = lab::namespaces(&lab.name).join(", ");
        let known =
            if places.is_empty() { "no such lab is up".to_owned() } else { format!("there are {places}") };
        return Err(usage(anyhow!("lab `{}` has no `{place}`: {known}", lab.name)));
    }
    let error =
        Command::new("nsenter").arg(format!("--net={}", namespace.display())).arg("--").args(command).exec();
    Err(system(anyhow::Error::new(error).context("cannot run nsenter (package util-linux)")))
}

/// Removes a lab; the exit code.
///
/// # Errors
///
/// A system that refuses (3).
pub fn down(lab: &LabName) -> Result<u8, Failure> {
    let mut out = io::stdout().lock();
    let was_there = Lab::remove(&lab.name).map_err(system)?;
    let what = if was_there { "is down" } else { "was not up" };
    writeln!(out, "lab `{}` {what}", lab.name).map_err(system)?;
    Ok(exit::OK)
}

/// The hosts outside, of the networks that the example policies speak of: one in the allowed CIDR, one in its
/// exception, one elsewhere (RFC 5737, RFC 3849).
pub(crate) fn outside() -> Vec<Host> {
    let host = |name: &str, v4: [u8; 4], v6: [u16; 8]| Host {
        name: name.to_owned(),
        addresses: vec![IpAddr::from(v4), IpAddr::from(v6)],
    };
    vec![
        host("partner", [198, 51, 100, 10], [0x2001, 0xdb8, 0x51, 0, 0, 0, 0, 0x10]),
        host("excepted", [198, 51, 100, 66], [0x2001, 0xdb8, 0x51, 0x64, 0, 0, 0, 0x66]),
        host("elsewhere", [203, 0, 113, 5], [0x2001, 0xdb8, 0x203, 0, 0, 0, 0, 0x5]),
    ]
}

/// The cluster that these files and folders describe.
pub(crate) fn load(manifests: &[PathBuf]) -> Result<Cluster, Failure> {
    let loaded = control::load(manifests).map_err(|diagnostics| {
        let lines: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
        usage(anyhow!(lines.join("\n")))
    })?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    Ok(loaded.cluster)
}
