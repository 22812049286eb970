"""One cache for all that is made again at a cost: the least recently used goes, and threads do not wait for each other."""

from __future__ import annotations

import threading

import numpy as np

from weightlapse.store.cache import Cache


def of(nbytes: int) -> np.ndarray:
    return np.zeros(nbytes, np.uint8)


def test_the_least_recently_used_goes() -> None:
    cache, made = Cache(30), []
    for key in ("a", "b", "c", "a", "d", "a", "b"):
        cache.get(key, lambda key=key: made.append(key) or of(10))
    assert made == ["a", "b", "c", "d", "b"]
    assert cache.nbytes == 30
    assert [key in cache for key in "abcd"] == [True, True, False, True]
    cache.get("large", lambda: of(100))
    assert cache.nbytes == 100
    assert "large" in cache, "the newest stays, however large"
    cache.clear()
    assert (cache.nbytes, "large" in cache) == (0, False)


def test_apart_what_takes_more_than_half_is_given_and_not_kept() -> None:
    cache = Cache(30)
    assert cache.get_apart("a", lambda: of(15)).nbytes == 15
    assert cache.get_apart("b", lambda: of(16)).nbytes == 16
    assert ("a" in cache, "b" in cache, cache.nbytes) == (True, False, 15)
    assert cache.get_apart("a", lambda: of(1)).nbytes == 15


def test_apart_nobody_waits_while_another_makes() -> None:
    cache, begun, free = Cache(100), threading.Event(), threading.Event()

    def slow() -> np.ndarray:
        begun.set()
        assert free.wait(20)
        return of(3)

    thread = threading.Thread(target=lambda: cache.get_apart("a", slow))
    thread.start()
    assert begun.wait(20)
    assert cache.get_apart("b", lambda: of(5)).nbytes == 5
    assert cache.get_apart("a", lambda: of(4)).nbytes == 4, "it is made twice rather than waited for"
    free.set()
    thread.join(20)
    assert cache.nbytes == 9, "and kept once"
