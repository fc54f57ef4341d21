"""A backend for joblib, whose tasks survive the deaths of workers.

import joblib
import procession.joblib

procession.joblib.register()
with joblib.parallel_config(backend="procession", n_jobs=4):
    joblib.Parallel()(joblib.delayed(f)(x) for x in items)
"""

__all__ = ["register"]

NAME = "procession"


def register(make_default=False):
    """Makes the backend known to joblib, under the name `"procession"`; with `make_default`, as the one to be used.

    Raises:
        ImportError: joblib is not installed.
    """
    import joblib

    joblib.register_parallel_backend(NAME, _backend(), make_default=make_default)


def _backend():
    import joblib._parallel_backends as backends

    try:
        from cloudpickle import CloudPickler
    except ImportError:
        # Up to 1.5 joblib has one of its own.
        from joblib.externals.cloudpickle import CloudPickler

    from . import _native
    from . import pool as pools

    class ProcessionBackend(backends.AutoBatchingMixin, backends.ParallelBackendBase):
        """Runs batches of joblib in a pool."""

        supports_retrieve_callback = True
        supports_timeout = True

        def __init__(self, **options):
            known = (
                "timeout",
                "retries",
                "memory_limit",
                "recycle_memory",
                "cpu_affinity",
                "threads_per_worker",
                "output",
                "relay_logging",
                "context",
                "initializer",
            )
            self._options = {name: options.pop(name) for name in known if name in options}
            super().__init__(**options)
            self._pool = None

        def effective_n_jobs(self, n_jobs):
            if n_jobs == 0:
                raise ValueError("n_jobs == 0 in Parallel has no meaning")
            if n_jobs is None:
                return 1
            return max(1, _native.usable_cpus() + 1 + n_jobs) if n_jobs < 0 else n_jobs

        def configure(self, n_jobs=1, parallel=None, **_others):
            n_jobs = self.effective_n_jobs(n_jobs)
            if n_jobs == 1:
                raise backends.FallbackToBackend(backends.SequentialBackend(nesting_level=self.nesting_level))
            self.parallel = parallel
            self._pool = pools.Pool(n_jobs, **self._options)
            return n_jobs

        def submit(self, func, callback=None):
            # What joblib sends holds the user's functions, which may be lambdas.
            packed = _pack(CloudPickler, func)
            return self._pool.apply_async(_run, (packed,), {}, callback, callback)

        apply_async = submit

        def retrieve_result_callback(self, result):
            if isinstance(result, BaseException):
                raise result
            return result

        def get_nested_backend(self):
            level = (getattr(self, "nesting_level", None) or 0) + 1
            return backends.SequentialBackend(nesting_level=level), None

        def abort_everything(self, ensure_ready=True):
            self.terminate()
            if ensure_ready:
                self.configure(n_jobs=self.parallel.n_jobs, parallel=self.parallel)

        def terminate(self):
            pool, self._pool = self._pool, None
            if pool is not None:
                pool.terminate()
                pool.join()

    return ProcessionBackend


def _pack(pickler, function):
    import io

    buffer = io.BytesIO()
    pickler(buffer, protocol=5).dump(function)
    return buffer.getvalue()


def _run(packed):
    import pickle

    return pickle.loads(packed)()
