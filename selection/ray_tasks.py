"""Ray carries the kernels of selection to other processes and machines; the kernels know nothing of it."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numba
import ray
from ray.exceptions import NodeDiedError, OutOfMemoryError, RayTaskError, WorkerCrashedError
from threadpoolctl import threadpool_limits

from selection.errors import ArtifactError, ConfigError, JobError
from selection.threads import in_flight

Placement = dict[str, Any]
"""Options of Ray that say on which nodes a task or an actor may run, such as `label_selector`."""

POLL_S = 0.2
"""Between two looks at what a task is doing."""

_TASKS_IN_FLIGHT_PER_WORKER = 2
_MOST_THREADS = numba.get_num_threads()  # until somebody sets it: all that numba has


def do_nothing() -> None:
    """The least that one can do while waiting."""


def run_remote(
    function: Callable,
    *args: Any,
    num_cpus: float,
    placement: Placement | None = None,
    while_waiting: Callable[[], None] = do_nothing,
    **kwargs: Any,
) -> Any:
    """Call `function` in a Ray worker that owns `num_cpus` CPUs, and wait for its result.

    Args:
        function: what to call, with the arguments that follow.
        *args: of the function.
        num_cpus: CPUs; also its number of threads.
        placement: on which nodes; None: on any.
        while_waiting: as for `result_of`.
        **kwargs: of the function.

    Raises:
        ConfigError, ArtifactError, JobError: as `function` raised them.
    """
    future = start_remote(function, *args, num_cpus=num_cpus, placement=placement, **kwargs)
    return result_of(future, while_waiting)


def start_remote(
    function: Callable,
    *args: Any,
    num_cpus: float,
    placement: Placement | None = None,
    **kwargs: Any,
) -> ray.ObjectRef:
    """Begin what `run_remote` waits for."""
    remote = _remote(placement, num_cpus=num_cpus, max_retries=1)
    return remote.remote(int(num_cpus), function, args, kwargs)


def result_of(future: ray.ObjectRef, while_waiting: Callable[[], None] = do_nothing) -> Any:
    """Wait for what `start_remote` began; errors as for `run_remote`.

    Args:
        future: of the task.
        while_waiting: called every `POLL_S` seconds; when it raises, the task is cancelled.
    """
    finished: list[ray.ObjectRef] = []
    try:
        while not finished:
            while_waiting()
            finished, _ = ray.wait([future], timeout=POLL_S)
    finally:
        if not finished:
            ray.cancel(future)
    return get_result(future)


def get_result(future: ray.ObjectRef) -> Any:
    """What a finished task returned; an error that a user can meet is raised as the task raised it.

    Raises:
        JobError: the worker was killed, as for its memory, or its node was lost.
    """
    try:
        return ray.get(future)
    except RayTaskError as error:
        if isinstance(error.cause, ConfigError | ArtifactError | JobError):
            raise error.cause from None
        raise
    except (WorkerCrashedError, OutOfMemoryError, NodeDiedError) as error:
        reason = str(error).strip().splitlines()[0]
        raise JobError(f"a Ray worker was lost: {reason}") from error


def ray_map(
    function: Callable,
    tasks: Iterable[Any],
    num_cpus: float = 1,
    placement: Placement | None = None,
) -> Iterator[Any]:
    """Like `map`, in Ray workers of `num_cpus` CPUs each; results keep the order of `tasks`.

    Tasks are drawn from the iterable as workers become free, so that not all of them are in memory at once. Errors are
    those of `get_result`.
    """
    remote = _remote(placement, num_cpus=num_cpus)
    num_workers = max(1, int(ray.cluster_resources().get("CPU", 1) / num_cpus))
    yield from in_flight(
        lambda task: remote.remote(int(num_cpus), function, (task,), {}),
        get_result,
        tasks,
        _TASKS_IN_FLIGHT_PER_WORKER * num_workers,
    )


def _remote(placement: Placement | None, **options: Any) -> Any:
    """`_with_threads` for Ray, which ends a worker with a GPU after its task when it is told of the GPU here."""
    return ray.remote(**options, **(placement or {}))(_with_threads)


def _with_threads(num_threads: int, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Call `function` with as many threads as Ray granted CPUs.

    Ray sets OMP_NUM_THREADS, but libraries read it only once, and a worker may have been granted less before.
    """
    num_threads = max(1, num_threads)
    numba.set_num_threads(min(num_threads, _MOST_THREADS))
    with threadpool_limits(num_threads):
        return function(*args, **kwargs)
