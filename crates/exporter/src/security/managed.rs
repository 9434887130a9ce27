//! The authority's driver: one Secret that all exporters agree on, one ConfigMap that tells collectors, one leaf.
//!
//! Whoever creates the Secret has made the authority; whoever comes second reads it. It is looked at now and then, so a
//! Secret that was deleted or written by hand is taken up by every exporter: published beside the one before, and signing
//! once the nodes have it. An exporter that starts meanwhile has the key of the new one alone, and shows that at once.
//! Bound: one request at a time.

use std::collections::BTreeMap;
use std::time::Duration;

use egressd_flow::UnixNanos;
use egressd_service::admin::Part;
use egressd_service::clock::unix_nanos;
use egressd_service::lifecycle::chain;
use egressd_service::tls::Shown;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};
use tracing::{info, warn};

use super::authority::{Authority, AuthorityError, Kept, Leaf};
use super::trusted::{SPREADS_WITHIN, TRUSTED_FOR, Trusted};
use crate::metrics::TlsMetrics;

#[cfg(test)]
mod tests;

/// How often the Secret and the ConfigMap are looked at.
const LOOK_EVERY: Duration = Duration::from_mins(5);
/// The same where another exporter was quicker.
const LOOK_AT_ONCE: Duration = Duration::from_millis(200);
/// The same after a failure.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const _: () = assert!(TRUSTED_FOR.as_secs() >= SPREADS_WITHIN.as_secs() + 2 * LOOK_EVERY.as_secs());
/// How often the authority's end is said.
const SAID_EVERY: Duration = Duration::from_hours(24);
const CERTIFICATE: &str = "ca.crt";
const KEY: &str = "ca.key";
/// Annotation of the ConfigMap: when its first certificate came, in seconds since 1970.
const SINCE: &str = "egressd/newest-since-seconds";

/// Where the authority is kept and published.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Managed {
    /// Of both.
    pub(crate) namespace: String,
    pub(crate) secret: String,
    pub(crate) config_map: String,
    /// What the leaf is for.
    pub(crate) names: Vec<String>,
}

/// Why there is no authority, or none that collectors know. It is tried again.
#[derive(Debug, thiserror::Error)]
enum ManagedError {
    #[error("the API refuses, or is not there: {what}")]
    Api {
        what: &'static str,
        #[source]
        source: kube::Error,
    },
    #[error("another exporter was quicker")]
    Quicker,
    #[error("the Secret has {CERTIFICATE} or {KEY} alone: delete it to have both made")]
    Half,
    #[error(transparent)]
    Authority(#[from] AuthorityError),
}

impl Managed {
    /// Keeps all of it current, for ever.
    pub(crate) async fn keep(self, client: Client, shown: Shown, metrics: TlsMetrics, ready: Part) {
        info!(
            secret = %format_args!("{}/{}", self.namespace, self.secret),
            config_map = self.config_map,
            names = self.names.join(","),
            "the streams speak TLS by an authority of our own"
        );
        let mut keeper = Keeper {
            secrets: Api::namespaced(client.clone(), &self.namespace),
            config_maps: Api::namespaced(client, &self.namespace),
            managed: self,
            shown,
            metrics,
            ready,
            current: None,
            trusted: Trusted::default(),
            said_at: None,
        };
        let mut failing = false;
        loop {
            let pause = match keeper.look(UnixNanos(unix_nanos())).await {
                Ok(()) => {
                    if std::mem::take(&mut failing) {
                        info!("the authority is known, and published");
                    }
                    keeper.until_next()
                }
                Err(ManagedError::Quicker) => LOOK_AT_ONCE,
                Err(error) => {
                    keeper.metrics.failures.inc();
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = %chain(&error), "the authority is not known, or not published; trying again");
                    }
                    LOOK_AGAIN
                }
            };
            tokio::time::sleep(pause).await;
        }
    }
}

/// What is in use.
struct Current {
    kept: Kept,
    authority: Authority,
    renew_at: UnixNanos,
}

struct Keeper {
    managed: Managed,
    secrets: Api<Secret>,
    config_maps: Api<ConfigMap>,
    shown: Shown,
    metrics: TlsMetrics,
    ready: Part,
    current: Option<Current>,
    /// As it was published last.
    trusted: Trusted,
    /// When the authority's end was said last.
    said_at: Option<UnixNanos>,
}

impl Keeper {
    async fn look(&mut self, now: UnixNanos) -> Result<(), ManagedError> {
        let kept = self.kept(now).await?;
        if !self.is_another(&kept) {
            self.renew_if_due(kept.clone(), now)?;
        } else if let Err(error) = self.try_to_sign(&kept, now) {
            // Nobody is told to trust it in place of the one that signs.
            self.keep_current(now)?;
            return Err(error);
        }
        self.tell_end(now);
        self.publish(&kept.certificate, now).await?;
        // Before that no collector knows whom to trust.
        self.ready.set(true);
        self.change_over(kept, now)
    }

    /// Whether the certificate that is shown is of another authority.
    fn is_another(&self, kept: &Kept) -> bool {
        self.current.as_ref().is_some_and(|current| current.kept != *kept)
    }

    /// Shows a certificate of another authority once collectors trust it; until then the one before signs.
    fn change_over(&mut self, kept: Kept, now: UnixNanos) -> Result<(), ManagedError> {
        match &self.current {
            Some(current) if current.kept != kept => {
                let is_over = current.authority.expires <= now;
                if is_over || self.trusted.has_spread(now) {
                    self.renew(kept, now)
                } else {
                    self.keep_current(now)
                }
            }
            _ => Ok(()),
        }
    }

    /// Whether an authority could sign what is to be shown.
    fn try_to_sign(&self, kept: &Kept, now: UnixNanos) -> Result<(), ManagedError> {
        kept.authority()?.certify(&self.managed.names, now)?;
        Ok(())
    }

    /// The authority that signs goes on to.
    fn keep_current(&mut self, now: UnixNanos) -> Result<(), ManagedError> {
        match &self.current {
            Some(current) => self.renew_if_due(current.kept.clone(), now),
            None => Ok(()),
        }
    }

    fn renew_if_due(&mut self, kept: Kept, now: UnixNanos) -> Result<(), ManagedError> {
        if self.current.as_ref().is_some_and(|current| now < current.renew_at) {
            return Ok(());
        }
        self.renew(kept, now)
    }

    /// The authority that all agree on; made if nobody made one.
    async fn kept(&self, now: UnixNanos) -> Result<Kept, ManagedError> {
        let name = &self.managed.secret;
        let found = self.secrets.get_opt(name).await.map_err(api("reading the Secret"))?;
        let data = found.as_ref().and_then(|secret| secret.data.as_ref());
        let text = |key| {
            let bytes = data.and_then(|data| data.get(key))?;
            Some(String::from_utf8_lossy(&bytes.0).into_owned()).filter(|text| !text.trim().is_empty())
        };
        match (text(CERTIFICATE), text(KEY)) {
            (Some(certificate), Some(key)) => return Ok(Kept { certificate, key }),
            (None, None) => {}
            _ => return Err(ManagedError::Half),
        }
        let kept = Kept::make(now)?;
        let made = [(CERTIFICATE, &kept.certificate), (KEY, &kept.key)];
        let made = made.map(|(key, text)| (key.to_owned(), ByteString(text.clone().into_bytes())));
        let mut secret =
            found.clone().unwrap_or_else(|| Secret { metadata: named(name), ..Secret::default() });
        secret.data.get_or_insert_with(BTreeMap::new).extend(made);
        let post = PostParams::default();
        // Of two that write at once the API refuses the second.
        let written = match found {
            Some(_) => self.secrets.replace(name, &post, &secret).await,
            None => self.secrets.create(&post, &secret).await,
        };
        written.map_err(api("writing the Secret"))?;
        info!(secret = name, "an authority was made");
        Ok(kept)
    }

    /// Shows another leaf, of this authority.
    fn renew(&mut self, kept: Kept, now: UnixNanos) -> Result<(), ManagedError> {
        let authority = kept.authority()?;
        let Leaf { certificate, renew_at } = authority.certify(&self.managed.names, now)?;
        self.metrics.certificate(&certificate);
        self.metrics.authority(authority.expires);
        self.shown.show(certificate);
        info!(renew_in_seconds = renew_at.since(now).as_secs(), "another certificate is shown from now on");
        self.current = Some(Current { kept, authority, renew_at });
        Ok(())
    }

    /// Collectors read it at each dial.
    async fn publish(&mut self, newest: &str, now: UnixNanos) -> Result<(), ManagedError> {
        let name = &self.managed.config_map;
        let found = self.config_maps.get_opt(name).await.map_err(api("reading the ConfigMap"))?;
        let published = found.as_ref().and_then(|found| found.data.as_ref()?.get(CERTIFICATE));
        let since = found.as_ref().and_then(|found| found.metadata.annotations.as_ref()?.get(SINCE));
        let before = Trusted::read(published.map_or("", String::as_str), since.map(String::as_str));
        let shown = self.current.as_ref().map(|current| current.kept.certificate.as_str());
        let trusted = before.with(newest, shown, now);
        if published.is_some_and(|published| *published == trusted.bundle()) {
            self.trusted = trusted;
            return Ok(());
        }
        let is_there = found.is_some();
        let mut config_map =
            found.unwrap_or_else(|| ConfigMap { metadata: named(name), ..ConfigMap::default() });
        let data = config_map.data.get_or_insert_with(BTreeMap::new);
        data.insert(CERTIFICATE.to_owned(), trusted.bundle());
        let annotations = config_map.metadata.annotations.get_or_insert_with(BTreeMap::new);
        annotations.insert(SINCE.to_owned(), trusted.since());
        let post = PostParams::default();
        let written = match is_there {
            true => self.config_maps.replace(name, &post, &config_map).await,
            false => self.config_maps.create(&post, &config_map).await,
        };
        written.map_err(api("writing the ConfigMap"))?;
        info!(config_map = name, "the authority was published");
        self.trusted = trusted;
        Ok(())
    }

    /// Once a day, while it is near.
    fn tell_end(&mut self, now: UnixNanos) {
        let days = self.current.as_ref().and_then(|current| current.authority.days_left(now));
        let is_due = self.said_at.is_none_or(|said_at| now.since(said_at) >= SAID_EVERY);
        if let Some(days) = days.filter(|_| is_due) {
            self.said_at = Some(now);
            warn!(
                days,
                "the authority expires: delete its Secret, another is made within five minutes and collectors follow"
            );
        }
    }

    fn until_next(&self) -> Duration {
        let now = UnixNanos(unix_nanos());
        let renewal = self.current.as_ref().map_or(Duration::ZERO, |current| current.renew_at.since(now));
        let change = self.trusted.changes_at(now).map_or(LOOK_EVERY, |at| at.since(now));
        // One that ends within the moment is not looked at without end.
        renewal.min(change).clamp(LOOK_AGAIN, LOOK_EVERY)
    }
}

fn named(name: &str) -> ObjectMeta {
    ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() }
}

fn api(what: &'static str) -> impl Fn(kube::Error) -> ManagedError {
    move |source| match source {
        kube::Error::Api(status) if status.code == 409 => ManagedError::Quicker,
        source => ManagedError::Api { what, source },
    }
}
