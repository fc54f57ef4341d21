"""Ray's own drop-in for ``multiprocessing.Pool``, on a Ray started for the measurement alone."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable

from .base import Unsupported
from .stdlib_shaped import PoolMethods


class Ray(PoolMethods):
    def __init__(self, method: str) -> None:
        super().__init__(method)
        # A measurement sends nothing anywhere.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
            from ray.util.multiprocessing import Pool, TimeoutError
        except ImportError as error:
            raise Unsupported(f"not installed ({error})") from None
        self._ray = ray
        self._pool_class = Pool
        self.timeout_errors = (TimeoutError,)

    def open(self, processes: int, initializer: Callable[[], None] | None = None) -> None:
        if not self._ray.is_initialized():
            self._ray.init(
                num_cpus=processes,
                include_dashboard=False,
                log_to_driver=False,
                logging_level="ERROR",
                object_store_memory=2 * 10**9,
                # Ray's default place is shared by all users of the machine and stays behind.
                _temp_dir=tempfile.gettempdir(),
            )
        self._pool = self._pool_class(processes, initializer)

    def abandon(self) -> None:
        self._pool.terminate()
