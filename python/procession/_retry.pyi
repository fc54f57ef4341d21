from collections.abc import Callable

__all__ = ["Retry"]

class Retry:
    times: int
    delay: float
    factor: float
    max_delay: float
    on: type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object]
    def __init__(
        self,
        times: int,
        *,
        delay: float = 0.0,
        factor: float = 2.0,
        max_delay: float = 60.0,
        on: type[BaseException] | tuple[type[BaseException], ...] | Callable[[BaseException], object] = ...,
    ) -> None: ...
    def covers(self, error: BaseException) -> bool: ...
    def pause_seconds(self, failures: int) -> float: ...
