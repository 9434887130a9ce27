//! What one message may hold. Both sides obey, and neither believes the other.

use egressd_flow::NAME_BYTES_MAX;

/// Encoded bytes of one message, both ways.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;

/// Records of one batch.
pub const BATCH_RECORDS_MAX: usize = 10_000;

/// Owners that one batch or one scope message names.
pub const OWNERS_MAX: usize = 1_000;

/// Text of one owner: UID, namespace, name and labels together, in bytes.
pub const OWNER_TEXT_BYTES_MAX: usize = 2_048;

/// Labels of one owner.
pub const OWNER_LABELS_MAX: usize = 32;

/// A node's own addresses in one scope.
pub const NODE_ADDRESSES_MAX: usize = 1_000;

/// The highest sequence that a Hello may begin an epoch at: a batch a nanosecond gets there in 292 years.
pub const FIRST_SEQUENCE_MAX: u64 = 1 << 63;

/// Epochs that one Hello may hold: the running one and three that were never drained.
pub const EPOCHS_MAX: usize = 4;

/// Bytes of a node's name (a DNS subdomain, RFC 1123).
pub const NODE_NAME_BYTES_MAX: usize = 253;

/// Namespaces that one Hello may exclude.
pub const EXCLUDED_NAMESPACES_MAX: usize = 1_000;

/// DNS answers in one message.
pub const NAMES_MAX: usize = 1_000;

/// Bytes of any other single text: a version, a diagnosis, a reason, an address to dial.
pub const TEXT_BYTES_MAX: usize = 4_096;

/// Reasons in one Status.
pub const LOSSES_MAX: usize = 100;

/// Ranges in one Settings.
pub const FOLD_RANGES_MAX: usize = 10_000;

/// Encoded bytes of a request to the flow subscription.
pub const FLOW_REQUEST_BYTES_MAX: usize = 64 << 10;

/// Values in one field of a filter.
pub const FILTER_VALUES_MAX: usize = 32;

/// Bytes of one text of a filter: a namespace, a slash and the name of a pod (RFC 1123 label and subdomain).
pub const FILTER_TEXT_BYTES_MAX: usize = 63 + 1 + NODE_NAME_BYTES_MAX;

/// Flows in one message to a subscriber.
pub const MESSAGE_FLOWS_MAX: usize = 500;

/// Minutes that a summary reaches back.
pub const SUMMARY_MINUTES_MAX: u32 = 60;

/// Rows of one summary.
pub const SUMMARY_ROWS_MAX: usize = 1_000;

/// A record's worst case: two indexes, a protocol and six counters as varints, and an address said once.
const RECORD_BYTES_MAX: usize = 5 + 5 + 2 + 6 * 10 + 18;

/// An owner's worst case: its text; address, two instants, lengths and tags; tags and lengths of each label.
const OWNER_BYTES_MAX: usize = OWNER_TEXT_BYTES_MAX + 64 + OWNER_LABELS_MAX * 10;

const _: () =
    assert!(BATCH_RECORDS_MAX * RECORD_BYTES_MAX + OWNERS_MAX * OWNER_BYTES_MAX + 1_024 < MESSAGE_BYTES_MAX);

/// A DNS answer's worst case: two addresses, a name, an instant and seconds, with lengths and tags.
const NAME_BYTES: usize = 2 * 18 + NAME_BYTES_MAX + 9 + 6 + 8;

const _: () = assert!(NAMES_MAX * NAME_BYTES + 1_024 < MESSAGE_BYTES_MAX);

/// Six fields of texts.
const _: () = assert!(6 * FILTER_VALUES_MAX * (FILTER_TEXT_BYTES_MAX + 3) + 1_024 < FLOW_REQUEST_BYTES_MAX);

/// An end's worst case: what an owner may say, its node, its failure domain and region, which are label values, and a DNS
/// name.
const FLOW_END_BYTES_MAX: usize = OWNER_TEXT_BYTES_MAX + NODE_NAME_BYTES_MAX + 2 * 63 + NAME_BYTES_MAX + 64;

const _: () = assert!(MESSAGE_FLOWS_MAX * (2 * FLOW_END_BYTES_MAX + 6 * 11 + 16) + 1_024 < MESSAGE_BYTES_MAX);
