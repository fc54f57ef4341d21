//! The load tester built on procession's pool, as a library: it never prints and never reads argv.
