"""The page's server: a file of HTML, its style and script, and three questions about a picture.

A question is the picture itself, as the body of a request; nothing is stored. Pictures are decoded and the network is
computed in one thread behind a queue, so that the server answers whatever is going on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

import jinja2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from alexnet.data.decode import BadImageError
from alexnet.data.images import Picture, decode_picture
from alexnet.errors import AlexNetError, UsageError
from alexnet.page.index import Index
from alexnet.page.viewer import Viewer
from alexnet.terminal import printable

LARGEST = 10 * 2**20  # bytes of a picture
PATIENCE = 20.0  # seconds for a picture to arrive
WAITING = 32  # questions in the queue
HOSTS = ["127.0.0.1", "localhost"]
"""Names by which the page is asked for: another one is a page elsewhere whose name was made to mean this machine."""
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
T = TypeVar("T")


class PageServer:
    """Answers about one network, to any number of browsers; `open_index` opens its training images, which may fail with
    an AlexNetError, or is None."""

    def __init__(self, name: str, viewer: Viewer, open_index: Callable[[], Index] | None = None) -> None:
        self._name, self._viewer, self._open_index = name, viewer, open_index
        self._worker = ThreadPoolExecutor(1, "network")
        self._waiting = 0
        self._index: Index | None = None
        self._opening = open_index is not None
        self._no_index = "The training images are being opened." if self._opening else "There are no training images."
        self.app = Starlette(
            routes=[
                Route("/", self._page),
                *(Route(f"/{name}", self._asset) for name in ASSETS),
                Route("/answer", self._answer, methods=["POST"]),
                Route("/maps/{layer}", self._maps, methods=["POST"]),
                Route("/nearest", self._nearest, methods=["POST"]),
            ],
            middleware=[Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS)],
            exception_handlers={HTTPException: _explain, Exception: _explain_crash},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        making = asyncio.create_task(self._make_index())
        try:
            yield
        finally:
            making.cancel()
            await asyncio.gather(making, return_exceptions=True)
            self._worker.shutdown(wait=True, cancel_futures=True)

    async def _make_index(self) -> None:
        """Open the training images, and make their features batch by batch between two questions."""
        if self._open_index is None:
            return
        try:
            self._index = await asyncio.to_thread(self._open_index)
            if not self._index.ready:
                batches = self._index.batches()
                while await self._compute(lambda: next(batches, None)) is not None:
                    pass
        except Exception as problem:  # a GPU's memory too: whoever asks is told, and does not wait
            self._index, self._no_index, self._opening = None, f"They are left out: {problem}", False

    async def _compute(self, work: Callable[[], T]) -> T:
        """What `work` returns, in the network's thread."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work)

    async def _page(self, request: Request) -> Response:
        # Scripts read what differs between networks from the page's own elements: none of it is ever code.
        shown = {"name": self._name, "layers": self._viewer.layers, "looked_at": self._viewer.looked_at}
        html = PAGE.render(**shown, classes=len(self._viewer.trained.names), network=self._viewer.trained.network)
        return Response(html.encode(errors="backslashreplace"), headers=HEADERS, media_type="text/html")

    async def _asset(self, request: Request) -> Response:
        name = request.url.path[1:]
        return Response(files("alexnet.page").joinpath(name).read_bytes(), headers=HEADERS, media_type=ASSETS[name])

    async def _answer(self, request: Request) -> Response:
        return await self._ask(request, self._viewer.answer)

    async def _maps(self, request: Request) -> Response:
        layer, narrow = request.path_params["layer"], "narrow" in request.query_params
        return await self._ask(request, lambda picture: self._viewer.maps(picture, layer, 8 if narrow else 16))

    async def _nearest(self, request: Request) -> Response:
        index = self._index
        if index is None:
            await _read_body(request)
            return _Answer({"missing": self._no_index, "opening": self._opening}, headers=HEADERS)
        if not index.ready:
            await _read_body(request)
            state = {"missing": "The training images are being looked at.", "done": index.done, "of": len(index)}
            return _Answer(state, 202, headers=HEADERS)

        def find(picture: Picture) -> dict[str, Any]:
            return {"images": index.nearest(self._viewer.features(picture)), "of": len(index), "total": index.total}

        return await self._ask(request, find)

    async def _ask(self, request: Request, question: Callable[[Picture], dict[str, Any]]) -> Response:
        """The answer to a question about the picture in a request."""
        content = await _read_body(request)
        if self._waiting >= WAITING:
            raise HTTPException(503, "too many pictures are waiting: try again in a moment.")

        def work() -> dict[str, Any]:
            return question(decode_picture(content, Path("the picture"), self._viewer.channels))

        self._waiting += 1
        try:
            return _Answer(await self._compute(work), headers=HEADERS)
        except BadImageError as problem:
            raise HTTPException(415, str(problem)) from None
        except UsageError as problem:
            raise HTTPException(404, str(problem)) from None
        except AlexNetError as problem:  # too many pixels
            raise HTTPException(413, str(problem)) from None
        finally:
            self._waiting -= 1


class _Answer(JSONResponse):
    """JSON in ASCII: names of folders and files may hold bytes that are not UTF-8."""

    def render(self, content: Any) -> bytes:
        return json.dumps(content, allow_nan=False).encode()


async def _read_body(request: Request) -> bytes:
    """The bytes of a picture, which must come from this page and soon. Raises HTTPException."""
    origin = request.headers.get("origin")
    if origin is not None and origin != f"http://{request.headers['host']}":
        raise HTTPException(403, "only this page may ask.")
    too_large = HTTPException(413, f"the picture is too large: at most {LARGEST // 2**20} MiB are read.")
    announced = request.headers.get("content-length", "0")
    if not announced.isdecimal() or int(announced) > LARGEST:
        raise too_large
    content = bytearray()
    try:
        async with asyncio.timeout(PATIENCE):
            async for part in request.stream():
                content += part
                if len(content) > LARGEST:
                    raise too_large
    except TimeoutError:
        raise HTTPException(408, "the picture did not arrive in time: send it again.") from None
    except ClientDisconnect:
        raise HTTPException(400, "the picture was not sent to its end.") from None
    return bytes(content)


async def _explain(request: Request, problem: Exception) -> Response:
    assert isinstance(problem, HTTPException)
    # Of a body that was not read the rest would be taken for the next request.
    headers = {**HEADERS, "Connection": "close"}
    return _Answer({"error": problem.detail}, problem.status_code, headers=headers)


async def _explain_crash(request: Request, problem: Exception) -> Response:
    return _Answer({"error": "this went wrong: the terminal says more."}, 500, headers=HEADERS)


def _printed(value: Any) -> Any:
    return printable(value) if isinstance(value, str) else value


ASSETS = {"page.css": "text/css", "page.js": "text/javascript"}
PAGE = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printed).from_string(
    files("alexnet.page").joinpath("page.html").read_text(encoding="utf-8")
)
