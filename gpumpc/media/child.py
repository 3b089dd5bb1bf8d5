"""The reader process, started by `read_images`: requests on stdin, images on stdout.

The process has little memory and processor time and may not write files, and its parent checks
every answer: a file that takes it over can do little. Error texts of libraries may quote a
patient's name, so only the error's type is passed on.
"""

import os
import resource
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec
import numpy as np

from gpumpc.errors import MissingExtra, UnreadableImage
from gpumpc.media.child_messages import DONE, IMAGE, Header, Request, refusal
from gpumpc.media.decode import images

MEMORY_CURE = (
    "share it on a machine that can give more memory (read_images(limits=...)), or split the file"
)


def main() -> None:
    """Serve requests, one JSON line each, until stdin ends; the argument limits memory in bytes."""
    memory_bytes = int(sys.argv[1])
    warnings.simplefilter("ignore")
    # Whatever a library prints must not land between two headers.
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_CORE):
        resource.setrlimit(limit, (0, 0))
    for line in sys.stdin.buffer:
        request = msgspec.json.decode(line, type=Request)
        _limit_cpu(request.cpu_s)
        for message in answer(request):
            _send(out, message)


def answer(request: Request) -> Iterator[bytes]:
    """The messages about one file: images and an end, or a refusal of the whole file."""
    try:
        for image in images(Path(request.path), request.options):
            pixels = np.ascontiguousarray(image, dtype="<f4")
            yield Header(IMAGE, *pixels.shape).pack()
            yield pixels.tobytes()
        yield Header(DONE).pack()
    except (UnreadableImage, MissingExtra) as error:
        yield refusal(f"{error.what}: {error.why}", error.hint)
    except MemoryError:
        cause = "it asks for more memory than the reader process may take: too large, or damaged"
        yield refusal(cause, MEMORY_CURE)
    except RecursionError:
        yield refusal("its parts are nested too deeply", "export it again")
    except PermissionError:
        hint = "check the permissions of the file and its folder"
        yield refusal("it may not be read by this user", hint)
    except Exception as error:
        cause = "it is damaged, truncated, or of a variant that is not read here"
        yield refusal(f"{cause} ({type(error).__name__})", "export or copy it again")


def _limit_cpu(cpu_s: int) -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used.ru_utime + used.ru_stime) + 1 + cpu_s, hard))


def _send(out: BinaryIO, message: bytes) -> None:
    out.write(message)
    out.flush()


if __name__ == "__main__":
    main()
