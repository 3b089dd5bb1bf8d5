"""Makes the rooms below `protocols` importable on a machine that has NumPy and CuPy and little
else.

A GPU is often lent without a network. What runs there needs none of the roles, so the package's
public front, which imports them, is passed by; and where msgspec is absent, records are plain
dataclasses: nothing there is decoded. Does nothing on a machine where the package is installed
whole.
"""

import dataclasses
import importlib.util
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any, dataclass_transform

ROOT = Path(__file__).resolve().parent.parent.parent
FRONT = ("msgspec", "zmq", "safetensors", "typer", "rich")


@dataclass_transform(frozen_default=True)
class Struct:
    """A frozen record, declared as msgspec's are."""

    def __init_subclass__(cls, **options: Any) -> None:
        dataclasses.dataclass(frozen=True)(cls)


def _refuse(*arguments: object, **options: object) -> None:
    raise ImportError("records cannot be coded or stored without msgspec and safetensors")


def _hashable(**bounds: object) -> tuple[tuple[str, object], ...]:
    """A part of an annotated type must be hashable."""
    return tuple(bounds.items())


def _stand_in() -> types.ModuleType:
    module = types.ModuleType("msgspec")
    coder = types.SimpleNamespace(encode=_refuse, decode=_refuse)
    vars(module).update(Struct=Struct, Meta=_hashable, msgpack=coder, json=coder)
    vars(module).update(DecodeError=ValueError, ValidationError=ValueError)
    return module


def _stand_in_for_files() -> Iterator[tuple[str, types.ModuleType]]:
    """safetensors, whose files of weights nothing here reads."""
    package, of_numpy = (types.ModuleType(f"safetensors{end}") for end in ("", ".numpy"))
    vars(of_numpy).update(save=_refuse, load=_refuse)
    vars(package).update(numpy=of_numpy, SafetensorError=ValueError, __path__=[])
    yield from ((module.__name__, module) for module in (package, of_numpy))


def missing() -> list[str]:
    """Packages of the core that are not here."""
    return [name for name in FRONT if importlib.util.find_spec(name) is None]


def prepare() -> list[str]:
    """Stand in for what is missing; returns its names."""
    absent = missing()
    if absent and "gpumpc" not in sys.modules:
        package = types.ModuleType("gpumpc")
        package.__path__ = [str(ROOT / "gpumpc")]
        sys.modules["gpumpc"] = package
    if "msgspec" in absent:
        sys.modules["msgspec"] = _stand_in()
    if "safetensors" in absent:
        sys.modules.update(_stand_in_for_files())
    return absent


ABSENT = prepare()
