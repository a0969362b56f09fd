//! What every store promises, asked of the real one and of its twin in memory; and what only a real server can do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::disallowed_methods)]

#[path = "../common/mod.rs"]
mod common;
mod fixture;
mod server;
mod suite;

macro_rules! conformance {
    ($($name:ident)*) => {
        mod real { $(#[tokio::test] async fn $name() { super::suite::$name(<super::fixture::Real as super::fixture::Fixture>::open().await).await })* }
        mod twin { $(#[tokio::test] async fn $name() { super::suite::$name(<super::fixture::Twin as super::fixture::Fixture>::open().await).await })* }
    };
}

conformance! {
    a_cas_at_the_last_revision_succeeds_and_its_revision_grows
    a_cas_at_any_other_revision_is_a_conflict_and_changes_nothing
    a_deleted_key_can_be_created_again
    of_many_writers_at_one_revision_exactly_one_wins
    the_snapshot_of_an_empty_scope_comes_at_once_and_is_empty
    the_snapshot_is_one_unit_of_what_exists_and_changes_follow
    changes_of_a_key_come_in_order_and_up_to_the_last
    each_scope_sees_its_own_keys_and_no_others
    a_store_created_anew_ends_the_watch_with_a_gap_and_has_another_identity
    a_watch_of_a_reader_that_saw_more_than_there_is_begins_with_a_reset
    nothing_is_sent_while_disconnected
}
