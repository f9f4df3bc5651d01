"""Logs that say where the program failed and never what a visitor sent.

The message of an exception often repeats its input: paths, names of files, whole requests. A traceback without it still
tells the kind of error and every line that was passed.
"""

from __future__ import annotations

import logging
import sys
import threading
import traceback
from types import TracebackType
from typing import Any

import gradio.queueing
import gradio.route_utils
import gradio.routes

AGAIN = 60.0
"""Seconds in which the same line of asyncio's log is written once: without free descriptors it comes endlessly."""

log = logging.getLogger(__name__)


def describe(error: BaseException | None) -> str:
    """A traceback, and those of the errors behind it, without their messages."""
    parts = []
    while error is not None and len(parts) < 5:
        frames = "".join(traceback.format_tb(error.__traceback__))
        parts.append(f"Failed at (latest call last):\n{frames}{type(error).__name__}")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return "\n\n".join(reversed(parts))


def install() -> None:
    """From now on all logs and uncaught exceptions of the process are discreet."""
    make = logging.getLogRecordFactory()
    if getattr(make, "private_logging", False):
        return

    def record(*arguments: Any, **options: Any) -> logging.LogRecord:
        entry = make(*arguments, **options)
        if entry.exc_info and entry.exc_info[1] is not None:
            entry.exc_text = describe(entry.exc_info[1])  # formatters take this and do not make their own
        return entry

    record.private_logging = True
    logging.setLogRecordFactory(record)
    for module in (gradio.queueing, gradio.routes, gradio.route_utils):  # they print tracebacks themselves
        module.traceback = _Discreet
    sys.excepthook = _uncaught
    threading.excepthook = lambda about: _uncaught(about.exc_type, about.exc_value, about.exc_traceback)
    logging.getLogger("asyncio").addFilter(Seldom())


class Seldom(logging.Filter):
    """Lets the same line through once in AGAIN seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._written: dict[tuple[str, int, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to write a line."""
        place = record.pathname, record.lineno, str(record.msg)[:200]
        if len(self._written) > 100:
            self._written.clear()
        fresh = record.created - self._written.get(place, -AGAIN) >= AGAIN
        if fresh:
            self._written[place] = record.created
        return fresh


class _Discreet:
    """In the place of the module `traceback`."""

    @staticmethod
    def print_exc() -> None:
        log.error("A request failed", exc_info=sys.exception())

    format_exc = staticmethod(lambda: describe(sys.exception()))


def _uncaught(kind: type[BaseException], error: BaseException | None, _trace: TracebackType | None) -> None:
    if error is None or issubclass(kind, KeyboardInterrupt):
        return
    print(describe(error), file=sys.stderr)
