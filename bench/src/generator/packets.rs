//! Frames made here and sent through a packet socket, many with a call (packet(7), sendmmsg(2)).

use std::io::IoSlice;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::time::Duration;

use anyhow::{Context, Result};
use lab::{Namespace, packet_socket};
use nix::errno::Errno;
use nix::sys::socket::{LinkAddr, MsgFlags, MultiHeaders, sendmmsg};

use super::frame::Frames;
use super::load::{self, Load, Offered, Stop};
use super::sink::now;

/// Frames of one call.
const BATCH: usize = 64;

/// A packet socket to send from.
#[derive(Debug)]
pub struct PacketSocket {
    socket: OwnedFd,
}

impl PacketSocket {
    /// On an interface of a namespace.
    ///
    /// # Errors
    ///
    /// Without root, or when there is no such interface.
    pub fn open(namespace: &Namespace, interface: &str) -> Result<Self> {
        // It only sends: a protocol of zero receives nothing.
        Ok(Self { socket: packet_socket(namespace, interface, false)? })
    }

    /// Sends a load until its bounds or a stop.
    ///
    /// # Errors
    ///
    /// For a load that no frame can be, and when the link is down or gone.
    pub fn send(&self, load: &Load, stop: &Stop) -> Result<Offered> {
        load.check()?;
        let frames = Frames::new(load);
        let mut buffer = vec![0; BATCH * load.frame];
        let mut headers = MultiHeaders::<LinkAddr>::preallocate(BATCH, None);
        let mut next = 0;
        load::pace(load, BATCH as u64, Duration::from_micros(50), stop, |wanted| {
            let wanted = (wanted as usize).min(BATCH);
            for (number, frame) in (next..).zip(buffer.chunks_mut(load.frame).take(wanted)) {
                frames.write(number, now()?, frame);
            }
            let slices: Vec<[IoSlice<'_>; 1]> =
                buffer.chunks(load.frame).take(wanted).map(|frame| [IoSlice::new(frame)]).collect();
            let nobody = [None; BATCH];
            let socket = self.socket.as_raw_fd();
            let sent = sendmmsg(socket, &mut headers, &slices, &nobody[..wanted], [], MsgFlags::empty());
            let taken = match sent {
                Ok(results) => results.count() as u64,
                // The link's queue is full.
                Err(Errno::ENOBUFS | Errno::EAGAIN) => 0,
                Err(errno) => return Err(errno).context("sending on a packet socket"),
            };
            next += taken;
            Ok(taken)
        })
    }
}
