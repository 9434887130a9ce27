//! Prometheus remote write, 1.0 or 2.0: running totals, one sample a series a request; growth where it is asked for.
//!
//! A receiver that does not understand 2.0 is told the same again by 1.0, and everything from then on.
//! Invariant: every series' labels are sorted by name, without repetition and without an empty value.
//! Bound: [`SAMPLES_MAX`] samples and [`BODY_BYTES_MAX`] bytes a request, of which as many are under way at once as is
//! configured.

mod encode;
pub(crate) use encode::NAME_LABEL;
pub(crate) mod proto;
mod symbols;
pub(crate) mod v2;

use std::collections::BTreeMap;

use bytes::Bytes;
use egressd_flow::{AttributedBatch, Counter, Position, UnixNanos};
use reqwest::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT,
};
use reqwest::{StatusCode, Url};

use crate::books::{Applied, Standing};
use crate::client::{Answer, BODY_BYTES_MAX};
use crate::config::{Kind, RemoteWriteSettings, Version};
use crate::destination::{Destination, Heard, Settled, Verdict};
use crate::keep::{Resume, StateLost};
use crate::lanes::LANES_MAX;
use crate::secret::Secret;
use crate::table::{self, FLOWS_MAX};
use crate::totals::{FlowTotals, Refusal, Totals};
use encode::Encoder;

/// Samples of one request, mostly 2 to 3 MB before compression: between what Prometheus sends (2,000, its
/// `max_samples_per_send`) and VictoriaMetrics' agent (10,000). A refused request costs no more than this again.
pub(crate) const SAMPLES_MAX: usize = 5_000;

/// The header that tells the version of the protocol.
pub(crate) const VERSION_HEADER: HeaderName = HeaderName::from_static("x-prometheus-remote-write-version");

/// What the protocol sets; a configuration that sets one of them is refused.
pub(crate) const OWN_HEADERS: [HeaderName; 4] = [CONTENT_ENCODING, CONTENT_TYPE, VERSION_HEADER, USER_AGENT];

/// What tells a request of 1.0.
static V1: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf")),
    (VERSION_HEADER, HeaderValue::from_static("0.1.0")),
];

/// What tells a request of 2.0.
static V2: [(HeaderName, HeaderValue); 2] = [
    (CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf;proto=io.prometheus.write.v2.Request")),
    (VERSION_HEADER, HeaderValue::from_static("2.0.0")),
];

/// Bytes of the totals, at worst.
pub(crate) const fn table_bytes() -> usize {
    table::worst_case_bytes::<FlowTotals>()
}

/// The headers of the protocol over those of the configuration; those of its version come with each request.
pub(crate) fn headers(configured: &HeaderMap) -> HeaderMap {
    let mut headers = configured.clone();
    headers.insert(CONTENT_ENCODING, HeaderValue::from_static("snappy"));
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
    /// How the request of each lane was written.
    written: Vec<Version>,
    /// Whether a request of 2.0 was taken for what it is.
    is_understood: bool,
    /// Of growth only: the last answer left it open whether it was taken, which was counted then.
    is_open: bool,
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
        let mut totals = Totals::new(flows_max, samples_max, settings.send_received_bytes_metric);
        totals.say(settings.temporality);
        totals.speak_at_once(settings.lanes);
        Self {
            totals,
            encoder: Encoder::new(settings.version, &settings.labels, bytes_max),
            written: vec![settings.version; LANES_MAX],
            settings,
            is_understood: false,
            is_open: false,
        }
    }

    fn fall_back(&mut self, lane: usize) -> Heard {
        self.encoder.speak(Version::V1);
        self.totals.not_understood(lane);
        self.written.iter_mut().skip(lane).take(1).for_each(|written| *written = Version::V1);
        Heard::NotUnderstood
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
        self.totals.say(settings.temporality);
        self.totals.speak_at_once(settings.lanes);
        if self.totals.chunk(0).is_empty() {
            self.is_open = false;
        }
        self.encoder.speak(settings.version);
        self.is_understood = false;
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

    /// Growth that may have been taken is said at the same time again: a store that has it takes it for the same
    /// sample.
    fn request(&mut self, lane: usize, now: UnixNanos) -> Option<Bytes> {
        if !self.is_open {
            self.totals.advance(lane, now)?;
        } else if lane > 0 || !self.totals.repeat(lane) {
            return None;
        }
        if let Some(written) = self.written.get_mut(lane) {
            *written = self.encoder.version();
        }
        Some(self.encoder.encode(&mut self.totals, lane))
    }

    fn lanes(&self) -> usize {
        self.totals.lanes()
    }

    fn headers(&self) -> &'static [(HeaderName, HeaderValue)] {
        match self.encoder.version() {
            Version::V1 => &V1,
            Version::V2 => &V2,
        }
    }

    /// A 2xx that does not say what was written is that of a receiver of 1.0 that found nothing in the request
    /// (measured: Prometheus 2.42, VictoriaMetrics 1.79). 400 may be one that could not read it, until 2.0 was once
    /// understood. What is asked is how this request was written: another may have been told off meanwhile.
    fn hear(&mut self, lane: usize, answer: &Answer) -> Heard {
        if self.written.get(lane) != Some(&Version::V2) {
            return Heard::AsItSays;
        }
        match answer {
            Answer::Accepted => self.fall_back(lane),
            Answer::Refused { status: StatusCode::UNSUPPORTED_MEDIA_TYPE, .. } => self.fall_back(lane),
            Answer::Refused { status: StatusCode::BAD_REQUEST, .. } if !self.is_understood => {
                self.fall_back(lane)
            }
            Answer::Written(written) => {
                self.is_understood = true;
                let sent = self.totals.chunk(lane).len() as u64;
                let unwritten = sent.saturating_sub(*written);
                if unwritten == 0 { Heard::AsItSays } else { Heard::Unwritten { samples: unwritten, sent } }
            }
            Answer::Refused { .. } | Answer::Failed(_) | Answer::Overdue(_) => Heard::AsItSays,
        }
    }

    /// An answer that leaves it open whether the request was taken in costs nothing where totals are said: a total is
    /// idempotent. What a life before may have had taken of growth counts with the first answer.
    fn settle(&mut self, lane: usize, verdict: Verdict, now: UnixNanos) -> Settled {
        let growth = self.totals.requested();
        // A receiver may have written the good part of a request that it refuses.
        let is_open = (verdict.is_open() || verdict == Verdict::Rejected) && !growth.is_zero();
        let was_open = std::mem::replace(&mut self.is_open, is_open);
        let mut settled = Settled { ambiguous: self.totals.take_doubt(), ..Settled::default() };
        if is_open && !was_open {
            settled.ambiguous += growth;
        }
        if verdict == Verdict::Accepted {
            (settled.emitted, settled.is_late) = self.totals.settle(lane);
        } else {
            let Refusal { aside, discarded, goes_on, is_late } = self.totals.refused(lane, verdict, now);
            (settled.aside, settled.discarded) = (aside, discarded);
            (settled.goes_on, settled.is_late) = (goes_on, is_late);
            // What follows says something else, at its own time.
            self.is_open &= !self.totals.chunk(lane).is_empty();
        }
        settled
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
type Place<'a> = (Secret<Url>, Option<&'a str>, &'a BTreeMap<String, String>, HeaderMap);

/// What says which series of which store are written.
fn place(settings: &RemoteWriteSettings) -> Place<'_> {
    let mut headers = settings.headers.clone();
    headers.remove(AUTHORIZATION);
    let mut url = settings.url.expose().clone();
    // A URL that cannot have one has none.
    let _none = url.set_password(None);
    (Secret::new(url), settings.access.user(), &settings.labels, headers)
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
