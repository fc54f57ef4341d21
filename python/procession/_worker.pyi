from typing import Any

__all__ = ()

def worker_state() -> Any: ...
