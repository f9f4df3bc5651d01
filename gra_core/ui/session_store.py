"""Store of all visitors' sessions and own edits, in bounded memory.

Both are found only by the key that Gradio gives to one open page. They end when the page is closed, some time after
they were last used, or when newer visits need their place.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gra_core.directions.registry import EditDirection
from gra_core.errors import GRAError
from gra_core.ui.custom_edits import MOST, with_free_key
from gra_core.ui.gpu import size_in_bytes
from gra_core.ui.temp_store import TempStore

LIFETIME = 3600.0
"""Seconds after its last use at which a visit ends."""

CAPACITY = 1_000_000_000
"""Bytes that the photos, inversions and own edits of all visitors may take together."""


class Session(Protocol):
    """A photo and all that was made of it; see `gra_core.ui.session`."""

    store: TempStore

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""


@dataclass
class Opening:
    """A photo that is being read.

    Attributes:
        settings: the sliders as the page last told of them; the photo is shown edited like that.
    """

    settings: Mapping[str, float]


@dataclass
class Visit:
    """The kept state of one visitor.

    Attributes:
        used: when it was last used, by the clock of `SessionStore`.
        session: the photo and what was made of it.
        opening: the photo that comes next.
        edits: edits of the visitor's own, by key.
        shelves: files that belong to no session, by purpose.
    """

    used: float
    session: Session | None = None
    opening: Opening | None = None
    edits: dict[str, EditDirection] = field(default_factory=dict)
    stores: dict[str, TempStore] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Memory that it takes, without small things."""
        return (self.session.nbytes if self.session else 0) + sum(map(size_in_bytes, self.edits.values()))


class SessionStore:
    """Visits; the one used longest ago goes first. Safe to use from several threads.

    Args:
        capacity: bytes for all visits. The newest one is kept even if it needs more by itself.
        lifetime: seconds after its last use at which a visit ends.
        clock: seconds, for tests.
    """

    def __init__(
        self, capacity: int = CAPACITY, lifetime: float = LIFETIME, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.capacity, self.lifetime, self.clock = capacity, lifetime, clock
        self._visits: OrderedDict[str, Visit] = OrderedDict()
        self._lock = threading.RLock()

    def __len__(self) -> int:
        """How many sessions there are."""
        return sum(visit.session is not None for visit in list(self._visits.values()))

    def get(self, key: str | None) -> Session | None:
        """The session of a visitor, marked as used now; None when there is none any more."""
        self.end_old_ones()
        with self._lock:
            return self._use(key).session if key in self._visits else None

    def visit(self, key: str) -> Visit:
        """A visitor's visit, begun if need be, marked as used now."""
        with self._lock:
            return self._use(key)

    def opening(self, key: str | None) -> Opening | None:
        """The photo of a visitor that is being read, if one is."""
        with self._lock:
            return self._visits[key].opening if key in self._visits else None

    def put(self, key: str, session: Session, visit: Visit | None = None) -> bool:
        """Keep a visitor's session, new or changed, and make room for it; whether it is kept.

        Args:
            key: the visitor's.
            session: what to keep.
            visit: the visit that it was made for. If that ended meanwhile, for the page was closed, nothing is kept.
        """
        with self._lock:
            if visit is not None and self._visits.get(key) is not visit:
                return False
            visit = self._use(key)
            before, visit.session = visit.session, session
            if before is not None and before.store is not session.store:
                before.store.clear_later()
        self.end_old_ones()
        return True

    def drop(self, key: str | None) -> None:
        """End a visitor's session, if there is one; own edits stay for the next photo."""
        with self._lock:
            visit = self._visits.get(key)
            session = visit.session if visit else None
            if session is not None:
                visit.session = None
                session.store.clear_later()

    def edits(self, key: str | None) -> dict[str, EditDirection]:
        """A visitor's own edits, by key, in the order in which they came."""
        with self._lock:
            return dict(self._visits[key].edits) if key in self._visits else {}

    def add_edit(self, key: str, edit: EditDirection, shared: Mapping[str, EditDirection]) -> EditDirection:
        """Keep an edit for one visitor, under a key that neither it nor the `shared` edits have; returns it.

        Raises:
            GRAError: the visitor has as many as there may be.
        """
        with self._lock:
            edits = self._use(key).edits
            if len(edits) >= MOST:
                raise GRAError(f"There is room for {MOST} edits of your own. Remove one first.")
            edit = with_free_key(edit, {*shared, *edits})
            edits[edit.key] = edit
        self.end_old_ones()
        return edit

    def remove_edit(self, key: str, name: str) -> None:
        """Forget one of a visitor's own edits."""
        with self._lock:
            if key in self._visits:
                self._use(key).edits.pop(name, None)

    def store(self, key: str, purpose: str) -> TempStore:
        """A visitor's store for files that belong to no session. It lasts as long as the visit."""
        with self._lock:
            return self._use(key).stores.setdefault(purpose, TempStore())

    def new_store(self, key: str, purpose: str) -> TempStore:
        """As `store`, but empty: the visitor's older one for that purpose goes."""
        with self._lock:
            before = self._use(key).stores.pop(purpose, None)
            if before is not None:
                before.clear_later()
            return self.store(key, purpose)

    def leave(self, key: str | None) -> None:
        """Forget a visitor whose page was closed."""
        self.drop(key)
        with self._lock:
            visit = self._visits.pop(key, None)
        for store in visit.stores.values() if visit else ():
            store.clear()

    def end_old_ones(self) -> None:
        """End the visits that are too old, or that newer ones leave no room for."""
        with self._lock:
            oldest_use = self.clock() - self.lifetime
            for key in [key for key, visit in self._visits.items() if visit.used < oldest_use]:
                self.leave(key)
            room = self.capacity
            for key, visit in reversed(list(self._visits.items())):
                room -= visit.nbytes
                if room < 0 and key != next(reversed(self._visits)):
                    self.drop(key)
                    visit.edits.clear()
                    if not visit.stores:  # files take no memory: a finished batch waits to be fetched
                        del self._visits[key]

    def _use(self, key: str) -> Visit:
        """The visit of a visitor, begun if need be, marked as used now."""
        visit = self._visits.setdefault(key, Visit(self.clock()))
        visit.used = self.clock()
        self._visits.move_to_end(key)
        return visit
