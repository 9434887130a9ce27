//! What the daemons claim, in each form that they publish, told as the flows in which truth is told.
//!
//! The names of a flow's ends are spelt the same in labels of series and in fields of the cost API's items.
//! Invariant: nothing is left out. A name that is missing or wrong makes another flow, and what cannot be a flow is an
//! error.

use std::collections::BTreeMap;
use std::net::IpAddr;

use crate::error::Error;
use crate::exposition::{malformed, parse};
use crate::flows::{FlowKey, Flows, Volume};

/// The bytes that the source pod sent.
pub const TRANSMITTED: &str = "egressd_transmit_bytes_total";
/// The bytes that it received.
pub const RECEIVED: &str = "egressd_received_bytes_total";

/// The label that is a series' name.
pub(crate) const NAME_LABEL: &str = "__name__";

/// Values by name.
pub(crate) type Names = BTreeMap<String, String>;

/// Flows in the text of `/metrics/flows`, summed over labels that are not part of a flow's key.
///
/// # Errors
/// [`Error::Malformed`] with the line that is not understood.
pub fn flows_in(text: &str) -> Result<Flows, Error> {
    let mut flows = Flows::default();
    for sample in parse(text)? {
        if let Some(volume) = volume_of(&sample.name) {
            let key = key_of_series(&sample.labels).ok_or_else(|| malformed(&format!("{sample:?}")))?;
            flows.add(key, volume(sample.whole()?));
        }
    }
    Ok(flows)
}

/// What the bytes of a series are, by its name; `None` for another metric.
pub(crate) fn volume_of(name: &str) -> Option<fn(u64) -> Volume> {
    match name {
        TRANSMITTED => Some(|tx_bytes| Volume { tx_bytes, ..Volume::default() }),
        RECEIVED => Some(|rx_bytes| Volume { rx_bytes, ..Volume::default() }),
        _ => None,
    }
}

/// The flow that a series with these labels is of.
pub(crate) fn key_of_series(labels: &Names) -> Option<FlowKey> {
    let protocol = match labels.get("proto")?.as_str() {
        "TCP" => 6,
        "UDP" => 17,
        "ICMP" => 1,
        "ICMPv6" => 58,
        "ANY" => 0,
        number => number.parse().ok()?,
    };
    key_of(labels, protocol)
}

/// The flow between two named ends. A missing name is kept as an empty one, which no true flow has.
pub(crate) fn key_of(names: &Names, protocol: u8) -> Option<FlowKey> {
    // Empty and absent are the same to Prometheus and to protobuf.
    let name = |name| names.get(name).map(String::as_str).filter(|value| !value.is_empty());
    let address = |end| name(end)?.parse::<IpAddr>().ok();
    let pod = |namespace, pod| Some(format!("{}/{}", name(namespace)?, name(pod)?));
    Some(FlowKey {
        node: name("src_node").unwrap_or_default().to_owned(),
        pod: pod("src_namespace", "src_pod").unwrap_or_default(),
        local: address("src_ip")?,
        remote: address("dst_ip")?,
        remote_pod: pod("dst_namespace", "dst_pod"),
        protocol,
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::topology::PODS;

    /// The flow that the fixtures of all forms speak of.
    pub(crate) fn key() -> FlowKey {
        let [web, client, ..] = &PODS;
        FlowKey::of(web, web.addresses.v4.into(), client.addresses.v4.into(), 6)
    }

    /// Goal: exported series become flows under the names they carry, summed over what a key does not tell apart.
    #[test]
    fn series_become_flows() {
        let labels = "dst_ip=\"10.244.1.3\",dst_namespace=\"shop\",dst_pod=\"client-0\",proto=\"TCP\",\
                      src_ip=\"10.244.1.2\",src_namespace=\"shop\",src_node=\"node-a\",src_pod=\"web-0\"";
        let text = format!(
            "# TYPE egressd_transmit_bytes counter\negressd_transmit_bytes_total{{{labels}}} 10\n\
             egressd_transmit_bytes_total{{{labels},cross_zone=\"false\"}} 5\n\
             egressd_received_bytes_total{{{labels}}} 7\nup 1\n# EOF\n"
        );
        let mut expected = Flows::default();
        expected.add(key(), Volume { tx_bytes: 15, rx_bytes: 7, ..Volume::default() });
        assert_eq!(flows_in(&text).unwrap(), expected);

        let nameless = text.replace("dst_pod=\"client-0\",", "");
        let keys: Vec<_> = flows_in(&nameless).unwrap().0.into_keys().collect();
        assert_eq!(keys, [FlowKey { remote_pod: None, ..key() }]);
    }

    /// Goal: a series that cannot be a flow is an error, never left out.
    #[test]
    fn a_series_without_addresses_is_an_error() {
        for text in [
            "egressd_transmit_bytes_total{proto=\"TCP\"} 10",
            "egressd_received_bytes_total{proto=\"TCP\",src_ip=\"10.0.0.1\",dst_ip=\"10.0.0.2\"} 1.5",
            "egressd_transmit_bytes_total{",
        ] {
            assert!(matches!(flows_in(text), Err(Error::Malformed { .. })), "{text}");
        }
    }
}
