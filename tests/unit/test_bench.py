"""The arithmetic of the bench: what its figures rest on."""

import asyncio
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from random import Random

import pytest

from bench import load, peers
from bench.figures import Spent, Spread, cpu_below_s, cpu_s, file_system, percentile, sum_of
from bench.order_streams import Follower, Heard
from bench.report import BROKER, ECHO, ENGINE, PAPERTRADE, PLAIN, USUAL_PER_S, Report, Row


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5], 0.99, 5),
        ([3, 1, 2], 0.5, 2),
        (range(1, 101), 0.99, 99),
        (range(1, 101), 0.5, 50),
        (range(1, 52), 0.99, 51),
    ],
)
def test_a_percentile_is_the_smallest_value_that_so_many_are_not_above(values, share, expected):
    assert percentile(values, share) == expected


def test_a_spread_is_the_median_with_the_least_and_the_most():
    assert Spread.of([3.0, 1.0, 2.0]) == Spread(2.0, 1.0, 3.0)
    assert Spread.of([1200.0, 1000.4, 1300.0]).text() == "1,200 (1,000-1,300)"
    assert Spread.of([1.02, 1.01]).text(1) == "1.0"


def test_what_was_used_up_is_a_difference():
    assert Spent(5, 4, 3, 20, 7, 70) - Spent(1, 1, 1, 10, 2, 20) == Spent(4, 3, 2, 10, 5, 50)


def test_a_metric_is_summed_over_its_labels():
    exposition = '# HELP x_count y\nx_count 3.0\nx_count_total 9\nz_sum{a="1",b="}"} 2.5\nz_sum{a="2"} 1e3\n'
    assert sum_of(exposition, "x_count") == 3
    assert sum_of(exposition, "z_sum") == 1002.5


def test_a_folder_is_on_the_file_system_that_is_mounted_nearest_above_it():
    mounts = "/dev/vda / ext4 rw 0 0\ntmpfs /dev/shm tmpfs rw 0 0\n"
    assert file_system(Path("/dev/shm/a/b"), mounts) == "tmpfs"
    assert file_system(Path("/dev/shmem"), mounts) == "ext4"


@pytest.mark.skipif(sys.platform != "linux", reason="CPU times come from /proc")
def test_the_cpu_of_processes_below_counts_also_when_they_have_ended():
    busy = "import time\nwhile time.process_time() < {}: pass\n"
    waits = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]]); print(); input()"
    before = cpu_below_s(os.getpid())
    with subprocess.Popen(
        [sys.executable, "-c", waits, busy.format(0.2)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as parent:
        parent.stdout.readline()
        assert cpu_s(parent.pid) < 0.17 < cpu_below_s(os.getpid()) - before  # each part is counted in hundredths
        parent.stdin.close()


class Slow:
    """A server that answers everything at once, but what it was told to hold back."""

    def __init__(self, held_back: dict[int, float]) -> None:
        self._held_back = held_back
        self._requests = 0
        self.connections = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while await reader.readline():
            head = await reader.readuntil(b"\r\n\r\n")
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            number, self._requests = self._requests, self._requests + 1
            await asyncio.sleep(self._held_back.get(number, 0))
            body = json.dumps({"tradeId": str(number)}).encode()
            writer.write(b"HTTP/1.1 201 Created\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        writer.close()


async def run(server: Slow, connections: int, requests: int, per_s: float | None = None):
    async with await asyncio.start_server(server.answer, "127.0.0.1", 0) as listening:
        port = listening.sockets[0].getsockname()[1]
        plan = {"host": "127.0.0.1", "port": port, "path": "/", "connections": connections, "per_s": per_s}
        return await load.run(plan | {"requests": [["token", "{}"]] * requests})


async def test_a_closed_loop_sends_each_request_once_over_all_connections():
    server = Slow({})
    result = await run(server, connections=4, requests=50)
    assert result["statuses"] == {"201": 50}
    assert sorted(map(int, result["answers"])) == list(range(50))
    assert server.connections == 4
    assert set(result["late"]) == {0.0}


async def test_in_an_open_loop_a_stall_is_counted_from_when_each_request_was_due():
    result = await run(Slow({0: 0.6}), connections=1, requests=20, per_s=100)
    for number, (latency, late) in enumerate(zip(result["latencies"], result["late"], strict=True)):
        assert latency == pytest.approx(0.6 - number / 100, abs=0.3)
        assert late == pytest.approx(0.6 - number / 100 if number else 0, abs=0.3)


async def test_in_an_open_loop_nobody_waits_for_a_connection_while_another_is_free():
    result = await run(Slow({0: 1.0}), connections=2, requests=20, per_s=100)
    assert result["latencies"][0] >= 1.0
    assert max(result["latencies"][1:]) < 0.7


async def test_an_open_loop_keeps_its_rate():
    result = await run(Slow({}), connections=8, requests=40, per_s=200)
    began = result["started"][0]
    # When each was due, or went out a little earlier. One may be off, where this process stalled between two clocks.
    off = sorted(abs(started - began - number / 200) for number, started in enumerate(result["started"]))
    assert off[len(off) * 3 // 4] < 0.003
    assert result["seconds"] >= 38 / 200


async def test_a_server_that_hangs_up_is_noticed():
    async def hang_up(reader, writer):
        await reader.readline()
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as listening:
        plan = {"host": "127.0.0.1", "port": listening.sockets[0].getsockname()[1], "path": "/", "connections": 1}
        with pytest.raises(ConnectionError):
            await load.run(plan | {"requests": [["token", "{}"]]})


async def test_a_fill_is_heard_when_its_message_is_whole():
    heard, subscribed = Heard(), asyncio.get_running_loop().create_future()
    follower = Follower("token", heard, subscribed)
    trade_id = "01a20384-dc14-71b7-ab66-f0d06d1cc85d"
    event = b'id: %d\nevent: order_update\ndata: {"sequence":%d,"order":{"id":"%s","status":"%s"}}\n\n'
    follower.data_received(b"HTTP/1.0 200 OK\r\n\r\nretry: 1000\n\nid: 0\nevent: subscribed\ndata: {}\n\n")
    assert subscribed.done()
    filled = event % (2, 2, trade_id.encode(), b"filled")
    follower.data_received(event % (1, 1, trade_id.encode(), b"validated") + filled[:-1])
    assert heard.times == {}
    before = time.time()
    follower.data_received(filled[-1:])
    [at] = await heard.of([trade_id])
    assert before <= at <= time.time()


def test_of_the_orders_to_matching_engine_half_are_sales_and_each_meets_another_account():
    requests = [(path, json.loads(body)) for _, body, path in peers.orders(["A", "B"], 100, Random(1))]
    assert Counter(body["side"] for _, body in requests) == {"sell": 100, "buy": 100}
    for (where, sale), (there, purchase) in zip(requests[::2], requests[1::2], strict=True):
        assert where == there
        assert sale["account"] != purchase["account"]
        assert sale["price"] == purchase["price"]


def rows() -> list[Row]:
    peak = [
        Row(BROKER, round_, 256, None, 100, 2000, settled_per_s=settled, server_cpu_us=450, commits=0.05)
        for round_, settled in enumerate((3100.0, 2900.0, 3000.0))
    ]
    usual = Row(BROKER, 1, 512, USUAL_PER_S, 100, 430, 3.9, 10.0, filled_p50=4.0, filled_p99=9.9, settled_per_s=430)
    plain = [Row(PLAIN, 1, 64, settled_per_s=299.0), Row(PLAIN, 1, 256, settled_per_s=150.0)]
    return [*peak, usual, *plain, Row(ECHO, 1, 256, acknowledged_per_s=2400)]


def test_the_aims_are_judged_by_medians_and_against_a_reference_at_its_best():
    found = {aim: (text, reached) for aim, text, reached in Report(rows()).judged()}
    assert list(found.values()) == [
        ("3,000", True),
        ("10.0 times", True),
        ("2.1 times (1,441 orders/s, measured ELSEWHERE, on another machine)", True),
        ("3.9 ms", True),
        ("10.0 ms", False),
        ("4.0 ms", False),
        ("9.9 ms", True),
        ("83%", True),
        ("0.45 ms", True),
        ("0.050", True),
    ]
    assert all("256 connections" in aim for aim in found if aim.startswith("settled"))


def test_where_matching_engine_was_measured_that_counts():
    measured = Row(ENGINE, 1, 64, None, 100, 2000.0, settled_per_s=1000.0)
    text, reached = next((text, ok) for aim, text, ok in Report([*rows(), measured]).judged() if "matching" in aim)
    assert (text, reached) == ("1.5 times (2,000 orders/s, same run)", False)


def test_what_was_skipped_is_in_the_table_with_its_reason():
    lines = list(Report([*rows(), Row(PAPERTRADE, skipped="not installed")]).tables())
    assert any("papertrade-india | not installed" in line for line in lines)
    assert any(line.startswith("| 256 | broker | 2,000 |") for line in lines)
