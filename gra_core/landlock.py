"""Takes from this process, for good, the right to open files and connections, where Linux can do that (5.13 or newer).

See https://docs.kernel.org/userspace-api/landlock.html. What is open stays open. It makes little of a flaw in a
decoder: code that got in through a picture finds no file to read and nobody to send it to.
"""

import ctypes
import os
import struct
import sys
from collections.abc import Iterable

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
"""Numbers of the system calls, the same on all processors."""

NO_NEW_PRIVILEGES = 38
"""Option of `prctl` that a process has to set before."""

READ = 1 << 2 | 1 << 3
"""Right to read files and to list folders."""

_FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 5: 16}
"""Version of Landlock -> how many rights concerning files it knows from then on."""


def confine(readable: Iterable[str]) -> bool:
    """Allow nothing but reading in some folders from now on; returns whether the system obeys.

    Args:
        readable: folders; those that do not exist are left out. With the folders in them.
    """
    if not sys.platform.startswith("linux"):
        return False
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        version = libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), 1)
    except (OSError, AttributeError):
        return False
    if version < 1:  # an older kernel, or switched off
        return False
    count = max(number for known, number in _FILE_RIGHTS.items() if known <= version)
    # All rights of files; TCP connections from version 4 on, signals and sockets of other processes from 6 on.
    rules = struct.pack("=QQQ", (1 << count) - 1, 0b11, 0b11)[: 8 if version < 4 else 16 if version < 6 else 24]
    ruleset = libc.syscall(CREATE_RULESET, rules, ctypes.c_size_t(len(rules)), 0)
    if ruleset < 0:
        return False
    try:
        for folder in {os.path.realpath(folder) for folder in readable}:
            if os.path.isdir(folder):
                place = os.open(folder, os.O_PATH | os.O_CLOEXEC)
                libc.syscall(ADD_RULE, ruleset, 1, struct.pack("=Qi", READ, place), 0)
                os.close(place)
        if libc.prctl(NO_NEW_PRIVILEGES, 1, 0, 0, 0) != 0:
            return False
        return libc.syscall(RESTRICT_SELF, ruleset, 0) == 0
    finally:
        os.close(ruleset)
