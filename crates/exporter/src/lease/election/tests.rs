//! One exporter, told what the API says at which second.

use super::*;

const DURATION: Duration = Duration::from_secs(15);

fn at(milliseconds: u64) -> Boot {
    Boot(Duration::from_millis(milliseconds))
}

/// `HOLDER/TRANSITIONS@VERSION`, `-` for nobody; `absent`, `conflict` or `failed`.
fn answer(text: &str) -> Answer {
    match text {
        "absent" => Answer::Absent,
        "conflict" => Answer::Conflict,
        "failed" => Answer::Failed,
        lease => {
            let (record, version) = lease.split_once('@').unwrap();
            let (holder, transitions) = record.split_once('/').unwrap();
            let holder = (holder != "-").then(|| holder.to_owned());
            let transitions = transitions.parse().unwrap();
            Answer::Is(Version(version.to_owned()), Record { holder, duration: DURATION, transitions })
        }
    }
}

fn told(step: &Step) -> String {
    let record = |record: &Record| {
        assert_eq!(record.duration, DURATION);
        format!("{}/{}", record.holder.as_deref().unwrap_or("-"), record.transitions)
    };
    match step {
        Step::Wait(until) => format!("wait {}", until.0.as_millis()),
        Step::Ask(Ask::Read) => "read".to_owned(),
        Step::Ask(Ask::Create(own)) => format!("create {}", record(own)),
        Step::Ask(Ask::Replace(Version(version), own)) => format!("replace {version} {}", record(own)),
        Step::Lost(Loss::Taken { holder }) => format!("lost to {holder}"),
        Step::Lost(Loss::Expired { overdue }) => format!("expired {}", overdue.as_millis()),
    }
}

/// A line is the time in milliseconds, what is done then and, of a request, what comes of it and until when this
/// exporter leads after it: `5000 read b/3@7 -`.
#[track_caller]
fn check(eligible: bool, script: &str) -> Election {
    let mut election = Election::new("a".to_owned(), Pace::of(DURATION));
    for line in script.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let words: Vec<&str> = line.split(' ').collect();
        let now = at(words[0].parse().unwrap());
        let step = election.next(now, eligible);
        let done = told(&step);
        let Step::Ask(ask) = step else {
            assert_eq!(format!("{} {done}", words[0]), line);
            continue;
        };
        let answered = words[words.len() - 2];
        election.heard(&ask, now, now, answer(answered), 0);
        let leads = election.deadline().map_or("-".to_owned(), |until| until.0.as_millis().to_string());
        assert_eq!(format!("{} {done} {answered} {leads}", words[0]), line);
    }
    election
}

/// Goal: where there is no Lease it is made and waited for, since a leader may live whose Lease was deleted; then it is
/// renewed, each time for as long from when the renewal was sent.
#[test]
fn a_lease_that_nobody_has_is_made_and_renewed() {
    check(
        true,
        "0 read absent -
         0 create a/0 a/0@1 -
         0 wait 5000
         5000 read a/0@1 -
         10000 read a/0@1 -
         14999 wait 15000
         15000 replace 1 a/1 a/1@2 27000
         15000 wait 20000
         20000 replace 2 a/1 a/1@3 32000
         25000 replace 3 a/1 a/1@4 37000",
    );
}

/// Goal: a claim that is deleted, and one whose making was never answered, are waited for from the beginning.
#[test]
fn a_claim_is_waited_for_from_when_it_was_seen() {
    check(
        true,
        "0 read absent -
         0 create a/0 failed -
         1250 create a/0 conflict -
         2500 read a/0@1 -
         7500 read a/0@1 -
         12500 read absent -
         12500 create a/0 a/0@2 -
         17500 read a/0@2 -
         22500 read a/0@2 -
         27499 wait 27500
         27500 replace 2 a/1 a/1@3 39500",
    );
}

/// Goal: a holder is dead once its Lease did not change for its duration by our clock, and not before; every change
/// begins the wait anew.
#[test]
fn a_holder_is_dead_when_its_lease_stands_still() {
    check(
        true,
        "1000 read b/3@7 -
         6000 read b/3@7 -
         11000 read b/3@8 -
         16000 read b/3@8 -
         21000 read b/3@8 -
         25999 wait 26000
         26000 replace 8 a/4 a/4@9 38000",
    );
}

/// Goal: who was quicker is followed, and waited for in turn.
#[test]
fn whoever_is_quicker_is_followed() {
    let election = check(
        true,
        "0 read b/3@7 -
         15000 replace 7 a/4 conflict -
         15000 wait 16250
         16250 read c/4@8 -
         21250 read c/4@8 -
         26250 read c/4@8 -
         31249 wait 31250
         31250 replace 8 a/5 a/5@9 43250",
    );
    assert_eq!(election.holder(), Some("a"));
}

/// Goal: a Lease that was given back is taken at once, and one that an answer which was lost made ours too.
#[test]
fn what_is_free_or_ours_is_taken_at_once() {
    check(
        true,
        "0 read -/3@7 -
         0 replace 7 a/4 failed -
         0 wait 1250
         1250 replace 7 a/4 conflict -
         2500 read a/4@8 -
         2500 replace 8 a/5 a/5@9 14500",
    );
}

/// Goal: an exporter that does not know its cluster looks, and lets a free Lease be.
#[test]
fn who_is_of_no_use_does_not_contend() {
    let mut election = check(
        false,
        "0 read b/3@7 -
         5000 read b/3@7 -
         10000 read b/3@7 -
         15000 read b/3@7 -
         15000 wait 20000
         20000 read -/3@8 -
         20000 wait 25000",
    );
    assert_eq!(told(&election.next(at(25_000), true)), "replace 8 a/4");
}

/// Goal: a leader whose renewals fail tries again and ends at its deadline, which no failure moves.
#[test]
fn a_leader_that_cannot_renew_ends_at_its_deadline() {
    check(
        true,
        "0 read -/0@1 -
         0 replace 1 a/1 a/1@2 12000
         5000 replace 2 a/1 failed 12000
         6250 replace 2 a/1 failed 12000
         11500 replace 2 a/1 failed 12000
         11999 wait 12000
         12000 expired 0
         12500 expired 0",
    );
}

/// Goal: a leader that was frozen finds its deadline passed, whatever an answer says that came meanwhile.
#[test]
fn a_leader_that_slept_too_long_has_lost() {
    let mut election = check(true, "0 read -/0@1 -\n0 replace 1 a/1 a/1@2 12000");
    let Step::Ask(renewal) = election.next(at(5_000), true) else { panic!("a renewal is due") };
    election.heard(&renewal, at(5_000), at(60_000), answer("a/1@3"), 0);
    assert_eq!(told(&election.next(at(60_000), true)), "expired 43000");
}

/// Goal: a leader that finds another's name in its Lease has lost at once; one whose Lease only changed, or is gone,
/// writes it again.
#[test]
fn a_leader_looks_at_who_changed_its_lease() {
    for (found, then) in [
        ("b/2@9 -", "6250 lost to b"),
        ("a/1@9 12000", "6250 replace 9 a/1 a/1@10 18250"),
        ("absent 12000", "6250 create a/0 a/0@10 18250\n10500 wait 11250\n11250 replace 10 a/0 a/0@11 23250"),
    ] {
        check(
            true,
            &format!(
                "0 read -/0@1 -
                 0 replace 1 a/1 a/1@2 12000
                 5000 replace 2 a/1 conflict 12000
                 6250 read {found}
                 {then}"
            ),
        );
    }
}

/// Goal: a leader gives back what it holds at the version that it knows; who does not lead has nothing to give.
#[test]
fn a_lease_is_given_back_once() {
    let mut election = check(true, "0 read -/0@1 -\n0 replace 1 a/1 a/1@2 12000");
    let free = Record { holder: None, duration: DURATION, transitions: 1 };
    assert_eq!(election.release(), Some(Ask::Replace(Version("2".to_owned()), free)));
    assert_eq!((election.deadline(), election.release()), (None, None));
}

/// Goal: renewals of exporters that started together spread over a tenth of their time, and none is late.
#[test]
fn renewals_are_spread() {
    let pace = Pace::of(DURATION);
    let spread = [0, u64::MAX / 2 + 1, u64::MAX].map(|random| pace.renew_after(random).as_millis());
    assert_eq!(spread, [5_000, 4_750, 4_500]);
}
