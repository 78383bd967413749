"""Training: `train(config)` makes a run folder, or goes on in one."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch

from alexnet.compute import resolve_compute
from alexnet.compute.distributed import join_world
from alexnet.config import TrainConfig
from alexnet.config.values import override
from alexnet.data.sources import MEMORY
from alexnet.errors import UsageError
from alexnet.runs.folder import Run
from alexnet.runs.opening import default_folder, open_run, settled
from alexnet.training.progress import Reporter
from alexnet.training.session import Session
from alexnet.training.signals import SignalGuard, stoppable

_TRAINING = threading.Lock()  # torch.manual_seed is the process's


def train(
    config: TrainConfig,
    run_dir: str | Path | None = None,
    *,
    data: object = None,
    given: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    guard: SignalGuard | None = None,
) -> Run:
    """Train in `run_dir` (default runs/<name>), or go on there with the same configuration, of which `then` may have
    grown, and `epochs` where the learning rate does not depend on it.

    `data` takes the place of the configured source: a pair (images, labels) of NumPy arrays or tensors, a dataset of
    torch or of Hugging Face, or a dictionary of these by split (`alexnet.data.arrays.read_given`); to go on, hand it
    over again. `given` are the settings, by dotted name, that a user asked for. With it `config` counts as the recipe
    only: a run that is there already goes on with its own configuration, changed by `given` alone, and says what
    differs.

    Kill it at any time: the same call ends with the same weights, to the bit (CPU, same machine and thread count).
    Under torchrun the batch is shared among the processes. Raises UsageError, DataError, CheckpointError, NumericsError
    after three non-finite losses in a row, and TrainingStopped when a signal ended it.
    """
    config = override(config, {} if data is None else {"data.source": MEMORY})
    # Other settings that are given may not go with the recipe but with the run that is there.
    asked = override(config, {name: value for name, value in (given or {}).items() if name in ("name", "device")})
    path = Path(run_dir) if run_dir is not None else default_folder(asked.name)
    with ExitStack() as stack:
        if not _TRAINING.acquire(blocking=False):
            raise UsageError(
                "another thread of this process trains already, and both would draw from the same random numbers, so "
                "that neither run could be repeated: wait for it, or train in a process of its own."
            )
        stack.callback(_TRAINING.release)
        guard = guard or stack.enter_context(SignalGuard())
        with stoppable():
            world, device = stack.enter_context(join_world(asked.device))
            guard.deferred = world.size > 1
            reporter = stack.enter_context(reporter or Reporter(quiet=not world.is_main))
            recipe, note = config, None
            if given is not None:
                config, note = world.from_main(lambda: settled(recipe, path, given))
            world.check_columns(config.columns)  # before the data, which may take minutes to open
            compute = resolve_compute(device if world.size > 1 else config.device, config.precision)
            stack.enter_context(compute.settings())
            stack.enter_context(torch.inference_mode(False))  # gradients, also within a caller's no_grad
            # The caller's own random numbers go on afterwards as if nothing had been drawn.
            stack.enter_context(
                torch.random.fork_rng([torch.cuda.current_device()] if compute.device.type == "cuda" else [])
            )
            run = world.from_main(lambda: stack.enter_context(open_run(config, path)))
            if note:
                reporter.note(note)
            with _advising_on_memory(config):  # as it was settled
                Session(config, run, data, compute, world, reporter, guard).work()
    return run


@contextmanager
def _advising_on_memory(config: TrainConfig) -> Iterator[None]:
    """Turn a GPU's want of memory into UsageError, which says what needs less."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise UsageError(
            f"out of GPU memory with --batch-size {config.batch_size} in --accumulate {config.accumulate} parts: "
            "double --accumulate or halve the batch."
        ) from None
