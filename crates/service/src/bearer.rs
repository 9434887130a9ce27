//! Bearer tokens, from files that whoever issues them writes anew.
//!
//! Invariant: no token is printed, and none is compared in a time that tells how much of it was right.

use std::path::{Path, PathBuf};

use tonic::metadata::{Ascii, MetadataValue};

use crate::small_file::{ReadError, read};

/// Why there is no token. An operator must act; the file is read again.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The file has nothing in it.
    #[error("{path} is empty, and should hold a token")]
    Empty {
        /// As configured.
        path: PathBuf,
    },
    /// The file holds what no header can.
    #[error("{path} holds no token: its text does not fit into a header")]
    Unsendable {
        /// As configured.
        path: PathBuf,
    },
}

/// The header `authorization` with the token of a file as it is now, marked sensitive.
///
/// # Errors
/// The file cannot be read, or holds no token.
pub fn header(path: &Path) -> Result<MetadataValue<Ascii>, TokenError> {
    let unsendable = || TokenError::Unsendable { path: path.to_owned() };
    let text = String::from_utf8(read(path)?).map_err(|_| unsendable())?;
    let token = text.trim();
    if token.is_empty() {
        return Err(TokenError::Empty { path: path.to_owned() });
    }
    let mut header: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| unsendable())?;
    header.set_sensitive(true);
    Ok(header)
}
