//! Bearer tokens, from files that whoever issues them writes anew.
//!
//! Invariant: no token is printed, and none is compared in a time that tells how much of it was right.

use std::convert::Infallible;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use subtle::ConstantTimeEq as _;
use tonic::metadata::{Ascii, MetadataMap, MetadataValue};
use tracing::{info, warn};

use crate::lifecycle::chain;
use crate::small_file::{ReadError, aside, read};

/// The header that tokens are shown in.
pub const AUTHORIZATION: &str = "authorization";
/// Of a token that is looked at; those of Kubernetes take about 1 KiB.
const TOKEN_BYTES_MAX: usize = 8 << 10;

/// A token that somebody shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The one in a call's headers. What is no bearer token, or longer than any is, is none.
    #[must_use]
    pub fn shown_in(metadata: &MetadataMap) -> Option<Self> {
        let header = metadata.get(AUTHORIZATION)?.to_str().ok()?;
        let token = header.strip_prefix("Bearer ")?.trim();
        (1..=TOKEN_BYTES_MAX).contains(&token.len()).then(|| Self(token.to_owned()))
    }

    /// A token as it is written.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }

    /// Its text, for whoever can tell whose it is.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}

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

/// How often a guard looks at its file.
const READ_EVERY: Duration = Duration::from_secs(10);

/// Lets in whoever shows the token of a file; clones are the same guard.
#[derive(Clone, Debug)]
pub struct Guard(Arc<Guarded>);

#[derive(Debug)]
struct Guarded {
    path: PathBuf,
    /// The whole header, sensitive.
    expected: RwLock<MetadataValue<Ascii>>,
}

impl Guard {
    /// A guard who knows what the file holds now.
    ///
    /// # Errors
    /// It cannot be read, or holds no token.
    pub fn new(path: PathBuf) -> Result<Self, TokenError> {
        let expected = RwLock::new(header(&path)?);
        Ok(Self(Arc::new(Guarded { path, expected })))
    }

    /// Whether `shown`, a header as it came, is the one that is asked for. How long it takes tells its length, and nothing
    /// of what is in it.
    #[must_use]
    pub fn lets_in(&self, shown: Option<&[u8]>) -> bool {
        let expected = self.0.expected.read().unwrap_or_else(PoisonError::into_inner);
        shown.is_some_and(|shown| shown.ct_eq(expected.as_encoded_bytes()).into())
    }

    /// Follows the file, for ever. What cannot be read leaves the token as it was.
    ///
    /// # Errors
    /// Never.
    pub async fn follow(self) -> Result<(), Infallible> {
        let Guarded { path, expected } = &*self.0;
        let mut failing = false;
        loop {
            tokio::time::sleep(READ_EVERY).await;
            let path_now = path.clone();
            match aside(move || header(&path_now)).await {
                Ok(header) => {
                    failing = false;
                    let mut expected = expected.write().unwrap_or_else(PoisonError::into_inner);
                    if *expected != header {
                        *expected = header;
                        info!(file = %path.display(), "another token is asked for from now on");
                    }
                }
                Err(error) => {
                    if !std::mem::replace(&mut failing, true) {
                        warn!(error = %chain(&error), "the token cannot be read: the one before is asked for");
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(header: &'static str) -> Option<Token> {
        let mut metadata = MetadataMap::new();
        metadata.insert(AUTHORIZATION, MetadataValue::from_static(header));
        Token::shown_in(&metadata)
    }

    /// Goal: a bearer token is taken out of its header, and nothing else is; none is printed.
    #[test]
    fn a_bearer_token_is_taken_and_not_printed() {
        assert_eq!(shown("Bearer abc.def"), Some(Token::new("abc.def")));
        assert_eq!(["Basic abc", "Bearer ", "bearer", ""].map(shown), [const { None }; 4]);
        assert_eq!(Token::shown_in(&MetadataMap::new()), None);
        assert_eq!(format!("{:?}", Token::new("abc")), "Token(…)");
    }

    /// Goal: a guard lets in the token of its file, whole, and follows the file.
    #[tokio::test(start_paused = true)]
    async fn a_guard_lets_in_the_token_of_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("token");
        assert!(matches!(Guard::new(path.clone()), Err(TokenError::Read(_))));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Guard::new(path.clone()), Err(TokenError::Empty { .. })));
        std::fs::write(&path, "one\n").unwrap();
        let guard = Guard::new(path.clone()).unwrap();
        assert!(guard.lets_in(Some(b"Bearer one")));
        for wrong in [None, Some(&b"Bearer"[..]), Some(b"one"), Some(b"Bearer one2"), Some(b"Bearer two")] {
            assert!(!guard.lets_in(wrong), "{wrong:?}");
        }
        let following = tokio::spawn(guard.clone().follow());
        for (text, expected) in [("two", &b"Bearer two"[..]), ("", b"Bearer two"), ("three", b"Bearer three")]
        {
            std::fs::write(&path, text).unwrap();
            tokio::time::sleep(2 * READ_EVERY).await;
            assert!(guard.lets_in(Some(expected)), "{text}");
        }
        following.abort();
    }
}
