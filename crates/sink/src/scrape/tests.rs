//! The page that is scraped.

use super::*;
use crate::tests::{batch, seconds};

fn scrape(flows_max: usize) -> Scrape {
    Scrape::bounded(&SinkMetrics::register(&mut Registry::default()), flows_max)
}

/// The samples of a page, without their descriptors.
fn samples(page: &str) -> Vec<&str> {
    page.lines().filter(|line| !line.starts_with('#')).collect()
}

/// Goal: a page is OpenMetrics text, with the names and labels of the contract, quoted where needed.
#[test]
fn page_holds_the_totals() {
    let scrape = scrape(64);
    let lines = [
        "web/app@n1/a 10.0.0.1 > pg/d\"b@n2/b 10.0.1.2 tcp tx=10/1 rx=20/2",
        "web/app@n1/a 10.0.0.1 > folded - udp undirected=30/3",
    ];
    assert_eq!(scrape.apply(&batch(1, &lines), seconds(1)), Position(1));
    assert_eq!(scrape.apply(&batch(2, &lines[..1]), seconds(2)), Position(2));
    assert_eq!(scrape.apply(&batch(2, &lines), seconds(2)), Position(2));
    let local = r#"src_ip="10.0.0.1",src_namespace="web",src_node="n1",src_pod="app",src_zone="a""#;
    let remote = r#"cross_zone="true",dst_ip="10.0.1.2",dst_ip_type="private",dst_namespace="pg",dst_node="n2",dst_pod="d\"b",dst_zone="b",proto="TCP""#;
    let expected = [
        "# HELP egressd_transmit_bytes Bytes sent by the source pod to the destination.".to_owned(),
        "# TYPE egressd_transmit_bytes counter".to_owned(),
        format!("egressd_transmit_bytes_total{{{remote},{local}}} 20"),
        "# HELP egressd_received_bytes Bytes received by the source pod from the destination.".to_owned(),
        "# TYPE egressd_received_bytes counter".to_owned(),
        format!("egressd_received_bytes_total{{{remote},{local}}} 40"),
        "# HELP egressd_undirected_bytes Bytes between the source pod and the destination whose direction is unknown."
            .to_owned(),
        "# TYPE egressd_undirected_bytes counter".to_owned(),
        format!("egressd_undirected_bytes_total{{proto=\"UDP\",{local}}} 30"),
        "# EOF".to_owned(),
    ];
    assert_eq!(scrape.render(seconds(3)).lines().collect::<Vec<_>>(), expected);
}

/// Goal: a page of more flows than fit under one lock is whole, and full tables fold.
#[test]
fn long_page_is_whole() {
    let scrape = scrape(16_000);
    let lines: Vec<String> = (0..15_000)
        .map(|host| format!("web/app@n1/a 10.0.0.1 > unknown 8.8.{}.{} tcp tx=2/1", host / 250, host % 250))
        .collect();
    scrape.apply(&batch(1, &lines.iter().map(String::as_str).collect::<Vec<_>>()), seconds(1));
    let page = scrape.render(seconds(2));
    let values: Vec<u64> =
        samples(&page).iter().map(|line| line.rsplit_once(' ').unwrap().1.parse().unwrap()).collect();
    assert_eq!((values.len(), values.iter().sum::<u64>()), (14_001, 30_000));
}

/// Goal: an idle flow leaves the page after ten minutes and memory soon after; its return begins at zero.
#[test]
fn idle_flows_are_forgotten() {
    let scrape = scrape(64);
    let line = "web/app@n1/a 10.0.0.1 > unknown 8.8.8.8 tcp tx=10/1";
    let other = "web/app@n1/a 10.0.0.1 > unknown 9.9.9.9 tcp tx=1/1";
    scrape.apply(&batch(1, &[line]), seconds(100));
    for (now, expected) in [(699, 1), (700, 0)] {
        assert_eq!(samples(&scrape.render(seconds(now))).len(), expected, "{now}");
    }
    scrape.apply(&batch(2, &[other]), seconds(701));
    assert_eq!(scrape.lock().table.len(), 1);
    scrape.apply(&batch(3, &[line]), seconds(702));
    let page = scrape.render(seconds(702));
    assert!(samples(&page).iter().any(|line| line.contains("8.8.8.8") && line.ends_with(" 10")), "{page}");
}
