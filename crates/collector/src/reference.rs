//! The reference page: every flag, from the table that reads them.

use clap::Command;
use egressd_service::reference::command_line;

const HEAD: &str = "# egressd-collector

Every flag, as `egressd-collector reference` prints them.
Flags are taken with one dash or two, as `--name=value` or `--name value`; durations are Go's, such as `15s` or `2m30s`.
Without a verb it is `run`. `-init` and `-dump-ct` of the original are the verbs `init` and `dump`; its flags that are
not listed here are accepted and mean nothing.
";

/// The page as Markdown.
pub(crate) fn markdown(command: &Command) -> String {
    format!("{HEAD}{}", command_line(command))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::config::Config;

    /// Goal: the page in the repository is the one that this version prints.
    #[test]
    fn the_reference_is_current() {
        let remedy = "cargo run -p egressd-collector -- reference > crates/collector/REFERENCE.md";
        assert!(super::markdown(&Config::command()) == include_str!("../REFERENCE.md"), "{remedy}");
    }
}
