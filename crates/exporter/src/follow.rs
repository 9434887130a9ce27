//! The flow subscription's place in the exporter: a thread of its own.

use std::net::SocketAddr;

use anyhow::Context as _;
use egressd_serve::{
    CONNECTIONS_MAX, Entrance, Feed, FlowsMetrics, Patience, QUEUE_RECORDS_MAX, ROWS_MAX, SUBSCRIBERS_MAX,
    feed, serve,
};
use egressd_service::bearer::Guard;
use egressd_service::lifecycle::Tasks;
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::task::spawn_blocking;
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
    readers: Option<Guard>,
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
        warn!(%address, "flows go over plain text here, and a reader's token too: give the exporter TLS");
    }
    if readers.is_none() && !address.ip().is_loopback() {
        warn!(%address, "whoever reaches this address may follow every flow: set --readers-token-file");
    }
    let (feed, inbox) = feed();
    let metrics = FlowsMetrics::register(registry);
    // Filters are their askers' to choose: whatever they cost, it is one thread's time and no worker's of the streams.
    let runtime = Builder::new_current_thread().enable_all().thread_name("flows").build();
    let (runtime, listener) = (runtime.context("no thread for flows")?, listener.into_std()?);
    let (abandon, entrance) = (tasks.abandon.clone(), Entrance { tls, readers });
    let serving = spawn_blocking(move || {
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener)?;
            anyhow::Ok(serve(listener, entrance, inbox, Patience::USUAL, metrics, abandon).await?)
        })
    });
    tasks.spawn("flows", async { serving.await.context("the thread of flows panicked")? });
    Ok(feed)
}
