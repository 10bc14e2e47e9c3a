"""The pool of embedding workers with stand-ins for Ray's; `tests/integration` has real ones."""

from types import SimpleNamespace

import pytest
from ray.exceptions import ActorDiedError, ActorUnavailableError

from selection import embed
from selection.embed import Shard, _Pool


@pytest.mark.parametrize("error", [ActorUnavailableError("no answer", None), ActorDiedError()])
def test_a_worker_out_of_reach_gives_its_place_to_the_next_one(monkeypatch, error):
    """It may still be alive, with a CPU that nobody else gets before it is gone."""
    started, killed, errors = [], [], {("w0", Shard(0, 1)): error}

    def start_worker():
        name = f"w{len(started)}"
        started.append(name)

        def method(shard=None):
            return (name, shard)

        remote = SimpleNamespace(remote=method)
        return SimpleNamespace(name=name, open=remote, run=remote)

    def get_result(future):
        if future in errors:
            raise errors.pop(future)

    monkeypatch.setattr(embed, "get_result", get_result)
    monkeypatch.setattr(embed.ray, "wait", lambda refs, **_: (refs[:1], refs[1:]))
    monkeypatch.setattr(embed.ray, "kill", lambda worker: killed.append(worker.name))
    shards = [Shard(0, number) for number in range(3)]
    pool = _Pool(shards, start_worker, num_workers=1, while_waiting=lambda: None)
    assert sorted(pool.run()) == shards
    assert started == ["w0", "w1"]
    assert killed[0] == "w0"
