//! Why a peer's message is not believed.

/// A message that does not hold together. The stream or call that said it is ended; a peer that keeps saying it is
/// broken and needs an operator.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// A field that must be there is not.
    #[error("{field} is missing")]
    Missing {
        /// Path in the message.
        field: &'static str,
    },
    /// More elements or bytes than [`limits`](crate::limits) allow.
    #[error("{field} holds {found}, at most {max} are allowed")]
    TooMany {
        /// Path in the message.
        field: &'static str,
        /// What was sent.
        found: usize,
        /// What is allowed.
        max: usize,
    },
    /// A column is neither empty nor as long as the others.
    #[error("column {field} holds {found} rows, the batch has {expected}")]
    Column {
        /// Path in the message.
        field: &'static str,
        /// Rows of this column.
        found: usize,
        /// Rows of the batch.
        expected: usize,
    },
    /// A row points outside what it points into.
    #[error("{field} is {found}, there are {len}")]
    Index {
        /// Path in the message.
        field: &'static str,
        /// The index sent.
        found: u32,
        /// Elements there.
        len: usize,
    },
    /// An address that is neither 4 nor 16 bytes long.
    #[error("{field} is an address of {len} bytes, 4 or 16 are known")]
    Address {
        /// Path in the message.
        field: &'static str,
        /// Its length.
        len: usize,
    },
    /// More traffic than any node has between two cuts.
    #[error("the batch says {bytes} bytes in {packets} packets, more than a node can have")]
    Traffic {
        /// All directions of all rows.
        bytes: u64,
        /// Likewise.
        packets: u64,
    },
    /// A text that says nothing of the kind that belongs there.
    #[error("{field} is not {expected}")]
    Malformed {
        /// Path in the message.
        field: &'static str,
        /// What belongs there.
        expected: &'static str,
    },
    /// Something is said twice that can be said once.
    #[error("{field} says something twice")]
    Repeated {
        /// Path in the message.
        field: &'static str,
    },
    /// A number outside its range.
    #[error("{field} is {found}, out of its range")]
    Range {
        /// Path in the message.
        field: &'static str,
        /// The number sent.
        found: u64,
    },
}
