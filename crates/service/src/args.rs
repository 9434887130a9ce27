//! The original's command-line spellings, turned into ours before clap sees them.
//!
//! Go's `flag` package takes `-name=value` and `-name value`; charts in use pass them. Verbs were flags there:
//! `-init` and `-dump-ct`.

use std::ffi::OsString;
use std::io::Write as _;
use std::process::ExitCode;

use clap::error::ErrorKind;

/// Exit code for a command line or a configuration that cannot be (`EX_USAGE`, `sysexits.h`).
pub const EX_USAGE: u8 = 64;

/// A flag of the original that is a verb here.
#[derive(Clone, Copy, Debug)]
pub struct VerbFlag {
    /// Without dashes.
    pub flag: &'static str,
    /// Our verb.
    pub verb: &'static str,
}

/// Rewrites `arguments` (program name first): one dash becomes two, a verb flag becomes the verb, and where no verb
/// of `verbs` stands first, `run` is put there.
#[must_use]
pub fn normalise(
    arguments: impl IntoIterator<Item = OsString>,
    verbs: &[&str],
    verb_flags: &[VerbFlag],
) -> Vec<OsString> {
    let mut arguments = arguments.into_iter();
    let program = arguments.next().unwrap_or_default();
    let mut verb = None;
    let mut rest = Vec::new();
    for argument in arguments {
        let Some(text) = argument.to_str() else {
            rest.push(argument);
            continue;
        };
        if rest.is_empty() && verb.is_none() && verbs.contains(&text) {
            verb = Some(text.to_owned());
            continue;
        }
        match verb_flag(text, verb_flags) {
            Some((found, true)) => verb = Some(found.to_owned()),
            Some((_, false)) => {}
            None => rest.push(two_dashes(text).into()),
        }
    }
    let asks_for_help = rest.first().is_some_and(|first| first == "--help" || first == "--version");
    let verb = verb.or_else(|| (!asks_for_help).then(|| "run".to_owned()));
    [program].into_iter().chain(verb.map(OsString::from)).chain(rest).collect()
}

/// The verb that `text` asks for, and whether it says yes to it.
fn verb_flag(text: &str, verb_flags: &[VerbFlag]) -> Option<(&'static str, bool)> {
    let name = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    let (name, value) = name.split_once('=').unwrap_or((name, "true"));
    let found = verb_flags.iter().find(|candidate| candidate.flag == name)?;
    Some((found.verb, parse_go_bool(value).unwrap_or(false)))
}

fn two_dashes(text: &str) -> String {
    match text.strip_prefix('-') {
        Some(name) if name.len() > 1 && !name.starts_with('-') => format!("--{name}"),
        Some("h") => "--help".to_owned(),
        _ => text.to_owned(),
    }
}

/// Reads a boolean after Go's `strconv.ParseBool`, which charts rely on.
///
/// # Errors
/// Names what would have been understood.
pub fn parse_go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("write true or false".to_owned()),
    }
}

/// Prints a page on standard output.
#[must_use]
pub fn print(page: &str) -> ExitCode {
    match std::io::stdout().write_all(page.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// Prints what was wrong with a command line, or the help that was asked for.
#[must_use]
pub fn explain(usage: &clap::Error) -> ExitCode {
    // Nobody is left to tell when standard error is closed.
    let _unheard = usage.print();
    match usage.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => ExitCode::SUCCESS,
        _ => ExitCode::from(EX_USAGE),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VERBS: &[&str] = &["run", "init", "dump"];
    const FLAGS: &[VerbFlag] =
        &[VerbFlag { flag: "init", verb: "init" }, VerbFlag { flag: "dump-ct", verb: "dump" }];

    /// Goal: the original's spellings and ours come to the same.
    #[test]
    fn spellings_of_the_original_are_ours() {
        for (given, expected) in [
            ("c -read-interval=5s -host-pid", "c run --read-interval=5s --host-pid"),
            ("c run --read-interval 5s", "c run --read-interval 5s"),
            ("c -init -init-cgroupv2=true", "c init --init-cgroupv2=true"),
            ("c -init=false", "c run"),
            ("c --dump-ct", "c dump"),
            ("c dump --format json", "c dump --format json"),
            ("c --help", "c --help"),
            ("c -h", "c --help"),
            ("c", "c run"),
        ] {
            let given = given.split(' ').map(OsString::from);
            let expected: Vec<OsString> = expected.split(' ').map(OsString::from).collect();
            assert_eq!(normalise(given, VERBS, FLAGS), expected);
        }
    }
}
