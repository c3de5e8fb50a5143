"""Reading a weights file without running code, and loading it strictly into a network."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from worker.model.cards.registry import ModelError
from worker.model.weights.digests import AGAIN

_CORRECT_CARD = (
    "Correct the card's sections [adm] and [student], or put the file that the card was written for in its place."
)


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.pt` or `.pth` file into CPU memory, by parameter name.

    The file holds a state dict, or one under the key `model`. If all names begin with `module.`, that prefix is
    removed. Pickles are read with `weights_only`, so no code in them runs.

    Raises:
        ModelError: the file is damaged, or holds something other than tensors.
    """
    try:
        content: object = (
            _read_safetensors(path)
            if path.suffix == ".safetensors"
            else torch.load(path, map_location="cpu", weights_only=True)
        )
    except Exception as error:  # a damaged pickle may raise any exception
        raise ModelError(f"{path} cannot be read as weights: {_reason(error)}. {AGAIN}.") from error
    if isinstance(content, Mapping) and isinstance(content.get("model"), Mapping):
        content = content["model"]
    if not isinstance(content, Mapping) or not content:
        raise ModelError(f"{path} holds no state dict. {AGAIN}, or export the network's state_dict() into it.")
    for name, value in content.items():
        if not isinstance(name, str) or not isinstance(value, Tensor):
            raise ModelError(f"{path}: {name!r} is not a tensor. Export only the network's state_dict().")
    return _without_wrapper(content)


def assign_strictly(
    network: nn.Module,
    state: Mapping[str, Tensor],
    path: Path,
    *,
    stated: str = "in its card",
    remedy: str = _CORRECT_CARD,
) -> None:
    """Make the tensors read from `path` the parameters of a network built on the meta device, as float32.

    `stated` and `remedy` are for the error message: where the architecture is stated, and what the operator can do.

    Raises:
        ModelError: a tensor is missing, unknown, of another shape or type, or not finite; the message names the first.
    """
    expected = network.state_dict()
    faults = [f"{name} is missing" for name in expected if name not in state]
    faults += [f"{name} is unknown to the architecture" for name in state if name not in expected]
    faults += [
        f"{name} has the shape {tuple(state[name].shape)} instead of {tuple(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    faults += [
        f"{name} holds {state[name].dtype} instead of {tensor.dtype}"
        for name, tensor in expected.items()
        if name in state and state[name].is_floating_point() != tensor.is_floating_point()
    ]
    if faults:
        more = f" (and {len(faults) - 1} more such faults)" if len(faults) > 1 else ""
        raise ModelError(f"{path} does not fit the architecture {stated}: {faults[0]}{more}. {remedy}")
    for name, tensor in state.items():
        if not torch.isfinite(tensor).all():
            raise ModelError(f"{path}: {name} holds NaN or infinity, from damage or a training that diverged. {AGAIN}.")
    # Published weights may be half precision; statistics and the last layer are float32 in every precision.
    network.load_state_dict({name: state[name].to(tensor.dtype) for name, tensor in expected.items()}, assign=True)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    """Read a file into memory. The library only maps it: if the file were truncated later, the process would crash."""
    return {name: tensor.clone() for name, tensor in load_file(path).items()}


def _reason(error: Exception) -> str:
    """Return the reason as one sentence. torch's message on a refused pickle is a page on disabling the check."""
    if isinstance(error, UnpicklingError):
        return "it is damaged, or holds more than tensors, which could run code"
    return str(error).partition("\n")[0].rstrip(". ") or type(error).__name__


def _without_wrapper(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Remove the prefix that DistributedDataParallel adds."""
    if all(name.startswith("module.") for name in state):
        return {name.removeprefix("module."): tensor for name, tensor in state.items()}
    return dict(state)
