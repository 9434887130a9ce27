//! Messages by a writer that shares nothing with the decoder.

use egressd_testbed::dns::{A, AAAA, ANSWER, CNAME, Record, TRUNCATED, message};
use proptest::prelude::*;

use super::*;

fn records(lines: &[&str]) -> Vec<Record> {
    lines.iter().map(|line| line.parse().unwrap()).collect()
}

fn said(question: (&str, u16), lines: &[&str]) -> Result<Answer, Nothing> {
    answer(&message(1, ANSWER, question, &records(lines)))
}

fn named(name: &str, addresses: &[(&str, u64)]) -> Result<Answer, Nothing> {
    let address = |&(at, seconds): &(&str, u64)| (at.parse().unwrap(), Duration::from_secs(seconds));
    Ok(Answer { name: name.into(), addresses: addresses.iter().map(address).collect(), surplus: 0 })
}

/// Goal: an address is named by what was asked, through aliases in any order and any case, for the shortest time of its
/// way; what no alias leads to is not.
#[test]
fn an_address_is_named_by_what_was_asked() {
    let chain = [
        "www.example.com 300 CNAME edge.example.net",
        "edge.example.net 120 CNAME lb.example.org",
        "lb.example.org 900 CNAME host.example.org",
        "host.example.org 600 A 192.0.2.1",
        "host.example.org 90 A 192.0.2.2",
    ];
    let mut reversed = chain;
    reversed.reverse();
    let expected = named("www.example.com", &[("192.0.2.1", 120), ("192.0.2.2", 90)]);
    assert_eq!(said(("www.example.com", A), &chain), expected);
    assert_eq!(said(("WWW.Example.COM", A), &chain), expected);
    let expected = named("www.example.com", &[("192.0.2.2", 90), ("192.0.2.1", 120)]);
    assert_eq!(said(("www.example.com", A), &reversed), expected);
    for (question, lines, expected) in [
        (("a.com", AAAA), &["a.com 100 AAAA 2001:db8::1"][..], named("a.com", &[("2001:db8::1", 100)])),
        (("a.com", A), &["a.com 0 A 192.0.2.1"], named("a.com", &[("192.0.2.1", 60)])),
        (("a.com", A), &["a.com 2147483647 A 192.0.2.1"], named("a.com", &[("192.0.2.1", 86_400)])),
        (("a.com", A), &["a.com 2147483648 A 192.0.2.1"], named("a.com", &[("192.0.2.1", 60)])),
        (("_tcp.a-b.com", A), &["_tcp.a-b.com 90 A 192.0.2.1"], named("_tcp.a-b.com", &[("192.0.2.1", 90)])),
        (("a.com", A), &["b.com 90 A 192.0.2.1"], Err(Nothing::Nameless)),
        (("a.com", A), &["b.com 90 CNAME a.com", "b.com 90 A 192.0.2.1"], Err(Nothing::Nameless)),
        (("a.com", A), &["a.com 90 CNAME b.com"], Err(Nothing::Nameless)),
        (("a.com", A), &["a.com 90 CNAME b.com", "b.com 90 CNAME a.com"], Err(Nothing::Nameless)),
        (("a.com", A), &[], Err(Nothing::Nameless)),
        (("a.com", CNAME), &["a.com 90 CNAME b.com", "b.com 90 A 192.0.2.1"], Err(Nothing::Nameless)),
        (("a\"b.com", A), &["a\"b.com 90 A 192.0.2.1"], Err(Nothing::Unfit)),
    ] {
        assert_eq!(said(question, lines), expected, "{lines:?}");
    }
}

/// Goal: what is truncated, no answer, an error or cut anywhere gives no name.
#[test]
fn what_is_no_whole_answer_gives_nothing() {
    let lines = records(&["a.com 90 CNAME b.com", "b.com 90 A 192.0.2.1"]);
    let with = |flags| answer(&message(1, flags, ("a.com", A), &lines));
    assert!(with(ANSWER).is_ok());
    assert_eq!(with(ANSWER | TRUNCATED), Err(Nothing::Truncated));
    assert_eq!(with(0x0100), Err(Nothing::Nameless), "a query");
    assert_eq!(with(ANSWER | 3), Err(Nothing::Nameless), "no such name");
    assert_eq!(with(ANSWER | 5 << 11), Err(Nothing::Nameless), "an update");
    let whole = message(1, ANSWER, ("a.com", A), &lines);
    for length in 0..whole.len() {
        assert_eq!(answer(&whole[..length]), Err(Nothing::Malformed), "{length}");
    }
    let mut two_questions = whole;
    two_questions[5] = 2;
    assert!(answer(&two_questions).is_err());
}

/// Goal: of more addresses than the bound the first are used, and the others counted; aliases without end end.
#[test]
fn addresses_and_aliases_are_bounded() {
    let line = |host: usize| format!("a.com 90 A 192.0.2.{host}").parse().unwrap();
    let many: Vec<Record> = (0..ADDRESSES_MAX + 3).map(line).collect();
    let found = answer(&message(1, ANSWER, ("a.com", A), &many)).unwrap();
    assert_eq!((found.addresses.len(), found.surplus), (ADDRESSES_MAX, 3));
    let many: Vec<Record> = (0..RECORDS_MAX + 5).map(|host| line(host % 250)).collect();
    let found = answer(&message(1, ANSWER, ("a.com", A), &many)).unwrap();
    assert_eq!((found.addresses.len(), found.surplus), (ADDRESSES_MAX, RECORDS_MAX + 5 - ADDRESSES_MAX));
    let aliases = |count: usize| {
        let alias = |at: usize| format!("n{at}.com 90 CNAME n{}.com", at + 1).parse().unwrap();
        let mut all: Vec<Record> = (0..count).map(alias).collect();
        all.push(format!("n{count}.com 90 A 192.0.2.1").parse().unwrap());
        answer(&message(1, ANSWER, ("n0.com", A), &all))
    };
    assert!(aliases(ALIASES_MAX).is_ok());
    assert_eq!(aliases(ALIASES_MAX + 1), Err(Nothing::Nameless));
}

proptest! {
    /// Goal: no bytes make it panic, and a name that comes out is short and plain.
    #[test]
    fn no_bytes_make_it_panic(
        at in 0_usize..60,
        noise in prop::collection::vec(any::<u8>(), 0..40),
    ) {
        let lines = records(&["a.com 90 CNAME b.com", "b.com 90 A 192.0.2.1"]);
        let mut bytes = message(1, ANSWER, ("a.com", A), &lines);
        let end = (at + noise.len()).min(bytes.len());
        if at < end {
            bytes.splice(at..end, noise);
        }
        if let Ok(answer) = answer(&bytes) {
            prop_assert!(answer.name.len() <= NAME_BYTES_MAX && answer.name.is_ascii());
            prop_assert!(!answer.addresses.is_empty() && answer.addresses.len() <= ADDRESSES_MAX);
        }
    }
}
