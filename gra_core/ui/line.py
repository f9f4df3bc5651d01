"""The line in which visitors wait for the model: one at a time, in the order in which they came.

Two edits at once would only make both slower. Gradio has such a line, too, but tells nobody in it how it stands.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Self

PATIENCE = 0.5
"""Seconds that somebody waits without a word: most turns come sooner, and words that flash by help nobody."""


class Line:
    """Who is served, and who is next. Safe to use from several threads."""

    def __init__(self) -> None:
        self._places: deque[Place] = deque()
        self._moved = threading.Condition()

    def join(self, visitor: str | None = None) -> Place:
        """The last place, for a visitor or for a program. Wait there for the turn, and leave it, as `with` does.

        >>> with line.join(visitor) as place:
        ...     for others in place.wait():
        ...         print(f"{others} are before you")
        ...     work()
        """
        place = Place(self, visitor)
        with self._moved:
            self._places.append(place)
        return place


class Place:
    """A place in a line."""

    def __init__(self, line: Line, visitor: str | None) -> None:
        self._line, self.visitor = line, visitor or self

    def wait(self, patience: float = PATIENCE) -> Iterator[int]:
        """Ends when it is this place's turn; until then yields how many other visitors are before, whenever it changes.

        Args:
            patience: seconds before the first number comes.
        """
        moved, told = self._line._moved, 0
        quiet_until = time.monotonic() + patience
        while True:
            with moved:
                while True:
                    others = self._others()
                    if others is None:
                        return
                    left = quiet_until - time.monotonic()
                    if others not in (0, told) and left <= 0:
                        break
                    moved.wait(left if left > 0 else None)
            told = others
            yield others

    def arrive(self) -> None:
        """Wait for the turn without a word."""
        for _ in self.wait():
            pass

    def leave(self) -> None:
        """Let the next one in, or give up a place further behind."""
        with self._line._moved:
            if self in self._line._places:
                self._line._places.remove(self)
                self._line._moved.notify_all()

    def _others(self) -> int | None:
        """How many other visitors are before; None: nobody is, and this visitor's own earlier places are done."""
        before = []
        for place in self._line._places:
            if place is self:
                break
            before.append(place.visitor)
        return len({visitor for visitor in before if visitor != self.visitor}) if before else None

    def __enter__(self) -> Self:
        """For `with`; the place was taken by `Line.join`."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the line."""
        self.leave()
