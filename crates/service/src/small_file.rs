//! Small files that others write anew while we run: certificates, keys, tokens.
//!
//! Bound: `FILE_BYTES_MAX` a file, regular ones alone, so that none is waited for.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

/// The certificates of all public authorities are a fifth of it.
const FILE_BYTES_MAX: u64 = 1 << 20;

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
