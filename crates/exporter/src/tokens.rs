//! Which collector may speak for which node: by a token of its service account, bound to its pod.
//!
//! ```text
//! streams ─Claim─▶ driver ─▶ reviews ── at most 16 at once ─▶ TokenReview ─▶ judge ─▶ Bound{pod, node}
//!    ▲               │          └── known by the token's hash, for ten minutes at most
//!    └────answer─────┴─ is the pod still there, and where ─▶ attribution's index
//! ```
//!
//! [`reviews`] decides who waits for what, [`judge`] what a review says; [`driver`] asks the API.
//! Invariant: nobody is admitted whose token the API did not vouch for within the last ten minutes, and before the token's
//! own end. While the API is away those who are known go on, and all others are told to come back.
//! Bound: [`AT_ONCE_MAX`] reviews at once, [`WAITING_MAX`] claims that wait for one, tables of [`ADMITTED_MAX`] and
//! [`REFUSED_MAX`] tokens by their hashes.

mod driver;
mod judge;
mod reviews;

pub(crate) use driver::{CLAIMS_QUEUE, PodQuestion, Registry, Standing, check_tokens};
pub(crate) use judge::{AccountError, Expected};
pub(crate) use reviews::{ADMITTED_MAX, AT_ONCE_MAX, REFUSED_MAX, WAITING_MAX};
