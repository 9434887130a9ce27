//! Who may depend on whom: stages share only the nouns of `flow`, and meet only in a binary.
//!
//! Arrows and exclusive libraries are read from the manifests; what must be absent from a daemon, however far down,
//! from cargo's tree of what it links.

use super::Finding;
use super::manifests::line_of;
use super::tree::Tree;
use crate::workspace::{Dependency, Kind, Package, short};

/// The crates of ours that each of our crates may link, by short name, in the order data goes.
/// Tests may use any crate. A binary and `xtask` stand on no right-hand side: nothing links them.
const ARROWS: [(&str, &[&str]); 18] = [
    ("flow", &[]),
    ("protocol", &["flow"]),
    ("conntrack", &["flow"]),
    ("dns", &["flow"]),
    ("meter", &["flow"]),
    ("delivery", &["flow", "protocol", "service"]),
    ("enrich", &["flow", "service"]),
    ("spool", &["flow"]),
    ("sink", &["flow", "service"]),
    ("serve", &["flow", "protocol", "service"]),
    ("service", &[]),
    // The binaries name the stream's nouns (Settings, Status, its limits) and never its messages.
    ("collector", &["conntrack", "delivery", "dns", "flow", "meter", "protocol", "service"]),
    ("exporter", &["delivery", "enrich", "flow", "protocol", "serve", "service", "sink", "spool"]),
    // The truth is independent of the code under test: the testbed starts the daemons and links nothing of them.
    ("testbed", &[]),
    // The bench holds what a daemon holds of a stage, and has the testbed feed it.
    ("bench", &["conntrack", "dns", "flow", "meter", "testbed"]),
    // The fuzz targets are the decoders of outside bytes, wherever they are.
    ("fuzz", &["conntrack", "dns", "flow", "meter"]),
    // The simulation joins every stage's machines, as the two binaries do.
    ("sim", &["delivery", "enrich", "flow", "meter", "protocol", "sink", "spool"]),
    ("xtask", &[]),
];

/// Libraries that only some of our crates may name, in any table: each knows a format the others must not.
const EXCLUSIVE: [(&str, &[&str]); 5] = [
    ("neli", &["conntrack"]),
    // The testbed makes the maps that Cilium would.
    ("libbpf-rs", &["conntrack", "dns", "testbed"]),
    ("hickory-proto", &["dns"]),
    // The testbed tries its fake API server with the real client, in its tests.
    ("kube", &["cli", "enrich", "exporter", "testbed"]),
    ("k8s-openapi", &["cli", "enrich", "exporter", "testbed"]),
];

/// Libraries that a daemon must not link, however far down.
#[derive(Debug)]
pub(super) struct Absence {
    /// The daemon's package.
    pub(super) package: &'static str,
    families: &'static [&'static str],
    reason: &'static str,
}

/// What each daemon does without.
pub(super) const ABSENCES: &[Absence] = &[
    Absence {
        package: "egressd-collector",
        families: &["kube", "k8s-openapi"],
        reason: "the collector has no Kubernetes access",
    },
    Absence {
        package: "egressd-exporter",
        families: &["neli", "libbpf"],
        reason: "the exporter reads no netlink and loads no BPF",
    },
];

/// Checks every manifest against the arrows and the exclusive libraries.
pub(super) fn check(packages: &[Package], tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in packages {
        let manifest = tree.text(&package.manifest).unwrap_or_default();
        let Some((_, allowed)) = ARROWS.iter().find(|(name, _)| *name == package.short()) else {
            let wrong = format!("`{}` has no row in the table of arrows", package.short());
            findings.push(Finding::new(
                &package.manifest,
                1,
                wrong,
                "add it to ARROWS in xtask/src/tidy/layering.rs",
            ));
            continue;
        };
        for dependency in &package.dependencies {
            if let Some((wrong, remedy)) = fault(package, dependency, allowed, packages) {
                let line = line_of(manifest, &dependency.key);
                findings.push(Finding::new(&package.manifest, line, wrong, remedy));
            }
        }
    }
    findings.extend(stale_rows(packages));
    findings
}

fn fault(package: &Package, to: &Dependency, allowed: &[&str], ours: &[Package]) -> Option<(String, String)> {
    let from = package.short();
    if ours.iter().any(|package| package.name == to.package) {
        let to_short = short(&to.package);
        let is_test_only = to.kind == Kind::Dev && from != "xtask";
        return (!is_test_only && !allowed.contains(&to_short)).then(|| {
            let remedy = match allowed {
                [] => "it depends on no crate of ours outside of tests".to_owned(),
                allowed => {
                    format!("it may use {}: share nouns through flow, meet in a binary", allowed.join(", "))
                }
            };
            (format!("{from} depends on {to_short}"), remedy)
        });
    }
    let (library, users) = EXCLUSIVE.iter().find(|(library, _)| *library == to.package)?;
    (!users.contains(&from))
        .then(|| (format!("{from} names {library}"), format!("only {} may", users.join(", "))))
}

fn stale_rows(packages: &[Package]) -> Vec<Finding> {
    let gone = ARROWS.iter().filter(|(name, _)| !packages.iter().any(|package| package.short() == *name));
    gone.map(|(name, _)| {
        let wrong = format!("the table of arrows names `{name}`, and there is no such crate");
        Finding::new("xtask/src/tidy/layering.rs", 1, wrong, "remove its row")
    })
    .collect()
}

/// Checks what a daemon links (`cargo tree`'s lines, `name version …`) for what must be absent.
pub(super) fn check_closure(absence: &Absence, closure: &str) -> Vec<Finding> {
    let manifest = format!("crates/{}/Cargo.toml", short(absence.package));
    let mut names: Vec<&str> = closure.lines().filter_map(|line| line.split_whitespace().next()).collect();
    names.sort_unstable();
    names.dedup();
    if !names.contains(&absence.package) {
        let wrong = format!("cargo's tree of {} does not hold the package itself", absence.package);
        return vec![Finding::new(
            &manifest,
            1,
            wrong,
            "see what `cargo tree` prints, so that absence means something",
        )];
    }
    let present = names.iter().filter(|name| absence.families.iter().any(|family| belongs(name, family)));
    present
        .map(|name| {
            let remedy = format!("{}: `cargo tree -e normal -i {name}` shows who brings it", absence.reason);
            Finding::new(&manifest, 1, format!("{} links {name}", absence.package), remedy)
        })
        .collect()
}

fn belongs(name: &str, family: &str) -> bool {
    name.strip_prefix(family).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workspace(extra: &[(&str, &str, Kind)]) -> Vec<Package> {
        let mut packages: Vec<Package> = ARROWS
            .iter()
            .map(|(short, _)| Package {
                name: if *short == "xtask" { "xtask".into() } else { format!("egressd-{short}") },
                manifest: format!("crates/{short}/Cargo.toml"),
                dependencies: Vec::new(),
            })
            .collect();
        for (from, to, kind) in extra {
            let package = packages.iter_mut().find(|package| package.short() == *from).unwrap();
            package.dependencies.push(Dependency { package: (*to).into(), key: (*to).into(), kind: *kind });
        }
        packages
    }

    /// Goal: an arrow passes when the table or a test allows it, and a library only where it is at home.
    #[test]
    fn arrows_outside_the_table_are_found() {
        let flow_only = "it may use flow: share nouns through flow, meet in a binary";
        let none = "it depends on no crate of ours outside of tests";
        for (from, to, kind, expected) in [
            ("meter", "egressd-flow", Kind::Normal, None),
            ("meter", "egressd-enrich", Kind::Normal, Some(("meter depends on enrich", flow_only))),
            ("meter", "egressd-enrich", Kind::Build, Some(("meter depends on enrich", flow_only))),
            ("meter", "egressd-testbed", Kind::Dev, None),
            ("meter", "egressd-testbed", Kind::Normal, Some(("meter depends on testbed", flow_only))),
            ("flow", "egressd-meter", Kind::Normal, Some(("flow depends on meter", none))),
            ("testbed", "egressd-flow", Kind::Normal, Some(("testbed depends on flow", none))),
            ("xtask", "egressd-flow", Kind::Dev, Some(("xtask depends on flow", none))),
            ("conntrack", "neli", Kind::Normal, None),
            ("collector", "neli", Kind::Normal, Some(("collector names neli", "only conntrack may"))),
            (
                "delivery",
                "kube",
                Kind::Dev,
                Some(("delivery names kube", "only cli, enrich, exporter, testbed may")),
            ),
            ("meter", "serde", Kind::Normal, None),
        ] {
            let packages = workspace(&[(from, to, kind)]);
            let manifest = format!("crates/{from}/Cargo.toml");
            let text = format!("[dependencies]\n{to}.workspace = true\n");
            let found = check(&packages, &Tree::of(&[(&manifest, &text)]));
            let expected: Vec<_> =
                expected.iter().map(|(wrong, remedy)| Finding::new(&manifest, 2, *wrong, *remedy)).collect();
            assert_eq!(found, expected, "{from} → {to}");
        }
    }

    /// Goal: a new crate cannot stand outside of the table, and a row cannot outlive its crate.
    #[test]
    fn crates_and_rows_match() {
        let mut packages = workspace(&[]);
        packages[0].name = "egressd-newcomer".into();
        let wrongs: Vec<_> =
            check(&packages, &Tree::default()).into_iter().map(|finding| finding.wrong).collect();
        assert_eq!(
            wrongs,
            [
                "`newcomer` has no row in the table of arrows",
                "the table of arrows names `flow`, and there is no such crate"
            ]
        );
    }

    /// Goal: a forbidden library is found at any depth, its relatives by prefix too, and an empty tree proves nothing.
    #[test]
    fn a_daemon_links_nothing_of_a_forbidden_family() {
        let collector = &ABSENCES[0];
        let closure =
            |extra: &str| format!("egressd-collector v0.0.0 (/w/crates/collector)\nanyhow v1.0.1\n{extra}");
        let wrongs = |text: &str| -> Vec<String> {
            check_closure(collector, text).into_iter().map(|finding| finding.wrong).collect()
        };
        assert_eq!(wrongs(&closure("kubernetes-names v1.0.0\n")), [""; 0]);
        assert_eq!(
            wrongs(&closure("kube-client v3.0.0\nk8s-openapi v0.26.0\nk8s-openapi v0.26.0 (*)\n")),
            ["egressd-collector links k8s-openapi", "egressd-collector links kube-client"]
        );
        assert_eq!(wrongs(""), ["cargo's tree of egressd-collector does not hold the package itself"]);
    }
}
