"""Undo and redo of slider settings."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping

GESTURE_SECONDS = 1.0
"""Moves of the same slider that follow each other faster belong to one step."""

LONGEST = 100

_REVISIONS = itertools.count(1)


class History:
    """The settings of a face, and those before and after.

    Args:
        clock: seconds, for tests.

    Attributes:
        revision: a number, never 0, that changes whenever the sliders are set by anything but a hand on one of them. A
            slider move that carries an older number began before that and comes too late.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._states: list[dict[str, float]] = [{}]
        self._position = 0
        self._clock = clock
        self._gesture: tuple[frozenset[str], float] = (frozenset(), 0.0)
        self.revision = next(_REVISIONS)

    @property
    def current(self) -> dict[str, float]:
        """The settings now."""
        return self._states[self._position]

    @property
    def can_undo(self) -> bool:
        """Whether there are settings before these."""
        return self._position > 0

    @property
    def can_redo(self) -> bool:
        """Whether settings were undone."""
        return self._position + 1 < len(self._states)

    def record(self, strengths: Mapping[str, float]) -> None:
        """New settings; a drag or a series of key strokes on one slider counts as one step."""
        before = self.current
        changed = frozenset(k for k in {*before, *strengths} if before.get(k) != strengths.get(k))
        if not changed:
            return
        now = self._clock()
        same_gesture = self._gesture[0] == changed and now - self._gesture[1] < GESTURE_SECONDS
        self._gesture = (changed, now)
        del self._states[self._position + 1 :]
        if same_gesture and self.can_undo:
            self._states[-1] = dict(strengths)
        else:
            self._states = [*self._states, dict(strengths)][-LONGEST:]
        self._position = len(self._states) - 1

    def set(self, strengths: Mapping[str, float]) -> None:
        """New settings for all sliders at once, as one step of their own."""
        self._begin_revision()
        self.record(strengths)
        self._begin_revision()

    def undo(self) -> None:
        """Back to the settings before, where there are some."""
        self._position = max(self._position - 1, 0)
        self._begin_revision()

    def redo(self) -> None:
        """Forward to what was undone, where there is something."""
        self._position = min(self._position + 1, len(self._states) - 1)
        self._begin_revision()

    def forget(self, key: str) -> None:
        """An edit is no more: it leaves all settings, and steps that changed nothing else."""
        states: list[dict[str, float]] = []
        for index, state in enumerate(self._states):
            rest = {name: value for name, value in state.items() if name != key}
            if not states or states[-1] != rest:
                states.append(rest)
            if index == self._position:
                position = len(states) - 1
        self._states, self._position = states, position
        self._begin_revision()

    def _begin_revision(self) -> None:
        self._gesture = (frozenset(), 0.0)
        self.revision = next(_REVISIONS)
