"""brain-region-8: where in the brain is the centre of this patch?

The gallery shows one man, the queries the mean of 152 other people.

Patches are 64 x 64 mm, axial, three slices 4 mm apart as channels. The label is the AAL region at
the centre, in the eight groups of its code's first digit. Both volumes lie in MNI space, so one
atlas labels both, and both show the brain without the skull.
"""

from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from gpumpc.datasets.fetch import CACHE, path_of
from gpumpc.datasets.labelled import LabelledImages
from gpumpc.datasets.modality import SIZE, spaced
from gpumpc.errors import MissingFile
from gpumpc.extras import extra
from gpumpc.media.grey_levels import window

GROUPS = {
    2: "frontal",
    3: "insula",
    4: "limbic",
    5: "occipital",
    6: "parietal",
    7: "deep grey",
    8: "temporal",
    9: "cerebellum",
}
TEMPLATE = "mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz"
COLIN = ("ch2bet.nii.gz", "aal.nii.gz", "aal.nii.txt")
APART_MM = 4
# Centres lie on a grid of this step, so that patches of a class do not all show one place.
STEP_MM = 3

Floats = npt.NDArray[np.float64]


class Volume(Protocol):
    """The part of nibabel's image that is used here: values, and the map from voxels to mm."""

    dataobj: npt.ArrayLike
    affine: Floats


def brain_region8(cache: Path = CACHE, *, n_gallery: int = 64, n_query: int = 32) -> LabelledImages:
    """The benchmark, (N, 64, 64, 3); `train` marks the gallery.

    Args:
        cache: where `fetch` put the files.
        n_gallery, n_query: patches a class, at most.

    Raises:
        MissingFile: Debian's mricron-data (Colin27, AAL) or nilearn's ICBM152 is not in the cache.
        MissingExtra: nibabel is not installed.
    """
    try:
        colin, atlas, names = (path_of("mricron", file, cache) for file in COLIN)
        template = path_of("icbm152", TEMPLATE, cache)
    except MissingFile as error:
        why = f"{error.what}; mricron-data is a Debian package, so it may not be for this machine"
        hint = "run `gpumpc data fetch icbm152 mricron`"
        raise MissingFile("brain-region-8 lacks a volume", why, hint) from error
    nibabel = extra("nibabel")
    points, groups = _labelled_points(nibabel.load(atlas), _groups(names))
    gallery = _patches(nibabel.load(colin), points, groups, n_gallery)
    query = _patches(nibabel.load(template), points, groups, n_query)
    sizes = [len(gallery[1]), len(query[1])]
    return LabelledImages(
        np.concatenate([gallery[0], query[0]]),
        np.array([GROUPS[int(group)] for group in (*gallery[1], *query[1])]),
        np.repeat(["mricron Colin27", "icbm152 T1"], sizes),
        np.repeat([True, False], sizes),
    )


def _groups(names: Path) -> dict[int, int]:
    """From the atlas's value to the group: lines are `value name code`."""
    rows = [line.split() for line in names.read_text().splitlines() if line.strip()]
    return {int(value): int(code[0]) for value, _, code in rows}


def _labelled_points(atlas: Volume, groups: dict[int, int]) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Points (P, 3) of the grid inside a region, in mm of MNI space, and their groups (P,)."""
    values = np.asarray(atlas.dataobj).astype(np.int64)
    table = np.zeros(max(int(values.max()), *groups) + 1, dtype=np.int64)
    table[list(groups)] = list(groups.values())
    inner = np.zeros_like(values)
    inner[::STEP_MM, ::STEP_MM, ::STEP_MM] = table[values[::STEP_MM, ::STEP_MM, ::STEP_MM]]
    where = np.argwhere(inner)
    return where @ atlas.affine[:3, :3].T + atlas.affine[:3, 3], inner[tuple(where.T)]


def _patches(
    volume: Volume, points: Floats, groups: npt.NDArray[np.int64], count: int
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Per group, at most `count` evenly spaced patches inside the volume, with their groups."""
    values = np.asarray(volume.dataobj, dtype=np.float64)
    grey = window(values, 0.0, float(np.percentile(values[values > 0], 99.5)))
    inverse = np.linalg.inv(volume.affine)
    centres = np.rint(points @ inverse[:3, :3].T + inverse[:3, 3]).astype(np.int64)
    reach = np.array([SIZE // 2, SIZE // 2, APART_MM])
    inside = np.all((centres >= reach) & (centres + reach <= values.shape), axis=1)
    centres, kept = centres[inside], groups[inside]
    members = [np.flatnonzero(kept == group) for group in GROUPS]
    chosen = np.concatenate([index[spaced(count, len(index))] for index in members])
    patches = np.stack([_patch(grey, centre) for centre in centres[chosen]])
    return patches.astype(np.float64), kept[chosen]


def _patch(grey: npt.NDArray[np.float32], centre: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    """(64, 64, 3) around a voxel; a voxel is a cube of 1 mm."""
    half = SIZE // 2
    x, y, z = (int(index) for index in centre)
    depth = slice(z - APART_MM, z + APART_MM + 1, APART_MM)
    block = grey[x - half : x + half, y - half : y + half, depth]
    return np.asarray(block.transpose(1, 0, 2)[::-1])
