//! Who takes batches, and the last word to collectors that go elsewhere.

use egressd_protocol::{Down, v1};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use super::{FAREWELL_MAX, Hangup, Shared, say};

/// Whether this exporter takes batches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does.
    Leader,
    /// It does not; host:port of the one that does, `None` while nobody is known to.
    Standby(Option<String>),
}

impl Role {
    /// Where collectors are sent from here; `None` leads them back to the address that they were configured with.
    fn elsewhere(&self) -> Option<String> {
        match self {
            Self::Leader => None,
            Self::Standby(leader) => leader.clone(),
        }
    }
}

/// The last word to a collector, which hangs up then.
pub(super) async fn send_on(
    shared: &Shared,
    up: &mut Streaming<v1::Up>,
    down: &mpsc::Sender<Result<v1::Down, Status>>,
) -> Result<(), Hangup> {
    let elsewhere = shared.role.borrow().elsewhere();
    say(down, &Down::Redirect(elsewhere), shared.patience.unread).await?;
    let hung_up = async { while let Ok(Some(_)) = up.message().await {} };
    let _either = tokio::time::timeout(FAREWELL_MAX, hung_up).await;
    Ok(())
}
