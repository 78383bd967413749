"""The verb page: a local web page that shows what a network makes of a picture."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from alexnet.cli.command import LOOK, app, start_computing, within
from alexnet.config.ranges import Range
from alexnet.errors import UsageError

if TYPE_CHECKING:
    import socket


@app.command(group=LOOK)
def page(
    target: str,
    /,
    *,
    port: Annotated[int, within(Range(least=0, most=65535))] = 8012,
    model: str | None = None,
    root: Annotated[str | None, Parameter(name="--data.root")] = None,
    device: str = "auto",
) -> None:
    """Show in a web browser, on this machine alone, what a network makes of a picture.

    Drop, paste or choose a picture: the page shows the five most probable classes, where the network looked (Grad-CAM),
    what each of its layers answers, and the training images that it finds most alike. Ctrl-C ends it.

    Parameters
    ----------
    target
        Run folder, checkpoint, weights file, or torchvision for its published weights.
    port
        Where it listens, on 127.0.0.1 only; 0 takes a free one.
    model
        Network of a bare weights file whose shapes do not tell it.
    root
        Folder that holds the data set, where it is not the one that the run was trained from. Of a run folder the
        training images are indexed at the first start, up to 20,000 of them; without data there are no neighbours.
    device
        auto, cpu, cuda or cuda:N.
    """
    try:
        import uvicorn

        from alexnet.page.server import PageServer
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in ("starlette", "uvicorn"):
            raise
        raise UsageError("the page needs starlette and uvicorn: pip install 'alexnet[page]'") from None
    import signal
    from pathlib import Path

    from alexnet.compute import resolve_compute
    from alexnet.inference.trained import is_hub_folder, open_trained
    from alexnet.page.index import Index
    from alexnet.page.viewer import Viewer
    from alexnet.runs.folder import load_run

    start_computing()
    viewer = Viewer(open_trained(target, model), resolve_compute(device, "fp32"))
    run = load_run(target) if Path(target).is_dir() and not is_hub_folder(target) else None
    if run is None and root is not None:
        raise UsageError(f"--data.root names the training images of a run; {target} is no run folder: leave it out")
    server = PageServer(target, viewer, (lambda: Index(run, viewer, root)) if run is not None else None)
    with _listen(port) as listener:
        print(f"open http://127.0.0.1:{listener.getsockname()[1]}/ in a browser; Ctrl-C ends it", flush=True)
        settings = uvicorn.Config(
            server.app,
            log_level="error",  # bytes that are no request are no news
            server_header=False,
            limit_concurrency=200,
            timeout_keep_alive=5,
            timeout_graceful_shutdown=3,
        )
        for ending in (signal.SIGINT, signal.SIGTERM):  # uvicorn answers what it has begun, and sends itself the signal
            signal.signal(ending, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            uvicorn.Server(settings).run([listener])
        print("ended")


def _listen(port: int) -> socket.socket:
    """A socket that listens on this machine's own address. Raises UsageError for a port that is taken."""
    import os
    import socket

    listener = socket.socket()
    try:
        if os.name == "posix":  # elsewhere the option would let two servers share a port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(128)  # from here on browsers wait, and are not turned away
    except OSError as problem:
        listener.close()
        raise UsageError(f"--port {port} cannot be used: {problem.strerror}; name another one, or 0 for any.") from None
    return listener
