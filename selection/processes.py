"""Work in processes of their own, for what holds the interpreter lock: threads would make it slower."""

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

TaskT = TypeVar("TaskT")
ResultT = TypeVar("ResultT")


def run_all(
    work: Callable[[TaskT], ResultT], tasks: Sequence[TaskT], num_workers: int
) -> Iterator[tuple[TaskT, ResultT]]:
    """Do tasks, in processes of their own where there are several of both.

    Args:
        work: done to each task; it is sent to the processes, as tasks and results are.
        tasks: what there is to do.
        num_workers: most processes.

    Yields:
        Each task with its result, in the order in which they are done.
    """
    num_workers = min(num_workers, len(tasks))
    if num_workers <= 1:
        yield from ((task, work(task)) for task in tasks)
        return
    # Spawned, not forked: the caller may run threads, of torch or of Ray.
    pool = ProcessPoolExecutor(num_workers, multiprocessing.get_context("spawn"))
    try:
        running = {pool.submit(work, task): task for task in tasks}
        for finished in as_completed(running):
            yield running[finished], finished.result()
    finally:  # an interrupt must not wait for what has not begun
        pool.shutdown(cancel_futures=True)
