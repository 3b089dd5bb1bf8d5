"""Every link between the parties of a local set-up, each led through a proxy of its own."""

from collections.abc import Callable
from typing import TypeVar

from bench.evidence.fault_proxy import FaultProxy
from bench.evidence.processes import Parties
from gpumpc.deploy.config import load_server
from tests.processes.cluster import rewrite

# The stream between the servers is `stream`, that of the dealer `dealing`; the others are CURVE.
LINKS = ("client-server0", "client-server1", "peer", "stream", "dealer0", "dealer1", "dealing")

P = TypeVar("P", bound=FaultProxy)


def lead_through(parties: Parties, make: Callable[[str], P]) -> dict[str, P]:
    """Change the parties' files so that each link goes through a proxy; the proxies by link.

    Args:
        make: a proxy to a target.
    """
    setup = parties.setup
    listen = [load_server(file).listen for file in (setup.server0, setup.server1)]
    between = str(load_server(setup.server0).peer_listen)
    # Two ports more: those of the set-up were free a moment ago, and so are those behind them.
    ports = [int(endpoint.rsplit(":", 1)[1]) for endpoint in (*listen, between)]
    stream, dealing = (f"tcp://127.0.0.1:{max(ports) + i}" for i in (1, 2))
    targets = (*listen, between, stream, *listen, dealing)
    proxies = {name: make(target) for name, target in zip(LINKS, targets, strict=True)}
    ends = {name: proxy.endpoint for name, proxy in proxies.items()}
    rewrite(setup.client, server_endpoints=[ends["client-server0"], ends["client-server1"]])
    rewrite(setup.server0, peer_bulk=stream)
    own_1 = {"peer_connect": ends["peer"], "peer_bulk": ends["stream"], "dealer_bulk": dealing}
    rewrite(setup.server1, **own_1)
    servers = [ends["dealer0"], ends["dealer1"]]
    rewrite(setup.dealer, server_endpoints=servers, dealer_bulk=ends["dealing"])
    return proxies
