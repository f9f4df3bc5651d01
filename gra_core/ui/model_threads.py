"""Threads for the nets, as few as there is work at a time.

Everybody who waits for the model takes one of Gradio's threads, and would run the nets there. PyTorch and its libraries
keep buffers for each thread that ever ran them. With 50 visitors the server took 4 GB for that reason, and new threads
are a tenth slower.
"""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import SimpleQueue
from typing import Any


class ModelThreads:
    """Runs work in the thread that became idle last; starts another only when all are busy.

    The threads are daemons: work that waits for its turn does not keep the server from ending, as it would in the
    standard library's pool.
    """

    def __init__(self) -> None:
        self._idle: list[SimpleQueue] = []  # `append` and `pop` are atomic

    def run(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """`function(*arguments)` in one of the threads, in the caller's context; raises what it raises."""
        return self._begin(function, *arguments).result()

    def _begin(self, function: Callable[..., Any], *arguments: Any) -> Future:
        try:
            inbox = self._idle.pop()
        except IndexError:
            inbox = SimpleQueue()
            threading.Thread(target=self._work, args=[inbox], name="model", daemon=True).start()
        done = Future()
        inbox.put((done, contextvars.copy_context(), function, arguments))
        return done

    def _work(self, inbox: SimpleQueue) -> None:
        while True:
            self._answer(inbox, *inbox.get())

    def _answer(
        self,
        inbox: SimpleQueue,
        done: Future,
        context: contextvars.Context,
        function: Callable[..., Any],
        arguments: tuple[Any, ...],
    ) -> None:
        try:
            result = context.run(function, *arguments)
        except BaseException as error:
            self._idle.append(inbox)
            done.set_exception(error)
            del done  # else an error and this frame keep each other, and the photo with them
        else:
            self._idle.append(inbox)
            done.set_result(result)
