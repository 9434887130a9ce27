//! One attempt of one request, and what its answer means. The only HTTP client builder of this crate.
//!
//! Bound: every attempt has a timeout from connect to answer, and of a refusal's body the first [`EXCERPT_MAX`]
//! bytes are read.

use std::time::Duration;

use bytes::Bytes;
use egressd_flow::UnixNanos;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Method, Response, StatusCode, Url, redirect};

use crate::cause::turned_away;
use crate::config::{Access, Tls};
use crate::credentials::{ClientError, Pem, Proof};
use crate::destination::Verdict;
use crate::lead::Overdue;
use crate::metrics::Outcome;
use crate::retry::retry_after;
use crate::secret::Secret;

/// A connection that is not there by then will not be; the rest of an attempt's timeout is for the answer.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// Kept shorter than the 60 s after which common proxies drop an idle connection without a word.
const IDLE_TIMEOUT: Duration = Duration::from_secs(50);

/// A request's body at most, before compression; one flow more than that still goes, in a request of its own.
///
/// Below every limit that is known: a VictoriaMetrics takes 32 MiB (`maxInsertRequestSize`), a Mimir 100 MB
/// (`distributor.max-recv-msg-size`), and VictoriaMetrics' own agent sends 8 MiB. The cost API states none.
pub(crate) const BODY_BYTES_MAX: usize = 4 << 20;

/// How a receiver of remote write 2.0 says what it wrote, samples first.
const WRITTEN_HEADERS: [HeaderName; 3] = [
    HeaderName::from_static("x-prometheus-remote-write-samples-written"),
    HeaderName::from_static("x-prometheus-remote-write-histograms-written"),
    HeaderName::from_static("x-prometheus-remote-write-exemplars-written"),
];

/// Of a refusal's body, for the log.
const EXCERPT_MAX: usize = 512;

/// A client for pushes.
///
/// It follows no redirect: a POST that is redirected turns into a GET without a body on 301 and 302, whose 200 would
/// be taken for an acceptance, and the configured headers would go to a host that nobody configured.
/// A proxy of the environment (`HTTPS_PROXY`, `NO_PROXY`) is used.
fn client(pem: &Pem, tls: &Tls) -> Result<Client, ClientError> {
    let builder = Client::builder()
        .redirect(redirect::Policy::none())
        .connect_timeout(CONNECT_TIMEOUT)
        .pool_idle_timeout(IDLE_TIMEOUT)
        .pool_max_idle_per_host(1);
    pem.equip(tls, builder)?.build().map_err(ClientError::Build)
}

/// Where requests go, and all of them that does not change.
#[derive(Clone, Debug)]
pub(crate) struct Endpoint {
    client: Client,
    method: Method,
    url: Secret<Url>,
    headers: HeaderMap,
    timeout: Duration,
    access: Access,
    /// What the client was made with.
    pem: Pem,
    proof: Option<Proof>,
}

impl Endpoint {
    /// Reads the files of `access`.
    pub(crate) fn new(
        method: Method,
        url: Secret<Url>,
        headers: HeaderMap,
        timeout: Duration,
        access: Access,
    ) -> Result<Self, ClientError> {
        let (pem, proof) = (Pem::read(&access.tls)?, Proof::read(&access)?);
        let client = client(&pem, &access.tls)?;
        Ok(Self { client, method, url, headers, timeout, access, pem, proof })
    }

    /// Reads the files of its access again, for the next request. What cannot be taken up stays as it was.
    pub(crate) fn refresh(&mut self) -> Result<(), ClientError> {
        let proof = Proof::read(&self.access).map(|proof| self.proof = proof);
        proof.and(self.refresh_tls())
    }

    fn refresh_tls(&mut self) -> Result<(), ClientError> {
        let pem = Pem::read(&self.access.tls)?;
        if pem != self.pem {
            self.client = client(&pem, &self.access.tls)?;
            self.pem = pem;
        }
        Ok(())
    }

    /// Sets headers of the next requests.
    pub(crate) fn write(&mut self, headers: &[(HeaderName, HeaderValue)]) {
        for (name, value) in headers {
            self.headers.insert(name, value.clone());
        }
    }

    /// Where requests go, for tests that stand in for the network.
    #[cfg(test)]
    pub(crate) fn url(&self) -> &Url {
        self.url.expose()
    }

    /// Sends one request. `now` is what a date in `Retry-After` is measured from.
    pub(crate) fn send(&self, body: Bytes, now: UnixNanos) -> impl Future<Output = Answer> + Send + use<> {
        let request = self
            .client
            .request(self.method.clone(), self.url.expose().clone())
            .headers(self.headers.clone())
            .timeout(self.timeout)
            .body(body);
        let request = match &self.proof {
            Some(proof) => proof.sign(request),
            None => request,
        };
        async move {
            match request.send().await {
                Ok(response) => answer(response, now).await,
                Err(error) => Answer::Failed(error.without_url()),
            }
        }
    }
}

async fn answer(mut response: Response, now: UnixNanos) -> Answer {
    let status = response.status();
    if status.is_success() {
        return written(response.headers()).map_or(Answer::Accepted, Answer::Written);
    }
    let asked = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
    let asked = asked.filter(|_| may_say_when(status)).and_then(|value| retry_after(value, now));
    Answer::Refused { status, retry_after: asked, excerpt: excerpt(&mut response).await }
}

/// The samples that a receiver of remote write 2.0 says it wrote; `None` when it says nothing of what it wrote. One that
/// names others only, or no number, wrote none that it knows of.
fn written(headers: &HeaderMap) -> Option<u64> {
    let [samples, others @ ..] = &WRITTEN_HEADERS;
    match headers.get(samples) {
        Some(count) => Some(count.to_str().ok().and_then(|text| text.trim().parse().ok()).unwrap_or(0)),
        None => others.iter().any(|name| headers.contains_key(name)).then_some(0),
    }
}

/// Whether `Retry-After` counts: remote write has it with every 5xx and with 429.
fn may_say_when(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

/// The two answers that say that nothing was taken, for now.
fn is_busy(status: StatusCode) -> bool {
    matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE)
}

/// The beginning of a body; what cannot be read is left out.
async fn excerpt(response: &mut Response) -> String {
    let mut bytes = Vec::new();
    while let Ok(Some(chunk)) = response.chunk().await {
        bytes.extend(chunk.iter().take(EXCERPT_MAX - bytes.len()));
        if bytes.len() == EXCERPT_MAX {
            break;
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// What became of one attempt.
#[derive(Debug)]
pub(crate) enum Answer {
    /// 2xx.
    Accepted,
    /// 2xx, with how many samples were written.
    Written(u64),
    /// Any other status.
    Refused {
        status: StatusCode,
        /// How long the destination asks to wait; only of 429 and 503.
        retry_after: Option<Duration>,
        /// The body's beginning.
        excerpt: String,
    },
    /// No answer; the error does not hold the URL.
    Failed(reqwest::Error),
    /// The process leads no more.
    Overdue(Overdue),
}

impl Answer {
    /// The class that it is counted under.
    pub(crate) fn outcome(&self) -> Outcome {
        match self {
            Self::Accepted | Self::Written(_) => Outcome::accepted,
            Self::Refused { status, .. } if *status == StatusCode::TOO_MANY_REQUESTS => Outcome::throttled,
            Self::Refused { status, .. } if status.is_client_error() => Outcome::client_error,
            Self::Refused { status, .. } if status.is_server_error() => Outcome::server_error,
            Self::Refused { .. } => Outcome::unexpected_status,
            Self::Failed(error) if error.is_connect() || turned_away(error) => Outcome::not_connected,
            Self::Failed(error) if error.is_timeout() => Outcome::timed_out,
            Self::Overdue(Overdue { begun: false }) => Outcome::not_connected,
            Self::Failed(_) | Self::Overdue(_) => Outcome::broken_off,
        }
    }

    /// What it means for the data. A request that was never sent, or that the destination says it did not take, is
    /// refused; after silence, and after 500, 502 and 504, it may have been taken.
    pub(crate) fn verdict(&self) -> Verdict {
        match self.status() {
            Some(StatusCode::BAD_REQUEST | StatusCode::CONFLICT | StatusCode::UNPROCESSABLE_ENTITY) => {
                return Verdict::Rejected;
            }
            Some(StatusCode::PAYLOAD_TOO_LARGE) => return Verdict::TooLarge,
            Some(StatusCode::INTERNAL_SERVER_ERROR) => return Verdict::Failed,
            _ => {}
        }
        match self.outcome() {
            Outcome::accepted => Verdict::Accepted,
            Outcome::throttled
            | Outcome::client_error
            | Outcome::unexpected_status
            | Outcome::not_understood
            | Outcome::not_connected => Verdict::Refused,
            Outcome::server_error if self.is_busy() => Verdict::Refused,
            Outcome::server_error | Outcome::timed_out | Outcome::broken_off => Verdict::Ambiguous,
        }
    }

    /// Whether trying again may help without anybody's doing.
    pub(crate) fn is_transient(&self) -> bool {
        !matches!(self.outcome(), Outcome::client_error | Outcome::unexpected_status)
            || matches!(self, Self::Refused { status, .. } if *status == StatusCode::REQUEST_TIMEOUT)
    }

    /// How long the destination asks to wait.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            Self::Accepted | Self::Written(_) | Self::Failed(_) | Self::Overdue(_) => None,
        }
    }

    fn status(&self) -> Option<StatusCode> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            Self::Accepted | Self::Written(_) | Self::Failed(_) | Self::Overdue(_) => None,
        }
    }

    fn is_busy(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if is_busy(*status))
    }
}
