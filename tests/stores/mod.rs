//! How plaque works with a store of any kind: one suite, which the tests of each store run.

pub mod every;
mod rig;
pub mod shared;

pub use self::rig::*;

/// The tests of every store, with `$kind`.
macro_rules! every_store {
    ($kind:ty) => {
        crate::stores::tests! {
            $kind: every;
            what_was_kept_is_given_with_its_age_and_without_a_lookup
            a_thousand_callers_of_what_was_kept_cost_one_load
            a_thousand_callers_of_what_nobody_knows_cost_one_lookup
            a_stale_answer_is_given_at_once_and_looked_up_once_behind_it
            an_old_answer_is_given_if_the_lookup_fails
            a_failure_is_remembered_and_the_good_answer_with_it
            a_pause_that_is_over_is_over_and_the_streak_goes_on
            what_the_upstream_thinks_of_us_is_not_kept
            what_happens_in_our_own_queue_says_nothing_of_the_channel
            a_spell_of_404_is_noticed_by_what_was_kept
            a_caller_who_wants_it_new_gets_it_new
            nothing_older_replaces_what_is_known
            a_failure_of_who_knew_nothing_is_no_reason_to_forget
            an_answer_is_found_that_was_kept_before_our_own_failure
            kinds_are_kept_apart
            what_cannot_be_read_counts_as_absent_and_is_replaced
            the_units_of_a_day_are_added_up_by_key_and_outlive_a_restart
            names_outlive_a_restart_and_each_is_of_one_channel
        }
    };
}

/// The tests of stores that replicas share, with `$kind`.
macro_rules! shared_store {
    ($kind:ty) => {
        crate::stores::tests! {
            $kind: shared;
            callers_of_two_replicas_cost_one_lookup
            callers_of_two_replicas_who_want_it_new_cost_one_lookup
            the_others_failure_is_ours
            what_the_upstream_thinks_of_one_replica_it_need_not_think_of_the_other
            a_lease_that_is_given_up_is_taken_over
            a_holder_that_lost_its_lease_overwrites_nothing
            what_the_last_holder_saved_between_our_look_and_our_lease_is_found
            a_panic_under_a_lease_gives_it_up
            a_caller_who_leaves_while_another_replica_looks_up_changes_nothing
            what_one_replica_finds_the_watchers_of_the_other_are_told
            an_older_remote_update_replaces_nothing_and_an_unwanted_one_is_not_loaded
            a_remote_update_that_is_slow_to_load_replaces_nothing_newer
        }
    };
}

macro_rules! tests {
    ($kind:ty: $module:ident; $($test:ident)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                let test = Box::pin(crate::stores::$module::$test::<$kind>());
                crate::stores::soon(test).await;
            }
        )*
    };
}

pub(crate) use {every_store, shared_store, tests};
