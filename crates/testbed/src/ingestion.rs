//! What the cost API has taken in, read by programs that share no line with the daemons: gzip and protoc.
//!
//! Source of the schema: `proto/castai/v1/pod_network_metrics.proto`, the contract of the tool that egressd replaces.
//! Invariant: every accepted body counts once, whole; one that does not decode is an error.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Command;

use crate::claims::{Names, key_of};
use crate::cluster::Cluster;
use crate::error::Error;
use crate::flows::{FlowKey, Flows, Volume};
use crate::http_sink::{HttpSink, Request};
use crate::topology::CONTROL;

const SCHEMA: &str = include_str!("../../../proto/castai/v1/pod_network_metrics.proto");
const SCHEMA_FILE: &str = "pod_network_metrics.proto";

/// The sum of all accepted bodies.
#[derive(Debug)]
pub struct Ingestion<'c> {
    cluster: &'c Cluster,
    schema: PathBuf,
    /// Accepted requests that are in `flows`.
    requests: usize,
    flows: Flows,
    /// Where bodies that repeat the one before go, if they are told apart.
    repeated: Option<Flows>,
}

impl<'c> Ingestion<'c> {
    /// Nothing yet.
    ///
    /// # Errors
    /// [`Error::Os`] when the schema cannot be written.
    pub fn new(cluster: &'c Cluster) -> Result<Self, Error> {
        let schema = cluster.write_file(SCHEMA_FILE, SCHEMA)?;
        Ok(Self { cluster, schema, requests: 0, flows: Flows::default(), repeated: None })
    }

    /// From now on a body that is byte for byte the one accepted before it is no part of the sum, and told apart: that of a
    /// sender that was killed before it knew of the answer.
    pub fn tell_repeats_apart(&mut self) {
        self.repeated.get_or_insert_default();
    }

    /// The sum of those.
    #[must_use]
    pub fn repeated(&self) -> Flows {
        self.repeated.clone().unwrap_or_default()
    }

    /// Adds what the sink has accepted meanwhile, and gives the sum per flow.
    ///
    /// # Errors
    /// [`Error::Command`] for a body that gzip or protoc refuse, [`Error::Malformed`] for an item that is no flow.
    pub fn flows(&mut self, sink: &HttpSink) -> Result<&Flows, Error> {
        let accepted = sink.accepted();
        while let Some(request) = accepted.get(self.requests) {
            let before = self.requests.checked_sub(1).and_then(|before| accepted.get(before));
            let repeats = before.is_some_and(|before| before.body == request.body);
            let flows = self.read(request)?;
            match &mut self.repeated {
                Some(repeated) if repeats => repeated.merge(flows),
                _ => self.flows.merge(flows),
            }
            self.requests += 1;
        }
        Ok(&self.flows)
    }

    /// What one request says, whatever became of it.
    ///
    /// # Errors
    /// As of [`flows`](Self::flows).
    pub fn read(&self, request: &Request) -> Result<Flows, Error> {
        flows_in(&self.decode(request)?)
    }

    /// Every item that the sink has accepted, field by field; those that are zero or empty are left out.
    ///
    /// # Errors
    /// As of [`flows`](Self::flows).
    pub fn items(&self, sink: &HttpSink) -> Result<Vec<BTreeMap<String, String>>, Error> {
        let mut items = Vec::new();
        for request in sink.accepted() {
            items.extend(items_in(&self.decode(&request)?)?);
        }
        Ok(items)
    }

    /// The body in protobuf's text format.
    fn decode(&self, request: &Request) -> Result<String, Error> {
        let inflated;
        let message = match request.header("content-encoding") {
            Some("gzip") => {
                let mut gzip = Command::new("gzip");
                gzip.arg("-dc");
                inflated = self.pipe(gzip, &request.body)?;
                &inflated
            }
            _ => &request.body,
        };
        let mut protoc = Command::new("protoc");
        protoc.arg("--decode=PodNetworkMetricBatch");
        protoc.arg(format!("--proto_path={}", self.cluster.directory().display())).arg(&self.schema);
        let text = self.pipe(protoc, message)?;
        String::from_utf8(text).map_err(|error| malformed(&error.to_string()))
    }

    fn pipe(&self, command: Command, input: &[u8]) -> Result<Vec<u8>, Error> {
        self.cluster.namespace(CONTROL)?.run(command, input)
    }
}

/// Reads a batch in the text format, in which fields that are zero or empty are left out.
fn flows_in(text: &str) -> Result<Flows, Error> {
    let mut flows = Flows::default();
    for item in items_in(text)? {
        let (key, volume) = flow_of(&item).ok_or_else(|| malformed(&format!("{item:?}")))?;
        flows.add(key, volume);
    }
    Ok(flows)
}

fn items_in(text: &str) -> Result<Vec<Names>, Error> {
    let mut items = Vec::new();
    let mut open: Option<Names> = None;
    for line in text.lines().map(str::trim) {
        match (line, open.take()) {
            ("items {", None) => open = Some(Names::new()),
            ("}", Some(item)) => items.push(item),
            (line, Some(mut item)) => {
                let (name, value) = field_of(line).ok_or_else(|| malformed(line))?;
                item.insert(name, value);
                open = Some(item);
            }
            (line, None) => return Err(malformed(line)),
        }
    }
    match open {
        None => Ok(items),
        Some(item) => Err(malformed(&format!("{item:?}"))),
    }
}

/// A field that the schema does not have shows as its number, and none of our names needs an escape: neither is taken.
pub(crate) fn field_of(line: &str) -> Option<(String, String)> {
    let (name, value) = line.split_once(": ")?;
    let is_unknown = name.starts_with(|first: char| first.is_ascii_digit());
    let value = match value.strip_prefix('"') {
        Some(quoted) => quoted.strip_suffix('"')?,
        None => value,
    };
    (!is_unknown && !value.contains('\\')).then(|| (name.to_owned(), value.to_owned()))
}

fn flow_of(item: &Names) -> Option<(FlowKey, Volume)> {
    let number = |name| item.get(name).map_or(Some(0), |text| text.parse::<u64>().ok());
    let volume = Volume {
        tx_bytes: number("tx_bytes")?,
        tx_packets: number("tx_packets")?,
        rx_bytes: number("rx_bytes")?,
        rx_packets: number("rx_packets")?,
    };
    let protocol = u8::try_from(number("proto")?).ok()?;
    Some((key_of(item, protocol)?, volume))
}

fn malformed(found: &str) -> Error {
    Error::Malformed { what: "a body for the cost API", found: found.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::claims::tests::key;
    use crate::compare::Comparison;

    const ITEM: &str = "items {
  src_ip: \"10.244.1.2\"
  src_pod: \"web-0\"
  src_namespace: \"shop\"
  src_node: \"node-a\"
  src_zone: \"zone-1\"
  dst_ip: \"10.244.1.3\"
  dst_pod: \"client-0\"
  dst_namespace: \"shop\"
  tx_bytes: 10
  tx_packets: 2
  rx_bytes: 7
  rx_packets: 1
  proto: 6
}
";

    /// Goal: bodies add up per flow, and the comparison can fail: by one byte, by one packet, by a name.
    #[test]
    fn one_byte_or_packet_is_a_difference() {
        let mut truth = Flows::default();
        truth.add(key(), Volume { tx_bytes: 20, tx_packets: 4, rx_bytes: 14, rx_packets: 2 });
        for (name, from, to, bytes, packets) in [
            ("equal", "", "", 0, 0),
            ("one byte too few", "tx_bytes: 10", "tx_bytes: 9", 1, 0),
            ("one byte too many", "rx_bytes: 7", "rx_bytes: 8", 1, 0),
            ("one packet too many", "rx_packets: 1", "rx_packets: 2", 0, 1),
            ("nothing received", "  rx_bytes: 7\n", "", 7, 0),
            ("another pod", "client-0", "client-1", 34, 6),
        ] {
            let other = ITEM.replace(from, to);
            let flows = flows_in(&format!("{ITEM}{}", if from.is_empty() { ITEM } else { &other })).unwrap();
            let comparison = Comparison::of(&truth, &flows);
            assert_eq!(
                (comparison.difference_bytes(), comparison.difference_packets()),
                (bytes, packets),
                "{name}"
            );
        }
    }

    /// Goal: what is no flow, cut off or outside of the schema is an error, never left out.
    #[test]
    fn what_is_no_item_is_an_error() {
        for (from, to) in [
            ("src_ip: \"10.244.1.2\"", ""),
            ("tx_bytes: 10", "tx_bytes: -10"),
            ("proto: 6", "proto: 256"),
            ("proto: 6", "18: 6"),
            ("web-0", "web\\0030"),
            ("}", ""),
            ("items {", ""),
        ] {
            let text = ITEM.replace(from, to);
            assert!(matches!(flows_in(&text), Err(Error::Malformed { .. })), "{text}");
        }
        assert_eq!(flows_in("").unwrap(), Flows::default());
    }
}
