//! The fuzz targets as ordinary tests: on their seeds, on damaged seeds, and on inputs of chance.

use egressd_fuzz::Target;
use proptest::prelude::*;
use proptest::sample::Index;

/// Goal: what a real kernel and a real meter wrote is no finding.
#[test]
fn seeds_are_no_findings() {
    for target in Target::ALL {
        let seeds = target.seeds();
        assert!(!seeds.is_empty(), "{}", target.name());
        seeds.iter().for_each(|seed| target.run(seed));
    }
}

/// Goal: a target is found by its name, and by nothing else.
#[test]
fn a_target_has_a_name() {
    for target in Target::ALL {
        assert_eq!(target.name().parse(), Ok(target));
    }
    assert!("datagrams".parse::<Target>().is_err());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    /// Goal: no recipe of messages comes out other than it went in, and no bytes break a rule.
    #[test]
    fn inputs_of_chance_are_no_findings(input in prop::collection::vec(any::<u8>(), 0..1500)) {
        Target::Messages.run(&input);
        Target::Cilium.run(&input);
        Target::Datagram.run(&input);
        Target::Dns.run(&input);
    }

    /// Goal: seeds that were changed at a few places, or broke off, are no findings.
    #[test]
    fn damaged_seeds_are_no_findings(
        which in any::<Index>(),
        length in prop::option::of(any::<Index>()),
        changes in prop::collection::vec((any::<Index>(), any::<u8>()), 0..6),
    ) {
        for target in Target::ALL {
            let mut seed = which.get(&target.seeds()).clone();
            for (at, byte) in &changes {
                let at = at.index(seed.len());
                seed[at] = *byte;
            }
            if let Some(length) = &length {
                seed.truncate(length.index(seed.len()));
            }
            target.run(&seed);
        }
    }
}
