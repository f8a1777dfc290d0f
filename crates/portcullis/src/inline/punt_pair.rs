//! The pair of interfaces through which the kernel punts: made, set up, and set up again.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use engine::inline::APPROVAL;
use nix::net::if_::if_nametoindex;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

/// The near end: programs redirect to it, and take back what comes out of it.
pub(super) const NEAR: &str = "portcullis0";
/// The far end, where the worker's socket is.
pub(super) const FAR: &str = "portcullis1";

/// The most that native XDP on veth takes: 4096, less 256 of headroom, 320 of tail and the Ethernet header.
const MTU: u32 = 3506;
/// A frame that comes back, too: besides the Ethernet header, the kernel lets one tag pass over the MTU, and the approval
/// is behind the frame.
pub(super) const LONGEST: u32 = MTU + 14 - APPROVAL as u32;

/// Makes the pair, where it is missing, and sets it up. What is already as it should be is left alone.
///
/// # Errors
///
/// The kernel refuses.
pub(super) async fn set_up(links: &Handle) -> Result<()> {
    if if_nametoindex(NEAR).is_err() {
        let pair = LinkVeth::new(NEAR, FAR).build();
        links.link().add(pair).execute().await.context("cannot make the punt pair")?;
    }
    for end in [NEAR, FAR] {
        // Before it is up: its own neighbour discovery would be the first thing on it.
        let path: PathBuf = ["/proc/sys/net/ipv6/conf", end, "disable_ipv6"].iter().collect();
        match fs::write(&path, "1") {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("cannot write {}", path.display()));
            }
            _ => {}
        }
        xsk::finish_in_software(end).with_context(|| format!("cannot set the offloads of {end}"))?;
        let index = if_nametoindex(end).with_context(|| format!("{end} has gone"))?;
        let up = LinkUnspec::new_with_index(index).mtu(MTU).up().build();
        links.link().change(up).execute().await.with_context(|| format!("cannot set {end} up"))?;
    }
    Ok(())
}

/// Removes the pair; tells whether it was there.
///
/// # Errors
///
/// The kernel refuses.
pub(super) async fn remove(links: &Handle) -> Result<bool> {
    let Ok(index) = if_nametoindex(NEAR) else { return Ok(false) };
    links.link().del(index).execute().await.context("cannot remove the punt pair")?;
    Ok(true)
}
