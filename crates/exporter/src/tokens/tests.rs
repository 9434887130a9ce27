//! Claims against a fake Kubernetes API over real HTTP.

use std::sync::Arc;

use egressd_testbed::kubernetes::{
    Access, Fault, KubernetesApi, Pod, Resource, Token as Issued, seconds_ago,
};
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use prometheus_client::registry::Registry as MetricRegistry;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::super::reviews::{AT_ONCE_MAX, WAITING_MAX};
use super::*;

const AUDIENCE: &str = "egressd-exporter";

async fn client(api: &KubernetesApi) -> Client {
    let kubeconfig = Kubeconfig::from_yaml(&api.kubeconfig()).unwrap();
    let mut config =
        kube::Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
    config.default_retry = false;
    Client::try_from(config).unwrap()
}

/// A checker, and the test in the place of who knows the cluster.
struct Desk {
    api: KubernetesApi,
    claims: mpsc::Sender<Claim>,
    standing: Arc<std::sync::Mutex<Standing>>,
    metrics: TokenMetrics,
    checking: JoinHandle<()>,
}

impl Desk {
    async fn start() -> Self {
        let api = KubernetesApi::start_on_loopback(0, Access::Plain).unwrap();
        let (claims, claims_out) = mpsc::channel(CLAIMS_QUEUE);
        let (pods, mut questions) = mpsc::channel::<PodQuestion>(64);
        let standing = Arc::new(std::sync::Mutex::new(Standing::Unknown));
        let told = Arc::clone(&standing);
        tokio::spawn(async move {
            while let Some(PodQuestion { answer, .. }) = questions.recv().await {
                let standing = told.lock().unwrap().clone();
                answer.send(standing).ok();
            }
        });
        let account = "egressd/egressd-collector".parse().unwrap();
        let expected = Expected { account, audience: AUDIENCE.to_owned() };
        let metrics = TokenMetrics::register(&mut MetricRegistry::default());
        let checking = check_tokens(client(&api).await, expected, pods, claims_out, metrics.clone());
        Self { api, claims, standing, metrics, checking: tokio::spawn(checking) }
    }

    /// A pod of the API on a node, and a token that is bound to it.
    fn token(&self, number: usize) -> String {
        let (name, uid, node) = (format!("c-{number}"), format!("uid-{number}"), format!("node-{number}"));
        let pod = Pod::new("egressd", &name).uid(&uid).created(seconds_ago(60));
        self.api.apply(pod.scheduled(&node, &[])).unwrap();
        self.api
            .issue(Issued::of("egressd", "egressd-collector").audience(AUDIENCE).bound(&name, &uid, &node))
    }

    async fn claim(&self, token: &str, node: &str) -> Result<(), NotAdmitted> {
        claim(self.claims.clone(), token.to_owned(), node.to_owned()).await
    }

    fn is(&self, standing: Standing) {
        *self.standing.lock().unwrap() = standing;
    }
}

async fn claim(claims: mpsc::Sender<Claim>, token: String, node: String) -> Result<(), NotAdmitted> {
    let (answer, answered) = oneshot::channel();
    let (token, node) = (Some(Token::new(&token)), NodeName(node.as_str().into()));
    claims.send(Claim { token, node, answer }).await.unwrap();
    answered.await.unwrap()
}

/// Goal: of five thousand collectors that come at once all are admitted, with sixteen reviews at a time and one for each;
/// when they come again at once, with none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_thousand_reconnects_stay_within_the_bound() {
    let desk = Desk::start().await;
    desk.api.change(|settings| settings.delay = Duration::from_millis(5));
    let tokens: Vec<_> = (0..5_000).map(|number| desk.token(number)).collect();
    for (round, reviews) in [("first", 5_000), ("second", 5_000)] {
        let began = Instant::now();
        let claims = tokens.iter().enumerate().map(|(number, token)| {
            tokio::spawn(claim(desk.claims.clone(), token.clone(), format!("node-{number}")))
        });
        for claimed in claims.collect::<Vec<_>>() {
            assert_eq!(claimed.await.unwrap(), Ok(()));
        }
        let (found, most) = (desk.metrics.reviews.get(), desk.api.reviews_at_once());
        println!(
            "{round}: {found} reviews so far, {most} at once at most, {:.1} s",
            began.elapsed().as_secs_f32()
        );
        assert_eq!(found, reviews);
        assert_eq!(most, AT_ONCE_MAX, "measured by the API");
    }
    assert_eq!(desk.metrics.known.get(), 5_000);
}

/// Goal: while reviews hang, whoever comes beyond the bound is told to come back at once, and the first come get their
/// answer when the API answers again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_waits_within_the_bound() {
    let desk = Desk::start().await;
    desk.api.change(|settings| settings.delay = Duration::from_secs(2));
    let good = desk.token(1);
    let first = tokio::spawn(claim(desk.claims.clone(), good, "node-1".to_owned()));
    let beyond = 500;
    let mut answers = Vec::new();
    for number in 0..WAITING_MAX + beyond {
        let (answer, answered) = oneshot::channel();
        let token = Some(Token::new(&format!("flood-{number}")));
        desk.claims.send(Claim { token, node: NodeName("x".into()), answer }).await.unwrap();
        answers.push(answered);
    }
    // Those under review wait too, so none of these found a place.
    let late = answers.split_off(WAITING_MAX);
    for answered in late {
        let told = tokio::time::timeout(Duration::from_secs(20), answered).await;
        assert_eq!(told.unwrap().unwrap(), Err(NotAdmitted::Busy));
    }
    drop(answers);
    assert_eq!(first.await.unwrap(), Ok(()));
    assert!(desk.api.reviews_at_once() <= AT_ONCE_MAX);
}

/// Goal: a review that panics gives its place back, and who waited for it is told to come back.
#[tokio::test]
async fn a_review_that_breaks_gives_its_place_back() {
    let api = KubernetesApi::start_on_loopback(0, Access::Plain).unwrap();
    let account = "egressd/egressd-collector".parse().unwrap();
    let expected = Expected { account, audience: AUDIENCE.to_owned() };
    let metrics = TokenMetrics::register(&mut MetricRegistry::default());
    let (pods, _questions) = mpsc::channel(1);
    let mut checker = Checker::new(client(&api).await, expected, pods, metrics);
    for _ in 0..2 * AT_ONCE_MAX {
        let (answer, answered) = oneshot::channel();
        let node = NodeName("node-1".into());
        checker.claimed(Claim { token: Some(Token::new("any")), node, answer });
        let (digest, _) = checker.reviews.next(Waiting::has_gone).expect("there is a place");
        checker.spawn(digest, async { panic!("a review that breaks, as the test asks") });
        let ended = checker.running.join_next_with_id().await.unwrap();
        checker.ended(ended);
        assert_eq!(answered.await.unwrap(), Err(NotAdmitted::ApiAway));
    }
    assert_eq!(
        (checker.reviews.under_way(), checker.reviews.waiting(), checker.under_review.len()),
        (0, 0, 0)
    );
    assert_eq!(checker.metrics.failures.get(), 2 * AT_ONCE_MAX as u64);
}

/// Goal: while the API is away those who are known go on, and others are told to come back and never admitted; nothing of
/// that is kept when it is there again.
#[tokio::test]
async fn an_api_that_is_away_admits_nobody_new() {
    let mut desk = Desk::start().await;
    let [known, new] = [desk.token(1), desk.token(2)];
    assert_eq!(desk.claim(&known, "node-1").await, Ok(()));
    desk.api.go_away();
    assert_eq!(desk.claim(&known, "node-1").await, Ok(()));
    assert_eq!(desk.claim(&new, "node-2").await, Err(NotAdmitted::ApiAway));
    desk.api.come_back().unwrap();
    desk.api.change(|settings| settings.reviews = Fault::Status { code: 503, retry_after: None });
    assert_eq!(desk.claim(&new, "node-2").await, Err(NotAdmitted::ApiAway));
    desk.api.change(|settings| settings.reviews = Fault::None);
    assert_eq!(desk.claim(&new, "node-2").await, Ok(()));
    assert_eq!(desk.metrics.failures.get(), 2);
}

/// Goal: a known token is worth nothing once its pod has ended, whatever the API would say; a node speaks for itself alone,
/// and where the API does not name it, the watch does, or nobody is admitted.
#[tokio::test]
async fn a_node_speaks_for_itself_while_its_pod_is_there() {
    let desk = Desk::start().await;
    let token = desk.token(1);
    let node = |name: &str| NodeName(name.into());
    assert_eq!(desk.claim(&token, "node-1").await, Ok(()));
    let other = NotAdmitted::OtherNode { found: node("node-1"), claimed: node("node-2") };
    assert_eq!(desk.claim(&token, "node-2").await, Err(other));
    desk.is(Standing::Ended);
    assert_eq!(desk.claim(&token, "node-1").await, Err(NotAdmitted::PodEnded));

    desk.api.change(|settings| settings.names_nodes = false);
    let token = desk.token(3);
    desk.is(Standing::Unknown);
    assert_eq!(desk.claim(&token, "node-3").await, Err(NotAdmitted::PodUnknown));
    desk.is(Standing::Lives(node("node-3")));
    assert_eq!(desk.claim(&token, "node-3").await, Ok(()));
    desk.is(Standing::Lives(node("node-4")));
    assert!(matches!(desk.claim(&token, "node-3").await, Err(NotAdmitted::OtherNode { .. })));
    assert_eq!(desk.metrics.reviews.get(), 2);
}

/// Goal: each kind of wrong token is refused for what is wrong with it, also one that was good before its pod was deleted.
#[tokio::test]
async fn wrong_tokens_are_refused_for_what_is_wrong() {
    let desk = Desk::start().await;
    let good = desk.token(1);
    let pod = ("c-1", "uid-1", "node-1");
    let of = |namespace: &str, account: &str| Issued::of(namespace, account).audience(AUDIENCE);
    let collector = || of("egressd", "egressd-collector");
    let altered = format!("{}x", good.rsplit_once('.').unwrap().0);
    for (token, reason) in [
        (desk.api.issue(collector().audience("another").bound(pod.0, pod.1, pod.2)), "other_audience"),
        (desk.api.issue(of("egressd", "default").bound(pod.0, pod.1, pod.2)), "other_account"),
        (desk.api.issue(collector()), "unbound"),
        (desk.api.issue(collector().bound(pod.0, pod.1, pod.2).lasts(-1)), "not_authentic"),
        (desk.api.issue(collector().bound("c-1", "uid-of-a-namesake", "node-1")), "not_authentic"),
        (altered, "not_authentic"),
        ("nonsense".to_owned(), "not_authentic"),
    ] {
        let refused = desk.claim(&token, "node-1").await.unwrap_err();
        assert_eq!(refused.reason(), reason, "{refused}");
    }
    desk.api.delete(Resource::Pods, "egressd", "c-1").unwrap();
    assert_eq!(desk.claim(&good, "node-1").await.unwrap_err().reason(), "not_authentic");
    let reviews = desk.metrics.reviews.get();
    assert!(desk.claim(&good, "node-1").await.is_err());
    assert_eq!(desk.metrics.reviews.get(), reviews, "what was refused is known for a while");
    let (answer, answered) = oneshot::channel();
    let nobody = Claim { token: None, node: NodeName("node-1".into()), answer };
    desk.claims.send(nobody).await.unwrap();
    assert_eq!(answered.await.unwrap(), Err(NotAdmitted::NoToken));
    drop(desk.claims);
    desk.checking.await.unwrap();
}
