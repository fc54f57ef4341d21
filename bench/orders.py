"""The dataclass that the pickled-argument row sends.

It lives apart from ``workloads`` because importing ``dataclasses`` costs a spawned worker several milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Order:
    name: str
    quantity: int
    price: int
