//! The rule by which an address is named, and its bounds.

use super::*;

const SECOND: u64 = 1_000_000_000;

fn node() -> NodeName {
    NodeName("node-a".into())
}

fn at(second: u64) -> UnixNanos {
    UnixNanos(second * SECOND)
}

fn span(from: u64, to: u64) -> Span {
    Span { from: at(from), to: at(to) }
}

fn owner(address: &str, since: u64, until: Option<u64>) -> Owner {
    Owner {
        address: address.parse().unwrap(),
        pod_uid: "uid".into(),
        namespace: "shop".into(),
        name: "web-0".into(),
        labels: [].into(),
        since: at(since),
        until: until.map(at),
        measure: true,
    }
}

/// `10.0.0.1 asks a.example.com 192.0.2.1 at 5 for 60`
fn name(line: &str) -> Name {
    let words: Vec<&str> = line.split(' ').collect();
    let [asker, "asks", name, address, "at", seen, "for", seconds] = words[..] else { panic!("{line}") };
    Name {
        address: address.parse().unwrap(),
        name: name.into(),
        time_to_live: Duration::from_secs(seconds.parse().unwrap()),
        seen: at(seen.parse().unwrap()),
        asker: asker.parse().ok(),
    }
}

fn heard(lines: &[&str]) -> Names {
    let mut names = Names::new(1 << 20);
    names.hear(&node(), lines.iter().map(|line| name(line)).collect());
    names
}

fn of(names: &mut Names, owner: &Owner, span: Span) -> Option<String> {
    let found = names.on(&node()).of(owner, "192.0.2.1".parse().unwrap(), span)?;
    Some(found.dns_name.as_ref()?.to_string())
}

/// Goal: of two names of one address a pod's own last answer wins, then what the node agrees on, and otherwise none.
#[test]
fn own_last_answer_wins_then_what_the_node_agrees_on() {
    let (web, api) = (owner("10.0.0.1", 0, None), owner("10.0.0.2", 0, None));
    let named = |name: &str| Some(name.to_owned());
    for (lines, of_web, of_api) in [
        (&["10.0.0.1 asks a.com 192.0.2.1 at 5 for 60"][..], named("a.com"), named("a.com")),
        (
            &["10.0.0.1 asks a.com 192.0.2.1 at 5 for 60", "10.0.0.1 asks b.com 192.0.2.1 at 6 for 60"],
            named("b.com"),
            None,
        ),
        (
            &[
                "10.0.0.1 asks a.com 192.0.2.1 at 5 for 60",
                "10.0.0.1 asks b.com 192.0.2.1 at 6 for 60",
                "10.0.0.1 asks a.com 192.0.2.1 at 7 for 60",
            ],
            named("a.com"),
            None,
        ),
        (
            &["10.0.0.1 asks a.com 192.0.2.1 at 5 for 60", "10.0.0.2 asks b.com 192.0.2.1 at 6 for 60"],
            named("a.com"),
            named("b.com"),
        ),
        (
            &["10.0.0.9 asks a.com 192.0.2.1 at 5 for 60", "10.0.0.8 asks b.com 192.0.2.1 at 6 for 60"],
            None,
            None,
        ),
        (
            &["10.0.0.9 asks a.com 192.0.2.1 at 5 for 60", "10.0.0.8 asks a.com 192.0.2.1 at 6 for 60"],
            named("a.com"),
            named("a.com"),
        ),
        // Asked after the traffic, over before it, of another address.
        (&["10.0.0.1 asks a.com 192.0.2.1 at 31 for 60"], None, None),
        (&["10.0.0.1 asks a.com 192.0.2.1 at 1 for 9"], None, None),
        (&["10.0.0.1 asks a.com 192.0.2.2 at 5 for 60"], None, None),
        // Over before it, and asked again during it.
        (
            &["10.0.0.1 asks a.com 192.0.2.1 at 1 for 2", "10.0.0.1 asks a.com 192.0.2.1 at 20 for 60"],
            named("a.com"),
            named("a.com"),
        ),
    ] {
        let mut names = heard(lines);
        let found = [&web, &api].map(|owner| of(&mut names, owner, span(15, 30)));
        assert_eq!(found, [of_web, of_api], "{lines:?}");
    }
}

/// Goal: an answer to who had the address before, or has it since, is not the pod's own.
#[test]
fn an_address_that_changed_hands_does_not_pass_its_answers_on() {
    let mut names = heard(&[
        "10.0.0.1 asks old.com 192.0.2.1 at 5 for 60",
        "10.0.0.1 asks new.com 192.0.2.1 at 12 for 60",
    ]);
    let [before, after] = [owner("10.0.0.1", 0, Some(10)), owner("10.0.0.1", 10, None)];
    assert_eq!(of(&mut names, &before, span(8, 20)).as_deref(), Some("old.com"));
    assert_eq!(of(&mut names, &after, span(8, 20)).as_deref(), Some("new.com"));
}

/// Goal: a name in use outlives its answer, and only for so long after the last traffic.
#[test]
fn a_name_in_use_is_kept() {
    let mut names = heard(&["10.0.0.1 asks a.com 192.0.2.1 at 0 for 60"]);
    let web = owner("10.0.0.1", 0, None);
    let kept = IN_USE_KEPT.as_secs();
    for from in [30, 59, 200, 200 + kept] {
        names.expire(at(from));
        assert_eq!(of(&mut names, &web, span(from, from + 1)).as_deref(), Some("a.com"), "{from}");
    }
    let over = 202 + 2 * kept;
    assert_eq!(of(&mut names, &web, span(over, over + 1)), None);
    assert_eq!(names.books().held, 1);
    names.expire(at(over));
    assert_eq!(names.books(), NamesBooks { heard: 1, named: 4, ..NamesBooks::default() });
}

/// Goal: what one node was told names nothing on another.
#[test]
fn names_are_a_nodes_own() {
    let mut names = heard(&["10.0.0.1 asks a.com 192.0.2.1 at 0 for 60"]);
    let (elsewhere, address) = (NodeName("node-b".into()), "192.0.2.1".parse().unwrap());
    assert!(names.on(&elsewhere).of(&owner("10.0.0.1", 0, None), address, span(1, 2)).is_none());
}

fn many(count: usize, text: usize) -> Vec<Name> {
    let line = |number: usize| {
        let (long, net, host) = ("n".repeat(text), number / 250, number % 250);
        name(&format!("10.0.0.1 asks {long}{number}.com 198.18.{net}.{host} at {number} for 60"))
    };
    (0..count).map(line).collect()
}

/// Goal: a pod that asks for more names than a node may have pushes out its own, and none of another pod.
#[test]
fn nobody_pushes_out_the_names_of_others() {
    let mut names = Names::new(usize::MAX);
    names.hear(&node(), vec![name("10.0.0.2 asks other.com 192.0.2.1 at 0 for 60")]);
    names.hear(&node(), many(2 * ANSWERS_OF_NODE_MAX, 1));
    assert!(names.books().evicted > 0);
    let other = owner("10.0.0.2", 0, None);
    assert_eq!(of(&mut names, &other, span(1, 2)).as_deref(), Some("other.com"));
}

/// Goal: a node's answers and the bytes of all stay below their bounds; what ends first goes first, counted.
#[test]
fn bounds_hold_and_what_ends_first_goes() {
    let mut names = Names::new(usize::MAX);
    names.hear(&node(), many(ANSWERS_OF_NODE_MAX + 1, 1));
    let NamesBooks { heard, held, evicted, .. } = names.books();
    assert_eq!((heard, held + evicted), (ANSWERS_OF_NODE_MAX as u64 + 1, heard));
    assert!(held <= ANSWERS_OF_NODE_MAX as u64 && held > ANSWERS_OF_NODE_MAX as u64 / 2, "{held}");
    let (first, last) = ("198.18.0.0".parse().unwrap(), "198.18.32.192".parse().unwrap());
    let mut of = |address| names.on(&node()).of(&owner("10.0.0.1", 0, None), address, span(0, 1 << 20));
    assert!(of(first).is_none() && of(last).is_some());

    let mut names = Names::new(200_000);
    for number in 0..40 {
        names.hear(&NodeName(format!("node-{number}").into()), many(50, 200));
        assert!(names.books().held_bytes <= 200_000);
    }
    let NamesBooks { heard, held, evicted, .. } = names.books();
    assert_eq!((heard, held + evicted), (2_000, 2_000));
    assert!(held > 200, "{held}");
    names.expire(at(1 << 20));
    assert_eq!((names.books().held, names.books().held_bytes), (0, 0));
}
