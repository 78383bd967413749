"""Several processes under torchrun: ranks, shards, sums, agreement, and groups of them that share a batch or a network;
with one process all of it is the identity."""

from __future__ import annotations

import gc
import os
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from alexnet.errors import AlexNetError, TrainingStopped, UsageError

T = TypeVar("T")
_FIRST_ERROR = "alexnet: first error"  # a key of the processes' store
_PATIENCE = timedelta(hours=2)  # that the others wait for what the main process alone does: a download, a long list


@dataclass(frozen=True)
class World:
    """This process among those that torchrun started together.

    Files are read, downloaded and written by the main process alone; the others are told what it found.
    """

    rank: int = 0
    size: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where tensors lie that processes exchange."""
    store: Any = field(default=None, repr=False)
    """Through which torchrun's processes found each other; it outlives their connections."""
    group: Any = field(default=None, repr=False)
    """torch's handle of these processes where they are not all that torchrun started (`split`)."""

    @property
    def is_main(self) -> bool:
        """Whether this is the one process that reads and writes the run's files, and speaks."""
        return self.rank == 0

    @property
    def shard(self) -> slice:
        """This process's samples of a batch or a split: every size-th, so that each is in exactly one shard."""
        return slice(self.rank, None, self.size)

    def sum(self, values: Tensor) -> Tensor:
        """Sum a tensor over the processes, in place."""
        if self.size > 1:
            dist.all_reduce(values, group=self.group)
        return values

    def any(self, condition: bool) -> bool:
        """Whether a condition holds on any process."""
        return self.either(condition)[0]

    def either(self, *conditions: bool) -> list[bool]:
        """Of each of several conditions whether it holds on any process; they are asked about together."""
        if self.size == 1:
            return list(conditions)
        return self.sum(torch.tensor(conditions, dtype=torch.int32, device=self._talking)).bool().tolist()

    @property
    def _talking(self) -> torch.device:
        """Where values lie that the processes tell each other: on the CPU where they can, so that none waits for what
        its GPU has yet to do, or waits there for a process that has failed."""
        return torch.device("cpu") if "cpu:" in dist.get_backend_config(self.group) else self.device

    def barrier(self) -> None:
        """Wait until every process has come here."""
        self.any(False)

    def broadcast(self, value: T) -> T:
        """The main process's value, on every process; it is pickled on the way."""
        if self.size == 1:
            return value
        carried = [value if self.is_main else None]
        dist.broadcast_object_list(carried, device=self._talking, group=self.group, group_src=0)
        return carried[0]  # type: ignore[return-value]

    def gather(self, value: T) -> list[T]:
        """Every process's value, in the order of the ranks, on every process; they are pickled on the way."""
        values: list[T] = [value] * self.size
        if self.size > 1:
            dist.all_gather_object(values, value, group=self.group)
        return values

    def broadcast_tensors(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The main process's tensors by name, on every process; what the others give is not looked at."""
        if self.size == 1:
            return dict(tensors)
        forms = self.broadcast({name: (t.shape, t.dtype) for name, t in tensors.items()})
        told: dict[str, Tensor] = {}
        for name, (shape, dtype) in forms.items():
            if self.is_main:
                told[name] = tensors[name].detach().to(self.device).contiguous()
            else:
                told[name] = torch.empty(shape, dtype=dtype, device=self.device)
            dist.broadcast(told[name], group=self.group, group_src=0)
        return told

    def split(self, columns: int) -> tuple[World, World]:
        """This process's data group and column group, which cut all processes in two directions.

        Those of a data group hold the same column of the network, each with its own part of the batch; those of a
        column group hold the columns of one network and see the same images. Neighbouring ranks are columns, since
        these exchange the most. Raises UsageError where the columns do not divide the processes.
        """
        self.check_columns(columns)
        if columns == 1:
            return self, World(device=self.device)
        if self.size == columns:
            return World(device=self.device), self
        ranks = range(self.size)
        data, _ = dist.new_subgroups_by_enumeration([list(ranks[first::columns]) for first in range(columns)])
        column, _ = dist.new_subgroups_by_enumeration([list(ranks[i : i + columns]) for i in ranks[::columns]])
        return (
            World(self.rank // columns, self.size // columns, self.device, group=data),
            World(self.rank % columns, columns, self.device, group=column),
        )

    def check_columns(self, columns: int) -> None:
        """Raise UsageError where so many columns do not divide the processes."""
        if self.size % columns:
            raise UsageError(
                f"--columns {columns} needs {columns} processes for each network, not {self.size}: torchrun "
                f"--nproc-per-node {columns} -m -- alexnet train ..., or --columns 1 (a whole network in each process)."
            )

    def part(self, count: int) -> slice:
        """This process's part of `count` rows: consecutive ones, in the order of the ranks, as many as the others' or
        one more."""
        return slice(count * self.rank // self.size, count * (self.rank + 1) // self.size)

    def cut(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """This process's parts of tensors along their first axis; a tensor without axes is everybody's."""
        return {name: t[self.part(len(t))] if t.ndim else t for name, t in tensors.items()}

    def concatenate(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The whole tensors that all processes' parts make up, on all of them: undoes `cut`. They lie on the CPU, so
        that a GPU need not hold what it was spared. One process keeps its own."""
        if self.size == 1:
            return dict(tensors)
        whole: dict[str, Tensor] = {}
        lengths = self.gather({name: len(t) for name, t in tensors.items() if t.ndim})
        for name, mine in tensors.items():
            parts = []
            for rank in range(self.size if mine.ndim else 0):
                part = mine.detach() if rank == self.rank else mine.new_empty(lengths[rank][name], *mine.shape[1:])
                part = part.contiguous()
                dist.broadcast(part, group=self.group, group_src=rank)
                parts.append(part.cpu())
            whole[name] = torch.cat(parts) if parts else mine
        return whole

    def swap(self, mine: Tensor, shape: Sequence[int]) -> Tensor:
        """Of two processes: give a tensor for the other's, which has the same type and that `shape`."""
        mine, theirs = mine.contiguous(), mine.new_empty(shape)
        peer = 1 - self.rank if self.group is None else dist.get_global_rank(self.group, 1 - self.rank)
        ways = ((dist.isend, mine), (dist.irecv, theirs))
        exchange = [dist.P2POp(way, tensor, peer, self.group) for way, tensor in ways if tensor.numel()]
        for under_way in dist.batch_isend_irecv(exchange) if exchange else []:
            under_way.wait()
        return theirs

    def from_main(self, work: Callable[[], T]) -> T:
        """Do `work` on the main process alone and give its result to all; an AlexNetError is raised on all."""
        if self.size == 1:
            return work()
        result: T | AlexNetError | None = None
        if self.is_main:
            try:
                result = work()
            except AlexNetError as problem:
                result = problem
        result = self.broadcast(result)
        if isinstance(result, AlexNetError):
            raise result
        return result  # type: ignore[return-value]

    def main_first(self, work: Callable[[], T]) -> T:
        """Do `work` on the main process, for example a download, and only then on the others, for which it is done
        then; if the main process raises an AlexNetError, all raise it."""
        done: list[T] = []
        self.from_main(lambda: done.append(work()))
        return done[0] if done else work()

    def first_error(self, problem: Exception) -> Exception:
        """What went wrong first, where this process raised `problem`: perhaps but the consequence of what another one
        raised before, whose connections are gone then. That one is an AlexNetError of which this process need not
        tell the user (`told`); an unexpected exception reaches the others as an AlexNetError, too."""
        if self.store is None:
            return problem
        mine = problem if isinstance(problem, AlexNetError) else AlexNetError(f"process {self.rank}: {problem!r}.")
        try:
            known = self.store.compare_set(_FIRST_ERROR, "", pickle.dumps((self.rank, mine)).hex())
        except RuntimeError:  # the store has gone with the process that kept it
            return problem
        by, first = pickle.loads(bytes.fromhex(known.decode()))
        if by == self.rank:
            return problem
        first.told = True
        return first  # type: ignore[no-any-return]

    def wrap(self, model: nn.Module) -> nn.Module:
        """The model with its gradients averaged over the processes; all begin with the main process's weights."""
        return nn.parallel.DistributedDataParallel(model, process_group=self.group) if self.size > 1 else model


@contextmanager
def join_world(device: str) -> Iterator[tuple[World, str]]:
    """Join the processes that torchrun started; gives this one's place among them, and its device.

    Under torchrun the devices `auto` and `cuda` become this process's own GPU. When the block raises on one process,
    the others, which then wait for it in vain, raise the same AlexNetError (an unexpected exception reaches them as
    one); `told` is set on all but the one that came first. Raises UsageError if there are fewer GPUs than processes.
    """
    joined = dist.is_available() and dist.is_initialized()  # by the program that trains: its processes are ours
    size = dist.get_world_size() if joined else _number_of("WORLD_SIZE", 1)
    if size == 1:
        yield World(), device
        return
    local = dist.get_rank() if joined and "LOCAL_RANK" not in os.environ else _number_of("LOCAL_RANK", 0)
    if device == "auto" and torch.cuda.is_available():
        device = "cuda"
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} has no GPU of its own: {torch.cuda.device_count()} are visible; start "
                "torchrun with --nproc-per-node of that number, or use --device cpu."
            )
        device = f"cuda:{local}"
    on_gpu = device.startswith("cuda") and torch.cuda.is_available()  # if not, whoever computes there is told
    if joined:
        yield World(dist.get_rank(), dist.get_world_size(), torch.device(device if on_gpu else "cpu")), device
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if not os.environ.get(name)]
    if missing:
        raise UsageError(f"WORLD_SIZE is {size} but {missing[0]} is not set: start torchrun, or unset WORLD_SIZE.")
    before = torch.cuda.current_device() if on_gpu else None
    if on_gpu:
        torch.cuda.set_device(device)
    # Which some builds of torch for one machine lack. The first module's functions have the processes' group for a
    # default: were it imported later, as by DistributedDataParallel, nothing could free the group any more.
    from torch.distributed.nn import functional  # noqa: F401
    from torch.distributed.rendezvous import rendezvous

    store, rank, size = next(rendezvous("env://"))
    backend = "cpu:gloo,cuda:nccl" if on_gpu and dist.is_nccl_available() else "gloo"
    dist.init_process_group(backend, timeout=_PATIENCE, store=store, rank=rank, world_size=size)
    world = World(rank, size, torch.device(device if on_gpu else "cpu"), store)
    together = True
    try:
        yield world, device
        world.barrier()  # none tears down the connections that another still uses
    except TrainingStopped as stop:  # by all of them, at the same step
        traceback.clear_frames(stop.__traceback__)
        stop.told = rank > 0
        world.barrier()  # torchrun ends those that are still saving once the first has left
        raise
    except BaseException as problem:
        together = False
        traceback.clear_frames(problem.__traceback__)
        if not isinstance(problem, Exception):  # an interrupt, which torchrun sends to the others itself
            raise
        first = world.first_error(problem)
        if first is problem:
            raise
        raise first from None
    finally:
        # What holds the group (a wrapped network, perhaps in a cycle or in an error's frames) must be gone: while it
        # lives so do Gloo's threads, and one that lets go of a tensor when Python has ended aborts the process.
        gc.collect()
        if together or not on_gpu:  # NCCL takes leave of all of them at once: one alone would wait for ever
            dist.destroy_process_group()
        if before is not None:
            torch.cuda.set_device(before)


def _number_of(variable: str, least: int) -> int:
    """What torchrun says in an environment variable; `least` where it says nothing. Raises UsageError."""
    text = os.environ.get(variable) or str(least)
    if not text.isdecimal() or int(text) < least:
        raise UsageError(f"{variable} is {text!r}, no number from {least} on: start torchrun, or unset it.")
    return int(text)
