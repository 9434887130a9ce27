//! Small sources with one fault each, and their honest neighbours.

use super::*;

const METER: &str = "crates/meter/src/baseline.rs";

fn faults(path: &str, text: &str) -> Vec<(usize, String)> {
    file(path, text).into_iter().map(|finding| (finding.line, finding.wrong)).collect()
}

/// Goal: each rule finds its fault on its line, and leaves alone what only looks like it.
#[test]
fn faults_are_found_where_they_are() {
    for (body, expected) in [
        ("let zone = 1;", Some("bare `zone`")),
        ("fn zones() {}", Some("bare `zones`")),
        ("let ct_zone = topology_zone; // the zone", None),
        (r#"let label = "zone";"#, None),
        ("unsafe { f() }", Some("unsafe code away from the kernel's edge")),
        ("#![expect(unsafe_code)] // unsafe", None),
        ("todo!()", Some("`todo!`")),
        (r#"unimplemented!("later")"#, Some("`unimplemented!`")),
        (r#"let todo = "todo!()";"#, None),
        ("#[ignore] fn f() {}", Some("an ignored test")),
        ("#[ignore = \"slow\"] fn f() {}", Some("an ignored test")),
        ("/// ```ignore", Some("an ignored example")),
        ("/// We ignore this.", None),
        ("// FIXME: wrong", Some("`FIXME`")),
        ("// XXX", Some("`XXX`")),
        (r#"let pattern = "XXX FIXME";"#, None),
        ("// TODO: more", Some("`TODO` without an issue")),
        ("// TODO(#12): more", None),
        ("mod helpers {}", Some("`mod helpers` says nothing")),
        ("pub(crate) mod types;", Some("`mod types` says nothing")),
        ("mod record; use types::X;", None),
    ] {
        let expected: Vec<_> = expected.map(|wrong| (2, wrong.to_owned())).into_iter().collect();
        assert_eq!(faults(METER, &format!("//! Doc.\n{body}\n")), expected, "{body}");
    }
}

/// Goal: only crates in which both meanings meet are asked to say which zone they mean.
#[test]
fn a_bare_zone_is_a_fault_only_where_two_are_meant() {
    for (path, expected) in
        [("crates/enrich/tests/join.rs", 1), ("crates/testbed/src/cluster.rs", 0), ("xtask/src/main.rs", 0)]
    {
        assert_eq!(faults(path, "//! Doc.\nlet zone = 1;").len(), expected, "{path}");
    }
}

/// Goal: what is built says what it is; tests and build scripts may leave it to their names.
#[test]
fn sources_begin_with_module_documentation() {
    for (path, text, expected) in [
        (METER, "//! Doc.\n", 0),
        (METER, "\n//! Doc.\n", 0),
        (METER, "// Not documentation.\n//! Doc.\n", 1),
        (METER, "", 1),
        ("xtask/src/main.rs", "fn main() {}\n", 1),
        ("crates/meter/tests/books.rs", "fn main() {}\n", 0),
        ("crates/protocol/build.rs", "fn main() {}\n", 0),
    ] {
        assert_eq!(faults(path, text).len(), expected, "{path} {text:?}");
    }
}

/// Goal: a module is found by the name of its file or folder.
#[test]
fn empty_names_are_found_in_paths() {
    for (path, expected) in [
        ("crates/meter/src/utils.rs", true),
        ("crates/meter/tests/common/mod.rs", true),
        ("crates/meter/src/helpers/rows.rs", true),
        ("crates/meter/src/utils_of_war.rs", false),
        ("crates/meter/src/baseline.rs", false),
    ] {
        assert_eq!(has_empty_name(path), expected, "{path}");
    }
}

/// Goal: the limit on lines is exact, and its finding stands on the first line over it.
#[test]
fn a_file_over_the_limit_is_found() {
    let lines = |count: usize| format!("//! Doc.\n{}", "\n".repeat(count - 1));
    assert_eq!(faults(METER, &lines(LINES_MAX)), []);
    assert_eq!(faults(METER, &lines(LINES_MAX + 1)), [(LINES_MAX + 1, "601 lines, over 600".to_owned())]);
}

/// Goal: an exception that nothing needs, or whose file is gone, is a finding.
#[test]
fn stale_exceptions_are_found() {
    let tree = Tree::of(&[("a.rs", "unsafe {}"), ("b.rs", "// unsafe")]);
    let table = [("a.rs", "reason"), ("b.rs", "reason"), ("c.rs", "reason")];
    let found = stale(&tree, &table, "unsafe code", |text| has_unsafe(&Parted::new(text)).is_some());
    let paths: Vec<_> = found.into_iter().map(|finding| finding.path).collect();
    assert_eq!(paths, ["b.rs", "c.rs"]);
}
