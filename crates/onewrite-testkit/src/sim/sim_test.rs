//! Many seeds keep every promise; with a planted defect, the same seeds show it.

use super::{Options, many_seeds, one_seed};

const SEEDS: std::ops::Range<u64> = 0..3000;

#[test]
fn many_seeds_keep_every_promise() {
    if let Err(report) = many_seeds(SEEDS, Options::default()) {
        panic!("{report}");
    }
}

#[test]
fn a_calm_world_becomes_quiet() {
    let report = one_seed(1, Options { faults: false, ..Options::default() });
    assert!(report.is_clean(), "{report}");
}

#[test]
fn a_seed_repeats_its_run() {
    let [first, second] = [one_seed(7, Options::default()), one_seed(7, Options::default())];
    assert_eq!(first.steps, second.steps);
}

#[cfg(feature = "sabotage")]
mod planted {
    use onewrite_core::sabotage::{Defect, Sabotage};

    use super::{super::Report, Options, SEEDS, one_seed};

    /// Asserts that among the same seeds the world with `defect` shows what `is_sign` looks for.
    fn shows(defect: Defect, is_sign: impl Fn(&Report) -> bool) {
        let options = Options { sabotage: Sabotage::default().with(defect), ..Options::default() };
        let found = SEEDS.map(|seed| one_seed(seed, options)).find(is_sign);
        let report = found.expect("nothing noticed the defect");
        eprintln!("{defect:?}: SEED={}: {}", report.seed, report.verdict);
    }

    fn loses(report: &Report) -> bool {
        report.quiet && report.verdict.lost.count > 0
    }

    #[test]
    fn a_cursor_that_runs_ahead_loses_records() {
        shows(Defect::CursorBeforePublish, loses);
    }

    #[test]
    fn writes_of_an_old_owner_break_the_history() {
        shows(Defect::NoFence, |report| report.quiet && !report.verdict.is_clean());
    }

    #[test]
    fn without_the_chain_a_loss_stays_unseen() {
        shows(Defect::NoChain, loses);
    }

    #[test]
    fn a_mark_before_the_effect_loses_records() {
        shows(Defect::MarkBeforeEffect, loses);
    }

    #[test]
    fn without_deduplication_repeats_take_effect() {
        shows(Defect::NoDedup, |report| report.verdict.duplicated.count > 0);
    }

    #[test]
    fn a_redrive_judged_by_the_mark_is_dropped() {
        shows(Defect::RedriveByMark, loses);
    }

    #[test]
    fn without_parking_a_key_overtakes_itself() {
        shows(Defect::NoParking, |report| report.verdict.out_of_order.count > 0);
    }

    #[test]
    fn acknowledging_past_a_failure_loses_records() {
        shows(Defect::AckPastFailure, loses);
    }

    #[test]
    fn without_attempts_a_killing_record_kills_for_ever() {
        shows(Defect::NoAttempts, |report| !report.quiet);
    }
}
