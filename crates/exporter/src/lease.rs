//! Which of several exporters writes: the one that holds a Kubernetes Lease.
//!
//! ```text
//!   API ──reads, answers──→ election ──deadline──→ Grant → every sink's Lead
//!       ←─reads, writes───         └──role──────→ the streams: taken, or sent on to the leader
//! ```
//!
//! [`election`] decides, [`driver`] asks the API. A standby watches the cluster like the leader, takes no batches, and
//! contends once it knows the cluster. The leader lets no push begin at its deadline or later: when it sent its last
//! renewal that succeeded, and the lease's duration, less a margin. A standby waits for the whole duration, from when it
//! saw the record change last. Both are spans of each machine's own clock since boot, so that clocks need not agree, only
//! run alike: the margin, a fifth of the duration, covers clocks of which one runs up to 1.25 times as fast as the other.
//!
//! A leader that loses the lease ends its process and is started again as a standby: its totals, its ledger and what
//! its sinks hold are of a life that is over, and a process cannot keep half of them. What it had not delivered its
//! collectors still hold; they send it to the next leader, and count as `maybe_twice` what this one had taken.
//!
//! The holder's identity says who it is and where it takes streams, in one field that cannot fall apart:
//! `POD_RANDOM_HOST:PORT`. The random part is of one process: one that was started again is not the one before.

mod candidate;
mod driver;
mod election;

pub(crate) use candidate::{Beside, Candidate, LeaseOptions};
pub(crate) use driver::{Contest, Word};
