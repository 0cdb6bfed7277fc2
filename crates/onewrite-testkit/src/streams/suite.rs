//! The macros that make one test of each case.

/// Makes one test of each case of a stream.
#[macro_export]
macro_rules! stream_suite {
    ($stream:ty) => {
        $crate::stream_cases!($stream,
            hazards {
                a_lost_message_is_noticed_and_sent_again
                without_the_chain_a_loss_goes_unnoticed
                reordering_is_put_right
                a_poisoned_key_stops_nobody_else
                foreign_messages_neither_block_nor_take_effect_twice
                a_refused_redrive_holds_back_its_key_alone
            }
            sharing {
                lanes_go_to_who_joins_and_come_back
                who_comes_and_goes_at_once_keeps_nothing
                a_dropped_feed_gives_back
                each_receiver_gets_everything
            }
        );
    };
}

/// Makes one test of each case of a stream whose server can be reached through a proxy.
#[macro_export]
macro_rules! proxy_suite {
    ($stream:ty) => {
        mod proxied {
            use super::*;

            $crate::stream_cases!($stream,
                hazards {
                    a_lost_answer_does_not_double
                    cut_connections_lose_and_double_nothing
                }
            );
        }
    };
}

/// Makes one test of each case of a stream whose server keeps its data through a kill.
#[macro_export]
macro_rules! crash_suite {
    ($stream:ty) => {
        mod crash {
            use super::*;

            $crate::stream_cases!($stream, hazards { killed_servers_lose_and_double_nothing });
        }
    };
}

/// Makes the tests of a receiver that is killed, or stalls; what it held comes again within this time.
#[macro_export]
macro_rules! takeover_suite {
    ($stream:ty, $within:expr) => {
        mod takeover {
            use super::*;

            #[tokio::test(flavor = "multi_thread")]
            async fn a_killed_process_is_taken_over() {
                let module = module_path!();
                $crate::streams::sharing::a_killed_process_is_taken_over::<$stream>(
                    $within, module,
                )
                .await;
            }

            #[tokio::test(flavor = "multi_thread")]
            async fn a_stalled_process_holds_nothing_back() {
                let module = module_path!();
                $crate::streams::sharing::a_stalled_process_holds_nothing_back::<$stream>(
                    $within, module,
                )
                .await;
            }
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! stream_cases {
    ($stream:ty, $($group:ident { $($case:ident)* })*) => {
        $(mod $group {
            use super::*;

            $(#[tokio::test(flavor = "multi_thread")]
            async fn $case() {
                $crate::streams::$group::$case::<$stream>().await;
            })*
        })*
    };
}
