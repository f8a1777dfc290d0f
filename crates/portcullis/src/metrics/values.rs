//! The values that labels have, and what each means.

use bpf::inline::Counted;

/// A label whose values are few and known.
#[derive(Clone, Copy, Debug)]
pub struct Values {
    /// The metric that has it.
    pub metric: &'static str,
    /// Its name.
    pub label: &'static str,
    /// Its values, each with its meaning.
    pub meanings: &'static [(&'static str, &'static str)],
}

/// All such labels but `reason`, in the order of the page.
pub const VALUES: [Values; 7] = [
    Values {
        metric: "portcullis_packets_total",
        label: "direction",
        meanings: &[("rx", "Received by the socket."), ("tx", "Sent by the kernel for it.")],
    },
    Values {
        metric: "portcullis_xdp_frames_total",
        label: "to",
        meanings: &[
            ("kernel", "To the kernel's stack."),
            ("socket", "To a socket, and so to a worker."),
            ("dropped", "Nowhere, for want of a socket."),
        ],
    },
    Values {
        metric: "portcullis_port_state",
        label: "state",
        meanings: &[
            ("unknown", "It should be served, and its worker does not say."),
            ("attached", "It has its program and its sockets."),
            ("paused", "It has them, and its interface is down or has no carrier."),
            ("absent", "Its interface is not there."),
            (
                "closed",
                "Its interface is there and cannot be served: it drops everything, and is tried again.",
            ),
        ],
    },
    Values {
        metric: "portcullis_repairs_total",
        label: "what",
        meanings: &[
            ("programs", "An interface ran another program than ours, or none."),
            ("pins", "The pin of a program was gone."),
            ("maps", "The programs' maps held something else."),
            ("interlock", "The interlock's rules were others."),
            ("punt pair", "Inline mode: the punt pair was gone."),
        ],
    },
    Values {
        metric: "portcullis_ring_entries",
        label: "ring",
        meanings: &[
            ("fill", "Free frames that the kernel may receive into."),
            ("rx", "Received frames that the worker has not taken yet."),
            ("tx", "Frames that the kernel has not sent yet."),
            ("completion", "Sent frames that the worker has not taken back yet."),
        ],
    },
    Values { metric: "portcullis_tc_packets_total", label: "what", meanings: &Counted::MEANINGS },
    Values {
        metric: "portcullis_frames",
        label: "place",
        meanings: &[
            ("free", "Nowhere: the worker may use them."),
            ("fill", "With the kernel, to receive into."),
            ("tx", "With the kernel, to be sent."),
            ("held", "With the worker, which is busy with them."),
        ],
    },
];
