//! A daemon's command line as Markdown, for its reference page.

use std::fmt::Write as _;

use clap::builder::StyledStr;
use clap::{Arg, Command};

/// A section for each verb of `command`: what it does, and a table of its flags. Hidden ones are left out.
#[must_use]
pub fn command_line(command: &Command) -> String {
    let mut text = String::new();
    for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
        let about = verb.get_about().map(StyledStr::to_string).unwrap_or_default();
        line(&mut text, format_args!("\n## {} {}\n\n{about}.\n", command.get_name(), verb.get_name()));
        let rows = verb.get_arguments().filter(|flag| !flag.is_hide_set()).filter_map(row);
        table(&mut text, ["flag", "default", "meaning"], rows);
    }
    text
}

/// A Markdown table of three columns, the first one code.
pub fn table(text: &mut String, head: [&str; 3], rows: impl Iterator<Item = [String; 3]>) {
    line(text, format_args!("| {} |\n|---|---|---|", head.join(" | ")));
    for [name, default, meaning] in rows {
        line(text, format_args!("| `{name}` | {default} | {meaning} |"));
    }
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    let _infallible = writeln!(text, "{line}");
}

fn row(flag: &Arg) -> Option<[String; 3]> {
    let name = flag.get_long()?;
    let defaults: Vec<_> = flag.get_default_values().iter().map(|value| value.to_string_lossy()).collect();
    let help = flag.get_long_help().or_else(|| flag.get_help()).map(StyledStr::to_string).unwrap_or_default();
    let variable =
        flag.get_env().map(|name| format!(" The variable `{}` stands for it.", name.to_string_lossy()));
    let meaning =
        format!("{}.{}", help.replace('\n', " ").trim_end_matches('.'), variable.unwrap_or_default());
    Some([format!("--{name}"), defaults.join(","), meaning])
}
