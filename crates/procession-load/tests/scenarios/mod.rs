mod workers;

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
];
