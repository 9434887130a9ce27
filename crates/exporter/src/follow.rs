//! The flow subscription's place in the exporter.

use std::net::SocketAddr;

use anyhow::Context as _;
use egressd_serve::{
    CONNECTIONS_MAX, Feed, FlowsMetrics, Patience, QUEUE_RECORDS_MAX, ROWS_MAX, SUBSCRIBERS_MAX, feed, serve,
};
use egressd_service::lifecycle::Tasks;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tracing::{info, warn};

use crate::security::Door;

/// Serves those who follow flows on `address`; what it returns is where they hear from. Off loopback it speaks as the
/// streams do; what does not leave the machine is plain text, as a forwarded port needs it.
///
/// # Errors
/// The address is in use, is not this machine's, or is not for this user.
pub(crate) async fn start(
    address: SocketAddr,
    door: &Door,
    registry: &mut Registry,
    tasks: &mut Tasks,
) -> anyhow::Result<Feed> {
    let listener = TcpListener::bind(address).await;
    let listener = listener.with_context(|| format!("cannot listen on {address} (--flows-listen)"))?;
    info!(
        address = %listener.local_addr()?,
        connections_max = CONNECTIONS_MAX,
        subscribers_max = SUBSCRIBERS_MAX,
        queue_records_max = QUEUE_RECORDS_MAX,
        window_rows_max = ROWS_MAX,
        "flows can be followed; the window takes at most about 84 MB, each subscriber 10 MB"
    );
    let tls = if address.ip().is_loopback() { None } else { door.tls() };
    if tls.is_none() && !address.ip().is_loopback() {
        warn!(%address, "whoever reaches this address may follow every flow, in plain text: set --tls-cert-file");
    }
    let (feed, inbox) = feed();
    let metrics = FlowsMetrics::register(registry);
    tasks.spawn("flows", serve(listener, tls, inbox, Patience::USUAL, metrics, tasks.abandon.clone()));
    Ok(feed)
}
