//! Which conntrack zones are read: asked in one place, `codec::decode`, which dumps and ends pass alike.
//!
//! The kernel is not asked to choose. `CTA_ZONE` in a dump's request does so from Linux 6.8 (commit eff3c558bb7e)
//! and is passed over by older kernels, names one conntrack zone at most, and means another thing: it matches what
//! a rule set, so that of `ct reply zone set 9` too, whose original direction stands in 0. Nor could the rows be
//! counted that it leaves out. Events know no such choice at all.
//!
//! Bound: 65,536 numbers of 2 bytes. Asking costs one comparison for all, and a binary search for a list.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use egressd_flow::CtZone;

/// All conntrack zones, or those of a list. Cloning copies no list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CtZones {
    /// Sorted; `None` is all.
    listed: Option<Arc<[CtZone]>>,
}

/// A list of conntrack zones that is none; the part that is no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a conntrack zone: write all, or numbers from 0 to 65535 with commas between")]
pub struct ParseCtZonesError(pub String);

impl CtZones {
    /// Every conntrack zone.
    pub const ALL: Self = Self { listed: None };

    /// Whether entries whose original direction stands in this one are read.
    #[must_use]
    pub fn contains(&self, ct_zone: CtZone) -> bool {
        self.listed.as_ref().is_none_or(|listed| listed.binary_search(&ct_zone).is_ok())
    }
}

impl FromStr for CtZones {
    type Err = ParseCtZonesError;

    /// `all`, or a list such as `0,64000`; order and repetition mean nothing.
    fn from_str(text: &str) -> Result<Self, ParseCtZonesError> {
        if text == "all" {
            return Ok(Self::ALL);
        }
        let number = |word: &str| word.parse().map(CtZone).map_err(|_| ParseCtZonesError(word.to_owned()));
        let listed: BTreeSet<CtZone> = text.split(',').map(number).collect::<Result<_, _>>()?;
        Ok(Self { listed: Some(listed.into_iter().collect()) })
    }
}

impl fmt::Display for CtZones {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(listed) = &self.listed else { return f.write_str("all") };
        for (place, CtZone(number)) in listed.iter().enumerate() {
            let comma = if place == 0 { "" } else { "," };
            write!(f, "{comma}{number}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is written is what is read, in whatever order, both ends of the range included.
    #[test]
    fn a_list_holds_what_it_names() {
        for (text, shown, inside, outside) in [
            ("all", "all", &[0, 1, 64_000, 65_535][..], &[][..]),
            ("0", "0", &[0], &[1, 65_535]),
            ("64000,0,65535,0", "0,64000,65535", &[0, 64_000, 65_535], &[1, 63_999, 64_001]),
        ] {
            let ct_zones: CtZones = text.parse().unwrap();
            assert_eq!(ct_zones.to_string(), shown);
            assert!(inside.iter().all(|&number| ct_zones.contains(CtZone(number))), "{text}");
            assert!(!outside.iter().any(|&number| ct_zones.contains(CtZone(number))), "{text}");
        }
    }

    /// Goal: what is no list is refused with the part that is none and what to write.
    #[test]
    fn what_is_no_list_is_refused_by_its_part() {
        for (text, part) in [
            ("", ""),
            ("1,", ""),
            ("1, 2", " 2"),
            ("65536", "65536"),
            ("-1", "-1"),
            ("1,all", "all"),
            ("1-3", "1-3"),
        ] {
            assert_eq!(text.parse::<CtZones>(), Err(ParseCtZonesError(part.to_owned())));
        }
        assert_eq!(
            ParseCtZonesError("65536".to_owned()).to_string(),
            "\"65536\" is not a conntrack zone: write all, or numbers from 0 to 65535 with commas between"
        );
    }
}
