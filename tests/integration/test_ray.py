import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import pytest
import ray

from launcher.config import RayConfig
from launcher.ray_cluster import ray_cluster
from launcher.ray_variables import RAY_VARIABLES
from selection.config import EmbedConfig, SpectralConfig
from selection.embed import Source, embed_datasets
from selection.embeddings import EmbeddingStore, load_contents, load_embeddings
from selection.errors import ArtifactError, ConfigError, JobError
from selection.partition import partition
from selection.ray_tasks import ray_map, run_remote
from selection.shards import ShardIndex, build_index, expand_shards
from selection.threads import num_threads
from tests.conftest import unit_rows
from tests.unit.selection.test_spectral import random_graph

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module", autouse=True)
def handlers_before(tmp_path_factory):
    """What minded signals before Ray was there."""
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in RAY_VARIABLES.items():
            patch.setenv(name, value)
        with ray_cluster(RayConfig(num_cpus=2), tmp_path_factory.mktemp("logs")):
            yield before


class LengthEmbedder:
    """u and v point where the numbers in the key say; needs no model."""

    parts = "txt", "py"

    def __init__(self, crash_file: Path | None = None, off_sphere: bool = False) -> None:
        self._crash_file = crash_file
        self._scale = 2 if off_sphere else 1

    def collate(self, samples):
        return np.array([int(sample["__key__"]) for sample in samples])

    def embed_batch(self, numbers):
        if self._crash_file and not self._crash_file.exists():
            self._crash_file.touch()
            os._exit(1)
        angles = np.stack([np.cos(numbers), np.sin(numbers)], axis=1)
        return unit_rows(angles) * self._scale, unit_rows(-angles) * self._scale


@pytest.fixture
def index_folder(tiny_data, tmp_path):
    build_index(expand_shards(f"{tiny_data}/train/*.tar"), tmp_path / "index")
    return tmp_path / "index"


def source(index_folder, folder):
    sizes = np.diff(ShardIndex.open(index_folder).shard_starts).tolist()
    return Source(index_folder, EmbeddingStore(folder, sizes, {"dtype": "float32"}))


def embed(index_folder, folder, make_embedder):
    seen = []
    embed_datasets(
        [source(index_folder, folder)], make_embedder, EmbedConfig(num_workers=2, batch_size=32),
        progress=lambda stage, done, total, unit="": seen.append((done, total)),
    )  # fmt: skip
    return load_embeddings(folder), seen


def expected_rows(num_pairs):
    numbers = np.arange(num_pairs)
    return unit_rows(np.stack([np.cos(numbers), np.sin(numbers)], axis=1))


def test_ray_leaves_the_signals_that_stop_a_run_to_us(handlers_before):
    now = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert now == handlers_before


def test_rows_are_in_index_order_and_progress_ends(index_folder, tmp_path):
    (U, V), seen = embed(index_folder, tmp_path / "e", LengthEmbedder)
    np.testing.assert_allclose(U, expected_rows(330), atol=1e-6)
    np.testing.assert_allclose(V, -expected_rows(330), atol=1e-6)
    parts = [
        (sample["txt"], sample["py"])
        for sample in ShardIndex.open(index_folder).read(np.arange(330))
    ]
    hashes = load_contents(tmp_path / "e").T.tolist()
    assert len({(*part, *row) for part, row in zip(parts, hashes, strict=True)}) == len(set(parts))
    assert len({tuple(row) for row in hashes}) == len(set(parts))
    assert seen[0] == (0, 330)
    assert seen[-1] == (330, 330)


class CountedEmbedder(LengthEmbedder):
    """Leaves a file for every worker that was started."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        (folder / str(os.getpid())).touch()


def test_workers_go_on_with_the_next_data_set(index_folder, tiny_data, tmp_path):
    build_index(expand_shards(f"{tiny_data}/heldout/*.tar"), tmp_path / "other")
    (tmp_path / "started").mkdir()
    both = [source(index_folder, tmp_path / "e"), source(tmp_path / "other", tmp_path / "f")]
    seen = []
    embed_datasets(
        both, partial(CountedEmbedder, tmp_path / "started"), EmbedConfig(num_workers=2),
        progress=lambda stage, done, total, unit="": seen.append((done, total)),
    )  # fmt: skip
    num_others = len(ShardIndex.open(tmp_path / "other"))
    U, _ = load_embeddings(tmp_path / "e")
    np.testing.assert_allclose(U, expected_rows(330), atol=1e-6)
    assert len(load_embeddings(tmp_path / "f")[0]) == num_others
    assert len(list((tmp_path / "started").iterdir())) <= 2
    assert (seen[0], seen[-1]) == ((0, 330 + num_others), (330 + num_others,) * 2)


def test_a_dead_worker_is_replaced(index_folder, tmp_path):
    crash = tmp_path / "crashed"
    (U, _), _ = embed(index_folder, tmp_path / "e", partial(LengthEmbedder, crash_file=crash))
    assert crash.exists()
    np.testing.assert_allclose(U, expected_rows(330), atol=1e-6)


def test_embeddings_off_the_sphere_are_our_own_error(index_folder, tmp_path):
    with pytest.raises(JobError, match=r"row 0 of shard \d+ the norms"):
        embed(index_folder, tmp_path / "e", partial(LengthEmbedder, off_sphere=True))


def test_a_shard_that_was_changed_is_one_error_at_once(index_folder, tmp_path):
    only = source(index_folder, tmp_path / "e")
    shard = Path(json.loads((index_folder / "manifest.json").read_text())["shards"][0]["path"])
    times = shard.stat().st_atime_ns, shard.stat().st_mtime_ns
    os.utime(shard, ns=(0, 0))
    try:
        with pytest.raises(ArtifactError, match=shard.name):
            embed_datasets([only], LengthEmbedder, EmbedConfig(num_workers=2))
    finally:
        os.utime(shard, ns=times)


def test_finished_shards_are_not_made_again(index_folder, tmp_path):
    embed(index_folder, tmp_path / "e", LengthEmbedder)
    (tmp_path / "e" / "manifest.json").unlink()
    for file in (tmp_path / "e").glob("*-000001.npy"):
        file.unlink()
    times = {p: p.stat().st_mtime_ns for p in (tmp_path / "e").glob("*.npy")}
    embed(index_folder, tmp_path / "e", LengthEmbedder)
    assert times == {p: p.stat().st_mtime_ns for p in times}


def test_sub_problems_on_ray_give_the_same_batches():
    graph = random_graph(240, 3000, 0).astype(np.float32)
    config = SpectralConfig(fan_out=5)
    here = partition(graph, 6, config, (1, 2))
    there = partition(graph, 6, config, (1, 2), map_tasks=ray_map)
    np.testing.assert_array_equal(here, there)


def test_ray_map_keeps_the_order_of_more_tasks_than_workers():
    assert list(ray_map(abs, range(-30, 0))) == list(range(30, 0, -1))


def count_threads():
    return os.getpid(), faiss.omp_get_max_threads(), num_threads()


def test_a_worker_has_as_many_threads_as_its_task_has_cpus_whatever_it_did_before():
    for num_cpus in (1, 2, 1):
        assert run_remote(count_threads, num_cpus=num_cpus)[1:] == (num_cpus, num_cpus)


class Holder:
    def hold(self):
        """Nothing but the CPUs."""


def test_a_worker_stays_while_others_hold_all_cpus():
    pid, *_ = run_remote(count_threads, num_cpus=1)
    holder = ray.remote(Holder).options(num_cpus=2).remote()
    ray.get(holder.hold.remote())
    time.sleep(3)  # Ray's own limit is one second
    os.kill(pid, 0)
    ray.kill(holder)


class Enough(Exception):
    pass


def until_written(path):
    def look():
        if path.exists():
            raise Enough

    return look


def is_written_to(path):
    time.sleep(0.5)
    size = path.stat().st_size
    time.sleep(0.5)
    return path.stat().st_size > size


def write_for_ever(path):
    while True:
        with path.open("a") as file:
            file.write("x")
        time.sleep(0.05)


class SlowEmbedder(LengthEmbedder):
    """Writes into a file for as long as it lives."""

    def __init__(self, path):
        super().__init__()
        self._path = path

    def embed_batch(self, numbers):
        write_for_ever(self._path)


def test_a_task_that_nobody_waits_for_any_more_is_cancelled(tmp_path):
    path = tmp_path / "written"
    with pytest.raises(Enough):
        run_remote(write_for_ever, path, num_cpus=1, while_waiting=until_written(path))
    assert not is_written_to(path)


def test_nor_do_workers_embed_for_nobody(index_folder, tmp_path):
    path, only = tmp_path / "written", source(index_folder, tmp_path / "e")
    with pytest.raises(Enough):
        embed_datasets(
            [only], partial(SlowEmbedder, path), EmbedConfig(num_workers=2),
            while_waiting=until_written(path),
        )  # fmt: skip
    assert not is_written_to(path)


def fail(*_):
    raise ConfigError("field: value, rule, next step")


def test_errors_for_people_come_back_as_they_were():
    with pytest.raises(ConfigError, match=r"^field: value, rule, next step$"):
        run_remote(fail, num_cpus=1)
    with pytest.raises(ConfigError, match=r"^field: value, rule, next step$"):
        list(ray_map(fail, range(2)))
