//! Prometheus remote write 1.0: running totals, one sample a series a request.
//!
//! Invariant: every series' labels are sorted by name, without repetition and without an empty value.
//! Bound: [`SAMPLES_MAX`] samples and [`BODY_BYTES_MAX`] bytes a request.

mod encode;
pub(crate) use encode::NAME_LABEL;
pub(crate) mod proto;

use std::collections::BTreeMap;

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use reqwest::Url;
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};

use crate::books::{Applied, Standing};
use crate::client::BODY_BYTES_MAX;
use crate::config::{Kind, RemoteWriteSettings};
use crate::driver::{Destination, Settled, Verdict};
use crate::keep::{Resume, StateLost};
use crate::secret::Secret;
use crate::table::FLOWS_MAX;
use crate::totals::{Refusal, Totals};
use encode::Encoder;

/// Samples of one request, mostly 2 to 3 MB before compression: between what Prometheus sends (2,000, its
/// `max_samples_per_send`) and VictoriaMetrics' agent (10,000). A refused request costs no more than this again.
pub(crate) const SAMPLES_MAX: usize = 5_000;

/// The header that tells the version of the protocol.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// What the protocol sets; a configuration that sets one of them is refused.
pub(crate) const OWN_HEADERS: [HeaderName; 4] = [CONTENT_ENCODING, CONTENT_TYPE, VERSION_HEADER, USER_AGENT];

/// The headers of the protocol over those of the configuration.
pub(crate) fn headers(configured: &HeaderMap) -> HeaderMap {
    let mut headers = configured.clone();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
    headers.insert(VERSION_HEADER, HeaderValue::from_static("0.1.0"));
    let agent = HeaderValue::from_static(concat!("egressd/v", env!("CARGO_PKG_VERSION")));
    headers.insert(USER_AGENT, agent);
    headers
}

/// A receiver of remote write.
#[derive(Debug)]
pub(crate) struct RemoteWrite {
    settings: RemoteWriteSettings,
    totals: Totals,
    encoder: Encoder,
}

impl RemoteWrite {
    pub(crate) fn new(settings: RemoteWriteSettings) -> Self {
        Self::bounded(settings, FLOWS_MAX, SAMPLES_MAX, BODY_BYTES_MAX)
    }

    pub(crate) fn bounded(
        settings: RemoteWriteSettings,
        flows_max: usize,
        samples_max: usize,
        bytes_max: usize,
    ) -> Self {
        Self {
            totals: Totals::new(flows_max, samples_max, settings.send_received_bytes_metric),
            encoder: Encoder::new(&settings.labels, bytes_max),
            settings,
        }
    }
}

impl Destination for RemoteWrite {
    /// Another URL, tenant or user may be another store, and other labels are other series: none has what the old one
    /// has. A secret says nothing of the store.
    fn reconfigure(&mut self, kind: &Kind) {
        let Kind::RemoteWrite(settings) = kind else { return };
        if place(settings) != place(&self.settings) {
            self.totals.begin_anew();
            self.encoder.relabel(&settings.labels);
        }
        self.totals.widen();
        self.totals.ask_received(settings.send_received_bytes_metric);
        self.settings = settings.clone();
    }

    fn resume(&mut self, resume: &Resume, now: UnixNanos) -> Result<Counter, StateLost> {
        let place = fingerprint(place(&self.settings));
        let state = resume.state.as_deref();
        let kept = (resume.position, state.unwrap_or_default());
        let held = self.totals.resume(kept, place, resume.caught_up, now)?;
        state.map(|_| held).ok_or(StateLost)
    }

    fn has_room(&self) -> bool {
        true
    }

    fn is_due(&self) -> bool {
        self.totals.is_due()
    }

    fn state(&mut self) -> (Position, Vec<u8>) {
        self.totals.state(fingerprint(place(&self.settings)))
    }

    fn kept(&mut self) {
        self.totals.kept();
    }

    fn apply(&mut self, batch: &AttributedBatch, now: UnixNanos) -> Applied {
        self.totals.apply(batch, now)
    }

    fn begin(&mut self) {
        self.totals.begin();
    }

    fn is_pushing(&self) -> bool {
        self.totals.is_running()
    }

    fn request(&mut self, now: UnixNanos) -> Option<Bytes> {
        self.totals.advance(now)?;
        Some(self.encoder.encode(&mut self.totals))
    }

    /// An answer that leaves it open whether the request was taken in costs nothing: a total is idempotent.
    fn settle(&mut self, verdict: Verdict, now: UnixNanos) -> Settled {
        if verdict == Verdict::Accepted {
            return Settled { emitted: self.totals.settle(), ..Settled::default() };
        }
        let Refusal { aside, discarded, goes_on } = self.totals.refused(verdict, now);
        Settled { aside, discarded, goes_on, ..Settled::default() }
    }

    fn standing(&self) -> Standing {
        self.totals.standing()
    }

    fn flows(&self) -> usize {
        self.totals.flows()
    }

    fn held_flows(&self) -> u64 {
        self.totals.held_flows()
    }

    fn flows_aside(&self) -> usize {
        self.totals.flows_aside()
    }
}

/// URL, user, labels and headers.
type Place<'a> = (&'a Secret<Url>, Option<&'a str>, &'a BTreeMap<String, String>, HeaderMap);

/// What says which series of which store are written.
fn place(settings: &RemoteWriteSettings) -> Place<'_> {
    let mut headers = settings.headers.clone();
    headers.remove(AUTHORIZATION);
    (&settings.url, settings.access.user(), &settings.labels, headers)
}

/// A place in 64 bits (FNV-1a), the same in every release; two that differ are told apart all but surely.
fn fingerprint((url, user, labels, headers): Place<'_>) -> u64 {
    let labels = labels.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
    let mut headers: Vec<_> = headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    headers.sort_unstable();
    let headers = headers.into_iter().flat_map(|(name, value)| [name.as_bytes(), value]);
    let of_account = [url.expose().as_str(), user.unwrap_or_default()].map(str::as_bytes);
    let texts = of_account.into_iter().chain(labels).chain([&b"headers"[..]]).chain(headers);
    let bytes = texts.flat_map(|text| text.iter().copied().chain([0xff]));
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
pub(crate) mod tests;
