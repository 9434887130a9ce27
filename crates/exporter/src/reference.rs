//! The reference page: every flag and every key of the configuration file, from the tables that read them.

use clap::Command;
use egressd_service::reference::{command_line, table};
use egressd_sink::{BASIC_AUTH_KEYS, HTTP_KEYS, Key, REMOTE_WRITE_KEYS, SINK_KEYS, TLS_KEYS};

use crate::keys::FILE_KEYS;

const HEAD: &str = "# egressd-exporter

Every flag and every key, as `egressd-exporter reference` prints them.
Flags are taken with one dash or two, as `--name=value` or `--name value`; durations are Go's, such as `15s` or `2m30s`.
";

const CONFIGURATION: &str = "
## The configuration file

YAML, at `--config-path`. `${NAME}` and `$NAME` in URLs, in values of headers and where the tables below say so become
the variable of that name of the environment, and nothing when it is not set. That, a key that is not listed here and a value that means nothing are
warned about; `check` refuses them. What is wrong is named all at once, but for text that is not of the expected shape,
which hides the rest.

The file is read again when it changes, looked at every 10 seconds, and on SIGHUP; a change counts once the file stayed
as it is for a second:

- a sink that is added takes what comes from then on; one that is taken out pushes what it holds, for a minute at most,
  and what is left then is counted as discarded (`removed`);
- a sink whose settings change keeps what it holds and pushes it by the new ones. Where `url`, `labels`,
  `basicAuth.username` or `headers` other than `Authorization` of `prom_remote_write` change, its series begin anew from
  zero with what the old place had not accepted; so do they where `temporality` changes;
- a file that cannot be used changes nothing; the error is logged and `egressd_exporter_config_reload_failed` is 1.

The files of credentials and certificates that a sink names are read when it starts, which fails where one cannot be
used, and again before each of its attempts; one that cannot be used then leaves what was read before, is complained of
once a minute at most and counted in `egressd_exporter_sink_unread_files_total`.

Flags, variables of the environment and the inventory are read at the start only. A sink cannot change its kind: give it
another name.

## The spool

With `--spool-dir` a restart, also by a kill, loses and doubles nothing: collectors let go of a batch once it is safe
there, and each sink goes on where it was by its name. Prometheus' totals go on; of the cost API's deltas the request that
was under way goes again, counted in `egressd_exporter_sink_ambiguous_bytes_total`. The page `/metrics/flows` begins anew.

- A sink that is away for longer than the bounds allow loses the oldest, counted by
  `egressd_exporter_spool_lost_bytes_total`: the cost API's range that is under way is among it, though it is still
  pushed if the process lives. Running totals are kept by flow and lose nothing.
- While the volume is full or read-only nothing new is taken, collectors keep it, and the log says so once a minute; it
  goes on when there is room. Leave as much room beside `--spool-bytes-max` as the totals take, some 100 bytes a flow and
  sink, twice.
- A sink that was taken out of the configuration while the exporter did not run is let go at the next start.
- Two processes on one directory: the second does not start.
";

const ASKED_HEAD: &str = "
## What it asks of the API

Every request of the exporter to the Kubernetes API; a test with all of it switched on holds this table against what a fake API
was asked. `create` names no object, so no role can limit it to one. Beside these, `GET /version` is asked every 10 seconds,
which every cluster allows to whoever is authenticated. Without `--inventory` the first four are asked always.

";

/// Verb, group, resource, namespace, name, when.
const ASKED: [[&str; 6]; 14] = [
    [
        "list",
        "",
        "pods",
        "all",
        "",
        "of an API server that streams no lists: at the start, and where a watch cannot go on",
    ],
    ["watch", "", "pods", "all", "", "always"],
    ["list", "", "nodes", "all", "", "as of pods"],
    ["watch", "", "nodes", "all", "", "always"],
    ["get", "coordination.k8s.io", "leases", "own", "--lease-name", "`--leader-elect`"],
    ["create", "coordination.k8s.io", "leases", "own", "", "`--leader-elect`, where there is none"],
    ["update", "coordination.k8s.io", "leases", "own", "--lease-name", "`--leader-elect`"],
    ["get", "", "secrets", "own", "--tls-managed-secret", "`--tls-managed-secret`, every 5 minutes"],
    ["create", "", "secrets", "own", "", "`--tls-managed-secret`, where there is none"],
    ["update", "", "secrets", "own", "--tls-managed-secret", "`--tls-managed-secret`, where it is empty"],
    [
        "get",
        "",
        "configmaps",
        "own",
        "--tls-managed-config-map",
        "`--tls-managed-config-map`, every 5 minutes",
    ],
    ["create", "", "configmaps", "own", "", "`--tls-managed-config-map`, where there is none"],
    [
        "update",
        "",
        "configmaps",
        "own",
        "--tls-managed-config-map",
        "`--tls-managed-config-map`, where it says something else",
    ],
    [
        "create",
        "authentication.k8s.io",
        "tokenreviews",
        "none",
        "",
        "`--collector-service-account`, for each token that is not known",
    ],
];

/// The table of what is asked of the API.
fn asked(text: &mut String) {
    text.push_str(ASKED_HEAD);
    text.push_str("| verb | group | resource | namespace | name | when |\n|---|---|---|---|---|---|\n");
    for [verb, group, resource, namespace, name, when] in ASKED {
        let code = |text: &str| if text.is_empty() { String::new() } else { format!("`{text}`") };
        let cells =
            [code(verb), code(group), code(resource), namespace.to_owned(), code(name), when.to_owned()];
        text.push_str(&format!("| {} |\n", cells.join(" | ")));
    }
}

/// The page as Markdown.
pub(crate) fn markdown(command: &Command) -> String {
    let mut text = format!("{HEAD}{}{CONFIGURATION}", command_line(command));
    for (title, keys) in [
        ("At the top", FILE_KEYS),
        ("`sinks.<name>`, one of", SINK_KEYS),
        ("`sinks.<name>.http`", HTTP_KEYS),
        ("`sinks.<name>.prom_remote_write`", REMOTE_WRITE_KEYS),
        ("`basicAuth` of either", BASIC_AUTH_KEYS),
        ("`tls` of either", TLS_KEYS),
    ] {
        text.push_str(&format!("\n### {title}\n\n"));
        table(&mut text, ["key", "default", "meaning"], keys.iter().map(row));
    }
    asked(&mut text);
    text
}

fn row(key: &Key) -> [String; 3] {
    let default = if key.default.is_empty() { "required" } else { key.default };
    [key.name.to_owned(), default.to_owned(), key.meaning.to_owned()]
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use crate::config::Config;

    /// Goal: the page in the repository is the one that this version prints.
    #[test]
    fn the_reference_is_current() {
        let remedy = "cargo run -p egressd-exporter -- reference > crates/exporter/REFERENCE.md";
        assert!(super::markdown(&Config::command()) == include_str!("../REFERENCE.md"), "{remedy}");
    }
}
