"""Records of jobs at three real processes, one of which may be killed or get a changed message."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.errors import RemoteError
from gpumpc.server.audit.log import read_log
from tests.processes.cluster import Cluster, close, images

# Server 1 gets one changed byte in the third opening after a file is there, which it deletes.
CHANGES = """
import pathlib
from gpumpc.wire.frames import Frame, Kind
from gpumpc.wire.zmq_channel.peer_socket import PeerSocket
get, file, seen = PeerSocket.get, pathlib.Path({file!r}), []
def changed(self, timeout_s):
    frame = get(self, timeout_s)
    if frame.kind is Kind.OPENING and file.exists():
        seen.append(frame)
        if len(seen) == 3:
            file.unlink()
            payload = bytearray(frame.payload)
            payload[0] ^= 1
            place = frame.session, frame.batch_index, frame.sequence
            return Frame(frame.kind, memoryview(payload), *place)
    return frame
PeerSocket.get = changed
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster.make(tmp_path_factory.mktemp("audit"))
    cluster.faults["server1"] = CHANGES.format(file=str(cluster.folder / "change"))
    with cluster:
        yield cluster


def audit(cluster: Cluster, party: int, rc: int = 0, state: Path | None = None) -> str:
    folder = cluster.folder
    cards = [f"--card={folder / role / 'card.toml'}" for role in ("server0", "server1")]
    command = ["audit", "log", str(state or folder / f"state{party}"), *cards]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == rc, done.output
    return " ".join(done.output.split())


def requests(cluster: Cluster, party: int) -> list[str]:
    """Verbs of a server's records, in order."""
    lines = read_log(cluster.folder / f"state{party}" / "audit")
    return [line.entry.own.record.request.split()[1] for line in lines if line.entry is not None]


def test_every_job_is_recorded_at_both_servers(cluster: Cluster) -> None:
    x = images(3)
    with cluster.ready() as client:
        items = client.share(x)
        client.extract(items)
        index = client.create_index("archive")
        index.add(items)
        index.search(items[:1], 2)
        assert close(cluster.compiled, x, client.run(items).reveal())
        client.delete(items)
        cost = client.program.cost
    expected = ["weights", "settle", "extract", "create", "add", "search", "run", "delete"]
    assert requests(cluster, 0) == requests(cluster, 1) == expected
    lines = read_log(cluster.folder / "state0" / "audit")
    run = [line.entry for line in lines if line.entry is not None][-2].own.record
    assert (run.user, [batches.n for batches in run.batches]) == ("user", [2])
    assert (run.sent.n_bytes, run.received.n_bytes) == (2 * cost.s0_bytes, 2 * cost.s1_bytes)
    for party in (0, 1):
        text = audit(cluster, party)
        assert "8 records: both servers signed each" in text and "user: search archive 2" in text


def test_changed_message_fails_its_job_and_is_named(cluster: Cluster) -> None:
    """The client gets no result of this job, and everything works for the next one."""
    with cluster.ready() as client:
        items = client.share(images(2))
        before = len(requests(cluster, 0))
        (cluster.folder / "change").touch()
        text = r"WrongStatement.*message 2 from server 0 in batch \d+ of session.*use no result"
        with pytest.raises(RemoteError, match=text):
            client.run(items)
        assert len(requests(cluster, 0)) == len(requests(cluster, 1)) == before
    assert cluster.serves()
    assert "both servers signed each" in audit(cluster, 0)


def test_log_goes_on_after_a_kill_and_a_restore(cluster: Cluster, tmp_path: Path) -> None:
    state = cluster.folder / "state1"
    assert cluster.serves()
    shutil.copytree(state / "audit", tmp_path / "old")
    assert cluster.serves()
    cluster.kill("server1")
    shutil.rmtree(state / "audit")
    shutil.copytree(tmp_path / "old", state / "audit")
    cluster.start()
    assert cluster.serves()
    assert "both servers signed each" in audit(cluster, 0)
    assert "of server 1 comes after its record" in audit(cluster, 1, rc=1)
    assert "2 records of jobs are missing" in cluster.log("server1")
