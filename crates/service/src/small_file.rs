//! Small files that others write anew while we run: certificates, keys, tokens.
//!
//! Bound: [`FILE_BYTES_MAX`] a file, regular ones alone, so that no writer is waited for.
//! A file system may keep its reader waiting all the same: what must not wait reads [`aside`].

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::panic;
use std::path::{Path, PathBuf};

/// The certificates of all public authorities are a fifth of it.
pub const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a file cannot be read. An operator must act; it is read again.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not there, no regular file, or not for this user.
    #[error("cannot read {path}")]
    Unreadable {
        /// As configured.
        path: PathBuf,
        /// The system's words.
        #[source]
        source: io::Error,
    },
    /// None of these is so large.
    #[error("{path} is larger than {FILE_BYTES_MAX} bytes")]
    TooLarge {
        /// As configured.
        path: PathBuf,
    },
}

/// Runs what reads files on a thread that nobody else needs. Who no longer waits for it leaves it to its end.
///
/// # Panics
/// When `reading` does.
pub async fn aside<T: Send + 'static>(reading: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(reading).await {
        Ok(read) => read,
        // Only a runtime that ends cancels it, and then nobody waits here.
        Err(error) => panic::resume_unwind(error.into_panic()),
    }
}

/// What it holds now.
///
/// # Errors
/// It cannot be read.
pub fn read(path: &Path) -> Result<Vec<u8>, ReadError> {
    let failed = |source| ReadError::Unreadable { path: path.to_owned(), source };
    if !fs::metadata(path).map_err(failed)?.is_file() {
        return Err(failed(io::Error::other("it is no regular file")));
    }
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(failed)?;
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(ReadError::TooLarge { path: path.to_owned() });
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a file system that keeps its reader waiting keeps nobody else: on one thread others go on.
    #[tokio::test]
    async fn who_reads_aside_keeps_nobody_waiting() {
        let (sender, receiver) = tokio::sync::oneshot::channel();
        let reading = aside(move || receiver.blocking_recv().unwrap());
        let others = async { sender.send(7).unwrap() };
        assert_eq!(tokio::join!(reading, others), (7, ()));
    }

    /// Goal: what is no regular file, or too large for one of these, is refused by its name.
    #[test]
    fn only_small_regular_files_are_read() {
        let directory = tempfile::tempdir().unwrap();
        let words = |path: &Path| crate::lifecycle::chain(&read(path).unwrap_err());
        let shown = directory.path().display();
        assert_eq!(words(directory.path()), format!("cannot read {shown}: it is no regular file"));
        let large = directory.path().join("large");
        File::create(&large).unwrap().set_len(FILE_BYTES_MAX + 1).unwrap();
        assert_eq!(words(&large), format!("{} is larger than 1048576 bytes", large.display()));
        File::create(&large).unwrap().set_len(FILE_BYTES_MAX).unwrap();
        assert_eq!(read(&large).unwrap().len() as u64, FILE_BYTES_MAX);
    }
}
