"""A /dev/shm of one's own."""

from __future__ import annotations

import ctypes


def take_a_private_dev_shm() -> None:
    """Gives this process and its descendants a /dev/shm where nobody else's files come and go, if we may have one.

    Where we may not, :mod:`leftovers` looks who has a file.
    """
    CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNS) != 0:
        return
    # Else the mount below would show up outside, too.
    if libc.mount(b"none", b"/", None, ctypes.c_ulong(MS_REC | MS_PRIVATE), None) == 0:
        libc.mount(b"tmpfs", b"/dev/shm", b"tmpfs", ctypes.c_ulong(0), b"mode=1777")
