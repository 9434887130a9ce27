//! Prints the conntrack entries as they are understood.

use std::io::{self, BufWriter, Write};
use std::net::IpAddr;

use egressd_flow::{Counters, Entry, UnixNanos, View};
use egressd_service::clock::unix_nanos;
use serde::Serialize;
use tracing::{info, warn};

use crate::config::{DumpFormat, DumpOptions};
use crate::source::{Plan, Unread};

/// One entry as one JSON object. `tx` is the original direction and `rx` the reply, unless `local` is there: then as
/// seen from it. `null` where unknown.
#[derive(Debug, Serialize)]
struct Line {
    proto: u8,
    src: IpAddr,
    src_port: Option<u16>,
    dst: IpAddr,
    dst_port: Option<u16>,
    reply_src: IpAddr,
    reply_src_port: Option<u16>,
    reply_dst: IpAddr,
    reply_dst_port: Option<u16>,
    ct_zone: u16,
    tx_bytes: Option<u64>,
    tx_packets: Option<u64>,
    rx_bytes: Option<u64>,
    rx_packets: Option<u64>,
    total_bytes: Option<u64>,
    direction_known: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    local: Option<IpAddr>,
    source: &'static str,
}

impl Line {
    fn of(entry: &Entry, source: &'static str) -> Self {
        let (original, reply) = (&entry.id.original, &entry.reply);
        let (tx, rx) = match entry.counters {
            Some(Counters::Directed { tx, rx }) => (Some(tx), Some(rx)),
            Some(Counters::Total { .. }) | None => (None, None),
        };
        let total_bytes = entry.counters.map(|counters| counters.sum().bytes);
        let port = |ports: Option<(u16, u16)>| (ports.map(|ports| ports.0), ports.map(|ports| ports.1));
        let ((src_port, dst_port), (reply_src_port, reply_dst_port)) =
            (port(original.ports()), port(reply.ports()));
        Self {
            proto: original.protocol.0,
            src: original.src,
            src_port,
            dst: original.dst,
            dst_port,
            reply_src: reply.src,
            reply_src_port,
            reply_dst: reply.dst,
            reply_dst_port,
            ct_zone: original.ct_zone.0,
            tx_bytes: tx.map(|counter| counter.bytes),
            tx_packets: tx.map(|counter| counter.packets),
            rx_bytes: rx.map(|counter| counter.bytes),
            rx_packets: rx.map(|counter| counter.packets),
            total_bytes,
            direction_known: matches!(entry.counters, Some(Counters::Directed { .. })),
            local: match entry.view {
                View::Both => None,
                View::Source => Some(original.src),
                View::Destination => Some(reply.src),
            },
            source,
        }
    }
}

pub(crate) fn dump(options: &DumpOptions) -> anyhow::Result<()> {
    let plan = Plan::choose(&options.source);
    let mut output = BufWriter::new(io::stdout().lock());
    let mut written = Ok(());
    let mut rows = plan.rows()?;
    rows.prepare();
    let read = rows.read(UnixNanos(unix_nanos()), &mut |entry| {
        if written.is_ok() {
            written = match options.format {
                DumpFormat::Table => writeln!(output, "{entry}"),
                DumpFormat::Json => json(&mut output, entry, plan.mode.name()),
            };
        }
    });
    let snapshot = read.map_err(|Unread { error, .. }| error)?;
    match written.and_then(|()| output.flush()) {
        // `dump | head` has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
        outcome => outcome?,
    }
    if let Some(interruption) = rows.interruption() {
        warn!(%interruption, entries = snapshot.entries, "the table was not read to its end");
    }
    if let Some(description) = rows.description() {
        info!(source = plan.mode.name(), reason = %plan.reason, "{description}");
    }
    for finding in rows.findings(&snapshot) {
        warn!(finding = finding.code(), "{finding}");
    }
    Ok(())
}

fn json(output: &mut impl Write, entry: &Entry, source: &'static str) -> io::Result<()> {
    serde_json::to_writer(&mut *output, &Line::of(entry, source))?;
    output.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the fields and their names are the command-line contract.
    #[test]
    fn a_line_is_the_contract() {
        let line = |text: &str| {
            let entry: Entry = text.parse().unwrap();
            serde_json::to_string(&Line::of(&entry, "netfilter")).unwrap()
        };
        assert_eq!(
            line("tcp 10.0.0.1:4000>10.96.0.1:80 reply=10.0.1.9:8080>10.0.0.1:4000 ctzone=3 tx=10/1 rx=20/2"),
            "{\"proto\":6,\"src\":\"10.0.0.1\",\"src_port\":4000,\"dst\":\"10.96.0.1\",\"dst_port\":80,\
             \"reply_src\":\"10.0.1.9\",\"reply_src_port\":8080,\"reply_dst\":\"10.0.0.1\",\"reply_dst_port\":4000,\
             \"ct_zone\":3,\"tx_bytes\":10,\"tx_packets\":1,\"rx_bytes\":20,\"rx_packets\":2,\"total_bytes\":30,\
             \"direction_known\":true,\"source\":\"netfilter\"}"
        );
        assert_eq!(
            line("50 10.0.0.1>10.0.1.2 view=destination total=10/1"),
            "{\"proto\":50,\"src\":\"10.0.0.1\",\"src_port\":null,\"dst\":\"10.0.1.2\",\"dst_port\":null,\
             \"reply_src\":\"10.0.1.2\",\"reply_src_port\":null,\"reply_dst\":\"10.0.0.1\",\"reply_dst_port\":null,\
             \"ct_zone\":0,\"tx_bytes\":null,\"tx_packets\":null,\"rx_bytes\":null,\"rx_packets\":null,\
             \"total_bytes\":10,\"direction_known\":false,\"local\":\"10.0.1.2\",\"source\":\"netfilter\"}"
        );
    }
}
