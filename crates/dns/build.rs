//! Compiles the program that the kernel runs. Needs clang.

use std::env;
use std::path::PathBuf;

use libbpf_cargo::SkeletonBuilder;

const SOURCE: &str = "src/trace.bpf.c";

fn main() {
    println!("cargo::rerun-if-changed={SOURCE}");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR")).join("trace.bpf.o");
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets CARGO_CFG_TARGET_ARCH");
    SkeletonBuilder::new()
        .source(SOURCE)
        .obj(out)
        // Where Debian keeps `asm/types.h`, which clang's bpf target does not look for by itself.
        .clang_args([format!("-I/usr/include/{arch}-linux-gnu"), "-Wall".to_owned(), "-Werror".to_owned()])
        .build()
        .unwrap_or_else(|error| panic!("cannot compile {SOURCE}: {error:#}"));
}
