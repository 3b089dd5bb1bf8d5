"""The command line that the scripts of bench share."""

import argparse
import json
from collections.abc import Mapping
from typing import Any


def command_line(script: str, description: str) -> argparse.ArgumentParser:
    """A parser of `python -m bench.<script>` that knows --json."""
    parser = argparse.ArgumentParser(prog=f"python -m bench.{script}", description=description)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    return parser


def show(measured: Mapping[str, Any], as_json: bool, text: str = "") -> None:
    """Print a row as one JSON object, or this text where there is any."""
    if as_json or text:
        print(json.dumps(measured) if as_json else text)
