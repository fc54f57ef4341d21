mod http;
mod http2;
mod protocols;
mod servers;
mod users;
mod workers;

use procession_load::result::{ErrorKind, RunResult};
use procession_load::server::Served;

/// What a server can do with a request.
pub const FATES: [Served; 6] = [
    Served::Good,
    Served::Status500,
    Served::Reset,
    Served::Never,
    Served::Half,
    Served::Malformed,
];

/// Whether scenarios that take minutes at full length are to be shortened, as in everyday tests.
pub fn quick() -> bool {
    std::env::var_os("PROCESSION_LOAD_TRUTH").is_none()
}

/// How many requests have failed in this way.
pub fn count_of(result: &RunResult, kind: ErrorKind) -> u64 {
    result
        .errors
        .iter()
        .find(|error| error.kind == kind)
        .map_or(0, |error| error.count)
}

/// All of them, by name.
pub const ALL: &[(&str, fn())] = &[
    (
        "every_iteration_of_a_workload_is_counted_once",
        workers::every_iteration_is_counted_once,
    ),
    (
        "a_killed_worker_is_replaced_and_its_counts_are_kept",
        workers::killed_worker_is_replaced_and_its_counts_are_kept,
    ),
    (
        "a_workload_that_gives_up_ends_the_run_with_its_reason",
        workers::workload_that_gives_up_ends_the_run,
    ),
    (
        "a_stopped_run_still_says_what_it_came_to",
        workers::stopped_run_still_reports,
    ),
    (
        "requests_are_counted_on_both_sides_alike",
        http::requests_are_counted_on_both_sides_alike,
    ),
    (
        "connections_are_new_for_each_request_if_asked_for",
        http::connections_are_new_for_each_request_if_asked_for,
    ),
    (
        "a_server_that_closes_after_each_answer_is_no_error",
        http::a_server_that_closes_after_each_answer_is_no_error,
    ),
    (
        "a_connection_that_was_closed_while_it_was_idle_is_not_used",
        http::a_connection_that_was_closed_while_it_was_idle_is_not_used,
    ),
    (
        "every_kind_of_failure_is_counted_exactly",
        http::every_kind_of_failure_is_counted_exactly,
    ),
    (
        "a_refused_connection_is_told_from_other_failures",
        http::a_refused_connection_is_told_from_other_failures,
    ),
    (
        "unfinished_requests_are_counted_as_censored",
        http::unfinished_requests_are_counted_as_censored,
    ),
    (
        "requests_are_chosen_by_their_weights",
        http::requests_are_chosen_by_their_weights,
    ),
    ("a_stall_is_seen_whole", http::a_stall_is_seen_whole),
    (
        "servers_prove_who_they_are",
        protocols::servers_prove_who_they_are,
    ),
    (
        "a_client_certificate_is_shown_if_there_is_one",
        protocols::a_client_certificate_is_shown_if_there_is_one,
    ),
    (
        "http2_requests_share_connections",
        protocols::http2_requests_share_connections,
    ),
    (
        "http2_goes_on_when_the_server_ends_a_connection_or_a_stream",
        protocols::http2_goes_on_when_the_server_ends_a_connection_or_a_stream,
    ),
    (
        "a_protocol_of_its_own_is_tested_over_tcp",
        protocols::a_protocol_of_its_own_is_tested_over_tcp,
    ),
    (
        "lost_and_doubled_datagrams_are_counted",
        protocols::lost_and_doubled_datagrams_are_counted,
    ),
    (
        "a_held_up_generator_is_not_believed",
        workers::held_up_generator_is_not_believed,
    ),
    (
        "what_ends_after_the_load_is_no_throughput",
        workers::what_ends_after_the_load_is_no_throughput,
    ),
    (
        "a_rate_lasts_for_all_of_its_time",
        workers::a_rate_lasts_for_all_of_its_time,
    ),
    (
        "a_held_up_reader_makes_no_response_slow",
        workers::held_up_reader_makes_no_response_slow,
    ),
    (
        "a_killed_controller_leaves_no_worker_behind",
        workers::killed_controller_leaves_no_worker_behind,
    ),
    (
        "redirects_and_cookies_are_followed_if_asked_for",
        protocols::redirects_and_cookies_are_followed_if_asked_for,
    ),
    (
        "a_user_in_rust_follows_redirects_with_its_cookies",
        protocols::a_user_in_rust_follows_redirects_with_its_cookies,
    ),
    (
        "a_unix_socket_takes_the_place_of_an_address",
        protocols::a_unix_socket_takes_the_place_of_an_address,
    ),
    ("a_future_is_a_virtual_user", users::a_future_is_a_virtual_user),
    (
        "many_users_in_rust_keep_to_a_rate",
        users::many_users_in_rust_keep_to_a_rate,
    ),
    (
        "a_user_in_rust_is_told_what_it_cannot_do",
        users::a_user_in_rust_is_told_what_it_cannot_do,
    ),
    (
        "a_user_in_rust_trusts_whom_it_is_told_to_trust",
        users::a_user_in_rust_trusts_whom_it_is_told_to_trust,
    ),
    (
        "a_user_in_rust_shows_its_certificate_if_it_has_one",
        users::a_user_in_rust_shows_its_certificate_if_it_has_one,
    ),
    (
        "a_response_without_end_holds_up_nobody",
        users::a_response_without_end_holds_up_nobody,
    ),
    (
        "requests_of_a_user_in_rust_share_a_connection",
        http2::requests_of_a_user_in_rust_share_a_connection,
    ),
    (
        "users_in_rust_go_on_when_the_server_ends_a_connection_or_a_stream",
        http2::users_in_rust_go_on_when_the_server_ends_a_connection_or_a_stream,
    ),
];
