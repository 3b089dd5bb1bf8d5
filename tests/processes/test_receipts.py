"""Deletion receipts through three processes and the console command."""

import json
from pathlib import Path

import msgspec
import pytest
from typer.testing import CliRunner

from gpumpc.cli.main import app
from gpumpc.client.client import Client
from gpumpc.errors import AccessDenied
from tests.processes.cluster import Cluster, images, one_line


def gpumpc(*arguments: object, rc: int = 0) -> str:
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == rc, (done.output, done.exception)
    return " ".join(done.output.split())


def test_receipts_of_both_servers_are_verified(
    cluster: Cluster, client: Client, tmp_path: Path
) -> None:
    items = client.extract(client.share(images(4)))
    client.create_index("archive").add(items)
    removed = client.open_index("archive").remove(items[:1])
    assert [r.receipt.server for r in removed.receipts] == [0, 1]
    assert [r.receipt.what for r in removed.receipts] == ["index rows"] * 2
    options = "--config", cluster.setup.client, "--plan", cluster.folder.parent / "plan"
    cards = [cluster.folder / role / "card.toml" for role in ("server0", "server1")]
    by_cards = "--card", cards[0], "--card", cards[1]
    file = tmp_path / "receipts.json"
    gpumpc("index", "delete", "archive", *options, "--receipt", file)
    told = gpumpc("receipt", "verify", file, *by_cards)
    assert "server 1 deleted index 'archive' of user with all its rows, at 20" in told
    refused = gpumpc("delete", *items, *options, "--receipt", file, rc=1)
    assert "nothing was deleted" in refused and client.list_inputs() == sorted(items)
    file.unlink()
    gpumpc("delete", *items, *options, "--receipt", file)
    assert "server 0 deleted 4 items of user: inputs" in gpumpc(
        "receipt", "verify", file, *by_cards
    )
    assert "no card of server 1" in gpumpc("receipt", "verify", file, "--card", cards[0], rc=1)
    held = json.loads(file.read_text())
    held["deletions"][0]["receipts"][1]["receipt"]["owner"] = "second"
    file.write_text(json.dumps(held))
    assert "not one of server1" in gpumpc("receipt", "verify", file, *by_cards, rc=1)


def test_receipt_of_a_foreign_key_is_refused(cluster: Cluster, client: Client) -> None:
    """The client verifies by the cards that its configuration names."""
    items = client.share(images(1))
    first, second = client.server_cards
    other_key = client._identity.card.sign_public
    client.server_cards = first, msgspec.structs.replace(second, sign_public=other_key)
    with pytest.raises(AccessDenied, match="not one of server1 for 'receipt'") as found:
        client.delete(items)
    assert one_line(found.value) and not client.list_inputs()
