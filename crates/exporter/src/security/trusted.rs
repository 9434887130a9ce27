//! Whom collectors are told to trust: the newest authority, and for a while those before it. Pure.
//!
//! A collector reads the bundle that its node has, which is a minute or two old. So another authority is published first,
//! and signs when every node has it; the one before is trusted until every exporter shows a certificate of the new one.
//! Bound: [`AUTHORITIES_MAX`] certificates.

use std::time::Duration;

use egressd_flow::UnixNanos;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

/// The kubelet looks at a mounted ConfigMap every minute, and may have what it sees from a cache that is as old.
pub(super) const SPREADS_WITHIN: Duration = Duration::from_mins(3);
/// How long those before the newest are trusted, from its publication.
pub(super) const TRUSTED_FOR: Duration = Duration::from_mins(15);
/// Whoever deletes the Secret again and again is believed so often.
const AUTHORITIES_MAX: usize = 4;
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const END: &str = "-----END CERTIFICATE-----";

/// What is published.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Trusted {
    /// In PEM, the newest first.
    authorities: Vec<String>,
    /// When that one was published.
    since: UnixNanos,
}

impl Trusted {
    /// As it was published: a bundle, and when its first came, in seconds since 1970. What is no certificate is left out.
    pub(super) fn read(bundle: &str, since: Option<&str>) -> Self {
        let seconds = since.and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
        Self { authorities: certificates(bundle), since: UnixNanos(seconds.saturating_mul(1_000_000_000)) }
    }

    /// With `newest`, and with the authority of what is `shown` where it is another: they are trusted together for a while.
    pub(super) fn with(&self, newest: &str, shown: Option<&str>, now: UnixNanos) -> Self {
        let newest = certificates(newest);
        let is_published = self.authorities.starts_with(&newest);
        let since = if is_published { self.since } else { UnixNanos(now.0 / 1_000_000_000 * 1_000_000_000) };
        let mut authorities = newest.clone();
        if now.since(since) < TRUSTED_FOR {
            let shown = certificates(shown.unwrap_or_default());
            for before in shown.into_iter().chain(self.authorities.iter().cloned()) {
                if authorities.len() < newest.len().max(AUTHORITIES_MAX) && !authorities.contains(&before) {
                    authorities.push(before);
                }
            }
        }
        Self { authorities, since }
    }

    pub(super) fn bundle(&self) -> String {
        self.authorities.concat()
    }

    /// In seconds since 1970.
    pub(super) fn since(&self) -> String {
        (self.since.0 / 1_000_000_000).to_string()
    }

    /// Whether every node has the newest.
    pub(super) fn has_spread(&self, now: UnixNanos) -> bool {
        now.since(self.since) >= SPREADS_WITHIN
    }

    /// When the newest may sign, or those before it are no longer trusted, whichever is next.
    pub(super) fn changes_at(&self, now: UnixNanos) -> Option<UnixNanos> {
        let at = [SPREADS_WITHIN, TRUSTED_FOR].map(|span| self.since.saturating_add(span));
        at.into_iter().find(|at| *at > now)
    }
}

/// Each as the same text, however it is set.
fn certificates(bundle: &str) -> Vec<String> {
    let pieces = bundle.split(BEGIN).skip(1).filter_map(|piece| piece.split_once(END));
    let whole = pieces.map(|(body, _)| format!("{BEGIN}\n{}\n{END}\n", body.trim().replace('\r', "")));
    whole.filter(|text| CertificateDer::from_pem_slice(text.as_bytes()).is_ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::super::authority::Kept;
    use super::*;

    const NOW: UnixNanos = UnixNanos(1_800_000_000_000_000_000);

    fn authority() -> String {
        Kept::make(NOW).unwrap().certificate
    }

    fn after(span: Duration) -> UnixNanos {
        NOW.saturating_add(span)
    }

    /// Goal: another authority is trusted beside the one before, signs after three minutes, and is alone after fifteen.
    #[test]
    fn another_authority_is_trusted_beside_the_one_before() {
        let [old, new] = [authority(), authority()];
        let first = Trusted::default().with(&old, None, UnixNanos(1));
        assert_eq!((first.bundle(), first.has_spread(NOW)), (old.clone(), true));
        let both = first.with(&new, Some(&old), NOW);
        assert_eq!(both.bundle(), format!("{new}{old}"));
        assert!(!both.has_spread(after(SPREADS_WITHIN - Duration::from_secs(1))));
        assert_eq!(both.changes_at(NOW), Some(after(SPREADS_WITHIN)));
        let kept = Trusted::read(&both.bundle(), Some(&both.since()));
        assert_eq!(kept, both, "as it is published");
        let spread = kept.with(&new, Some(&old), after(SPREADS_WITHIN));
        assert!(spread == both && spread.has_spread(after(SPREADS_WITHIN)));
        assert_eq!(spread.changes_at(after(SPREADS_WITHIN)), Some(after(TRUSTED_FOR)));
        let alone = spread.with(&new, Some(&new), after(TRUSTED_FOR));
        assert_eq!((alone.bundle(), alone.changes_at(after(TRUSTED_FOR))), (new, None));
    }

    /// Goal: what others wrote there is no authority of ours, however often it changes there are few, and what is published
    /// without a time has been for long.
    #[test]
    fn what_is_published_is_bounded() {
        let ours = authority();
        assert_eq!(Trusted::read("another", None).with(&ours, Some(&ours), NOW).bundle(), ours);
        assert!(Trusted::read(&ours, None).with(&ours, None, NOW).has_spread(NOW));
        let mut trusted = Trusted::default();
        for second in 0..10 {
            trusted = trusted.with(&authority(), None, after(Duration::from_secs(second)));
        }
        assert_eq!(trusted.authorities.len(), AUTHORITIES_MAX);
        let mixed = format!("# ours\n{}", ours.replace('\n', "\r\n"));
        assert_eq!(Trusted::read(&mixed, None).bundle(), ours);
    }
}
