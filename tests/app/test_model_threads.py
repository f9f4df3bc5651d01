"""Work of many callers shares few threads, and errors keep nothing alive."""

import contextvars
import gc
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from gra_core.ui.model_threads import ModelThreads


def test_many_callers_one_after_another_share_a_thread():
    threads, used = ModelThreads(), set()
    for _ in range(20):
        caller = threading.Thread(target=lambda: used.add(threads.run(threading.get_ident)))
        caller.start()
        caller.join()
    assert len(used) == 1
    assert used != {threading.get_ident()}


def test_work_that_waits_holds_nobody_up():
    threads, gate = ModelThreads(), threading.Event()
    with ThreadPoolExecutor(3) as callers:
        waiting = [callers.submit(threads.run, gate.wait, 30) for _ in range(3)]
        assert threads.run(lambda: 5) == 5
        gate.set()
        assert all(answer.result() for answer in waiting)
    assert len({threads.run(threading.get_ident) for _ in range(5)}) == 1


def test_the_callers_context_goes_along():
    variable = contextvars.ContextVar("variable")
    variable.set("mine")
    assert ModelThreads().run(variable.get) == "mine"


def test_an_error_reaches_the_caller_and_keeps_nothing():
    class Photo:
        pass

    def fail(photo: Photo) -> None:
        assert photo
        raise ValueError("no")

    threads, photo = ModelThreads(), Photo()
    gone = weakref.ref(photo)
    gc.disable()
    try:
        with pytest.raises(ValueError, match="no") as raised:
            threads.run(fail, photo)
        del raised, photo
        threads.run(int)  # what the thread held of the work before is gone by then
        assert gone() is None
    finally:
        gc.enable()
