"""Damaged or hostile files: refused within 5 s, by name, while the files next to them pass."""

import gzip
import io
import os
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from gpumpc.media import child_messages as m
from gpumpc.media import read
from gpumpc.media.child_messages import IMAGE, READY, REFUSED, Header, Options, parse_header
from gpumpc.media.read import Item, Limits, Refused, read_images

Image = pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")
pydicom = pytest.importorskip("pydicom", reason="the extra [dicom] is not installed")
nibabel = pytest.importorskip("nibabel", reason="the extra [images] is not installed")

LIMIT_S = 5.0
rng = np.random.default_rng(12)


def good(path: Path) -> Path:
    Image.fromarray(rng.integers(0, 256, (40, 40), dtype=np.uint8)).save(path, format="PNG")
    return path


def dicom(path: Path, data: bytes, syntax=pydicom.uid.ExplicitVRLittleEndian, **elements) -> None:
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID, meta.MediaStorageSOPInstanceUID = syntax, "1.2.3"
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    dataset = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    standard = {"Rows": 8, "Columns": 8, "PhotometricInterpretation": "MONOCHROME2"}
    standard["SamplesPerPixel"] = 1
    bits = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "PixelRepresentation": 0}
    for name, value in {**standard, **bits, **elements}.items():
        setattr(dataset, name, value)
    dataset.PixelData = data
    dataset["PixelData"].VR = "OB"
    dataset.save_as(path, enforce_file_format=True)


def bombs(folder: Path) -> dict[str, str]:
    """Each kind of bad file, with words of its refusal."""
    dicom(folder / "bomb.dcm", bytes(64), Rows=60000, Columns=60000, NumberOfFrames=9999)
    dicom(folder / "short.dcm", bytes(64), Rows=5000, Columns=5000, NumberOfFrames=4)
    blank = io.BytesIO()
    Image.new("L", (5700, 5700)).save(blank, "JPEG2000")
    frames = pydicom.encaps.encapsulate([blank.getvalue()] * 8)
    size = {"Rows": 5700, "Columns": 5700, "NumberOfFrames": 8}
    dicom(folder / "j2k.dcm", frames, pydicom.uid.JPEG2000, **size)
    dicom(folder / "deflate.dcm", bytes(300 << 20), pydicom.uid.DeflatedExplicitVRLittleEndian)
    picture = bytearray(good(folder / "bomb.png").read_bytes())
    picture[16:24] = (30000).to_bytes(4, "big") * 2
    picture[29:33] = zlib.crc32(picture[12:29]).to_bytes(4, "big")
    (folder / "bomb.png").write_bytes(picture)
    header = nibabel.Nifti1Header()
    header.set_data_shape((1024, 1024, 900))
    header["vox_offset"], header["magic"] = 352, b"n+1\0"
    with gzip.open(folder / "bomb.nii.gz", "wb") as file:
        file.write(header.binaryblock + bytes(400))
    header.set_data_shape((40, 40, 40))
    (folder / "short.nii").write_bytes(header.binaryblock + bytes(400))
    (folder / "empty.dcm").touch()
    (folder / "words.jpg").write_text("no picture")
    (folder / "noise").write_bytes(rng.bytes(50_000))
    (folder / "noise.dcm").write_bytes(bytes(128) + b"DICM" + rng.bytes(50_000))
    whole = good(folder / "cut.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    os.mkfifo(folder / "pipe")
    return {
        "bomb.dcm": "too large: 60000 x 60000",
        "short.dcm": "promises 100000000 bytes of pixels and the file has 64",
        "j2k.dcm": "no real compressed image",
        "deflate.dcm": "memory",
        "bomb.png": "too large: 30000",
        "bomb.nii.gz": "too large",
        "short.nii": "damaged, truncated",
        "empty.dcm": "zero bytes",
        "words.jpg": "not PNG, JPEG, TIFF",
        "noise": "not PNG, JPEG, TIFF",
        "noise.dcm": "Cause",
        "cut.png": "damaged, truncated",
        "pipe": "not a plain file",
    }


def test_bad_files_are_refused_in_time_and_good_ones_read(tmp_path):
    expected = bombs(tmp_path)
    goods = {good(tmp_path / name).name for name in ("a_first.png", "n_middle.png", "z_last.png")}
    found: dict[str, Item | Refused] = {}
    last = time.monotonic()
    for answer in read_images(tmp_path, limits=Limits(memory_bytes=700 << 20)):
        assert time.monotonic() - last < LIMIT_S, answer
        last = time.monotonic()
        found[answer.path.name] = answer
    assert {name for name, answer in found.items() if isinstance(answer, Item)} == goods
    assert set(found) == goods | set(expected)
    for name, words in expected.items():
        text = str(found[name])
        assert words in text and name in text and "What to do" in text, text


def stand_in(monkeypatch, body: str) -> None:
    """A reader process that a file has taken over: it does `body` for a file that holds `evil`."""
    good_answer = f"out.write({Header(IMAGE, 1, 1, 1).pack()!r} + bytes(4) + {Header(2).pack()!r})"
    script = f"""
import os, signal, socket, struct, sys, time
line, out = socket.socket(fileno=os.dup(0)), os.fdopen(0, 'wb', buffering=0)
out.write({Header(READY).pack()!r})
while (got := socket.recv_fds(line, 4096, 1))[0]:
    if os.read(got[1][0], 4) == b'evil':
        {body}
    else:
        {good_answer}
"""
    monkeypatch.setattr(read, "_CHILD", ("-P", "-c", script))


ONE_PIXEL = Header(IMAGE, 1, 1, 1).pack()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("os.kill(os.getpid(), signal.SIGSEGV)", "SIGSEGV"),
        ("os.kill(os.getpid(), signal.SIGXCPU)", "processor time"),
        ("sys.exit(3)", "code 3"),
        ("time.sleep(60)", "took more than"),
        ("out.write(b'G' * 30)", "makes no sense"),
        (f"out.write({Header(IMAGE, 60000, 60000, 3).pack()!r})", "makes no sense"),
        (f"out.write({ONE_PIXEL!r} + struct.pack('<f', 7.0))", "makes no sense"),
        (f"out.write({ONE_PIXEL!r} + struct.pack('<f', float('nan')))", "makes no sense"),
        (f"out.write({Header(2).pack()!r})", "no image in it"),
        (f"[out.write({ONE_PIXEL!r} + bytes(4)) for _ in range(5000)]", "makes no sense"),
    ],
)
def test_failing_reader_costs_only_one_file(tmp_path, monkeypatch, body, words):
    stand_in(monkeypatch, body)
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a", "evil", "z"):
        (folder / name).write_text(name)
    first, evil, third = read_images(folder, limits=Limits(silence_s=1.0))
    assert isinstance(first, Item) and isinstance(third, Item)
    assert isinstance(evil, Refused) and words in str(evil)


def test_reader_process_has_no_environment_or_file_writes(tmp_path, monkeypatch):
    monkeypatch.setenv("GPUMPC_SECRET", "x")
    reader = read._Reader(read.DEFAULT_LIMITS)
    try:
        good(tmp_path / "a.png")
        reader.read(tmp_path / "a.png", Options())
        child = reader._child
        assert child is not None
        limits = Path(f"/proc/{child.pid}/limits").read_text()
        row = {line[:26].strip(): line[26:].split() for line in limits.splitlines()[1:]}
        assert row["Max file size"][0] == row["Max core file size"][0] == "0"
        assert row["Max address space"][0] == str(read.DEFAULT_LIMITS.memory_bytes)
        assert row["Max cpu time"][0] != "unlimited"
        assert b"GPUMPC_SECRET" not in Path(f"/proc/{child.pid}/environ").read_bytes()
    finally:
        reader.close()
    assert child.poll() is not None


def test_reader_messages_are_parsed_strictly():
    options = Options(size=(2, 3), channels=3)
    header = parse_header(Header(IMAGE, 2, 3, 3).pack(), options)
    assert m.parse_pixels(header, bytes(72)).shape == (2, 3, 3)
    wrong = [Header(IMAGE, 3, 2, 3), Header(IMAGE, 2, 3, 1), Header(IMAGE, 2, 3, 2)]
    wrong += [Header(7), Header(REFUSED, 5000), Header(2, 1), Header(REFUSED, 3, 1)]
    for header in wrong:
        with pytest.raises(ValueError, match="not a header"):
            parse_header(header.pack(), options)
    packed = m.refusal("a\x1b[31mred\nline", "é" * 5000)
    header = parse_header(packed[: len(Header(2).pack())], options)
    cause, hint = m.parse_refusal(packed[len(Header(2).pack()) :])
    assert cause == "a?[31mred line" and hint.startswith("éé") and header.payload_bytes < 2048
