//! Logs to standard error, in one line each.

use tracing::Level;

/// Starts logging at `level` and above.
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
        .init();
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
