import socket

import pytest

from launcher.network import (
    BLOCK_PORTS,
    HEAD_PORTS,
    answers,
    choose_block,
    first_ephemeral_port,
    listening_ports,
    own_ip,
)
from selection.errors import JobError

STOCK, DGX = 32768, 9000


@pytest.mark.parametrize("first_ephemeral", [STOCK, DGX])
@pytest.mark.parametrize("job_id", [1, 7, 123_456, 2**31])
def test_a_block_lies_below_the_head_and_the_ephemeral_ports(first_ephemeral, job_id):
    block = choose_block(job_id, 0, first_ephemeral, set())
    assert len(block) == BLOCK_PORTS
    assert block[0] >= 1024
    assert block[-1] < first_ephemeral - HEAD_PORTS


def test_nodes_of_a_job_and_jobs_that_follow_have_blocks_of_their_own():
    blocks = [choose_block(job, node, STOCK, set()) for job in (41, 42, 43) for node in range(4)]
    assert len({port for block in blocks for port in block}) == len(blocks) * BLOCK_PORTS


def test_one_used_port_moves_the_block():
    first = choose_block(42, 0, STOCK, set())
    second = choose_block(42, 0, STOCK, {first[-1]})
    assert set(first).isdisjoint(second)
    assert choose_block(42, 0, STOCK, {first[0], second[0]})[0] not in (first[0], second[0])


def test_no_block_is_free():
    with pytest.raises(JobError, match=r"no 250 ports in a row are free .*--exclusive"):
        choose_block(42, 0, STOCK, set(range(1024, STOCK, BLOCK_PORTS // 2)))


@pytest.mark.parametrize("first_ephemeral", [1024, 2273])
def test_no_place_for_a_block(first_ephemeral):
    rule = f"net.ipv4.ip_local_port_range begins at {first_ephemeral} on .* let it begin at 32768"
    with pytest.raises(JobError, match=rule) as error:
        choose_block(42, 0, first_ephemeral, set())
    assert "--exclusive" not in str(error.value)
    assert choose_block(42, 0, 2274, set())[0] == 1024


def test_no_block_is_free_where_there_are_few():
    rule = r"no 250 ports .*ip_local_port_range begins at 3000 on .*--exclusive"
    with pytest.raises(JobError, match=rule):
        choose_block(42, 0, 3000, set(range(1024, 3000)))


def test_who_listens_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port in listening_ports()
        assert answers(f"127.0.0.1:{port}")
    assert port not in listening_ports()
    assert not answers(f"127.0.0.1:{port}")


def test_own_ip_is_on_the_network_of_the_other():
    assert own_ip("127.0.0.1") == "127.0.0.1"
    with pytest.raises(JobError, match=r"no-such-host.invalid: cannot be reached from "):
        own_ip("no-such-host.invalid")
    assert 1024 < first_ephemeral_port() < 65536
