//! What both daemons share and no stage knows: command-line spelling, time, logs, start and stop, admin HTTP, the door of a
//! gRPC server and its TLS.
//!
//! Nothing here knows what a flow is.

pub mod admin;
pub mod args;
pub mod backoff;
pub mod bearer;
pub mod clock;
pub mod connections;
pub mod duration;
pub mod figures;
pub mod lifecycle;
pub mod reference;
pub mod seldom;
pub mod small_file;
pub mod telemetry;
pub mod tls;
pub mod yaml;
