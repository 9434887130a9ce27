//! Logs to standard error, in one line each.

use tracing::Level;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// What our own targets begin with.
const OURS: &str = "egressd";

/// Starts logging at `level` and above. Libraries are heard from [`Level::DEBUG`] on: what goes wrong in one is returned
/// to us, and told once by who knows what it means.
///
/// # Panics
/// When it was started already: a program has one `main`.
pub fn install(level: Level) {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_max_level(level)
        .with_target(false)
        // A log that cannot be written is lost, not a reason to panic on the way to say so.
        .log_internal_errors(false)
        .finish()
        .with(heard(level))
        .init();
}

fn heard(level: Level) -> Targets {
    let libraries = if level >= Level::DEBUG { level.into() } else { LevelFilter::OFF };
    Targets::new().with_default(libraries).with_target(OURS, level)
}

/// Reads the original's level names (logrus) and ours.
///
/// # Errors
/// Names what would have been understood.
pub fn parse_level(text: &str) -> Result<Level, String> {
    match text.to_ascii_lowercase().as_str() {
        "trace" => Ok(Level::TRACE),
        "debug" => Ok(Level::DEBUG),
        "info" => Ok(Level::INFO),
        "warn" | "warning" => Ok(Level::WARN),
        "error" | "fatal" | "panic" => Ok(Level::ERROR),
        _ => Err("write trace, debug, info, warn or error".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a library's error, repeated for as long as a peer is away, is no line of the log unless it is asked for.
    #[test]
    fn libraries_are_heard_from_debug_on() {
        let is_heard = |level, target, of| heard(level).would_enable(target, &of);
        for (level, target, of, expected) in [
            (Level::INFO, "egressd_exporter::wire", Level::INFO, true),
            (Level::INFO, "egressd_exporter::wire", Level::DEBUG, false),
            (Level::INFO, "kube_client::client", Level::ERROR, false),
            (Level::DEBUG, "kube_client::client", Level::ERROR, true),
            (Level::DEBUG, "kube_client::client", Level::TRACE, false),
        ] {
            assert_eq!(is_heard(level, target, of), expected, "{target} at {level}: {of}");
        }
    }
}
