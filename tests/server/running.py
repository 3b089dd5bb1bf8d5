"""Both servers and the dealer as threads of this process, over real sockets."""

import contextlib
import dataclasses
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from gpumpc.client.client import Client, connect
from gpumpc.dealer.dealer import Dealer
from gpumpc.deploy.config import LocalSetup, load_client, load_dealer, load_server, write_local
from gpumpc.deploy.keys import keygen
from gpumpc.local.compile import Plan
from gpumpc.server.server import Server

BATCH = 2


def written(folder: Path, plans: Sequence[Plan], users: Sequence[str], more: str) -> LocalSetup:
    """A set-up of `user`, who owns the plans, and `users`; `more` ends both servers' files."""
    for number, plan in enumerate(plans):
        plan.save(folder / f"plan{number}")
    paths = [folder / f"plan{number}" for number in range(len(plans))]
    setup = write_local(folder / "local", paths, BATCH, backend="numpy", pool="1MiB")
    for name in users:
        keygen(setup.folder / name, name, "user")
    cards = ", ".join(f'"{name}/card.toml"' for name in ("user", *users))
    for file in (setup.server0, setup.server1):
        text = file.read_text().replace(
            'user_cards = ["user/card.toml"]', f"user_cards = [{cards}]"
        )
        file.write_text(text + more)
    return setup


@contextlib.contextmanager
def served(setup: LocalSetup) -> Iterator[tuple[Server, Server]]:
    """Both servers while they and the dealer run."""
    first, second = (Server(load_server(file)) for file in (setup.server0, setup.server1))
    parties = (first, second, Dealer(load_dealer(setup.dealer)))
    threads = [threading.Thread(target=party.run) for party in parties]
    for thread in threads:
        thread.start()
    try:
        yield first, second
    finally:
        for party in parties:
            party.stop()
        for thread in threads:
            thread.join()


def client_of(setup: LocalSetup, name: str, plan: Plan) -> Client:
    config = dataclasses.replace(load_client(setup.client), identity=setup.folder / name)
    return connect(config, plan.record, 10.0)


def share_weights(setup: LocalSetup, plans: Sequence[Plan]) -> None:
    """As the owner of all."""
    for plan in plans:
        with client_of(setup, "user", plan) as owner:
            owner.wait_connected(10.0)
            owner.share_weights(plan.weights)
            owner.wait_ready(10.0)
