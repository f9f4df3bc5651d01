"""Sessions of all visitors in bounded memory.

A session is found only by the key that Gradio gives to one open page. It ends when the page is closed, some time after
it was last used, or when newer sessions need its place.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import TYPE_CHECKING

from gra_core.ui.shelf import Shelf

if TYPE_CHECKING:
    from gra_core.ui.session import Session

LIFETIME = 3600.0
"""Seconds after its last use at which a session ends."""

CAPACITY = 1_000_000_000
"""Bytes that the photos and inversions of all sessions may take together."""

PATIENCE = 10.0
"""Seconds that the files of a session outlive it, for a browser that is still loading one of them."""

SWEEP_SECONDS = 60.0


class Visitors:
    """Sessions by visitor; the one used longest ago goes first. Safe to use from several threads.

    Args:
        capacity: bytes for all sessions. The newest one is kept even if it needs more by itself.
        lifetime: seconds after its last use at which a session ends.
        clock: seconds, for tests.
    """

    def __init__(
        self, capacity: int = CAPACITY, lifetime: float = LIFETIME, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.lifetime, self.clock = capacity, lifetime, clock
        self._sessions: OrderedDict[str, tuple[Session, float]] = OrderedDict()
        self._shelves: dict[tuple[str, str], Shelf] = {}
        self._lock = threading.RLock()
        self._sweeper: threading.Thread | None = None

    def __len__(self) -> int:
        """How many sessions there are."""
        return len(self._sessions)

    def get(self, key: str | None) -> Session | None:
        """The session of a visitor, marked as used now; None when there is none any more."""
        self.end_old_ones()
        with self._lock:
            if key not in self._sessions:
                return None
            session, _ = self._sessions[key]
            self._sessions[key] = (session, self.clock())
            self._sessions.move_to_end(key)
            return session

    def put(self, key: str, session: Session) -> None:
        """Keep a visitor's session, new or changed, and make room for it."""
        with self._lock:
            before, _ = self._sessions.pop(key, (None, 0))
            if before is not None and before.shelf is not session.shelf:
                before.shelf.clear(PATIENCE)
            self._sessions[key] = (session, self.clock())
            self._sweeper = self._sweeper or self._start_sweeping()
        self.end_old_ones()

    def drop(self, key: str | None) -> None:
        """End a visitor's session, if there is one."""
        with self._lock:
            session, _ = self._sessions.pop(key, (None, 0))
        if session is not None:
            session.shelf.clear(PATIENCE)

    def shelf(self, key: str, purpose: str) -> Shelf:
        """An empty shelf for results that belong to no session; the visitor's older one for that purpose goes."""
        shelf = Shelf()
        with self._lock:
            before = self._shelves.pop((key, purpose), None)
            self._shelves[key, purpose] = shelf
        if before is not None:
            before.clear(PATIENCE)
        shelf.clear(self.lifetime)
        return shelf

    def leave(self, key: str | None) -> None:
        """Forget a visitor whose page was closed."""
        self.drop(key)
        with self._lock:
            left = [self._shelves.pop(place) for place in list(self._shelves) if place[0] == key]
        for shelf in left:
            shelf.clear()

    def end_old_ones(self) -> None:
        """End the sessions that are too old, or that newer ones leave no room for."""
        with self._lock:
            oldest_use = self.clock() - self.lifetime
            ended = [key for key, (_, used) in self._sessions.items() if used < oldest_use]
            room = self.capacity
            for key, (session, _) in reversed(self._sessions.items()):
                room -= session.nbytes
                if room < 0 and key != next(reversed(self._sessions)):
                    ended.append(key)
            for key in ended:
                self.drop(key)

    def _start_sweeping(self) -> threading.Thread:
        def sweep() -> None:
            while True:
                time.sleep(SWEEP_SECONDS)
                self.end_old_ones()

        thread = threading.Thread(target=sweep, name="session-sweeper", daemon=True)
        thread.start()
        return thread
