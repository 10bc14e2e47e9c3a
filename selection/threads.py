"""Threads of this process: how many there are, and two ways to use them.

Numba holds the number, and Ray sets it for its workers; results never depend on it. The engine's kernels are plain
Numba functions that release the interpreter lock, and Python threads call them. Numba's own parallel loops wait
actively: where anything else runs on the machine, hundreds of short ones took four times as long
(benchmarks/NOTES.md). BLAS gets one thread for the same reason.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numba
from threadpoolctl import threadpool_limits

_LEAST_WORK = 8  # in fewer items, waking a thread costs more than it saves


def num_threads() -> int:
    """Threads that this process may use, as set by `numba.set_num_threads` or NUMBA_NUM_THREADS."""
    return numba.get_num_threads()


def thread_pool() -> ThreadPoolExecutor:
    """A pool of `num_threads` threads, for a `with` statement."""
    return ThreadPoolExecutor(num_threads())


def in_ranges(
    function: Callable[[int, int], Any], count: int, pool: ThreadPoolExecutor | None
) -> list[Any]:
    """Results of function(start, stop) on ranges that cover 0 .. count - 1.

    Args:
        function: releases the interpreter lock; its calls touch different data.
        count: items.
        pool: whose threads do it; None does it here.
    """
    if pool is None or count < _LEAST_WORK:
        return [function(0, count)]
    num_ranges = 2 * num_threads()  # twice, so that an unequal half does not keep the other waiting
    bounds = [number * count // num_ranges for number in range(num_ranges + 1)]
    return list(pool.map(lambda ends: function(*ends), pairwise(bounds)))


def thread_map(function: Callable, tasks: Iterable[Any]) -> Iterator[Any]:
    """Like `map`, in the threads of this process; for functions that release the interpreter lock."""
    with thread_pool() as pool:
        yield from in_flight(
            lambda task: pool.submit(function, task),
            lambda future: future.result(),
            tasks,
            2 * num_threads(),
        )


def in_flight(submit: Callable, wait: Callable, tasks: Iterable[Any], most: int) -> Iterator[Any]:
    """Results of `tasks` in their order, with at most `most` of them drawn and not yet finished."""
    running: deque[Any] = deque()
    for task in tasks:
        running.append(submit(task))
        if len(running) >= most:
            yield wait(running.popleft())
    while running:
        yield wait(running.popleft())


def one_blas_thread() -> threadpool_limits:
    """A context in which matrix products and factorisations use one thread."""
    return threadpool_limits(1, user_api="blas")
