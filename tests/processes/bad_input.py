"""Requests past the client's own checks, and errors that must come in time."""

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest

from gpumpc import messages as m
from gpumpc.client.client import Client, connect
from gpumpc.deploy.config import load_client
from gpumpc.errors import GpumpcError
from gpumpc.wire.frames import Kind
from tests.processes.cluster import LIMIT_S, SLACK_S, Cluster


def refused(kind: type[GpumpcError], pattern: str, action: Callable[[], object]) -> str:
    start = time.monotonic()
    with pytest.raises(kind) as caught:
        action()
    assert time.monotonic() - start < LIMIT_S + SLACK_S
    text = str(caught.value)
    assert re.search(pattern, text), text
    return text


def as_user(cluster: Cluster, name: str) -> Client:
    config = replace(load_client(cluster.setup.client), identity=cluster.folder / name)
    return connect(config, cluster.compiled.record)


def ask(client: Client, party: int, request: m.Request, bulk: bytes = b"") -> int:
    """A request to one server, past the client's own checks."""
    client._sequence += 1
    client._servers[party].send(Kind.REQUEST, m.pack(request, bulk), sequence=client._sequence)
    return client._sequence


def answer(client: Client, party: int, sequence: int) -> m.Reply:
    return client.answer(party, sequence, LIMIT_S + SLACK_S)[0]
