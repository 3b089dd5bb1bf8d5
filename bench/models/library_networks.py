"""Named networks: `NETWORKS`, by name. They come from torchvision, timm and MONAI."""

import importlib
import importlib.util
import re
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.models.operators import Case
from bench.models.own_networks import UNet, cnn_1d

_TORCHVISION = """alexnet vgg11 vgg13 vgg16 vgg19 vgg11_bn vgg16_bn resnet18 resnet34 resnet50
resnet101 resnet152 wide_resnet50_2 resnext50_32x4d densenet121 squeezenet1_1 googlenet inception_v3
mobilenet_v2 mobilenet_v3_small mobilenet_v3_large shufflenet_v2_x1_0 mnasnet1_0 regnet_x_400mf
regnet_y_400mf efficientnet_b0 convnext_tiny"""
_TIMM = """res2net50_26w_4s mobilenetv1_100 mobileone_s0 ghostnet_100 efficientnet_lite0
tf_efficientnet_lite1 tf_efficientnet_lite2 tf_efficientnet_lite3 tf_efficientnet_lite4
hrnet_w18_small darknet53 xception41 repvgg_a0 dla34 vovnet39a seresnet50 deit_tiny_patch16_224"""


def _torchvision(name: str) -> nn.Module:
    _declare_extension()
    library: Any = importlib.import_module("torchvision.models")
    auxiliary = {"init_weights": False, "aux_logits": False}
    options = auxiliary if name in ("googlenet", "inception_v3") else {}
    module: nn.Module = getattr(library, name)(weights=None, **options)
    return module


def _timm(name: str, size: int) -> nn.Module:
    _declare_extension()
    library: Any = importlib.import_module("timm")
    sized = {"img_size": size} if name.startswith("deit") else {}
    module: nn.Module = library.create_model(name, pretrained=False, **sized)
    return module


def _monai(name: str, **options: Any) -> nn.Module:
    library: Any = importlib.import_module("monai.networks.nets")
    module: nn.Module = getattr(library, name)(**options)
    return module


def _declare_extension() -> None:
    """Declare torchvision's own operators where its library was built for another torch.

    Its import registers shapes for them and fails without; no network here calls one.
    """
    found = importlib.util.find_spec("torchvision")
    if found is None or found.origin is None or hasattr(torch.ops.torchvision, "nms"):
        return
    text = (Path(found.origin).parent / "_meta_registrations.py").read_text()
    fragment: Any = torch.library.Library
    library = fragment("torchvision", "FRAGMENT")
    for name in {*re.findall(r'register_meta\("(\w+)"\)', text), "nms", "qnms"}:
        library.define(f"{name}(Tensor a) -> Tensor")
    _KEPT.append(library)


_KEPT: list[Any] = []  # a library that is collected forgets what it declared


def networks(size: int = 64) -> dict[str, Case]:
    """All of them, for images of this height and width."""
    image = (3, size, size)
    found = {
        name: Case(partial(_torchvision, name), image, 0.0, 1.0) for name in _TORCHVISION.split()
    }
    found["inception_v3"] = Case(lambda: _torchvision("inception_v3"), (3, 75, 75), 0.0, 1.0)
    found |= {name: Case(partial(_timm, name, size), image, 0.0, 1.0) for name in _TIMM.split()}
    two = {"spatial_dims": 2, "in_channels": 3, "out_channels": 2}
    found |= {
        f"unet {way}": Case(partial(UNet, way), image, 0.0, 1.0)
        for way in ("transposed", "nearest", "bilinear")
    }
    found["cnn_1d"] = Case(cnn_1d, (1, 256), 0.0, 1.0)
    found["monai unet"] = Case(
        lambda: _monai("UNet", channels=(8, 16, 32), strides=(2, 2), norm="batch", **two),
        *(image, 0.0, 1.0),
    )
    found["monai segresnet"] = Case(
        lambda: _monai("SegResNet", init_filters=8, **two), image, 0.0, 1.0
    )
    found["monai resnet10 3d"] = Case(
        lambda: _monai("resnet10", spatial_dims=3, n_input_channels=1, num_classes=2),
        *((1, 32, 32, 32), 0.0, 1.0),
    )
    return found
