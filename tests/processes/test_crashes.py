"""`kill -9` of each process at the worst moments: the next answer is right, no number repeats."""

import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from gpumpc.errors import GpumpcError
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster, Row, close, images, one_line

# Batch 1 exists in runs alone: weights are opened under batch 0 of their own session.
_IN_A_RUN = """
import os, signal
from gpumpc.wire.channel import Channel
receive = Channel._receive_opening
def receive_or_die(channel):
    if channel._batch == 1 and channel._out == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return receive(channel)
Channel._receive_opening = receive_or_die
"""
_AFTER_RESERVE = """
import os, signal
from gpumpc.offline.ledger import Ledger
reserve = Ledger.reserve
def reserve_and_die(ledger, session_id, batch):
    reserve(ledger, session_id, batch)
    if batch == 1:
        os.kill(os.getpid(), signal.SIGKILL)
Ledger.reserve = reserve_and_die
"""
_WHILE_DEALING = """
import os, signal, time
from gpumpc.engine import correction_queue as courier
from gpumpc.engine.dealer_engine import DealerEngine
courier.FRAME_BYTES = 64  # some corrections are sent, and server 1 reads along
deal = DealerEngine.deal
def deal_and_die(engine, pair_id, nonces, batch, send, task=None):
    def take(piece):
        send(piece)
        if batch == 1 and dealt.append(piece) is None and len(dealt) == 5:
            time.sleep(0.5)
            os.kill(os.getpid(), signal.SIGKILL)
    dealt = []
    deal(engine, pair_id, nonces, batch, take, task)
DealerEngine.deal = deal_and_die
"""
CASES = {
    "server 0 in a run": ("server0", _IN_A_RUN),
    "server 1 in a run": ("server1", _IN_A_RUN),
    "server 0 between reserve and the first byte": ("server0", _AFTER_RESERVE),
    "server 1 between reserve and the first byte": ("server1", _AFTER_RESERVE),
    "the dealer while it deals": ("dealer", _WHILE_DEALING),
}


@pytest.mark.parametrize("case", CASES)
def test_answer_is_right_after_kill_9_and_restart(tmp_path: Path, case: str) -> None:
    name, fault = CASES[case]
    cluster = Cluster.make(tmp_path, pool="1KiB")
    cluster.faults[name] = fault
    x = images(5)  # three batches; the fault strikes in the second
    with cluster:
        with cluster.ready() as client:
            shared = client.share(x)
            start = time.monotonic()
            with pytest.raises(GpumpcError) as caught:
                client.run(shared)
            assert time.monotonic() - start < LIMIT_S + SLACK_S
            assert one_line(caught.value)
        assert cluster.processes[name].wait(5) == -9
        # The next start deletes these rows.
        rows = {p: cluster.ledger(p) for p in (0, 1) if name == f"server{p}"}
        cluster.faults.clear()
        seen = len(cluster.log("dealer"))
        cluster.start()
        with cluster.client() as client:
            if name == "dealer":  # servers wait 3.5 s for one, and its start may take longer
                cluster.wait_log("dealer", "agrees", start=seen)
            client.wait_ready(LIMIT_S + SLACK_S)  # no weights need to be shared again
            assert close(cluster.compiled, x, client.run(shared).reveal())  # nor images
            client.delete(shared)
    _check_ledgers(cluster, rows, lost=1)


def test_restored_states_use_no_mask_again(tmp_path: Path) -> None:
    """Of both servers; `test_evidence.py` restores one."""
    cluster, x = Cluster.make(tmp_path, pool="1KiB"), images(3)
    with cluster, cluster.ready() as client:
        client.run(client.share(x))
    for party in (0, 1):
        shutil.copytree(cluster.folder / f"state{party}", tmp_path / f"copy{party}")
    for is_restored in (False, True):  # the same numbers would be next both times
        for party in (0, 1) if is_restored else ():
            shutil.rmtree(cluster.folder / f"state{party}")
            shutil.copytree(tmp_path / f"copy{party}", cluster.folder / f"state{party}")
        with cluster, cluster.client() as client:
            client.wait_ready(LIMIT_S + SLACK_S)  # the weights are those of the copy
            assert close(cluster.compiled, x, client.run(client.share(x)).reveal())
    begun = Counter(cluster.begun())
    assert not [line for line, times in begun.items() if times > 1]


def _check_ledgers(cluster: Cluster, killed: dict[int, list[Row]], lost: int) -> None:
    """Each number was begun once at each server and is spent, or was lost at the crash, in both.

    Args:
        killed: the rows of a server that was killed, before it was started again.
        lost: how many numbers.
    """
    begun = Counter(cluster.begun())
    assert not [line for line, times in begun.items() if times > 1]
    tables = [killed.get(party, []) + cluster.ledger(party) for party in (0, 1)]
    for rows in tables:
        numbers = [(session, first + i) for session, first, n, _ in rows for i in range(n)]
        assert len(numbers) == len({*numbers}) and "spent" in {row[3] for row in rows}
    by_number = [
        {(s, first + i): state for s, first, n, state in rows for i in range(n)} for rows in tables
    ]
    unspent = {key for states in by_number for key, state in states.items() if state != "spent"}
    assert len(unspent) == lost, (tables, begun)
    for key in unspent:  # never spent at either: at most begun
        assert "spent" not in {states.get(key, "burnt") for states in by_number}
