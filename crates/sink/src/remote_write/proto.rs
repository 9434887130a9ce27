//! The messages of remote write 1.0, as its specification numbers them (`prompb/remote.proto`, `prompb/types.proto`).

/// A request: one series or many.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct WriteRequest {
    /// 2 is reserved, 3 is metadata, which this version does not send.
    #[prost(message, repeated, tag = "1")]
    pub(crate) timeseries: Vec<TimeSeries>,
}

/// One series and its samples.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct TimeSeries {
    /// Sorted by name, none repeated, none empty, `__name__` among them.
    #[prost(message, repeated, tag = "1")]
    pub(crate) labels: Vec<Label>,
    /// Oldest first; here always one.
    #[prost(message, repeated, tag = "2")]
    pub(crate) samples: Vec<Sample>,
}

/// A name and a value.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct Label {
    /// `[a-zA-Z_][a-zA-Z0-9_]*`.
    #[prost(string, tag = "1")]
    pub(crate) name: String,
    /// Not empty.
    #[prost(string, tag = "2")]
    pub(crate) value: String,
}

/// One value.
#[derive(Clone, Copy, PartialEq, prost::Message)]
pub(crate) struct Sample {
    /// A total in bytes, or the stale marker.
    #[prost(double, tag = "1")]
    pub(crate) value: f64,
    /// Milliseconds since 1970.
    #[prost(int64, tag = "2")]
    pub(crate) timestamp: i64,
}
