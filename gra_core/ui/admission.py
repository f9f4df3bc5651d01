"""The line in which visitors wait for the model: one is served at a time.

Two edits at once would only make both slower. A slider move goes before a new photo, since somebody looks at it. As
many visitors can edit at a time as the machine serves without a long wait; the next one waits for a seat. Gradio has a
queue, too, but tells nobody in it how it stands.
"""

from __future__ import annotations

import enum
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Self

from gra_core.errors import BusyError
from gra_core.ui import strings

MODEL = {"concurrency_id": "model", "concurrency_limit": None}
"""Options of Gradio's for events that join the line: it has limits of its own."""

PATIENCE = 0.5
"""Seconds that somebody waits without a word: most turns come sooner, and words that flash by help nobody."""

SLOWEST = 3.0
"""How much longer than alone a slider move may take when all seats are taken and all move at once."""
THINKING = 2.0
"""Seconds between two slider moves of one visitor."""
CROWDED = 2.0
"""How much longer a slider move takes than its edit alone while pictures of others are compressed and sent."""
FEWEST_SEATS = 2

SEAT_SECONDS = 60.0
"""How long a visitor keeps a seat without doing anything."""

MOST_WAITING = 30
"""How many may wait with a new photo, or for a seat; what comes beyond that is asked to come again."""
MOST_CALLS = 8
"""As MOST_WAITING, for programs."""
MOST_PLACES = 4
"""How many places one visitor may have in the line."""

AGED = 15.0
"""Seconds after which what has a seat and waits for slider moves goes before them all the same."""

MEMORY = 0.3
"""Share of the newest duration in the running means."""


class Work(enum.Enum):
    """Kinds of work; the value is its time in seconds until that is measured."""

    MOVE = 0.5
    OPEN = 5.0


class QueueFullError(BusyError):
    """There are too many in the line already.

    Attributes:
        seconds: after which it is worth trying again.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__(strings.busy(seconds))
        self.seconds = seconds


class Standing(NamedTuple):
    """How somebody in the line stands.

    Attributes:
        others: visitors who are before.
        seat: 0, or which of those who need a seat this one is, when there is none.
        seconds: how long it may take, roughly.
    """

    others: int
    seat: int
    seconds: float


class AdmissionQueue:
    """Who is served, and who is next. Safe to use from several threads.

    Args:
        clock: seconds, for tests.
        stays: whether a visitor who was served keeps the seat: one with a photo does.
    """

    def __init__(
        self, clock: Callable[[], float] = time.monotonic, stays: Callable[[object], bool] = lambda _visitor: True
    ) -> None:
        self.clock, self.stays = clock, stays
        self.seats: float = math.inf
        self._places: list[Place] = []
        self._serving: Place | None = None
        self._moved = threading.Condition()
        self._taken: dict[object, tuple[float, float]] = {}  # visitor: when the seat was taken, and last used
        self._seconds = {work: work.value for work in Work}
        self._visit_seconds = 2 * SEAT_SECONDS
        self._quiet_since = clock()

    def set_speed(self, move_seconds: float) -> None:
        """Give out as many seats as a machine can serve on which one slider move takes so many seconds.

        With n visitors who think for THINKING between two moves of CROWDED * move_seconds each, a move takes n times as
        long, less THINKING, at most (the asymptotic bound of a closed queueing network); that is to be SLOWEST times a
        move alone.
        """
        with self._moved:
            self._seconds[Work.MOVE] = move_seconds
            self.seats = max(FEWEST_SEATS, int((SLOWEST * move_seconds + THINKING) / (CROWDED * move_seconds)))
            self._moved.notify_all()

    def join(self, visitor: str | None = None, work: Work = Work.MOVE) -> Place:
        """The last place, for a visitor or for a program. Wait there for the turn, and leave it, as `with` does.

        >>> with line.join(visitor) as place:
        ...     for standing in place.wait():
        ...         print(f"{standing.others} are before you")
        ...     work()

        Raises:
            LineFullError: there are too many.
        """
        with self._moved:
            place = Place(self, visitor, work)
            own = sum(other.visitor == place.visitor for other in self._places)
            if own >= MOST_PLACES or self._crowded(program=visitor is None, newcomer=not self._at_once(place)):
                raise QueueFullError(self._standing(place).seconds)
            self._places.append(place)
        return place

    def check(self) -> None:
        """Raise LineFullError if a program that came now would be refused."""
        with self._moved:
            if self._crowded(program=True, newcomer=True):
                raise QueueFullError(self._standing(Place(self, None, Work.OPEN)).seconds)

    def give_way(self) -> None:
        """Called between two steps of long work by who is served: slider moves that wait go first."""
        with self._moved:
            place, self._serving = self._serving, None
            if place is not None:
                place.spent += self.clock() - place.begun
                place.ready = self.clock()
            self._moved.notify_all()
        if place is not None:
            place.arrive()

    def idle_seconds(self) -> float:
        """How long nobody has been served or waited; 0 while somebody is."""
        with self._moved:
            return 0.0 if self._places else self.clock() - self._quiet_since

    def leave(self, visitor: str | None) -> None:
        """A visitor's seat is free again."""
        with self._moved:
            self._free(visitor)
            self._moved.notify_all()

    # All below with the lock held.

    def _crowded(self, *, program: bool, newcomer: bool) -> bool:
        waiting = [place for place in self._places if place is not self._serving and not self._at_once(place)]
        if program:
            return sum(place.is_program for place in waiting) >= MOST_CALLS
        return newcomer and len(waiting) >= MOST_WAITING

    def _at_once(self, place: Place) -> bool:
        """Whether it is a slider move of somebody with a seat, which goes before everything else."""
        return place.work is Work.MOVE and (place.visitor in self._taken or self.seats == math.inf)

    def _has_seat(self, place: Place) -> bool:
        return place.is_program or place.visitor in self._taken or self._free_seats() > 0

    def _free_seats(self) -> int:
        return sys.maxsize if self.seats == math.inf else max(0, int(self.seats) - len(self._taken))

    def _next(self) -> Place | None:
        """Who is to be served now."""
        if self._serving is not None:
            return None
        now = self.clock()
        for visitor in [who for who, (_, used) in self._taken.items() if now - used > SEAT_SECONDS]:
            self._free(visitor)

        def rank(place: Place) -> tuple[bool, float]:
            return not (self._at_once(place) or now - place.ready > AGED), place.since

        firsts: dict[object, Place] = {}  # one's own events keep their order
        for place in self._places:
            firsts.setdefault(place.visitor, place)
        ready = list(filter(self._has_seat, firsts.values()))
        for place in ready:
            place.ready = min(place.ready, now)
        return min(ready, key=rank, default=None)

    def _serve(self, place: Place) -> None:
        self._serving, place.begun = place, self.clock()
        if not place.is_program:
            since, _ = self._taken.get(place.visitor, (place.begun, 0.0))
            self._taken[place.visitor] = since, place.begun

    def _served(self, place: Place) -> None:
        """A place is left; what is known of durations follows."""
        now = self._quiet_since = self.clock()
        if self._serving is place:
            self._serving = None
            seconds = place.spent + now - place.begun
            self._seconds[place.work] += MEMORY * (seconds - self._seconds[place.work])
            if place.visitor in self._taken:
                since, _ = self._taken.pop(place.visitor)
                if self.stays(place.visitor):
                    self._taken[place.visitor] = since, now
        self._moved.notify_all()

    def _free(self, visitor: object) -> None:
        if visitor in self._taken:
            since, used = self._taken.pop(visitor)
            self._visit_seconds += MEMORY * (used - since - self._visit_seconds)

    def _standing(self, place: Place) -> Standing:
        """How a place stands, in the line or at its end."""
        index = self._places.index(place) if place in self._places else len(self._places)
        before = [other for other in self._places[:index] if self._at_once(other) or not self._at_once(place)]
        if self._serving is not None and self._serving is not place and self._serving not in before:
            before.append(self._serving)
        seconds = sum(self._seconds[other.work] for other in before)
        seatless = {other.visitor for other in (*before, place) if not other.is_program} - self._taken.keys()
        seat = max(0, len(seatless) - self._free_seats()) if place.visitor in seatless else 0
        if seat:
            seconds += seat * self._visit_seconds / self.seats
        return Standing(len({other.visitor for other in before} - {place.visitor}), seat, seconds)


class Place:
    """A place in a line."""

    def __init__(self, queue: AdmissionQueue, visitor: str | None, work: Work) -> None:
        self._queue, self.visitor, self.work = queue, visitor or self, work
        self.since, self.begun, self.spent = queue.clock(), 0.0, 0.0
        self.ready = math.inf  # since when it could be served

    @property
    def is_program(self) -> bool:
        """Whether it is not of a visitor of the page."""
        return self.visitor is self

    def wait(self, patience: float = PATIENCE) -> Iterator[Standing]:
        """Ends when it is this place's turn; until then yields how it stands, whenever that changes.

        Args:
            patience: seconds before the first word comes.
        """
        queue, told = self._queue, None
        quiet_until = time.monotonic() + patience
        while True:
            with queue._moved:
                while True:
                    if queue._next() is self:
                        queue._serve(self)
                        return
                    standing = queue._standing(self)
                    left = quiet_until - time.monotonic()
                    if any(standing[:2]) and standing[:2] != told and left <= 0:
                        break
                    queue._moved.wait(left if left > 0 else 1.0)  # seats become free by themselves, too
            told = standing[:2]
            yield standing

    def arrive(self) -> None:
        """Wait for the turn without a word."""
        for _ in self.wait():
            pass

    def leave(self) -> None:
        """Let the next one in, or give up a place further behind."""
        with self._queue._moved:
            if self in self._queue._places:
                self._queue._places.remove(self)
            self._queue._served(self)

    def __enter__(self) -> Self:
        """For `with`; the place was taken by `AdmissionQueue.join`."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Leave the line."""
        self.leave()
