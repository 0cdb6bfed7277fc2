//! Many seeds keep every promise; with a planted defect, one of them or of the next ones shows it.

use super::{Options, Trouble, many_seeds, one_seed, run};

/// The seeds that `ONEWRITE_SIM_SEEDS` asks for, as `1000` or `8..9`, or some.
fn seeds() -> std::ops::Range<u64> {
    let asked = std::env::var("ONEWRITE_SIM_SEEDS").unwrap_or_else(|_| "150".into());
    let (from, to) = asked.split_once("..").unwrap_or(("0", &asked));
    from.parse().expect("a seed")..to.parse().expect("a seed")
}

#[test]
fn many_seeds_keep_every_promise() {
    match many_seeds(seeds(), Options::default()) {
        Ok(counts) => {
            eprintln!("{counts:?}");
            // Few seeds that somebody looks at more closely need not show everything.
            assert!(seeds().count() < 100 || counts.is_everything(), "something never happened");
        }
        Err(report) => panic!("{report}"),
    }
}

#[test]
fn a_calm_world_keeps_every_promise() {
    let report = one_seed(1, Options { faults: false, ..Options::default() });
    assert!(report.wrong.is_empty(), "{report}");
}

#[test]
fn a_seed_repeats_its_history() {
    for seed in [0, 7, 8, 9] {
        let [first, second] = [(), ()].map(|()| run(seed, Options::default(), true).trace);
        assert!(first.len() > 100, "something happens");
        assert_eq!(first, second, "SEED={seed}");
    }
}

/// Some worlds, each with this trouble, keep every promise.
fn keeps_every_promise(trouble: Trouble) {
    let options = Options { trouble: Some(trouble), ..Options::default() };
    if let Err(report) = many_seeds(0..20, options) {
        panic!("{report}");
    }
}

/// S16: on a clock of its own a saga that is started then would be due in years.
#[test]
fn a_store_that_is_not_there_at_first_is_waited_for() {
    keeps_every_promise(Trouble::NoStoreAtFirst);
}

/// S35: a saga whose definition is not read now is read later, and not left alone.
#[test]
fn a_definition_that_is_not_read_at_first_is_read_later() {
    keeps_every_promise(Trouble::NoDefinitionAtFirst);
}

/// S17: a lease that was taken again meanwhile is not lost to what gave it back before.
#[test]
fn what_is_given_back_late_takes_nothing_away() {
    keeps_every_promise(Trouble::LateRelease);
}

/// S9, S18: what waits for its turn is not begun once the lease has run out, or nobody wants it any more.
#[test]
fn what_waits_for_its_turn_begins_only_while_it_may() {
    keeps_every_promise(Trouble::OneAtATime);
}

#[cfg(feature = "sabotage")]
mod planted {
    use onewrite_core::sabotage::{Defect, Sabotage};

    use super::{Options, one_seed};

    /// Asserts that among some seeds the world with these defects shows what is looked for.
    fn shows(defects: &[Defect], sign: &str) {
        let planted = |sabotage: Sabotage, defect: &Defect| sabotage.with(*defect);
        let sabotage = defects.iter().fold(Sabotage::default(), planted);
        let options = Options { sabotage, ..Options::default() };
        let is_sign = |wrong: &String| wrong.contains(sign);
        // Those that show nothing are few: it looks on for a while.
        let mut reports = (0..600).map(|seed| one_seed(seed, options));
        let report = reports.find(|report| report.wrong.iter().any(is_sign));
        let report = report.expect("nothing noticed the defect");
        eprintln!("{defects:?}: SEED={}: {:?}", report.seed, report.wrong);
    }

    #[test]
    fn compensations_that_are_given_up_leave_their_effects() {
        shows(&[Defect::ForgetCompensation], "an effect is left");
    }

    #[test]
    fn hidden_effects_stay_when_only_what_is_done_is_compensated() {
        shows(&[Defect::SkipUnknown], "an effect is left");
    }

    #[test]
    fn compensations_in_the_order_of_the_steps_are_too_early() {
        shows(&[Defect::ForwardOrder], "is made good before");
    }

    #[test]
    fn attempts_that_do_not_wait_for_the_journal_are_not_permitted() {
        shows(&[Defect::ActBeforeJournal], "nothing durable permits it");
    }

    #[test]
    fn a_runner_that_never_looks_at_its_leases_begins_without_them() {
        shows(&[Defect::ActWithoutLease], "begins without a lease");
    }

    #[test]
    fn without_fences_an_older_owner_writes_behind_a_newer_one() {
        shows(&[Defect::NoFence], "a journal that contradicts itself");
    }

    #[test]
    fn without_fence_and_number_two_owners_mix() {
        shows(&[Defect::NoFence, Defect::NoVersion], "a journal that contradicts itself");
    }

    #[test]
    fn uncounted_attempts_end_processes_for_ever() {
        shows(&[Defect::NoAttempts], "never became quiet");
    }

    #[test]
    fn a_signal_that_is_not_looked_at_is_taken_twice() {
        shows(&[Defect::TakeTwice], "taken before");
    }
}
