//! Options that make no sense.

use super::*;

#[test]
fn options_that_make_no_sense_are_refused() {
    let _alone = alone();
    let text = |builder: PoolBuilder| {
        let error = builder.build().unwrap_err();
        assert!(error.is_bad_option());
        error.to_string()
    };
    assert_eq!(
        text(builder().processes(0)),
        "a pool cannot be made: it needs 1 process at least, not 0"
    );
    assert!(text(builder().processes(1 << 40)).contains("2040"));
    assert!(text(builder().tasks_per_worker(0)).contains("not 0"));
    assert!(text(builder().timeout(Duration::ZERO)).contains("timeout"));
    assert!(text(builder().buffer(0)).contains("buffer"));
}
