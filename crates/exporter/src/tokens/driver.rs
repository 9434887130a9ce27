//! Asks the API about tokens, and attribution about pods; answers the streams.
//!
//! Bound: [`AT_ONCE_MAX`](super::AT_ONCE_MAX) reviews, each for [`REVIEWED_WITHIN`] at most; a claim that nobody waits for
//! any more is let go.

use std::collections::HashMap;
use std::time::Duration;

use egressd_delivery::serve::{Claim, NotAdmitted};
use egressd_enrich::PodUid;
use egressd_flow::NodeName;
use egressd_service::bearer::Token;
use egressd_service::clock::{boot_now, unix_nanos};
use egressd_service::lifecycle::chain;
use egressd_service::seldom::Seldom;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use kube::api::PostParams;
use kube::{Api, Client};
use ring::digest::{SHA256, digest};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{Id, JoinError, JoinSet};
use tracing::warn;

use super::judge::{Bound, Expected, expires};
use super::reviews::{Digest, Outcome, Reviews};
use crate::metrics::TokenMetrics;

#[cfg(test)]
#[path = "tests.rs"]
mod tests;

/// Collectors that dialled and wait to be looked at.
pub(crate) const CLAIMS_QUEUE: usize = 64;
/// A server that is overloaded has answered by then, or will not.
const REVIEWED_WITHIN: Duration = Duration::from_secs(10);
/// How often the log says that the API does not answer.
const COMPLAINED_EVERY: Duration = Duration::from_secs(60);

/// Whether a pod is still there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// On that node.
    Lives(NodeName),
    /// It has, or was deleted.
    Ended,
    /// The watch has not told of it, or not yet.
    Unknown,
}

/// Asked of whoever knows the cluster.
#[derive(Debug)]
pub(crate) struct PodQuestion {
    pub(crate) pod: PodUid,
    pub(crate) answer: oneshot::Sender<Standing>,
}

/// Where pods are asked for.
pub(crate) type Registry = mpsc::Sender<PodQuestion>;

/// Answers claims until nobody makes any more.
pub(crate) async fn check_tokens(
    client: Client,
    expected: Expected,
    pods: Registry,
    mut claims: mpsc::Receiver<Claim>,
    metrics: TokenMetrics,
) {
    let mut checker = Checker::new(client, expected, pods, metrics);
    loop {
        tokio::select! {
            claim = claims.recv() => match claim {
                Some(claim) => checker.claimed(claim),
                None => return,
            },
            Some(ended) = checker.running.join_next_with_id() => checker.ended(ended),
        }
        checker.start();
    }
}

type Answer = Result<TokenReview, ReviewError>;

/// Why a review came to nothing. Those who wait come back.
#[derive(Debug, thiserror::Error)]
enum ReviewError {
    #[error("no answer within {REVIEWED_WITHIN:?}")]
    Late,
    #[error("the API refuses, or is not there")]
    Api(#[source] kube::Error),
}

/// A claim with its token, which is there.
struct Waiting {
    token: Token,
    claim: Claim,
}

impl Waiting {
    fn has_gone(&self) -> bool {
        self.claim.answer.is_closed()
    }
}

struct Checker {
    api: Api<TokenReview>,
    expected: Expected,
    pods: Registry,
    reviews: Reviews<Waiting>,
    running: JoinSet<(Token, Answer)>,
    /// Which task reviews which token.
    under_review: HashMap<Id, Digest>,
    metrics: TokenMetrics,
    complaints: Seldom,
}

impl Checker {
    fn new(client: Client, expected: Expected, pods: Registry, metrics: TokenMetrics) -> Self {
        Self {
            api: Api::all(client),
            expected,
            pods,
            reviews: Reviews::default(),
            running: JoinSet::new(),
            under_review: HashMap::new(),
            metrics,
            complaints: Seldom::new(COMPLAINED_EVERY),
        }
    }

    fn claimed(&mut self, claim: Claim) {
        let Some(token) = claim.token.clone() else {
            // Who hung up does not hear it.
            let _unheard = claim.answer.send(Err(NotAdmitted::NoToken));
            return;
        };
        let digest = digest_of(&token);
        let waiting = Waiting { token, claim };
        if let Some((waiting, answer)) = self.reviews.ask(digest, waiting, boot_now(), Waiting::has_gone) {
            if answer != Err(NotAdmitted::Busy) {
                self.metrics.known.inc();
            }
            self.tell(waiting.claim, answer);
        }
    }

    fn start(&mut self) {
        while let Some((digest, waiting)) = self.reviews.next(Waiting::has_gone) {
            let (api, token) = (self.api.clone(), waiting.token.clone());
            let audiences = vec![self.expected.audience.clone()];
            self.metrics.reviews.inc();
            self.spawn(digest, async move {
                let answer = review(&api, &token, audiences).await;
                (token, answer)
            });
        }
        self.metrics.waiting(self.reviews.under_way(), self.reviews.waiting());
    }

    fn spawn(&mut self, digest: Digest, review: impl Future<Output = (Token, Answer)> + Send + 'static) {
        let task = self.running.spawn(review);
        self.under_review.insert(task.id(), digest);
    }

    fn ended(&mut self, ended: Result<(Id, (Token, Answer)), JoinError>) {
        match ended {
            Ok((task, (token, answer))) => {
                self.under_review.remove(&task);
                self.reviewed(token, answer);
            }
            // What it panicked over it said. Its place is another's, and those who wait come back.
            Err(error) => {
                warn!(%error, "a review broke");
                self.metrics.failures.inc();
                if let Some(digest) = self.under_review.remove(&error.id()) {
                    self.answer(digest, Outcome::Unanswered);
                }
            }
        }
    }

    fn reviewed(&mut self, token: Token, answer: Answer) {
        let outcome = match answer {
            Ok(review) => match self.expected.judge(review.status.unwrap_or_default()) {
                Ok(bound) => Outcome::Good(bound, lasts(&token)),
                Err(why) => Outcome::Bad(why),
            },
            Err(error) => {
                self.metrics.failures.inc();
                if self.complaints.may() {
                    warn!(error = %chain(&error), "tokens cannot be reviewed: collectors are told to come back");
                }
                Outcome::Unanswered
            }
        };
        self.answer(digest_of(&token), outcome);
    }

    fn answer(&mut self, digest: Digest, outcome: Outcome) {
        let (waited, answer) = self.reviews.ended(digest, outcome, boot_now());
        for waiting in waited {
            self.tell(waiting.claim, answer.clone());
        }
    }

    /// Whoever knows the cluster may be busy: nobody else waits for it.
    fn tell(&self, claim: Claim, answer: Result<Bound, NotAdmitted>) {
        let Claim { node, answer: to, .. } = claim;
        let pods = self.pods.clone();
        tokio::spawn(async move {
            let told = match answer {
                Ok(bound) => speaks_for(&node, bound, &pods).await,
                Err(why) => Err(why),
            };
            // Who hung up does not hear it.
            let _unheard = to.send(told);
        });
    }
}

async fn review(api: &Api<TokenReview>, token: &Token, audiences: Vec<String>) -> Answer {
    let spec = TokenReviewSpec { audiences: Some(audiences), token: Some(token.expose().to_owned()) };
    let review = TokenReview { spec, ..TokenReview::default() };
    let post = PostParams::default();
    let answered = tokio::time::timeout(REVIEWED_WITHIN, api.create(&post, &review)).await;
    answered.map_err(|_| ReviewError::Late)?.map_err(ReviewError::Api)
}

/// A node speaks for itself, while its pod is there.
async fn speaks_for(claimed: &NodeName, bound: Bound, pods: &Registry) -> Result<(), NotAdmitted> {
    let (answer, answered) = oneshot::channel();
    let asked = pods.send(PodQuestion { pod: bound.pod, answer }).await;
    let standing = match asked {
        Ok(()) => answered.await.unwrap_or(Standing::Unknown),
        Err(_) => Standing::Unknown,
    };
    let found = match (bound.node, standing) {
        (_, Standing::Ended) => return Err(NotAdmitted::PodEnded),
        (Some(node), _) | (None, Standing::Lives(node)) => node,
        (None, Standing::Unknown) => return Err(NotAdmitted::PodUnknown),
    };
    if found == *claimed { Ok(()) } else { Err(NotAdmitted::OtherNode { found, claimed: claimed.clone() }) }
}

fn digest_of(token: &Token) -> Digest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, token.expose().as_bytes()).as_ref());
    Digest(bytes)
}

/// How long a token lasts by its own words; one that says nothing is as good as over.
fn lasts(token: &Token) -> Duration {
    let expires = expires(token.expose()).unwrap_or(0);
    Duration::from_secs(expires.saturating_sub(unix_nanos() / 1_000_000_000))
}
