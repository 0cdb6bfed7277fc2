//! The cases of each suite, listed once, and what is made of the lists.

/// Makes one test of each case of the store's suite. `$fixture` is evaluated for each.
#[macro_export]
macro_rules! store_suite {
    ($fixture:expr) => {
        $crate::store_cases!(tests, $fixture);
    };
}

/// Makes one test of each case of the journal's suite.
#[macro_export]
macro_rules! journal_suite {
    ($fixture:expr) => {
        $crate::journal_cases!(tests, $fixture);
    };
}

/// Makes one test of each case of the barrier's suite.
#[macro_export]
macro_rules! barrier_suite {
    ($fixture:expr) => {
        $crate::barrier_cases!(tests, $fixture);
    };
}

/// Makes one test of each case of the broker's suite, in both halves.
#[macro_export]
macro_rules! broker_suite {
    ($fixture:expr) => {
        $crate::sink_cases!(tests, $fixture);
        $crate::feed_cases!(tests, $fixture);
    };
}

/// Makes one test of each case of the inbox's suite.
#[macro_export]
macro_rules! inbox_suite {
    ($fixture:expr) => {
        $crate::inbox_cases!(tests, $fixture);
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! store_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            store {
                atomic independent fenced durable unknown own_clock cancel
                plain_insert watch
            }
            order {
                commit_order open_transaction never_twice time_is_no_order
            }
            lease {
                one_owner takeover release fair_share leave
            }
            log {
                pages bytes_max kinds find
            }
            cursor {
                cursors subscribe trim trim_by_age history sinks
            }
            parking {
                park_in_order requested unpark_front scopes queue_order
            }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! journal_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            saga {
                as_written journal_first next_version fenced_transition start_once same_text due
                one_commit taken_once awaits
            }
            child {
                its_parent told_with_its_end barred trimmed kept_for_its_parent
                started_before_its_successor about_to_go only_these
            }
            list { its_head filtered paged by_attribute }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! barrier_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            barrier {
                repeated empty_compensation late_action compensated_once rolled_back apart
                foreign_calls every_order at_random kept made_once
            }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! sink_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            sink { order prefix durable unknown aligned cancel marks }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! feed_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            feed { order redelivery no_early_end cancel taken_once }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! inbox_cases {
    ($mode:ident, $fixture:expr) => {
        $crate::conformance_cases!($mode, $fixture,
            inbox {
                one_commit insert_first gap late_duplicate diverged lives
                partial_failure another_lane gap_event reopened
            }
            foreign {
                foreign_insert_first foreign_ids retention unsafe_retention redriven
            }
            poison {
                attempt_first crash_loop neighbours parked_key redrive_fails discard
            }
        );
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! conformance_cases {
    (tests, $fixture:expr, $($module:ident { $($case:ident)* })*) => {
        $(mod $module {
            #[allow(unused_imports, reason = "the fixture may need none of them")]
            use super::*;
            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                $crate::conformance::$module::$case(&$fixture).await;
            })*
        })*
    };
    (all, $fixture:expr, $($module:ident { $($case:ident)* })*) => {
        $($(
            println!(concat!(stringify!($module), "::", stringify!($case)));
            $crate::conformance::$module::$case($fixture).await;
        )*)*
    };
}
