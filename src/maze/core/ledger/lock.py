"""One writer for a directory: a lock that ends with the process that holds it."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

from maze.core.errors import OutputError

LOCK_FILE = ".lock"

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)
"""What file systems without locks answer."""


class DirectoryLock:
    """Held by the process that writes into a directory.

    The operating system drops it when the process ends, however it ends. On file systems that
    know no locks, nothing is locked.

    Args:
        directory: exists.

    Raises:
        OutputError: If another process, or another run of this one, writes there.
    """

    def __init__(self, directory: Path) -> None:
        self._path = directory / LOCK_FILE
        while True:
            self._file = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                _lock(self._file)
            except BlockingIOError:
                holder = os.pread(self._file, 200, 0).decode("utf-8", "replace").strip()
                os.close(self._file)
                raise OutputError(
                    f"{directory} is being written to{f' by {holder}' if holder else ''}. Wait"
                    " until it has ended, or choose another directory"
                ) from None
            if self._is_there():
                break
            os.close(self._file)  # Whoever held it has removed it in the meantime.
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)

    def release(self) -> None:
        """Let others write."""
        if self._file >= 0:
            with contextlib.suppress(OSError):
                self._path.unlink()
            os.close(self._file)
            self._file = -1

    def _is_there(self) -> bool:
        """Return whether the file that is locked is the one that others find."""
        try:
            return os.path.samestat(os.fstat(self._file), os.stat(self._path))
        except FileNotFoundError:
            return False


def is_locked(directory: Path) -> bool:
    """Return whether somebody writes into a directory just now."""
    try:
        file = os.open(directory / LOCK_FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        _lock(file)
    except BlockingIOError:
        return True
    except OSError:
        return False
    finally:
        os.close(file)
    return False


def _lock(file: int) -> None:
    try:
        import fcntl
    except ImportError:  # Windows, which has no such locks.
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
