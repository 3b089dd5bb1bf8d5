"""One TOML file a party, read strictly: an unknown or missing key or a wrong type is refused.

Relative paths in a file are relative to the folder of that file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import secrets
import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from gpumpc.deploy.approvals import ApprovalRules, Purpose
from gpumpc.deploy.keys import Card, Role, keygen
from gpumpc.deploy.rights import Budget, Rights
from gpumpc.deploy.toml_file import TomlFile, read_toml, write_toml
from gpumpc.errors import ConfigError
from gpumpc.offline.secret import private_folder, write_private
from gpumpc.store.master_key import KeySource

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
# Below what Linux gives to outgoing connections (from 32768 up).
_LISTENING_PORTS = range(20_000, 32_000)
_ENDPOINT = r"^tcp://[^:/\s]+:[0-9]{1,5}\Z"

Endpoint = Annotated[str, msgspec.Meta(pattern=_ENDPOINT)]
BatchSize = Annotated[int, msgspec.Meta(ge=1, le=1 << 20)]
Fields = dict[str, object]


@dataclasses.dataclass(frozen=True)
class ServerConfig:
    """The configuration of `gpumpc server`.

    Attributes:
        identity: the folder that `gpumpc keygen` made.
        state: the folder of ledger, pool and shares.
        listen: endpoint for dealer, owners and users.
        peer_listen: endpoint for server 1; at party 0 only, else None.
        peer_connect: endpoint of server 0; at party 1 only, else None.
        peer_bulk: endpoint of the servers' stream, at which server 0 listens; None: a free port of
            the host of `peer_listen`.
        dealer_bulk: at party 1, endpoint of the dealer's stream, at which it listens; None: a free
            port of the host of `listen`.
        plans: the plan folders served.
        batch_size: images in one batch.
        plan_owners: who may share the weights of each plan, in their order; none: nobody.
        pool_bytes: how far the dealer may work ahead.
        uploads_bytes: how much one owner's or user's rows and indexes may take on the disk.
        store_key: where the master key of the shares at rest is.
        task_bytes: how much correlated randomness one batch of a search may take.
        backend: its name; empty for the fastest that is installed.
        timeout_s: seconds a living peer may be silent in a run.
        in_flight: batches of one request that run at a time, so that one computes while another
            waits for the network; the same at both servers.
        rights: what is granted with each plan, by its name; none at all: every user may do
            everything.
        budgets: how much each user may ask for in a day, by plan name.
        approvals: without which no plan is served; None: none are needed.
    """

    party: int
    identity: Path
    state: Path
    listen: str
    peer_listen: str | None
    peer_connect: str | None
    peer: Card
    dealer: Card
    owners: tuple[Card, ...]
    users: tuple[Card, ...]
    plans: tuple[Path, ...]
    plan_owners: tuple[Card, ...]
    batch_size: int
    pool_bytes: int
    uploads_bytes: int
    store_key: KeySource
    task_bytes: int
    backend: str
    timeout_s: float
    peer_bulk: str | None = None
    dealer_bulk: str | None = None
    in_flight: int = 1
    rights: Mapping[str, Rights] = dataclasses.field(default_factory=dict)
    budgets: Mapping[str, Budget] = dataclasses.field(default_factory=dict)
    approvals: ApprovalRules | None = None

    @property
    def allowed(self) -> dict[bytes, str]:
        """The allow-list of `listen`: CURVE public key -> name of dealer, owners and users."""
        return {card.curve_key: card.name for card in (self.dealer, *self.owners, *self.users)}


@dataclasses.dataclass(frozen=True)
class DealerConfig:
    """The configuration of `gpumpc dealer`; endpoints and cards of server 0, then server 1.

    Attributes:
        task_bytes: how much correlated randomness one batch of a search may take.
        dealer_bulk: endpoint of server 1 for the dealer's stream; None: at its host, the port that
            server 1 sends.
    """

    identity: Path
    server_endpoints: tuple[str, str]
    server_cards: tuple[Card, Card]
    plans: tuple[Path, ...]
    batch_size: int
    task_bytes: int
    dealer_bulk: str | None = None


@dataclasses.dataclass(frozen=True)
class ClientConfig:
    """The configuration of an owner or user; endpoints and cards of server 0, then server 1.

    Attributes:
        owner: who must have signed the weights of every plan that is used; None: not checked.
    """

    identity: Path
    server_endpoints: tuple[str, str]
    server_cards: tuple[Card, Card]
    owner: Card | None = None


@dataclasses.dataclass(frozen=True)
class LocalSetup:
    """The TOML files of a complete set-up on this machine; all in `folder`."""

    folder: Path
    server0: Path
    server1: Path
    dealer: Path
    client: Path

    @classmethod
    def of(cls, folder: Path) -> LocalSetup:
        """The paths of the files, whether they exist or not."""
        names = ("server0", "server1", "dealer", "client")
        return cls(folder, *(folder / f"{name}.toml" for name in names))


class _ApprovalsTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    cards: list[str]
    needed: Annotated[int, msgspec.Meta(ge=1)]
    purpose: Purpose
    folder: str


class _ServerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    party: Annotated[int, msgspec.Meta(ge=0, le=1)]
    identity: str
    state: str
    listen: Endpoint
    peer_card: str
    dealer_card: str
    user_cards: list[str]
    plans: list[str]
    batch_size: BatchSize
    owner_cards: list[str] = []
    plan_owners: list[str] = []
    peer_listen: Endpoint | None = None
    peer_connect: Endpoint | None = None
    peer_bulk: Endpoint | None = None
    dealer_bulk: Endpoint | None = None
    pool: str = "2GiB"
    uploads: str = "64GiB"
    store_key: str = ""
    task_limit: str = "1GiB"
    backend: str = ""
    timeout_s: Annotated[float, msgspec.Meta(gt=0)] = 600.0
    in_flight: Annotated[int, msgspec.Meta(ge=1, le=16)] = 1
    rights: dict[str, Rights] = {}
    budgets: dict[str, Budget] = {}
    approvals: _ApprovalsTable | None = None


class _DealerFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: str
    server_endpoints: tuple[Endpoint, Endpoint]
    server_cards: tuple[str, str]
    plans: list[str]
    batch_size: BatchSize
    dealer_bulk: Endpoint | None = None
    task_limit: str = "1GiB"


class _ClientFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    identity: str
    server_endpoints: tuple[Endpoint, Endpoint]
    server_cards: tuple[str, str]
    owner_card: str = ""


def parse_size(text: str) -> int:
    """Bytes of a size like `2GiB`, `512 MiB` or `4096`. Raises ConfigError."""
    match = re.fullmatch(r"(\d{1,15}(?:\.\d{1,6})?) ?([A-Za-z]*)", text.strip())
    if match is None or match[2] not in _UNITS:
        why = f"a size is a number and one of {', '.join(unit for unit in _UNITS if unit)}"
        raise ConfigError(f"'{text}' is not a size", why, "write for example 2GiB")
    return int(float(match[1]) * _UNITS[match[2]])


def load_server(path: Path) -> ServerConfig:
    """A server's configuration with its cards. ConfigError or MissingFile name file and key."""
    file, raw = TomlFile(Path(path)), read_toml(Path(path), _ServerFile)
    wanted, other = "peer_listen", "peer_connect"
    if raw.party == 1:
        wanted, other = other, wanted
    if getattr(raw, wanted) is None or getattr(raw, other) is not None:
        raise file.bad(
            f"party {raw.party} must have the key `{wanted}` and must not have `{other}`"
        )
    if raw.party == 0 and raw.dealer_bulk is not None:
        raise file.bad("`dealer_bulk` is for party 1: the dealer sends nothing in bulk to party 0")
    if raw.timeout_s == float("inf"):
        raise file.bad("`timeout_s` must be a finite number of seconds")
    with file.at("pool"):
        pool_bytes = parse_size(raw.pool)
    with file.at("uploads"):
        uploads_bytes = parse_size(raw.uploads)
    # In the identity's folder: a copy of the state folder alone can then not be read.
    store_key = KeySource("file", str(file.path(raw.identity) / "store.key"))
    if raw.store_key:
        with file.at("store_key"):
            store_key = KeySource.parse(raw.store_key, file.file.absolute().parent)
    with file.at("task_limit"):
        task_bytes = parse_size(raw.task_limit)
    owners = tuple(file.card("owner_cards", card, "owner", "user") for card in raw.owner_cards)
    users = tuple(file.card("user_cards", card, "owner", "user") for card in raw.user_cards)
    dealer = file.card("dealer_card", raw.dealer_card, "dealer")
    file.check_names(dealer, *owners, *users)
    known = {card.name for card in (*owners, *users)}
    for plan, rights in raw.rights.items():
        if unknown := sorted(rights.names - known):
            who = f"`rights.{plan}` names {', '.join(unknown)}"
            raise file.bad(f"{who}: no card in `user_cards` or `owner_cards` has that name")
    plan_owners = _plan_owners(file, raw.plan_owners, owners, len(raw.plans))
    peer_role: Role = "server1" if raw.party == 0 else "server0"
    return ServerConfig(
        party=raw.party,
        identity=file.path(raw.identity),
        state=file.path(raw.state),
        listen=raw.listen,
        peer_listen=raw.peer_listen,
        peer_connect=raw.peer_connect,
        peer=file.card("peer_card", raw.peer_card, peer_role),
        dealer=dealer,
        owners=owners,
        users=users,
        plans=tuple(file.path(plan) for plan in raw.plans),
        plan_owners=plan_owners,
        batch_size=raw.batch_size,
        pool_bytes=pool_bytes,
        uploads_bytes=uploads_bytes,
        store_key=store_key,
        task_bytes=task_bytes,
        backend=raw.backend,
        timeout_s=raw.timeout_s,
        peer_bulk=raw.peer_bulk,
        dealer_bulk=raw.dealer_bulk,
        in_flight=raw.in_flight,
        rights=raw.rights,
        budgets=raw.budgets,
        approvals=_approval_rules(file, raw.approvals) if raw.approvals else None,
    )


def load_dealer(path: Path) -> DealerConfig:
    """The dealer's configuration with the cards. ConfigError, MissingFile name file and key."""
    file, raw = TomlFile(Path(path)), read_toml(Path(path), _DealerFile)
    plans = tuple(file.path(plan) for plan in raw.plans)
    cards = _server_cards(file, raw.server_cards)
    with file.at("task_limit"):
        task_bytes = parse_size(raw.task_limit)
    identity, endpoints = file.path(raw.identity), raw.server_endpoints
    return DealerConfig(
        identity, endpoints, cards, plans, raw.batch_size, task_bytes, raw.dealer_bulk
    )


def load_client(path: Path) -> ClientConfig:
    """A client's configuration with the cards. ConfigError, MissingFile name file and key."""
    file, raw = TomlFile(Path(path)), read_toml(Path(path), _ClientFile)
    cards = _server_cards(file, raw.server_cards)
    owner = file.card("owner_card", raw.owner_card, "owner", "user") if raw.owner_card else None
    return ClientConfig(file.path(raw.identity), raw.server_endpoints, cards, owner)


def write_local(
    folder: Path,
    plans: Sequence[Path],
    batch_size: int,
    *,
    pool: str = "2GiB",
    backend: str = "",
    timeout_s: float = 600.0,
) -> LocalSetup:
    """Write a complete set-up on 127.0.0.1 into a new `folder`, with keys of the dealer, both
    servers and one user, who is also the owner.

    The ports are free at this moment. A folder in which this was cut off is finished. Raises
    ConfigError if keys or files are there already.
    """
    folder = private_folder(Path(folder).absolute())
    roles: tuple[Role, ...] = ("dealer", "server0", "server1", "user")
    setup, unfinished = LocalSetup.of(folder), folder / ".unfinished"
    files = (setup.server0, setup.server1, setup.dealer, setup.client)
    for path in (setup.client,) if unfinished.exists() else (*files, *map(folder.joinpath, roles)):
        if path.exists():
            why, hint = "keys and configurations are never overwritten", "give another folder"
            raise ConfigError(f"{path} is there already", why, hint)
    if not unfinished.exists():
        write_private(unfinished, b"")
    for role in roles:
        if not (folder / role / "card.toml").exists():
            keygen(folder / role, role, role)
    listen_0, listen_1, between = (f"tcp://127.0.0.1:{port}" for port in _free_ports(3))
    folders = [str(Path(plan).absolute()) for plan in plans]
    work: Fields = {"plans": folders, "batch_size": batch_size}
    clients: Fields = {
        "server_endpoints": [listen_0, listen_1],
        "server_cards": ["server0/card.toml", "server1/card.toml"],
    }
    server: Fields = {
        "dealer_card": "dealer/card.toml",
        "user_cards": ["user/card.toml"],
        "owner_cards": ["user/card.toml"],
        "pool": pool,
        "backend": backend,
        "timeout_s": timeout_s,
        **work,
    }
    own_0: Fields = {"listen": listen_0, "peer_listen": between, "peer_card": "server1/card.toml"}
    own_1: Fields = {"listen": listen_1, "peer_connect": between, "peer_card": "server0/card.toml"}
    write_toml(
        setup.server0, {"party": 0, "identity": "server0", "state": "state0", **own_0, **server}
    )
    write_toml(
        setup.server1, {"party": 1, "identity": "server1", "state": "state1", **own_1, **server}
    )
    write_toml(setup.dealer, {"identity": "dealer", **clients, **work})
    write_toml(setup.client, {"identity": "user", **clients})  # last: all is there with it
    unfinished.unlink()
    return setup


def _plan_owners(
    file: TomlFile, names: list[str], owners: tuple[Card, ...], n_plans: int
) -> tuple[Card, ...]:
    known = {card.name: card for card in owners}
    if not names and len(owners) < 2:
        return owners * n_plans  # without an owner nobody can share weights
    if len(names) != n_plans or not {*names} <= {*known}:
        listed = f"in their order, out of `owner_cards`: {', '.join(known) or 'none'}"
        raise file.bad(f"`plan_owners` must name the owners of the {n_plans} plans, {listed}")
    return tuple(known[name] for name in names)


def _approval_rules(file: TomlFile, table: _ApprovalsTable) -> ApprovalRules:
    cards = tuple(file.card("approvals.cards", card, "owner", "user") for card in table.cards)
    keys = {card.sign_public for card in cards}
    if len(keys) != len(cards) or table.needed > len(cards):
        n = f"{len(keys)} different approvers are listed, and {table.needed} are needed"
        raise file.bad(f"`approvals.cards` must name each approver once, and enough of them: {n}")
    file.check_names(*cards)
    return ApprovalRules(cards, table.needed, table.purpose, file.path(table.folder))


def _server_cards(file: TomlFile, paths: tuple[str, str]) -> tuple[Card, Card]:
    key = "server_cards"
    return file.card(key, paths[0], "server0"), file.card(key, paths[1], "server1")


def _free_ports(n: int) -> list[int]:
    """Ports that are free now, and that the system does not choose for outgoing connections.

    One of those can be taken by an outgoing connection while a server restarts, even by its own
    peer, whose attempts to connect to a closed local port can meet themselves.
    """
    found: set[int] = set()
    while len(found) < n:
        port = _LISTENING_PORTS.start + secrets.randbelow(len(_LISTENING_PORTS))
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            found.add(port)
    return [*found]
