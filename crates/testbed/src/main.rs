//! `egressd-testbed`: the demo, the accuracy matrix, the traffic programs that run inside of pods, a cluster to look
//! around in, and a Kubernetes API for an exporter without a cluster.

mod accuracy;
mod demo;
mod pretend;

use std::io::{self, BufReader, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use egressd_testbed::{Cluster, Error, Load, Programs, Setting, dns, traffic};

/// A cluster in network namespaces, with byte-exact truth about its traffic.
#[derive(Parser)]
#[command(name = "egressd-testbed", version)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run both daemons on real traffic and compare what they say with what nft counted
    Demo {
        /// Seconds of traffic; without it, until Ctrl-C
        #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
        seconds: Option<u64>,
        /// Print one JSON object as the last line instead of a table
        #[arg(long, requires = "seconds")]
        json: bool,
        /// The collector [default: beside this program]
        #[arg(long)]
        collector: Option<PathBuf>,
        /// The exporter [default: beside this program]
        #[arg(long)]
        exporter: Option<PathBuf>,
    },
    /// Hold what the daemons measure against what nft counted, scenario by scenario; 1 when a byte is missing
    Accuracy {
        /// Fewer seconds, one read interval, no change of the machine's settings
        #[arg(long)]
        short: bool,
        /// Print one JSON object instead of a table
        #[arg(long)]
        json: bool,
    },
    /// Build a cluster with a traffic server in every pod, say how to enter it, and hold it until standard input ends
    Up,
    /// Serve a Kubernetes API on loopback until Ctrl-C, for an exporter without a cluster
    Kubernetes(pretend::Pretence),
    /// Answer traffic inside a namespace
    Serve {
        /// The port, TCP and UDP
        #[arg(long)]
        port: u16,
    },
    /// Send traffic inside a namespace, by the plan on standard input's first line
    Send,
    /// Answer DNS inside a namespace: each argument is a record, such as "api.example.com 60 A 203.0.113.10"
    Dns {
        /// The port, TCP and UDP
        #[arg(long, default_value_t = 53)]
        port: u16,
        /// What it knows
        records: Vec<dns::Record>,
    },
    /// Ask a DNS server inside a namespace; prints how many bytes came
    Ask {
        /// Whom
        server: std::net::SocketAddr,
        /// What for
        name: String,
        /// For the IPv6 address
        #[arg(long)]
        v6: bool,
        /// By TCP
        #[arg(long)]
        tcp: bool,
    },
    /// Wait for the end of standard input, then put a setting back
    #[command(hide = true)]
    KeepSetting { setting: Setting, value: u32 },
}

fn main() -> ExitCode {
    match run(Arguments::parse().verb) {
        Ok(code) => code,
        Err(error) => {
            // Nothing is left to tell when standard error is gone.
            drop(writeln!(io::stderr().lock(), "error: {}", error.chain()));
            ExitCode::FAILURE
        }
    }
}

fn run(verb: Verb) -> Result<ExitCode, Error> {
    let os = |action, subject: &str| {
        let subject = subject.to_owned();
        move |source| Error::Os { action, subject, source }
    };
    match verb {
        Verb::Demo { seconds, json, collector, exporter } => {
            let find = |given: Option<PathBuf>, name| {
                given.map_or_else(|| egressd_testbed::beside_current_exe(name), Ok)
            };
            let programs = Programs {
                testbed: std::env::current_exe().map_err(os("find", "this program"))?,
                collector: find(collector, "egressd-collector")?,
                exporter: find(exporter, "egressd-exporter")?,
            };
            demo::run(&programs, seconds, json)
        }
        Verb::Accuracy { short, json } => accuracy::run(&Programs::beside_current_exe()?, short, json),
        Verb::Up => hold().map(|()| ExitCode::SUCCESS),
        Verb::Kubernetes(pretence) => pretend::serve(pretence).map(|()| ExitCode::SUCCESS),
        Verb::Serve { port } => match traffic::serve(port).map_err(os("serve", "traffic"))? {},
        Verb::Send => traffic::send(BufReader::new(io::stdin()), &mut io::stdout().lock())
            .map(|()| ExitCode::SUCCESS)
            .map_err(os("send", "traffic")),
        Verb::Dns { port, records } => match dns::serve(port, &records).map_err(os("serve", "DNS"))? {},
        Verb::Ask { server, name, v6, tcp } => {
            let answer = dns::ask(server, (&name, if v6 { dns::AAAA } else { dns::A }), tcp);
            let length = answer.map_err(os("ask", &name))?.len();
            writeln!(io::stdout().lock(), "{length}").map_err(os("write to", "standard output"))?;
            Ok(ExitCode::SUCCESS)
        }
        Verb::KeepSetting { setting, value } => {
            egressd_testbed::keep_setting(setting, value).map(|()| ExitCode::SUCCESS)
        }
    }
}

/// Prints a line `NAME net:[INODE] nsenter …` for each namespace, then an empty one.
fn hold() -> Result<(), Error> {
    let printed = |source| Error::Os { action: "write to", subject: "standard output".to_owned(), source };
    let cluster = Cluster::start()?;
    let program = std::env::current_exe().map_err(|source| Error::Os {
        action: "find",
        subject: "this program".to_owned(),
        source,
    })?;
    let _servers = Load::start(&cluster, &program, &[])?;
    let mut out = io::stdout().lock();
    for (place, namespace) in cluster.namespaces() {
        let (inode, path) = (namespace.inode()?, namespace.path());
        writeln!(out, "{place} net:[{inode}] nsenter --net={}", path.display()).map_err(printed)?;
    }
    writeln!(out).and_then(|()| out.flush()).map_err(printed)?;
    io::copy(&mut io::stdin().lock(), &mut io::sink()).map(drop).map_err(printed)
}
