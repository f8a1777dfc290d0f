//! Any bytes: no panic, both lanes of parsing say the same, and etherparse asked for the whole packet agrees.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../tests/lanes/mod.rs"]
mod lanes;

fuzz_target!(|frame: &[u8]| {
    let _ = lanes::check(frame);
    if let Some(mended) = lanes::mended(frame) {
        let _ = lanes::check(&mended);
    }
});
