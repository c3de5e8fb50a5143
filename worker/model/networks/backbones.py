"""torchvision's classifiers, imported without torch's compiler, which nothing here uses.

When torchvision's operators for object detection are imported, they import torch's compiler for one function. That
takes as long as importing torch itself: half of the time that a worker needs to start, or to replace one that died. So
a stub takes the compiler's place while torchvision is imported.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

from torch import nn

__all__ = ["get_model", "get_model_weights", "list_models", "models"]

_COMPILER = "torch._dynamo"


@contextmanager
def _without_compiler() -> Iterator[None]:
    if _COMPILER in sys.modules:  # it is imported already: a stub would save nothing
        yield
        return
    package, utils = ModuleType(_COMPILER), ModuleType(f"{_COMPILER}.utils")
    vars(utils)["is_compile_supported"] = lambda _device: False  # roi_align imports it and is never called here
    sys.modules |= {module.__name__: module for module in (package, utils)}
    try:
        yield
    finally:
        for module in (package, utils):
            del sys.modules[module.__name__]


with _without_compiler():
    models = import_module("torchvision.models")

get_model: Callable[..., nn.Module] = models.get_model
list_models: Callable[..., list[str]] = models.list_models
get_model_weights: Callable[[str], Any] = models.get_model_weights
