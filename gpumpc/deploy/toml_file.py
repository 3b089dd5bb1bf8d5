"""A TOML file of a party: read strictly, and named in every error."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec

from gpumpc.deploy.keys import Card, Role, load_card
from gpumpc.errors import ConfigError, MissingFile
from gpumpc.offline.secret import file_error, sync_folder

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class TomlFile:
    """A configuration file, for resolving paths and for naming it in errors."""

    file: Path

    def path(self, text: str) -> Path:
        """A path of the file, which is relative to the file's folder."""
        return self.file.absolute().parent / text

    def bad(self, why: str) -> ConfigError:
        """The error of a file that cannot be used."""
        what = f"the configuration {self.file} cannot be used"
        return ConfigError(what, why, "correct that key, then start again")

    @contextlib.contextmanager
    def at(self, key: str) -> Iterator[None]:
        """Errors inside name this file and key."""
        try:
            yield
        except ConfigError as error:
            what = f"{self.file}, key `{key}`: {error.what}"
            raise type(error)(what, error.why, error.hint) from error

    def card(self, key: str, text: str, *roles: Role) -> Card:
        """The card at a path, of a party of these roles. Raises ConfigError, MissingFile."""
        with self.at(key):
            card = load_card(self.path(text))
        if card.role not in roles:
            roles_of = f"the role {card.role}, and {' or '.join(roles)} is expected"
            raise self.bad(f"`{key}` names a card with {roles_of}")
        return card

    def check_names(self, *cards: Card) -> None:
        """Raises ConfigError for two cards of one name: receivers know a sender by its name."""
        keys: dict[str, str] = {}
        for card in cards:
            if keys.setdefault(card.name, card.curve_public) != card.curve_public:
                raise self.bad(f"two different cards have the name '{card.name}'")


def read_toml(path: Path, kind: type[T]) -> T:
    """The file as a structure. Raises MissingFile, and ConfigError naming the wrong key."""
    try:
        return msgspec.convert(tomllib.loads(path.read_text(encoding="utf-8")), kind)
    except FileNotFoundError:
        hint = "give the path of a party's TOML file, or make a set-up with gpumpc up --local"
        raise MissingFile(f"the configuration {path} is missing", "no such file", hint) from None
    except OSError as error:
        raise file_error(f"the configuration {path} cannot be read", error) from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise TomlFile(path).bad(f"it is not TOML: {error}") from error
    except msgspec.ValidationError as error:
        why = str(error).replace("$.", "").replace("Object missing", "it lacks the")
        raise TomlFile(path).bad(why.replace("Object contains", "it has the")) from error


def write_toml(path: Path, fields: Mapping[str, object]) -> None:
    """Write numbers, strings and lists by key: the whole file, or what was there before."""
    # In JSON they are TOML too, unless ensure_ascii writes surrogate escapes.
    lines = (f"{key} = {json.dumps(value, ensure_ascii=False)}\n" for key, value in fields.items())
    draft = path.with_name(f".{path.name}.draft")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            file.write("".join(lines))
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        sync_folder(path.parent)
    except OSError as error:
        raise file_error(f"the configuration {path} cannot be written", error) from error
