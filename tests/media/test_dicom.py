"""DICOM: pydicom's own odd files as the matrix, and the chain of grey levels on files made here."""

from pathlib import Path

import numpy as np
import pytest

from gpumpc.errors import UnreadableImage
from gpumpc.media.child_messages import Options
from gpumpc.media.decode import images
from gpumpc.media.read import Item, Refused, read_images

pydicom = pytest.importorskip("pydicom", reason="the extra [dicom] is not installed")
pytest.importorskip("PIL.Image", reason="the extra [images] is not installed")

FILES = Path(pydicom.__file__).parent / "data" / "test_files"
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom")

# Read by Pillow and pydicom alone; with more decoders installed these may be read too.
NEED_A_DECODER = {
    "JPEG-lossy.dcm": "JPEG Extended",
    "JPGExtended.dcm": "JPEG Extended",
    "JPEGLSNearLossless_08.dcm": "JPEG-LS Lossy",
    "JPEGLSNearLossless_16.dcm": "JPEG-LS Lossy",
    "MR_small_jpeg_ls_lossless.dcm": "JPEG-LS Lossless",
    "SC_rgb_jls_lossy_line.dcm": "JPEG-LS Lossy",
    "SC_rgb_jls_lossy_sample.dcm": "JPEG-LS Lossy",
    "SC_rgb_jpeg_gdcm.dcm": "JPEG Lossless",
    "GDCMJ2K_TextGBR.dcm": "JPEG 2000",
    "JPEG2000-embedded-sequence-delimiter.dcm": "JPEG 2000",
}
DAMAGED = {"MR_truncated.dcm": "promises 8192 bytes", "badVR.dcm": "damaged"}
FRAMES = {"rtdose.dcm": 15, "rtdose_expb.dcm": 15, "rtdose_rle.dcm": 15}
FRAMES["examples_ybr_color.dcm"] = 30


@pytest.fixture(scope="module")
def matrix() -> dict[str, list[Item | Refused]]:
    """What each file of the matrix gave, with one child process for all."""
    found: dict[str, list[Item | Refused]] = {}
    for answer in read_images(sorted(FILES.glob("*.dcm"))):
        found.setdefault(answer.path.name, []).append(answer)
    return found


def test_every_file_is_read_or_refused(matrix):
    assert len(matrix) == len(list(FILES.glob("*.dcm"))) > 60
    firsts = {name: answers[0] for name, answers in matrix.items()}
    refused = {name: str(first) for name, first in firsts.items() if isinstance(first, Refused)}
    for name, text in refused.items():
        expected = {**NEED_A_DECODER, **DAMAGED}.get(name, "no pixels|is not an image")
        assert any(part in text for part in expected.split("|")), text
        assert "What to do" in text and name in text
    assert set(DAMAGED) <= set(refused)
    read = set(matrix) - set(refused)
    assert len(read) >= 43
    for name in read:
        frames = [answer.frame for answer in matrix[name] if isinstance(answer, Item)]
        assert frames == list(range(FRAMES.get(name, 2 if "2frame" in name else 1)))


def test_refusal_does_not_show_the_patient_name(matrix):
    for name, answers in matrix.items():
        if isinstance(answers[0], Refused):
            person = str(pydicom.dcmread(FILES / name, force=True).get("PatientName", ""))
            assert not person or person not in str(answers[0])


def test_transfer_syntaxes_give_the_same_pixels(matrix):
    for group in ("MR_small", "SC_rgb_rle", "rtdose"):
        first = [answers[0] for name, answers in matrix.items() if name.startswith(group)]
        same = [answer.pixels for answer in first if isinstance(answer, Item)]
        assert len(same) >= 4
        for pixels in same[1:]:
            np.testing.assert_allclose(pixels, same[0], atol=1e-6)
    bars = [answers[0] for name, answers in matrix.items() if name.startswith("SC_rgb_dcmtk")]
    for pixels in (bar.pixels for bar in bars if isinstance(bar, Item)):
        assert abs(pixels - matrix["SC_rgb_rle.dcm"][0].pixels).mean() < 0.02


def dicom(path: Path, values: np.ndarray, **elements) -> Path:
    """A minimal file of one or more frames, its elements changed as told."""
    meta = pydicom.dataset.FileMetaDataset()
    meta.TransferSyntaxUID = pydicom.uid.ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = pydicom.uid.SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = "1.2.3"
    dataset = pydicom.dataset.FileDataset(path, {}, file_meta=meta, preamble=bytes(128))
    bits = 8 * values.dtype.itemsize
    standard = {
        "Rows": values.shape[-2],
        "Columns": values.shape[-1],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(values.dtype.kind == "i"),
        "NumberOfFrames": len(values) if values.ndim == 3 else 1,
    }
    for name, value in {**standard, **elements}.items():
        setattr(dataset, name, value)
    dataset.PixelData = values.tobytes() + bytes(values.nbytes % 2)
    dataset["PixelData"].VR = "OW"
    dataset.save_as(path, enforce_file_format=True)
    return path


def grey(path: Path, **options) -> np.ndarray:
    return np.stack([image[..., 0] for image in images(path, Options(**options))])


VALUES = np.array([[0, 10, 20], [30, 40, 100]], dtype="<i2")
HU = VALUES * 2.0 - 50.0
SLOPE = {"RescaleSlope": 2, "RescaleIntercept": -50}


def test_full_range_is_shown_without_a_window(tmp_path):
    plain = grey(dicom(tmp_path / "a", VALUES, **SLOPE))[0]
    np.testing.assert_allclose(plain, VALUES / 100.0, atol=1e-6)
    padded = grey(dicom(tmp_path / "b", VALUES, PixelPaddingValue=100, **SLOPE))[0]
    np.testing.assert_allclose(padded, np.clip(VALUES / 40.0, 0, 1), atol=1e-6)
    frames = np.stack([VALUES, VALUES // 2])
    np.testing.assert_allclose(grey(dicom(tmp_path / "c", frames)), frames / 100.0, atol=1e-6)
    assert not grey(dicom(tmp_path / "d", np.full((2, 2), 7, dtype="<i2"))).any()


@pytest.mark.parametrize(
    ("elements", "low", "high"),
    [
        ({"WindowCenter": 20, "WindowWidth": 101}, -30.5, 69.5),  # C.11.2.1.2
        ({"WindowCenter": [20, 0], "WindowWidth": [101, 9]}, -30.5, 69.5),  # the first of several
        ({"WindowCenter": 20, "WindowWidth": 100, "VOILUTFunction": "LINEAR_EXACT"}, -30.0, 70.0),
        ({"WindowCenter": 20, "WindowWidth": 0}, -50.0, 150.0),  # no window: the file's range
    ],
)
def test_window_of_the_file_is_applied(tmp_path, elements, low, high):
    got = grey(dicom(tmp_path / "a", VALUES, **SLOPE, **elements))[0]
    np.testing.assert_allclose(got, np.clip((HU - low) / (high - low), 0, 1), atol=1e-6)


def test_window_of_the_recipe_takes_precedence(tmp_path):
    path = dicom(tmp_path / "a", VALUES, WindowCenter=1, WindowWidth=2, **SLOPE)
    shown = grey(path, window=(0.0, 100.0))[0]
    np.testing.assert_allclose(shown, np.clip(HU / 100 + 0.5, 0, 1), atol=1e-6)


def test_sigmoid_monochrome1_and_signed_values_are_read(tmp_path):
    path = dicom(tmp_path / "a", VALUES, WindowCenter=20, WindowWidth=40, VOILUTFunction="SIGMOID")
    sigmoid = 1 / (1 + np.exp(-4 * (VALUES - 20.0) / 40))
    np.testing.assert_allclose(grey(path)[0], sigmoid, atol=1e-6)
    path = dicom(tmp_path / "b", VALUES, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_allclose(grey(path)[0], 1 - VALUES / 100.0, atol=1e-6)
    signed = np.array([[-4, 3], [0, -1]], dtype="<i2")
    path = dicom(tmp_path / "c", signed)
    np.testing.assert_allclose(grey(path)[0], (signed + 4) / 7.0, atol=1e-6)
    # Twelve bits stored, an overlay in the bits above them.
    overlay = np.array([[0x1000, 0x7000], [0, 0x2000]], dtype="<i2")
    covered = ((signed & 0x0FFF) | overlay).astype("<i2")
    path = dicom(tmp_path / "d", covered, BitsStored=12, HighBit=11)
    np.testing.assert_allclose(grey(path)[0], (signed + 4) / 7.0, atol=1e-6)


def test_window_of_each_frame_is_applied(tmp_path):
    def group(centre, slope):
        voi, value, frame = (pydicom.Dataset() for _ in range(3))
        voi.WindowCenter, voi.WindowWidth, voi.VOILUTFunction = centre, 100, "LINEAR_EXACT"
        value.RescaleSlope, value.RescaleIntercept = slope, 0
        frame.FrameVOILUTSequence, frame.PixelValueTransformationSequence = [voi], [value]
        return frame

    frames = np.stack([VALUES, VALUES])
    groups = [group(50, 1), group(100, 2)]
    got = grey(dicom(tmp_path / "a", frames, PerFrameFunctionalGroupsSequence=groups))
    np.testing.assert_allclose(got[0], VALUES / 100.0, atol=1e-6)
    np.testing.assert_allclose(got[1], np.clip((2.0 * VALUES - 50) / 100, 0, 1), atol=1e-6)


def test_lookup_table_replaces_the_window(tmp_path):
    table = pydicom.Dataset()
    table.LUTDescriptor = [101, 0, 8]
    table.LUTData = [2 * n for n in range(101)]
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = dicom(tmp_path / "a", VALUES.astype("<u2"), VOILUTSequence=[table])
    np.testing.assert_allclose(grey(path)[0], VALUES * 2 / 255.0, atol=1e-6)


def test_unsupported_transfer_syntax_is_named(tmp_path):
    path = dicom(tmp_path / "a", VALUES)
    dataset = pydicom.dcmread(path)
    dataset.file_meta.TransferSyntaxUID = pydicom.uid.MPEG2MPML
    dataset.PixelData = pydicom.encaps.encapsulate([bytes(100)])
    dataset["PixelData"].VR = "OB"
    dataset["PixelData"].is_undefined_length = True
    dataset.save_as(path, enforce_file_format=True)
    with pytest.raises(UnreadableImage, match="MPEG2 Main Profile / Main Level") as caught:
        grey(path)
    assert "convert" in caught.value.hint


def test_infinite_slope_is_refused(tmp_path):
    dataset = pydicom.dcmread(dicom(tmp_path / "a", VALUES, RescaleIntercept=0))
    dataset.RescaleSlope = pydicom.valuerep.DSfloat("inf", validation_mode=0)
    dataset.save_as(tmp_path / "b")
    with pytest.raises(UnreadableImage, match="slope"):
        grey(tmp_path / "b")
