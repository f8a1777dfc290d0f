//! Frames that a BPF program writes and sends inside the kernel, without a socket: as fast as a NIC brings them.
//!
//! BPF_PROG_TEST_RUN with BPF_F_TEST_XDP_LIVE_FRAMES runs `live.bpf.c` on frames of its own, and the program answers
//! XDP_TX: the frame leaves by the interface on which it is said to have come in. On a pod's `eth0` it so reaches the
//! node as if the pod had sent it. The other end of the veth has to run an XDP program or GRO, or the kernel drops
//! what is sent ([`receive_without_a_program`]).

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use aya::maps::{Array, MapData};
use aya::programs::{ProgramError, TestRun as _, TestRunAttrs, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, include_bytes_aligned};
use lab::Namespace;
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;

use super::frame::{Frames, HEAD, low};
use super::load::{self, Kind, Load, Offered, Span, Stop};

static OBJECT: &[u8] = include_bytes_aligned!(concat!(env!("OUT_DIR"), "/live.bpf.o"));

/// Frames between two flushes: a veth's ring takes 256.
const BATCH: u32 = 64;
/// Frames of one call as fast as possible. Each call makes its pages anew.
const CHUNK: u64 = 1 << 16;
/// With a rate, so many go at once when they are late: fewer than a veth's ring takes.
const PACED: u64 = 128;
/// How long to wait for frames to become due: each call takes one of the 65,000 page pools that a kernel can number,
/// and gives it back a second or two later.
const PAUSE: Duration = Duration::from_micros(500);
/// How long to wait when they are all taken.
const NO_POOL: Duration = Duration::from_millis(20);
/// `struct load` of the program.
const LOAD: usize = 176;
/// `struct xdp_md` of linux/bpf.h.
const XDP_MD: usize = 24;

/// The program, loaded.
pub struct LiveFrames {
    programs: Ebpf,
    loads: Array<MapData, [u8; LOAD]>,
}

impl LiveFrames {
    /// Loads it.
    ///
    /// # Errors
    ///
    /// Without root, or on a kernel before 5.18.
    pub fn load() -> Result<Self> {
        let mut programs = Ebpf::load(OBJECT).context("loading the generator's program (needs root)")?;
        xdp(&mut programs)?.load().context("loading the generator's program")?;
        let loads = programs.take_map("loads").context("the program has no map `loads`")?;
        Ok(Self { programs, loads: loads.try_into()? })
    }

    /// Sends a load from an interface of a namespace, until its bounds or a stop. Frames are counted when the
    /// program has sent them: those for which the other end's ring was full are lost on this very link.
    ///
    /// # Errors
    ///
    /// For a load that no frame can be, and when the kernel refuses.
    pub fn send(
        &mut self,
        namespace: &Namespace,
        interface: &str,
        load: &Load,
        stop: &Stop,
    ) -> Result<Offered> {
        load.check()?;
        self.loads.set(0, order(load), 0)?;
        let program = xdp(&mut self.programs)?;
        let frame = vec![0; load.frame];
        let chunk = if load.rate.is_some() { PACED } else { CHUNK };
        namespace.run(|| {
            let index = if_nametoindex(interface).with_context(|| format!("no interface {interface}"))?;
            // The kernel changes its XDP dispatcher for a program that runs nowhere else, at the beginning and at the
            // end of each call, which takes milliseconds. This one passes what comes by `lo`.
            let resident = program.attach("lo", XdpMode::Skb).context("attaching to lo")?;
            let context = context(load.frame, index);
            let offered = load::pace(load, chunk, PAUSE, stop, |wanted| {
                let repeat = u32::try_from(wanted)?;
                let sent = program.test_run(TestRunOptions {
                    data_in: Some(&frame),
                    data_out: None,
                    ctx_in: Some(&context),
                    ctx_out: None,
                    repeat,
                    attrs: TestRunAttrs::new().xdp_live_frames(BATCH),
                });
                match sent {
                    Ok(_) => Ok(wanted),
                    Err(error) if all_pools_are_taken(&error) => {
                        thread::sleep(NO_POOL);
                        Ok(0)
                    }
                    Err(error) => Err(error.into()),
                }
            });
            program.detach(resident)?;
            offered
        })?
    }
}

/// Lets an interface receive live frames while it has no XDP program: its NAPI runs when it has GRO.
///
/// # Errors
///
/// When `ethtool` is not there or refuses.
pub fn receive_without_a_program(namespace: &Namespace, interface: &str) -> Result<()> {
    let status = namespace.command("ethtool").args(["-K", interface, "gro", "on"]).status()?;
    ensure!(status.success(), "ethtool -K {interface} gro on: {status}");
    Ok(())
}

fn xdp(programs: &mut Ebpf) -> Result<&mut Xdp> {
    let program = programs.program_mut("live_frame").context("the object has no program `live_frame`")?;
    Ok(program.try_into()?)
}

fn all_pools_are_taken(error: &ProgramError) -> bool {
    matches!(error, ProgramError::SyscallError(call) if call.io_error.raw_os_error() == Some(Errno::ENOSPC as i32))
}

/// `struct xdp_md`: data, its end, meta data, ingress interface, receive queue, egress interface.
fn context(length: usize, ingress: u32) -> [u8; XDP_MD] {
    bytes([0, length as u32, 0, ingress, 0, 0])
}

/// `struct load`.
fn order(load: &Load) -> [u8; LOAD] {
    let frames = Frames::new(load);
    let (template, sums) = frames.template();
    let last_bits = |span: Span<_>| [u32::from_be_bytes(low(span.first)), span.count];
    let ports = |span: Span<u16>| [u32::from(span.first), span.count];
    let numbers: [u8; 24] = bytes([0, load.flows, load.stride]);
    let spans = [
        last_bits(load.sources),
        last_bits(load.destinations),
        ports(load.source_ports),
        ports(load.destination_ports),
        sums,
        [u32::from(!load.is_v4()), u32::from(load.kind == Kind::Syn)],
    ];
    let mut order = [0; LOAD];
    order[..24].copy_from_slice(&numbers);
    for (to, pair) in order[24..LOAD - HEAD - 6].chunks_mut(8).zip(spans) {
        to.copy_from_slice(&bytes::<8, _, 2>(pair));
    }
    order[LOAD - HEAD - 6..][..template.len()].copy_from_slice(template);
    order
}

/// Numbers as they lie in this machine's memory.
fn bytes<const BYTES: usize, T: Into<u64>, const COUNT: usize>(numbers: [T; COUNT]) -> [u8; BYTES] {
    let mut bytes = [0; BYTES];
    for (to, number) in bytes.chunks_mut(BYTES / COUNT).zip(numbers) {
        let number = number.into();
        match to.len() {
            4 => to.copy_from_slice(&(number as u32).to_ne_bytes()),
            _ => to.copy_from_slice(&number.to_ne_bytes()),
        }
    }
    bytes
}
