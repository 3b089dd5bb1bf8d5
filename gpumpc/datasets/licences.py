"""What the fetched packages say of their images' licences, and the notices for copies of them.

Read in the packages themselves, at the pinned versions; where a package says nothing of an image
apart from its own licence, that is said. Nothing of them is part of this repository but the small
fixture of the tests.
"""

from collections.abc import Iterable
from typing import NamedTuple


class Licence(NamedTuple):
    """Of one source.

    Attributes:
        package: the package's own licence.
        images: what it says of where its images come from and of their use.
    """

    package: str
    images: str


LICENCES: dict[str, Licence] = {
    "lite0": Licence("Apache-2.0", "weights trained on ImageNet-1k; under the package's licence"),
    "icbm152": Licence(
        "BSD-3-Clause",
        "ICBM152 2009a template, McConnell Brain Imaging Centre, McGill; nilearn itself says "
        "'License: unknown' of it and refers to the centre, whose notice is below",
    ),
    "skimage": Licence(
        "BSD-3-Clause",
        "retina: Wikimedia Commons, CC0; ihc: Center for Microscopy and Molecular Imaging, no "
        "known copyright restrictions; microaneurysms: cut from 07_dr.JPG of the HRF database, CC0 "
        "given by the owner (Andreas Maier)",
    ),
    "nuclear": Licence(
        "MIT", "fluorescence micrograph; nothing is said of it apart from the package's licence"
    ),
    "stardist": Licence(
        "BSD-3-Clause",
        "histo: The Cancer Imaging Archive; img2d: 2018 Data Science Bowl (Caicedo et al., Nature "
        "Methods 16, 2019); nothing is said of their licences apart from the package's",
    ),
    "pydicom": Licence(
        "MIT",
        "an echocardiogram and a still of a lymph node, of its test files; no other licence is "
        "named",
    ),
    "pyradiomics": Licence(
        "BSD-3-Clause", "its test cases; nothing is said of them apart from the package's licence"
    ),
    "deid": Licence(
        "MIT",
        "an echocardiogram of its test images; nothing is said of it apart from the package's "
        "licence",
    ),
    "mricron": Licence(
        "BSD-3-Clause",
        "Colin27 without skull and the AAL labels; Debian's copyright file names no other licence "
        "for them",
    ),
}

# To be kept with every copy, by source.
NOTICES = {
    "icbm152": (
        "Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal "
        "Neurological Institute, McGill University. Permission to use, copy, modify, and "
        "distribute this software and its documentation for any purpose and without fee is "
        "hereby granted, provided that the above copyright notice appear in all copies."
    )
}


def notice(sources: Iterable[str]) -> str:
    """The text that goes along with images cut from these sources."""
    lines = ["These images were cut from files of the following packages.", ""]
    for name in sorted(set(sources)):
        licence = LICENCES[name]
        own = [NOTICES[name]] if name in NOTICES else []
        lines += [f"{name} ({licence.package}): {licence.images}.", *own, ""]
    return "\n".join(lines)
