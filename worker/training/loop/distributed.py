"""The processes that train together: one, or as many as `torchrun` started.

Together they compute what one process would compute with the whole batch. Each of n processes takes every n-th pair,
gradients are averaged (DistributedDataParallel), and batch normalisation uses the statistics of all processes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, distributed, nn

_T = TypeVar("_T")

TIMEOUT = timedelta(hours=12)
"""How long a process waits for the others: in stage 1, one may have much more work."""


@dataclass(frozen=True)
class ProcessGroup:
    """Which of `size` processes this is: `rank`, from 0, and `local_rank` on its machine."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and logs."""
        return self.rank == 0

    def wait(self) -> None:
        """Return once all processes have called this."""
        if self.size > 1:
            distributed.barrier()

    def gather(self, value: _T) -> list[_T]:
        """Return the values that all processes give, by rank; all must call it."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        distributed.all_gather_object(values, value)
        return values

    def from_main(self, make: Callable[[], _T]) -> _T:
        """Return the main process's value in every process; all must call it."""
        values = self.gather(make() if self.is_main else None)
        return cast("_T", values[0])

    def mean(self, value: Tensor) -> Tensor:
        """Return the mean of the tensors that all processes give, which have one shape; all must call it."""
        if self.size == 1:
            return value
        total = value.clone()
        distributed.all_reduce(total)
        return total / self.size

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return a network whose gradients are the means over all processes, and whose batches are one batch."""
        if self.size == 1:
            return network
        for layer in network.modules():
            if type(layer) is nn.BatchNorm2d:
                layer.__class__ = SyncedBatchNorm2d  # it has the same attributes; only `forward` differs
        return nn.parallel.DistributedDataParallel(network, forward_sync_buffers=False)


@contextmanager
def joined_process_group(device_type: str) -> Iterator[ProcessGroup]:
    """Join the processes that torchrun started, over NCCL on CUDA and Gloo elsewhere; without torchrun there is one."""
    #: How many processes train together; `torchrun` sets it.
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield ProcessGroup()
        return
    #: The number of this process of a training; `torchrun` sets it.
    rank = int(os.environ["RANK"])
    #: The number of this process on its machine, and of its GPU; `torchrun` sets it.
    local_rank = int(os.environ["LOCAL_RANK"])
    processes = ProcessGroup(rank, size, local_rank)
    if device_type == "cuda":
        torch.cuda.set_device(processes.local_rank)
    distributed.init_process_group("nccl" if device_type == "cuda" else "gloo", timeout=TIMEOUT)
    try:
        yield processes
    finally:
        distributed.destroy_process_group()


class SyncedBatchNorm2d(nn.BatchNorm2d):
    """Batch normalisation over the batches of all processes, which are equally large.

    torch's own SyncBatchNorm runs only on GPUs, so it could not be tested with two CPU processes.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) -> the same shape; statistics in float32 or wider, of (processes × B, H, W)."""
        if not self.training:
            return super().forward(x)
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mean = _mean_over_processes(wide.mean(dim=(0, 2, 3)))
        centred = wide - mean[:, None, None]
        variance = _mean_over_processes(centred.square().mean(dim=(0, 2, 3)))
        self._follow(mean.detach(), variance.detach(), distributed.get_world_size() * wide[:, 0].numel())
        scale = self.weight * torch.rsqrt(variance + self.eps)
        return torch.addcmul(self.bias[:, None, None], centred, scale[:, None, None]).to(x.dtype)

    @torch.no_grad()
    def _follow(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics as `nn.BatchNorm2d` does, with the unbiased variance."""
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked += 1
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean, share)
        self.running_var.lerp_(variance * count / (count - 1), share)


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes. It depends on the values of all processes, so the gradients are summed too."""

    @staticmethod
    def forward(_ctx: Any, value: Tensor) -> Tensor:
        total = value.clone()
        distributed.all_reduce(total)
        return total

    @staticmethod
    def backward(_ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.clone()
        distributed.all_reduce(total)
        return total


def _mean_over_processes(value: Tensor) -> Tensor:
    total: Tensor = _SumOverProcesses.apply(value)
    return total / distributed.get_world_size()
