"""Several processes under torchrun: ranks, shards and sums; with one process everything here is the identity."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.errors import UsageError


@dataclass(frozen=True)
class World:
    """This process among its peers."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """The one process that writes files and speaks."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """This process's samples of a batch or a split: every size-th, so that each is in exactly one shard."""
        return slice(self.rank, None, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum over the processes."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, condition: bool, device: torch.device) -> bool:
        """Whether it holds on any process."""
        return condition if self.size == 1 else bool(self.sum(torch.tensor(int(condition), device=device)))

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes."""
        return nn.parallel.DistributedDataParallel(model) if self.size > 1 else model


@contextmanager
def join_world(device: str) -> Iterator[tuple[World, str]]:
    """The group of processes that torchrun started, and this one's device.

    Under torchrun `auto` and `cuda` become this process's own GPU.
    """
    size = int(os.environ.get("WORLD_SIZE", "1"))
    if size == 1:
        yield World(), device
        return
    local = int(os.environ.get("LOCAL_RANK", "0"))
    if device == "auto" and torch.cuda.is_available():
        device = "cuda"
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} has no GPU of its own: {torch.cuda.device_count()} are visible; start "
                "torchrun with --nproc-per-node of that number, or use --device cpu."
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    dist.init_process_group("nccl" if device.startswith("cuda") else "gloo")
    try:
        yield World(dist.get_rank(), dist.get_world_size()), device
        dist.barrier()  # none tears down the connections that another still uses
    finally:
        dist.destroy_process_group()
