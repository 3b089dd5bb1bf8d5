"""The reader process, started by `read_images`: requests on its socket, images back on it.

It imports the decoders of one kind of file, then gives up what it does not need
(`gpumpc/media/sandbox.py`), and only then is sent a file: as an open descriptor, since it can open
none. Its parent checks every answer.
Under a kernel without Landlock and seccomp only its limits hold; `gpumpc doctor` says which it has.
Error texts of libraries may quote a patient's name, so only the error's type is passed on.
"""

import codecs
import contextlib
import importlib
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from typing import BinaryIO

import msgspec
import numpy as np

from gpumpc.errors import MissingExtra, UnreadableImage
from gpumpc.media.child_messages import DONE, IMAGE, READY, Header, Request, refusal
from gpumpc.media.decode import DICOM, PICTURES, VOLUMES, images_of
from gpumpc.media.sandbox import confine, end_with_parent, limit

MAX_REQUEST_BYTES = 1 << 12
# What the decoders of a kind would import only when a file needs it. Pillow resizes all of them.
_PILLOW = (
    "PIL.ImageOps",
    "PIL.MpoImagePlugin",
    "PIL.TiffImagePlugin",
    "PIL.Jpeg2KImagePlugin",
)
LATE_MODULES = {
    PICTURES: _PILLOW,
    VOLUMES: ("PIL.Image", "nibabel", "numpy.lib.recfunctions"),
    DICOM: (
        *_PILLOW,
        "pydicom.pixels",
        "pydicom.pixels.decoders",
        "pydicom.pixels.processing",
        "pydicom.encaps",
    ),
}
MEMORY_CURE = (
    "share it on a machine that can give more memory (read_images(limits=...)), or split the file"
)


def main() -> None:
    """Serve requests, one message each, until the socket ends; the arguments are its memory in
    bytes and the kind of its files."""
    end_with_parent()
    warnings.simplefilter("ignore")
    limit(int(sys.argv[1]))
    line = socket.socket(fileno=os.dup(0))
    os.dup2(2, 1)  # whatever a library prints must not land between two headers
    out = os.fdopen(0, "wb")
    import_decoders(sys.argv[2])
    out.write(Header(READY, *confine()).pack())
    out.flush()
    while True:
        data, files, _, _ = socket.recv_fds(line, MAX_REQUEST_BYTES, 1)
        if not data:
            return
        request = msgspec.json.decode(data, type=Request)
        with os.fdopen(files[0], "rb") as file:
            for message in answer(file, request):
                out.write(message)
                out.flush()


def import_decoders(kind: str) -> None:
    """Import what a file of this kind may need: nothing can be imported later."""
    for name in LATE_MODULES[kind]:
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    if "PIL.Image" in sys.modules:
        sys.modules["PIL.Image"].preinit()
    if "pydicom" in sys.modules:
        for encoding in set(sys.modules["pydicom.charset"].python_encoding.values()):
            codecs.lookup(encoding)


def answer(file: BinaryIO, request: Request) -> Iterator[bytes]:
    """The messages about one file: images and an end, or a refusal of the whole file."""
    try:
        for image in images_of(file, request.options):
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
    except Exception as error:
        cause = "it is damaged, truncated, or of a variant that is not read here"
        yield refusal(f"{cause} ({type(error).__name__})", "export or copy it again")


if __name__ == "__main__":
    main()
