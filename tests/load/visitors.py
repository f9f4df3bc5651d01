"""Many visitors at once: `make load`, or `PYTHONPATH=.:tests python tests/load/visitors.py --visitors 20 --minutes 5`.

Starts the page with the committed weights on 127.0.0.1, lets visitors come, open a photo, move a slider again and again
and leave, and prints what they saw: how long pictures took, who had to wait and was told, who was asked to come again,
and what memory the server took; first of all the same with one visitor. Beside them programs call `/edit` through the
API, one for every ten visitors.
"""

import argparse
import itertools
import json
import random
import re
import statistics
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from measuring import memory_of
from serving import start, uploaded

from gra_core.constants import PROJECT_ROOT
from gra_core.ui.gate import CALL, PREFIX, QUEUE, UPLOAD
from gra_core.ui.session import PHOTO_VIEW

THINKING = 2.0
LEAVING = 5.0
"""Seconds after the end in which visitors still wait for an answer; then they close the page."""
MOVES = 12
FACE = PROJECT_ROOT / "assets" / "examples" / "generated-1.webp"


@dataclass
class Seen:
    """What visitors saw."""

    opened: list[float] = field(default_factory=list)
    moved: list[float] = field(default_factory=list)
    told: Counter = field(default_factory=Counter)
    errors: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        """The figures in words."""
        return (
            f"{name}: photos opened {len(self.opened)}, {_spread(self.opened)}; moves {len(self.moved)}, "
            f"{_spread(self.moved)}; told {dict(self.told)}; errors {len(self.errors)} {self.errors[:3]}"
        )


def _spread(seconds: list[float]) -> str:
    if len(seconds) < 2:
        return str(seconds)
    cuts = statistics.quantiles(seconds, n=20)
    return f"median {statistics.median(seconds):.2f} s, 95 % {cuts[-1]:.2f} s, longest {max(seconds):.2f} s"


class LeftError(Exception):
    """A visitor closed the page while waiting."""


class Visitor:
    """One open page. Not a browser, but it speaks as one does."""

    def __init__(self, address: str, config: dict, seen: Seen, until: float) -> None:
        self.address, self.seen, self.until = address, seen, until
        self.session = f"visitor{random.getrandbits(48):x}"
        self.client = httpx.Client(timeout=httpx.Timeout(30, read=900))
        ids = {component["props"].get("elem_id"): component["id"] for component in config["components"]}
        self.by_id = {number: name for name, number in ids.items()}
        self.functions = config["dependencies"]
        self.open_event, self.move_event = self._event(ids["upload"], "input"), self._event(ids["edit-smile"], "input")

    def _event(self, component: int, kind: str) -> dict:
        return next(fn for fn in self.functions if [component, kind] in [list(target) for target in fn["targets"]])

    def ask(self, function: dict, data: list) -> list[dict]:
        """An event of the page: all answers to it, the last one last."""
        event = {"fn_index": function["id"], "session_hash": self.session, "data": data}
        joined = self.client.post(self.address + QUEUE, json=event)
        joined.raise_for_status()
        answers = []
        query = {"session_hash": self.session}
        with self.client.stream("GET", f"{self.address}{PREFIX}/queue/data", params=query) as stream:
            for line in stream.iter_lines():
                if time.monotonic() > self.until + LEAVING:
                    raise LeftError
                if not line.startswith("data:"):
                    continue
                message = json.loads(line[5:])
                if message["msg"] in ("process_generating", "process_completed"):
                    answers.append(message)
                if message["msg"] == "process_completed":
                    return answers
        raise RuntimeError("the answer broke off")

    def visit(self) -> None:
        """Open a photo, move the slider for a while, and leave."""
        try:
            with self.client.stream("GET", f"{self.address}{PREFIX}/heartbeat/{self.session}"):  # as long as it is open
                self._edit()
        except LeftError:
            pass
        except Exception as error:
            self.seen.errors.append(f"{type(error).__name__}: {error}"[:200])

    def _edit(self) -> None:
        begun = time.monotonic()
        sent = self.client.post(self.address + UPLOAD, files={"files": ("me.webp", FACE.read_bytes(), "image/webp")})
        sent.raise_for_status()
        file = uploaded(sent) | {"orig_name": "me.webp"}
        sliders = len(self.open_event["inputs"]) - 1
        answers = self.ask(self.open_event, [file, *[0] * sliders])
        text = json.dumps(answers)
        for name, words in (
            ("place in line", "in line"),
            ("comes after", "being worked on"),
            ("come again", "try again"),
        ):
            self.seen.told[name] += words in text
        revision = _revision(answers)
        if not revision:
            told = re.search(r"try again in about (\d+) (second|minute)", text)
            if not told:
                self.seen.errors.append(text[-300:])
            wait = float(told[1]) * (60 if told[2] == "minute" else 1) if told else THINKING
            time.sleep(max(0, min(wait, self.until - time.monotonic())))
            return
        self.seen.opened.append(time.monotonic() - begun)
        for step in itertools.islice(itertools.count(1), MOVES):
            if time.monotonic() > self.until:
                return
            time.sleep(random.expovariate(1 / THINKING))
            begun = time.monotonic()
            answers = self.ask(self.move_event, [revision, PHOTO_VIEW, 7 * step, *[0] * (sliders - 1)])
            if "photo" not in json.dumps(answers):
                self.seen.errors.append(json.dumps(answers)[-300:])
            self.seen.moved.append(time.monotonic() - begun)


class Program:
    """Something that calls the API again and again."""

    def __init__(self, address: str, seen: Seen) -> None:
        self.address, self.seen, self.client = address, seen, httpx.Client(timeout=httpx.Timeout(30, read=900))

    def visit(self) -> None:
        """Send a photo and have it edited; when refused, wait as long as the server says."""
        try:
            self._edit()
        except Exception as error:
            self.seen.errors.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(THINKING)

    def _edit(self) -> None:
        begun, face = time.monotonic(), ("me.webp", FACE.read_bytes(), "image/webp")
        sent = self.client.post(self.address + UPLOAD, files={"files": face})
        sent.raise_for_status()
        image = uploaded(sent)
        called = self.client.post(f"{self.address}{CALL}edit", json={"data": [image, {"smile": 60}, 0, True, "jpg"]})
        if called.status_code == 429:
            self.seen.told["come again"] += 1
            time.sleep(float(called.headers["Retry-After"]))
            return
        called.raise_for_status()
        answer = self.client.get(f"{self.address}{CALL}edit/{called.json()['event_id']}").text
        if "event: complete" in answer:
            self.seen.opened.append(time.monotonic() - begun)
        else:
            self.seen.errors.append(answer[-300:])


def _revision(answers: list[dict]) -> float:
    """The revision of the history, the first value of every answer, in full or as a change; 0 without a photo."""
    revision = 0.0
    for message in answers:
        for value in message["output"].get("data", [])[:1]:
            if isinstance(value, (int, float)):
                revision = value
            elif isinstance(value, list):
                replaced = (change[2] for change in value if len(change) == 3 and change[0] == "replace")
                revision = next(replaced, revision)
    return revision


def crowd(address: str, visitors: int, seconds: float) -> tuple[Seen, Seen]:
    """So many visitors at any time, for so long, and programs beside them: what both saw."""
    config, until = httpx.get(f"{address}/config").json(), time.monotonic() + seconds
    people, programs = Seen(), Seen()

    def come_and_go(somebody: Callable[[], Visitor | Program]) -> None:
        while time.monotonic() < until:
            somebody().visit()

    makers = [lambda: Visitor(address, config, people, until)] * visitors
    makers += [lambda: Program(address, programs)] * round(visitors / 10)
    threads = [threading.Thread(target=come_and_go, args=[maker], daemon=True) for maker in makers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, until + 90 - time.monotonic()))
    return people, programs


def main() -> None:
    """Measure and print."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--visitors", type=int, nargs="+", default=[20])
    options.add_argument("--minutes", type=float, default=5)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        process, address = start(Path(folder), [str(PROJECT_ROOT / "app.py")])
        try:
            crowd(address, 1, 60)  # until all is loaded and warm
            print(crowd(address, 1, 60)[0].line("alone"), flush=True)
            before = memory_of(process.pid)
            for count in arguments.visitors:
                people, programs = crowd(address, count, 60 * arguments.minutes)
                print(people.line(f"{count} visitors"), programs.line("programs"), sep="\n", flush=True)
                time.sleep(45)  # housekeeping gives memory back in quiet times
                after = memory_of(process.pid)
                print(f"memory {before:.0f} MB before, {after:.0f} MB after ({after / before - 1:+.1%})", flush=True)
        finally:
            process.terminate()
            process.wait(timeout=30)
        log = (Path(folder) / "log").read_text()
        print(
            f"log: {log.count(chr(10))} lines, {log.count('Failed at')} failures",
            log[-3000:] if "Traceback" in log else "",
        )


if __name__ == "__main__":
    main()
