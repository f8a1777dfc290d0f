//! Compiles the BPF programs with clang.

use std::path::PathBuf;
use std::process::Command;

const SOURCES: [&str; 2] = ["steering", "inline"];

fn main() {
    for headers in ["src/pods.bpf.h", "src/inline"] {
        println!("cargo::rerun-if-changed={headers}");
    }
    println!("cargo::rerun-if-env-changed=CLANG");
    for name in SOURCES {
        compile(name);
    }
}

fn compile(name: &str) {
    let source = format!("src/{name}.bpf.c");
    println!("cargo::rerun-if-changed={source}");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let clang = std::env::var("CLANG").unwrap_or_else(|_| "clang".into());

    let mut command = Command::new(&clang);
    command.args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Werror", "-c", &source, "-o"]);
    command.arg(out.join(format!("{name}.bpf.o")));
    // The paths in the debug information are those of the source tree, not of the machine.
    command.arg("-fdebug-compilation-dir=.");
    // asm/types.h lies in the directory of the host's architecture.
    let arch = std::env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    command.arg(format!("-I/usr/include/{arch}-linux-gnu"));

    let output = command.output().unwrap_or_else(|error| {
        panic!("cannot run `{clang}` to compile {source}: {error}\n  run scripts/setup, or name it in CLANG")
    });
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let missing = text.contains("file not found");
        let hint = if missing { "\n  run scripts/setup: it installs clang and libbpf-dev" } else { "" };
        panic!("{clang} could not compile {source}:\n{text}{hint}");
    }
}
