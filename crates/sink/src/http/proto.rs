//! The cost API's body. Field numbers are its contract (`proto/castai/v1/pod_network_metrics.proto` says them again,
//! for the tests).

/// A request.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodNetworkMetricBatch {
    #[prost(message, repeated, tag = "1")]
    pub(crate) items: Vec<PodNetworkMetric>,
}

/// Growth of one flow since the last accepted request. Text is empty where it does not apply or is not known.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct PodNetworkMetric {
    #[prost(string, tag = "1")]
    pub(crate) src_ip: String,
    #[prost(string, tag = "2")]
    pub(crate) src_pod: String,
    #[prost(string, tag = "3")]
    pub(crate) src_namespace: String,
    #[prost(string, tag = "4")]
    pub(crate) src_node: String,
    #[prost(string, tag = "5")]
    pub(crate) src_zone: String,
    /// Empty for the rest of a fold.
    #[prost(string, tag = "6")]
    pub(crate) dst_ip: String,
    #[prost(string, tag = "7")]
    pub(crate) dst_pod: String,
    #[prost(string, tag = "8")]
    pub(crate) dst_namespace: String,
    #[prost(string, tag = "9")]
    pub(crate) dst_node: String,
    #[prost(string, tag = "10")]
    pub(crate) dst_zone: String,
    #[prost(int64, tag = "11")]
    pub(crate) tx_bytes: i64,
    #[prost(int64, tag = "12")]
    pub(crate) tx_packets: i64,
    #[prost(int64, tag = "13")]
    pub(crate) rx_bytes: i64,
    #[prost(int64, tag = "14")]
    pub(crate) rx_packets: i64,
    /// IANA's number.
    #[prost(int32, tag = "15")]
    pub(crate) proto: i32,
    /// The name that a public address was asked for by, where its node traces DNS. 16 is reserved.
    #[prost(string, tag = "17")]
    pub(crate) dst_dns_name: String,
}
