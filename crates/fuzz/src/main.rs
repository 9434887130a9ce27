//! The fuzzer's program.
//!
//! Built by `cargo xtask fuzz` it is libFuzzer on the target that [`TARGET`] names. Built ordinarily it runs a target
//! on files, such as a finding's, or writes a target's seeds into a folder.

#![cfg_attr(fuzzing, no_main)]
#![cfg_attr(
    not(fuzzing),
    expect(clippy::print_stderr, reason = "a command-line tool speaks on its own streams")
)]

#[cfg(not(fuzzing))]
mod replay;

/// The variable that names libFuzzer's target, whose own arguments are libFuzzer's.
#[cfg(fuzzing)]
const TARGET: &str = "EGRESSD_FUZZ_TARGET";

/// Looked up once.
#[cfg(fuzzing)]
static CHOSEN: std::sync::LazyLock<egressd_fuzz::Target> = std::sync::LazyLock::new(|| {
    let name = std::env::var(TARGET).unwrap_or_default();
    name.parse().expect("the variable names a target")
});

#[cfg(fuzzing)]
libfuzzer_sys::fuzz_target!(|input: &[u8]| CHOSEN.run(input));

#[cfg(not(fuzzing))]
fn main() -> std::process::ExitCode {
    match replay::run(&std::env::args().skip(1).collect::<Vec<_>>()) {
        Ok(()) => std::process::ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            std::process::ExitCode::FAILURE
        }
    }
}
