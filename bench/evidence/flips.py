"""Part `flips`: one bit of one file of a stopped server is flipped.

Both servers start again and are asked for everything. Each answer must be right, or an error; an
error must come with the file's name, to the user or in the server's log. Kinds of files are taken
from what the folders hold, so that a new kind is tried too.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from bench.evidence.copies import Still, ask, serving, still
from bench.evidence.part import SEED, Finding, Part
from bench.evidence.processes import Parties, item_ids

N_NEW = 12


def kind_of(state: Path, path: Path) -> str:
    """A file's kind: its place with every hexadecimal name and number left out."""
    return re.sub(r"[0-9a-f]{8,}|\b\d+\b", "*", str(path.relative_to(state)))


def kinds(parties: Parties) -> dict[str, list[Path]]:
    """Files that are not empty, of both states, by kind."""
    found: dict[str, list[Path]] = {}
    for party in (0, 1):
        state = parties.state(party)
        for path in sorted(state.rglob("*")):
            if path.is_file() and path.stat().st_size:
                found.setdefault(f"{party}/{kind_of(state, path)}", []).append(path)
    return found


def flip(path: Path, rng: np.random.Generator) -> int:
    """Flip one bit of a file; its position in bits."""
    data = bytearray(path.read_bytes())
    bit = int(rng.integers(8 * len(data)))
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)
    return bit


def judged(answers: dict[str, str], said: str, file: str) -> list[str]:
    """What is wrong with the answers, given everything that was said to users and in logs."""
    faults = [f"{name}: wrong without an error" for name, a in answers.items() if a == "wrong"]
    faults += [f"{name}: {a}" for name, a in answers.items() if a.startswith("untold")]
    refused = [a for a in answers.values() if a not in ("right", "wrong")]
    if refused and re.sub("-(wal|shm)$", "", file) not in said:
        faults.append(f"an error names no file: {refused[0]}")
    return faults


def one_flip(world: Still, unit: int) -> Finding:
    """Flip a bit of a kind of file that goes round with the unit."""
    rng = np.random.default_rng([SEED, unit])
    with world.copied() as parties:
        found = kinds(parties)
        kind = sorted(found)[unit // 2 % len(found)]
        path = found[kind][int(rng.integers(len(found[kind])))]
        bit = flip(path, rng)
        logged = {name: len(parties.log(name)) for name in ("server0", "server1")}
        parties.start()
        client = serving(parties)
        if isinstance(client, str):
            answers = {"start": client}
        else:
            with client:
                answers = ask(client, world, item_ids(rng, N_NEW))
        said = " ".join([*answers.values(), *(parties.log(n)[at:] for n, at in logged.items())])
    where = f"{kind}, bit {bit}"
    faults = [f"{where}: {fault}" for fault in judged(answers, said, path.name)]
    outcome = "faults" if faults else "right" if {*answers.values()} == {"right"} else "refused"
    return Finding({"flips": 1, outcome: 1}, faults, {"file": where, "answers": answers})


def run(units: Sequence[int]) -> Iterator[Finding]:
    """Odd units flip a file as SIGKILL leaves it, even ones as an orderly end does."""
    rng = np.random.default_rng(SEED)
    with still(rng, killed=False) as ended, still(rng, killed=True) as killed:
        for unit in units:
            yield one_flip(killed if unit % 2 else ended, unit)


PART = Part("flips", "one bit of one file", 240, 6, run)
