"""The console command: each verb reads its files, calls one role, and shows what came of it."""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast, get_args

import typer

from gpumpc.cli import (
    bench,
    canary_options,
    data,
    demo,
    evaluate,
    index_group,
    inputs,
    receipt,
    results,
)
from gpumpc.cli import train_head as head
from gpumpc.cli.console import console, exit_on_error
from gpumpc.cli.item_lookup import READY_S
from gpumpc.cli.options import ConfigOption, PlanOption
from gpumpc.cli.servers import approve, audit_group, store
from gpumpc.errors import ConfigError
from gpumpc.params import one_of
from gpumpc.version import VERSION

if TYPE_CHECKING:
    from gpumpc.deploy.config import LocalSetup
    from gpumpc.params import Weights
    from gpumpc.program.head import Policy
    from gpumpc.program.plan import Bounds

app = typer.Typer(
    name="gpumpc",
    help="Evaluate neural networks on images that no server ever sees.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


def _log(name: str) -> None:
    text = f"%(asctime)s {name} %(levelname)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=text, force=True)


SupervisedOption = Annotated[
    bool, typer.Option("--supervised", help="Stop when standard input ends, as `up` starts it.")
]


def _until_signal(run: Callable[[], None], stop: Callable[[], None], supervised: bool) -> None:
    """Run a role until it ends, or SIGTERM, Ctrl-C or, if supervised, the end of stdin stop it."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())
    if supervised:

        def wait() -> None:
            sys.stdin.read()
            stop()

        threading.Thread(target=wait, name="supervisor", daemon=True).start()
    run()


@app.callback(invoke_without_command=True)
def main(
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    """Evaluate neural networks on images that no server ever sees."""
    if version:
        typer.echo(VERSION)
        raise typer.Exit


@app.command()
def keygen(
    folder: Annotated[Path, typer.Argument(help="New folder for this party's keys.")],
    role: Annotated[str, typer.Option(help="dealer, server0, server1, owner or user.")],
    name: Annotated[str, typer.Option(help="Name on the card; the role unless given.")] = "",
) -> None:
    """Make a party's keys: secret.toml stays here, card.toml is given to the others."""
    from gpumpc.deploy import keys

    with exit_on_error():
        one_of("role", role, get_args(keys.Role))
        keys.keygen(folder, name or role, cast("keys.Role", role))
        typer.echo(f"keys are in {folder}; give {folder / 'card.toml'} to the other parties")


@app.command()
def dealer(config: ConfigOption, supervised: SupervisedOption = False) -> None:
    """Deal correlated randomness ahead of time."""
    from gpumpc.dealer.dealer import Dealer
    from gpumpc.deploy.config import load_dealer
    from gpumpc.wire.resources import raise_file_limit

    _log("dealer")
    raise_file_limit()
    with exit_on_error():
        role = Dealer(load_dealer(config))
        _until_signal(role.run, role.stop, supervised)


@app.command()
def server(
    config: ConfigOption,
    party: Annotated[int, typer.Option(min=0, max=1, help="Which of the two.")],
    supervised: SupervisedOption = False,
) -> None:
    """Hold one share of everything and compute on it."""
    from gpumpc.deploy.config import load_server
    from gpumpc.server.server import Server
    from gpumpc.wire.resources import raise_file_limit

    _log(f"server{party}")
    raise_file_limit()
    with exit_on_error():
        settings = load_server(config)
        if settings.party != party:
            what = f"{config} is of party {settings.party}"
            raise ConfigError(what, f"--party says {party}", "correct one of them")
        role = Server(settings)
        _until_signal(role.run, role.stop, supervised)


@app.command()
def up(
    plan: Annotated[
        list[Path], typer.Option("--plan", help="Folder with plan.json; several for several plans.")
    ],
    local: Annotated[bool, typer.Option("--local", help="Dealer and both servers here.")] = False,
    folder: Annotated[Path, typer.Option(help="Where keys and state go.")] = Path("out/local"),
    batch_size: Annotated[int, typer.Option(min=1, help="Images a batch.")] = 8,
    pool: Annotated[str, typer.Option(help="How far the dealer works ahead.")] = "2GiB",
) -> None:
    """Start dealer and both servers here, and stop them together (Ctrl-C)."""
    from gpumpc.deploy.local_cluster import LocalCluster

    with exit_on_error():
        if not local:
            raise ConfigError(
                "only --local is supervised", "each party starts its process", "use `gpumpc server`"
            )
        stopping: list[int] = []
        # Before anything is started, so that nothing is left behind.
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda got, _: stopping.append(got))
        with LocalCluster(_local_setup(folder, plan, batch_size, pool)) as cluster:
            console.print(
                f"dealer, server 0 and server 1 run; logs and client.toml are in {folder}; Ctrl-C "
                "stops them"
            )
            while not stopping:
                cluster.check()
                time.sleep(0.3)


def _local_setup(folder: Path, plans: list[Path], batch_size: int, pool: str) -> LocalSetup:
    """The set-up in `folder`, made now if there is none.

    Raises ConfigError if one is there for something else.
    """
    from gpumpc.deploy.config import LocalSetup, load_server, parse_size, write_local
    from gpumpc.program import plan as plan_files

    # Before keys are written: a server that cannot start would say it in a log alone.
    parse_size(pool)
    for plan in plans:
        plan_files.load(plan)
    setup = LocalSetup.of(folder)
    if not setup.client.exists():
        return write_local(folder, plans, batch_size, pool=pool)
    known = load_server(setup.server0)
    wanted = tuple(plan.absolute() for plan in plans)
    if (known.plans, known.batch_size) != (wanted, batch_size):
        raise ConfigError(
            f"the set-up in {folder} is for plan {', '.join(map(str, known.plans))} and batches of "
            f"{known.batch_size}",
            f"{', '.join(map(str, wanted))} and batches of {batch_size} were asked for",
            "give another --folder, or the same --plan and --batch-size as before",
        )
    return setup


@app.command(name="compile")
def compile_(
    model: Annotated[
        str, typer.Argument(help="lite0, lenet, vgg, resnet18 or a .pt2 file of torch.export.save.")
    ],
    out: Annotated[Path, typer.Option(help="Folder for plan.json and weights.safetensors.")],
    size: Annotated[int, typer.Option(help="Height and width of the input.")] = 64,
    ring_bits: Annotated[int, typer.Option(help="Ring bits of a product.")] = 40,
    frac_bits: Annotated[int, typer.Option(help="Fraction bits.")] = 13,
    weights: Annotated[str, typer.Option(help="private or public.")] = "private",
    bounds: Annotated[str, typer.Option(help="certified, or calibrated on sample inputs.")] = "",
    policy: Annotated[str, typer.Option(help="What a user learns: label, top5 or logits.")] = "",
) -> None:
    """Turn a network into a plan: graph and ring parameters, and a file of its weights."""
    from gpumpc.local import named_networks as models
    from gpumpc.params import Params

    with exit_on_error():
        compiled = models.compile_named(
            model,
            size=size,
            params=Params(ring_bits, frac_bits, weights=cast("Weights", weights)),
            bounds=cast("Bounds | None", bounds or None),
            policy=cast("Policy | None", policy or None),
        )
        compiled.save(out)
        console.print(models.widths_table(compiled.record))
        typer.echo(
            f"plan '{compiled.record.name}' ({compiled.record.bounds} bounds) is in {out}; "
            "weights.safetensors is the owner's"
        )


@app.command("share-weights")
def share_weights(config: ConfigOption, plan: PlanOption) -> None:
    """The model's owner splits the weights between the servers."""
    from gpumpc.client.client import connect
    from gpumpc.program import plan as plan_files

    with exit_on_error(), connect(config, plan) as client:
        client.wait_connected(READY_S)
        client.share_weights(plan_files.load_weights(plan, client.plan))
        typer.echo("weights are shared")


@app.command()
def doctor(
    config: Annotated[Path | None, typer.Option(help="A client's TOML file.")] = None,
) -> None:
    """Show what is installed, which backend is used, and the servers' status."""
    from gpumpc.cli.servers import doctor as checks

    with exit_on_error():
        failed = checks.report(config)
    raise typer.Exit(1 if failed else 0)


for verb in (inputs.share, results.extract, results.classify, results.search, inputs.delete):
    app.command()(verb)
app.command("list")(inputs.list_items)
for group in (index_group.app, store.app, data.app, receipt.app, audit_group.app):
    app.add_typer(group)
app.command()(evaluate.evaluate)
app.command()(head.train_head)
app.command()(approve.approve)
app.command()(canary_options.canaries)
app.command()(demo.demo)
app.command()(bench.bench)
