"""The server of the viewer's page: on this machine only, and for its own page only.

It answers nothing to a page of somebody else: the Host of a request has to be this machine by name
or address (so that a foreign name cannot be pointed here), and its Origin, if it has one, the page
itself. What it sends is data; the page shows it as text.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import socket
import threading
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.core.errors import MazeError, MissingExtraError, OutputError
from maze.viewer.compare import compare_runs, first_divergence
from maze.viewer.frames import FrameError, Frames
from maze.viewer.runs import ViewedRun

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

HOST = "127.0.0.1"
_N_POINTS = (2, 4000)


class Viewer:
    """What is looked at: runs, and the frames of their episodes.

    Args:
        directories: of the runs.
        trust: whether to import what their configs name, to draw frames.

    Raises:
        OutputError: If one of them holds no run.
    """

    def __init__(self, directories: Sequence[str | Path], *, trust: bool = False) -> None:
        self.runs = [ViewedRun(directory) for directory in directories]
        self.frames = [Frames(run.path, trust=trust) for run in self.runs]
        self._divergences: dict[tuple[int, int, int, int], dict[str, Any]] = {}

    def close(self) -> None:
        """End what draws frames."""
        for frames in self.frames:
            frames.close()

    def __enter__(self) -> Viewer:
        """Return itself."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Close."""
        self.close()

    def divergence(self, one: int, one_index: int, other: int, other_index: int) -> dict[str, Any]:
        """Return where two episodes first differ; see ``first_divergence``."""
        key = (one, one_index, other, other_index)
        if key not in self._divergences:
            runs = self.runs[one].directory, self.runs[other].directory
            self._divergences[key] = first_divergence(runs[0], one_index, runs[1], other_index)
        return self._divergences[key]

    def frame_status(self, run: int, episode: int) -> dict[str, Any]:
        """Return where the frames of an episode come from."""
        return asdict(self.frames[run].status(episode))


@cache
def page() -> str:
    """Return the page, as it is built from ``viewer/``."""
    return (resources.files("maze.viewer") / "page" / "index.html").read_text(encoding="utf-8")


def application(viewer: Viewer, port: int) -> Starlette:
    """Return what serves the page and its data.

    Args:
        viewer: what is looked at.
        port: on which it will be, for the check of Host and Origin.

    Raises:
        MissingExtraError: If starlette is not installed.
    """
    try:
        from starlette.applications import Starlette
        from starlette.middleware import Middleware
        from starlette.responses import HTMLResponse, JSONResponse, Response
        from starlette.routing import Route
    except ImportError:
        raise MissingExtraError("starlette, which serves the page,", "viewer") from None

    def run_of(request: Request, name: str = "run") -> tuple[int, ViewedRun]:
        number = int(request.path_params[name])
        if number >= len(viewer.runs):
            raise OutputError(f"there is no run {number}: there are {len(viewer.runs)}")
        return number, viewer.runs[number]

    def get_page(request: Request) -> Response:
        return HTMLResponse(page())

    def get_runs(request: Request) -> Response:
        for run in viewer.runs:
            run.refresh()
        return JSONResponse([run.summary() for run in viewer.runs])

    def get_version(request: Request) -> Response:
        _, run = run_of(request)
        run.refresh()
        return JSONResponse({"version": run.version})

    def get_run(request: Request) -> Response:
        _, run = run_of(request)
        run.refresh()
        return JSONResponse(run.summary())

    def get_columns(request: Request) -> Response:
        _, run = run_of(request)
        return JSONResponse(run.columns(_names(request)))

    def get_episode(request: Request) -> Response:
        _, run = run_of(request)
        return JSONResponse(run.episode(int(request.path_params["episode"])).description())

    def get_overview(request: Request) -> Response:
        _, run = run_of(request)
        episode = run.episode(int(request.path_params["episode"]))
        start, stop = _whole(request, "from", 0), _whole(request, "to", 2**53)
        n_points = min(max(_whole(request, "points", 1000), _N_POINTS[0]), _N_POINTS[1])
        stop = min(stop, max(episode.n_steps, 1) + 1)
        return JSONResponse(
            {
                "channels": episode.overview(_names(request), start, stop, n_points),
                "actors": episode.actors(start, stop, n_points),
            }
        )

    def get_steps(request: Request) -> Response:
        _, run = run_of(request)
        episode = run.episode(int(request.path_params["episode"]))
        start = _whole(request, "from", 0)
        return JSONResponse(episode.steps(start, _whole(request, "to", start + 1)))

    def get_frame(request: Request) -> Response:
        number, run = run_of(request)
        episode, step = (int(request.path_params[name]) for name in ("episode", "step"))
        run.episode(episode)  # Says whether there is such.
        path = viewer.frames[number].get(episode, step)
        try:
            return Response(path.read_bytes(), media_type="image/png")
        except FileNotFoundError:
            raise FrameError("the frame was dropped from the cache") from None

    def get_frame_status(request: Request) -> Response:
        number, _ = run_of(request)
        return JSONResponse(viewer.frame_status(number, int(request.path_params["episode"])))

    def start_frames(request: Request) -> Response:
        number, _ = run_of(request)
        viewer.frames[number].start()
        return Response(status_code=204)

    def get_image(request: Request) -> Response:
        _, run = run_of(request)
        episode = run.episode(int(request.path_params["episode"]))
        pixels = episode.image(_text(request, "name"), int(request.path_params["step"]))
        if pixels is None:
            return Response(status_code=404)
        return Response(as_png(pixels), media_type="image/png")

    def get_comparison(request: Request) -> Response:
        (_, one), (_, other) = run_of(request, "one"), run_of(request, "other")
        return JSONResponse(compare_runs(one.directory, other.directory))

    def get_divergence(request: Request) -> Response:
        one, other = run_of(request, "one")[0], run_of(request, "other")[0]
        indices = (int(request.path_params[name]) for name in ("one_episode", "other_episode"))
        one_index, other_index = indices
        return JSONResponse(viewer.divergence(one, one_index, other, other_index))

    def tell_error(request: Request, error: Exception) -> Response:
        status = 409 if isinstance(error, FrameError | MissingExtraError) else 404
        return JSONResponse({"error": str(error)}, status_code=status)

    of_run, of_episode = "/api/runs/{run:int}", "/api/runs/{run:int}/episodes/{episode:int}"
    compared = "/api/compare/{one:int}/{other:int}"
    endpoints: dict[str, Callable[[Request], Response]] = {
        "/": get_page,
        "/api/runs": get_runs,
        of_run: get_run,
        f"{of_run}/version": get_version,
        f"{of_run}/columns": get_columns,
        f"{of_run}/start_frames": start_frames,
        of_episode: get_episode,
        f"{of_episode}/overview": get_overview,
        f"{of_episode}/steps": get_steps,
        f"{of_episode}/frames": get_frame_status,
        f"{of_episode}/frames/{{step:int}}": get_frame,
        f"{of_episode}/images/{{step:int}}": get_image,
        compared: get_comparison,
        f"{compared}/{{one_episode:int}}/{{other_episode:int}}": get_divergence,
    }
    return Starlette(
        routes=[Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()],
        middleware=[Middleware(_OnlyThisMachine, port=port)],
        exception_handlers={MazeError: tell_error, BadRequestError: _tell_bad_request},
    )


class BadRequestError(Exception):
    """A request that the page does not make."""


def _tell_bad_request(request: Request, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, status_code=400)


def _text(request: Request, name: str) -> str:
    if name not in request.query_params:
        raise BadRequestError(f"{name} is missing")
    return str(request.query_params[name])


def _names(request: Request) -> list[str]:
    try:
        names = json.loads(_text(request, "names"))
    except (ValueError, RecursionError):
        names = None
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise BadRequestError("names has to be a JSON list of texts")
    return names


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name, str(default))
    if not re.fullmatch(r"\d{1,16}", text):
        raise BadRequestError(f"{name} has to be a whole number from 0")
    return int(text)


def as_png(pixels: Any) -> bytes:
    """Encode an image of shape (height, width, 3)."""
    import io

    try:
        from PIL import Image
    except ImportError:
        raise MissingExtraError("Pillow, which writes images,", "viewer") from None
    data = io.BytesIO()
    Image.fromarray(pixels).save(data, "PNG", compress_level=1)
    return data.getvalue()


class _OnlyThisMachine:
    """Refuses requests that do not come from the page, and tells browsers to be strict."""

    def __init__(self, app: Any, port: int) -> None:
        self._app = app
        hosts = [f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")]
        self._hosts = {host.encode() for host in hosts}
        self._origins = {f"http://{host}".encode() for host in hosts}
        scripts = re.findall(r"<script[^>]*>(.*?)</script>", page(), flags=re.DOTALL)
        hashes = " ".join(
            f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
            for script in scripts
        )
        policy = (
            f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src 'self'"
            " data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none';"
            " frame-ancestors 'none'"
        )
        self._headers = [
            (b"content-security-policy", policy.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            # Another run may be served at the same address next time.
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        # The page itself may be linked from elsewhere; its data is for the page.
        is_ours = headers.get(b"sec-fetch-site", b"none") in (b"none", b"same-origin")
        if (
            headers.get(b"host") not in self._hosts
            or (origin is not None and origin not in self._origins)
            or not (is_ours or scope["path"] == "/")
        ):
            await _refuse(send)
            return

        async def send_with_headers(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *self._headers]
            await send(message)

        await self._app(scope, receive, send_with_headers)


async def _refuse(send: Any) -> None:
    text = b"This page is for this machine only: open it by the address that was printed.\n"
    headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(text)).encode())]
    await send({"type": "http.response.start", "status": 403, "headers": headers})
    await send({"type": "http.response.body", "body": text})


class Server:
    """Serves in a thread of its own, until it is closed.

    Args:
        viewer: what is looked at; it is not closed.
        port: 0 takes a free one.

    Raises:
        OutputError: If the port is taken.
        MissingExtraError: If uvicorn is not installed.
    """

    def __init__(self, viewer: Viewer, port: int = 0) -> None:
        try:
            import uvicorn
        except ImportError:
            raise MissingExtraError("uvicorn, which serves the page,", "viewer") from None
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._socket.bind((HOST, port))
            self._socket.listen(128)  # From now on, who comes too early waits.
        except (OSError, OverflowError) as error:
            self._socket.close()
            raise OutputError(f"port {port} cannot be used: {error}. Choose another one") from error
        self.port = int(self._socket.getsockname()[1])
        self._server: Any = uvicorn.Server(
            uvicorn.Config(
                application(viewer, self.port),
                log_level="warning",
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_graceful_shutdown=1,
            )
        )
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._server.run(sockets=[self._socket])
        finally:
            self._is_over.set()

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://{HOST}:{self.port}/"

    def wait(self) -> None:
        """Wait until it is closed, or the thread that waits is interrupted."""
        # Not by joining the thread: in Python 3.11, one whose join was interrupted counts as ended.
        while not self._is_over.wait(timeout=0.5):
            pass

    def close(self) -> None:
        """Stop."""
        self._server.should_exit = True
        self._is_over.wait(timeout=5)
        self._socket.close()
