"""Runs one class of CPython's tests in this process and writes what became of each test, a line of JSON each.

Usage: run_class.py --list
       run_class.py REPORT CLASS SECONDS-PER-TEST [TEST …]
"""

import faulthandler
import json
import signal
import sys
import unittest


class Reporter(unittest.TestResult):
    """Writes each outcome at once, so that it is known even if a later test takes the process down."""

    def __init__(self, report, limit_seconds):
        super().__init__()
        self._report = report
        self._limit_seconds = limit_seconds

    def _write(self, test, outcome, detail=""):
        name = getattr(test, "_testMethodName", None) or str(test)
        json.dump({"test": name, "outcome": outcome, "detail": detail}, self._report)
        self._report.write("\n")
        self._report.flush()

    def startTest(self, test):
        super().startTest(test)
        self._write(test, "started")
        # The runner ends what takes longer; before, this shows where it was. A test may have left another `sys.stderr`.
        faulthandler.dump_traceback_later(self._limit_seconds * 0.9, file=sys.__stderr__)

    def stopTest(self, test):
        faulthandler.cancel_dump_traceback_later()
        super().stopTest(test)

    def addSuccess(self, test):
        super().addSuccess(test)
        self._write(test, "passed")

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self._write(test, "failed", self._exc_info_to_string(err, test))

    def addError(self, test, err):
        super().addError(test, err)
        self._write(test, "failed", self._exc_info_to_string(err, test))

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self._write(test, "failed", f"{subtest}\n{self._exc_info_to_string(err, test)}")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        self._write(test, "skipped", reason)

    def addExpectedFailure(self, test, err):
        super().addExpectedFailure(test, err)
        self._write(test, "passed")

    def addUnexpectedSuccess(self, test):
        super().addUnexpectedSuccess(test)
        self._write(test, "failed", "unexpected success")


def main():
    # What is run in the background may have Ctrl-C ignored, which tests send to themselves.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    import os

    import cpython_tests
    from test.support import script_helper

    # Programs that tests start must see the redirection too, which an isolated interpreter (-I) does not.
    script_helper.__dict__["__cached_interp_requires_environment"] = True

    if sys.argv[1] == "--list":
        loader = unittest.TestLoader()
        json.dump({name: loader.getTestCaseNames(item) for name, item in cpython_tests.classes().items()}, sys.stdout)
        return 0
    report, class_name, limit, *names = sys.argv[1:]
    class_ = cpython_tests.classes()[class_name]
    loader = unittest.TestLoader()
    names = names or loader.getTestCaseNames(class_)
    with open(report, "a") as file:
        os.set_inheritable(file.fileno(), False)
        reporter = Reporter(file, float(limit))
        # unittest itself runs setUpModule and setUpClass and their counterparts.
        unittest.TestSuite(class_(name) for name in names).run(reporter)
        if not reporter.wasSuccessful():
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
