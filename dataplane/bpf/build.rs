//! Compiles the XDP program with clang.

use std::path::PathBuf;
use std::process::Command;

const SOURCE: &str = "src/steering.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    println!("cargo::rerun-if-env-changed=CLANG");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());

    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-c", SOURCE, "-o"]);
    command.arg(out.join("steering.bpf.o"));
    // The paths in the debug information are those of the source tree, not of the machine.
    command.arg("-fdebug-compilation-dir=.");
    // asm/types.h lies in the directory of the host's architecture.
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));

    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run `{clang}` to compile {SOURCE}: {error}\n  run scripts/setup, or name it in CLANG")
    });
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let missing = text.contains("file not found");
        let hint = if missing { "\n  run scripts/setup: it installs clang and libbpf-dev" } else { "" };
        panic!("{clang} could not compile {SOURCE}:\n{text}{hint}");
    }
}
