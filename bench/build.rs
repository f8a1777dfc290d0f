//! Compiles the generator's XDP program with clang, as dataplane/bpf does.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/generator/live.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    let output = Command::new(&clang)
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-fdebug-compilation-dir=."])
        .arg(format!("-I/usr/include/{arch}-linux-gnu"))
        .args(["-c", SOURCE, "-o"])
        .arg(out.join("live.bpf.o"))
        .output()
        .unwrap_or_else(|error| panic!("cannot run `{clang}` ({error}): run scripts/setup"));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{clang} could not compile {SOURCE} (run scripts/setup):\n{text}");
}
