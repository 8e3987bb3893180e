"""How worker processes are started, and how they end with their parent.

Shared by all that have workers. A worker is started from a server that has imported what workers
need, with one thread for numerical libraries, deaf to Ctrl-C, and without the user's main module.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from types import ModuleType
from typing import Any

from maze.core.rollout.interrupts import deaf_children

_ONE_THREAD = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMEXPR_NUM_THREADS")

# A process is started with its environment changed for a moment; two threads that do so at the
# same time would put back each other's changes.
_STARTING = threading.Lock()

USUALLY_NEEDED = (
    "maze.core.rollout.worker",
    "maze.core.agent.random_policy",
    "maze.core.wrappers.maze_gym_env_wrapper",
)
"""Modules that nearly all workers import."""


def process_context(needs_torch: bool = False) -> BaseContext:
    """Return the way in which worker processes are started here.

    Args:
        needs_torch: whether workers will import torch, so that it is imported once for all.
    """
    methods = multiprocessing.get_all_start_methods()
    if "forkserver" not in methods:
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    # Imported once, by the server, and not again by each worker. Whoever has torch here needs it
    # there, too, and it takes seconds.
    context.set_forkserver_preload(
        [*USUALLY_NEEDED, *(["torch"] if "torch" in sys.modules else [])]
    )
    return context


@contextlib.contextmanager
def starting_a_process() -> Iterator[None]:
    """Have a process that is started in the block be a worker as described above."""
    with _STARTING, deaf_children(), _without_main_module(), _one_thread_a_process():
        yield


def become_a_worker() -> None:
    """Have this process end with its parent, and leave Ctrl-C to it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _die_with_parent()
    _let_server_end()


def cause_of_death(exit_code: int | None) -> str:
    """Tell of what a process ended."""
    if exit_code is not None and exit_code < 0:
        with contextlib.suppress(ValueError):
            return f"was killed by {signal.Signals(-exit_code).name}"
        return f"was killed by signal {-exit_code}"
    return f"exited with code {exit_code}"


@contextlib.contextmanager
def _without_main_module() -> Iterator[None]:
    """Keep workers from importing the user's main module.

    They do not need it: what is defined there is sent by value. Importing it would run a script
    without ``if __name__ == "__main__"`` again in each worker.
    """
    main = sys.modules.get("__main__")
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        if main is not None:
            sys.modules["__main__"] = main


@contextlib.contextmanager
def _one_thread_a_process() -> Iterator[None]:
    """Have numerical libraries start one thread in each worker, unless the user said otherwise."""
    ours = [name for name in _ONE_THREAD if name not in os.environ]
    os.environ.update(dict.fromkeys(ours, "1"))
    try:
        yield
    finally:
        for name in ours:
            os.environ.pop(name, None)


def _let_server_end() -> None:
    """Have the fork server, which is the parent, end with the main process.

    It ends when nobody holds a certain pipe open any more, of which each worker gets a copy. So
    workers that hang would keep it, and themselves, alive.
    """
    server: Any = forkserver._forkserver
    pipe = getattr(server, "_forkserver_alive_fd", None)
    if pipe is not None:
        os.close(pipe)
        server._forkserver_alive_fd = None


def _die_with_parent() -> None:
    """Have the kernel end this process when its parent process ends. Only Linux can."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            set_parent_death_signal = 1
            ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
