//! The conformance cases on real packets that the kernel carries, once userspace has judged them. Needs root.

mod cases;

use cases::on_real_packets;
use portcullis::config::Mode;

#[test]
fn packets_fare_as_every_case_expects_where_the_kernel_carries_them() {
    on_real_packets(Mode::Inline);
}
