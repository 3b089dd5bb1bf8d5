"""Every setting that the product reads, each with the reason why it turns no protection off.

A new configuration key, option or read of the environment fails here until somebody has looked at
it and written the reason down.
"""

from pathlib import Path
from typing import Any

import msgspec
import typer

from gpumpc.cli.main import app
from gpumpc.deploy import config

PACKAGE = Path(config.__file__).resolve().parent.parent

# Reason -> keys of the TOML files.
KEYS = {
    "names this party: `gpumpc server --party` and both servers' hello must agree with it": "party",
    "a folder of keys, which is refused if others can read it": "identity",
    "a folder of this party, made for it alone": "state",
    "an address: every connection to it is authenticated by keys": (
        "listen peer_listen peer_connect peer_bulk dealer_bulk server_endpoints"
    ),
    "cards that are admitted, each in its role alone; an empty list admits nobody": (
        "peer_card dealer_card user_cards owner_cards server_cards"
    ),
    "who may share a plan's weights, out of the owners": "plan_owners",
    "whose signature a plan's weights must carry; without it, what the servers say is believed": (
        "owner_card"
    ),
    "narrows what users may do; without tables every listed user may, and both servers compare": (
        "rights"
    ),
    "asks for signatures more; without it for none, and both servers compare": "approvals",
    "lowers how much a user may ask a day; without it there is no such limit": "budgets",
    "plans: both servers and the dealer compare their hashes": "plans",
    "sizes and speed, compared between the parties where they must be equal": (
        "batch_size in_flight"
    ),
    "room of the dealer's work ahead: masks are used once whatever it is": "pool",
    "room of one user on the disk: protects against a full disk, as wide as its operator wants": (
        "uploads"
    ),
    "memory of one search's batch: protects against a full memory, as wide as its operator wants": (
        "task_limit"
    ),
    "where the master key is: there is no value for none": "store_key",
    "which arithmetic computes: all give the same bits": "backend",
    "patience with a silent peer: finite and above 0": "timeout_s",
}

# Reason -> options of the command line.
OPTIONS = {
    "names a file or folder that is read": (
        "--config --plan --catalog --head --on --labels --inputs --canary-file --cache --card"
    ),
    "names a file or folder that is written, never over a secret": "--out --folder --receipt",
    "chooses items, an index or images": "--all --index --axis --images-only --name --classes",
    "how a result is shown or judged in the clear": (
        "--json --top --metric --k --leave-one-out --version --vote"
    ),
    "a size of a measurement, a demo or a data set": (
        "--n --runs --net --gallery --queries --train --test --count -n --size --l2"
    ),
    "as the key of the same name in a configuration": "--backend --batch-size --pool --in-flight",
    "must agree with the configuration": "--party",
    "what a new card says; the others decide whom they list": "--role",
    "parameters of a plan, which its owner chooses and every party compares": (
        "--ring-bits --frac-bits --weights --bounds --policy"
    ),
    "adds a check": "--canaries",
    "whose keys sign an approval, what it says, for how long": "--identity --purpose --days",
    "how many records are shown; all are checked": "--last",
    "starts all parties on one machine: for trying out, and said so": "--local",
    "ends a process earlier": "--supervised",
    "where a new master key is: there is no value for none": "--to",
}

# Reason -> files that read the environment, with the number of lines that do.
ENVIRONMENT = {
    "passes it on to a process of the same user": {
        "deploy/local_cluster.py": 1,
        "measure/pipes.py": 1,
        "datasets/archives.py": 1,
    },
    "passes PATH alone on to the process that reads images": {"media/read.py": 1},
    "where compilers and their cache are": {"ring/kernels.py": 3},
    "which arithmetic computes: all give the same bits": {"ring/choose.py": 1},
    "a number to print": {"cli/bench.py": 1},
    "where the master key is, if the configuration says so": {"store/master_key.py": 2},
}


def reviewed(table: dict[str, str]) -> set[str]:
    names = [name for group in table.values() for name in group.split()]
    assert len(names) == len({*names})
    return {*names}


def options_of(command: Any) -> set[str]:
    """Every option of a command and of those below it."""
    own = {o for p in command.params if p.param_type_name == "option" for o in p.opts}
    return own.union(*map(options_of, getattr(command, "commands", {}).values()))


def test_every_configuration_key_is_reviewed() -> None:
    files = (config._ServerFile, config._DealerFile, config._ClientFile)
    assert {field.name for file in files for field in msgspec.structs.fields(file)} == reviewed(
        KEYS
    )


def test_every_option_is_reviewed() -> None:
    assert options_of(typer.main.get_command(app)) == reviewed(OPTIONS)


def test_every_read_of_the_environment_is_reviewed() -> None:
    found = {}
    for path in PACKAGE.rglob("*.py"):
        lines = path.read_text().splitlines()
        if n := sum("os.environ" in line or "getenv" in line for line in lines):
            found[path.relative_to(PACKAGE).as_posix()] = n
    assert found == {name: n for group in ENVIRONMENT.values() for name, n in group.items()}
