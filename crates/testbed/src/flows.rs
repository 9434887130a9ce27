//! The noun in which truth and claim are compared: what one pod sent to and received from one remote.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::ops::AddAssign;

use crate::residents::Holders;
use crate::topology;

/// Bytes and packets of one flow, as seen from its local pod. Bytes are IP lengths, headers included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Volume {
    /// Sent by the local pod.
    pub tx_bytes: u64,
    /// Sent by the local pod; one packet may be a segmentation-offload packet of up to 64 KiB.
    pub tx_packets: u64,
    /// Received by the local pod.
    pub rx_bytes: u64,
    /// Received by the local pod.
    pub rx_packets: u64,
}

impl Volume {
    /// Sum of the absolute differences of sent and of received bytes; errors cannot cancel out.
    #[must_use]
    pub fn difference_bytes(self, other: Self) -> u64 {
        self.tx_bytes.abs_diff(other.tx_bytes) + self.rx_bytes.abs_diff(other.rx_bytes)
    }

    /// The same of packets.
    #[must_use]
    pub fn difference_packets(self, other: Self) -> u64 {
        self.tx_packets.abs_diff(other.tx_packets) + self.rx_packets.abs_diff(other.rx_packets)
    }
}

impl AddAssign for Volume {
    fn add_assign(&mut self, other: Self) {
        self.tx_bytes += other.tx_bytes;
        self.tx_packets += other.tx_packets;
        self.rx_bytes += other.rx_bytes;
        self.rx_packets += other.rx_packets;
    }
}

/// Which flow, names included: a flow under a wrong name is another flow.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FlowKey {
    /// The node of the local pod, which measured.
    pub node: String,
    /// The local pod as `namespace/name`.
    pub pod: String,
    /// The local pod's address.
    pub local: IpAddr,
    /// The remote's real address, after service translation.
    pub remote: IpAddr,
    /// The remote pod as `namespace/name`; `None` when the remote is not a pod.
    pub remote_pod: Option<String>,
    /// The IANA number.
    pub protocol: u8,
}

impl FlowKey {
    /// The key under which a flow of `pod` must appear, if the cluster is as planned.
    #[must_use]
    pub fn of(pod: &topology::Pod, local: IpAddr, remote: IpAddr, protocol: u8) -> Self {
        let qualified = |pod: &topology::Pod| format!("{}/{}", pod.namespace, pod.name);
        Self {
            node: pod.node.to_owned(),
            pod: qualified(pod),
            local,
            remote,
            remote_pod: topology::pod_at(remote).map(qualified),
            protocol,
        }
    }

    /// The key of a flow of `local`, by who has which address now; `None` when no pod of `node` has it.
    pub(crate) fn on(
        node: &topology::Node,
        local: IpAddr,
        remote: IpAddr,
        protocol: u8,
        holders: &Holders,
    ) -> Option<Self> {
        let holder = holders.at(local).filter(|holder| holder.node == node.name)?;
        Some(Self {
            node: holder.node.to_owned(),
            pod: holder.pod.clone(),
            local,
            remote,
            remote_pod: holders.at(remote).map(|remote| remote.pod.clone()),
            protocol,
        })
    }

    /// `tcp`, `udp` or the number.
    #[must_use]
    pub fn protocol_name(&self) -> String {
        match self.protocol {
            6 => "tcp".to_owned(),
            17 => "udp".to_owned(),
            number => number.to_string(),
        }
    }
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {} > {}", self.protocol_name(), self.pod, self.local, self.remote)
    }
}

/// Volumes by flow.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flows(pub BTreeMap<FlowKey, Volume>);

impl Flows {
    /// Adds to one flow.
    pub fn add(&mut self, key: FlowKey, volume: Volume) {
        *self.0.entry(key).or_default() += volume;
    }

    /// Adds every flow of `other`; sums the lives of a daemon whose counters restart with it.
    pub fn merge(&mut self, other: Self) {
        for (key, volume) in other.0 {
            self.add(key, volume);
        }
    }

    /// Those of the pods of one node.
    #[must_use]
    pub fn of_node(&self, node: &str) -> Self {
        let of_node = self.0.iter().filter(|(key, _)| key.node == node);
        Self(of_node.map(|(key, volume)| (key.clone(), *volume)).collect())
    }

    /// The sum over all flows.
    #[must_use]
    pub fn total(&self) -> Volume {
        let mut total = Volume::default();
        for volume in self.0.values() {
            total += *volume;
        }
        total
    }
}
