"""Functions that the tests of the sandbox run in a worker."""

import ctypes
import os
import socket
import time
from pathlib import Path

from gra_core.errors import UnknownEditError


def echo(*shared, **arguments):
    with shared[0].open() as file:
        content = file.read()
    return arguments, [memoryview(content), memoryview(content)]


def fill(target):
    memory = target.map()
    memory[:] = bytes(range(256)) * (len(memory) // 256)


def shorten(target):
    os.ftruncate(target.descriptor, 1)


def refuse():
    raise UnknownEditError("There is no such edit.")


def fail():
    return 1 / 0


def spin():
    while True:
        pass


def sleep(seconds):
    time.sleep(seconds)


def crash():
    ctypes.string_at(1)


def grow(size):
    return len(bytearray(size))


def write(path):
    Path(path).write_text("written")


def talk():
    os.write(1, b'{"value": "from a library"}\n')
    return "answer"


def surroundings():
    places = [f"/proc/self/fd/{number}" for number in range(3, 100)]
    descriptors = [os.readlink(place) for place in places if os.path.lexists(place)]
    return {"environment": dict(os.environ), "descriptors": descriptors}


def process():
    return os.getpid()


def is_confined(path):
    try:
        Path(path).read_bytes()
    except PermissionError:
        return True
    return False


def connect(port):
    try:
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
    except PermissionError:
        return False
    return True
