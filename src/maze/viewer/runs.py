"""A recorded run as the viewer shows it: what was asked, what came out, and columns of episodes.

Everything is plain values for JSON. Nothing that the directory names is imported.
"""

from __future__ import annotations

import math
import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from maze.core.errors import OutputError
from maze.core.ledger.check import current_path
from maze.core.ledger.journal import EPISODES_FILE, EVENT_FOLDER, JOURNAL_FILE
from maze.core.ledger.lock import is_locked
from maze.core.rollout.rollout_runner import commands_for, names_of
from maze.core.rollout.run_directory import RunDirectory
from maze.core.sinks.ledger_sink import CONFIG_FILE
from maze.core.statistics.summary import summarize
from maze.viewer.episodes import EpisodeView

ENDINGS = ("terminated", "truncated", "failed")
_TEXT_COLUMNS = ("episode_id", "ending", "truncated_by", "digest", "error")
_NUMBER_COLUMNS = (
    "episode_index",
    "return",
    "n_steps",
    "env_seed",
    "agent_seed",
    "seconds",
    "attempts",
    "n_nan",
)
_LARGEST_EXACT = 2**53
"""Integers beyond are not exact in a browser."""
_N_EPISODES_KEPT = 4
_LARGEST_CONFIG_SHOWN = 200_000


class ViewedRun:
    """A run that may still be going on. Methods may be called from several threads.

    Args:
        path: the output directory.

    Raises:
        OutputError: If it holds no run.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        _check_is_run(self.path)
        self._lock = threading.RLock()
        self._episodes: OrderedDict[int, EpisodeView] = OrderedDict()
        self._version = 0
        self._reload()

    @property
    def directory(self) -> RunDirectory:
        """The directory as it was when it was last looked at."""
        return self._directory

    @property
    def version(self) -> int:
        """Rises when something was added."""
        return self._version

    def refresh(self) -> None:
        """Look whether episodes were added."""
        with self._lock:
            if self._stamp != self._current_stamp():
                self._reload()

    def _reload(self) -> None:
        self._stamp = self._current_stamp()
        self._directory = RunDirectory(self.path)
        self._is_live = is_locked(self.path)
        self._episodes.clear()
        self._version = self._version + 1

    def _current_stamp(self) -> object:
        stamps: list[object] = []
        for name in (JOURNAL_FILE, EPISODES_FILE):
            try:
                status = current_path(self.path, name).stat()
                stamps.append((status.st_size, status.st_mtime_ns, status.st_ino))
            except OSError:
                stamps.append(None)
        return stamps, is_locked(self.path)

    def episode(self, index: int) -> EpisodeView:
        """Return an episode; the last few are kept.

        Raises:
            OutputError: If there is none of that index.
        """
        with self._lock:
            if index not in self._episodes:
                self._episodes[index] = EpisodeView(self._directory, index)
                while len(self._episodes) > _N_EPISODES_KEPT:
                    self._episodes.popitem(last=False)
            self._episodes.move_to_end(index)
            return self._episodes[index]

    def summary(self) -> dict[str, Any]:
        """Return what the page says about the run as a whole."""
        with self._lock:
            directory = self._directory
            journal, table, config = directory.journal, directory.table, directory.config
            endings: list[str] = list(table["ending"])
            is_played = np.array([ending != "failed" for ending in endings], dtype=np.bool_)
            rows = []
            for name in ("return", "n_steps", *table.statistic_names):
                values = np.asarray(table[name], dtype=np.float64)[is_played]
                numbers = summarize(values[~np.isnan(values)]).to_json_dict()
                half = (
                    None
                    if numbers["ci_high"] is None or numbers["ci_low"] is None
                    else (numbers["ci_high"] - numbers["ci_low"]) / 2
                )
                rows.append({"name": name, **numbers, "ci_half_width": half})
            n_requested = None if journal is None else journal.n_requested
            of_run = directory.statistics.get("run", {}) if not self._is_live else {}
            commands = commands_for(self.path, config)
            env, policy = names_of(config)
            n_missing = max((n_requested or 0) - len(table), 0)
            return {
                "name": self.path.resolve().name,
                "path": str(self.path),
                "version": self._version,
                "env": env,
                "policy": policy,
                "n_requested": n_requested,
                "n_episodes": len(table),
                "endings": {name: endings.count(name) for name in ENDINGS},
                "n_steps": int(np.sum(table["n_steps"])) if len(table) else 0,
                "statistics": rows,
                "columns": self._column_names(),
                "event_types": sorted(p.stem for p in (self.path / EVENT_FOLDER).glob("*.tsv")),
                "has_trajectories": bool(directory.streams),
                "is_live": self._is_live,
                "interrupted": bool(of_run.get("interrupted")),
                "stopped_because": str(of_run.get("stopped_because") or ""),
                "warnings": [] if journal is None else list(dict.fromkeys(journal.warnings)),
                "command": "" if journal is None else str(journal.run.get("command") or ""),
                "versions": {} if journal is None else journal.versions,
                "seeding": _plain(config.get("seeding", {})),
                "config": self._config_text(),
                "replay_command": commands.get("replay_command", ""),
                "resume_command": commands.get("resume_command", "") if n_missing else "",
                "timing": _plain(directory.statistics.get("timing", {})),
            }

    def _column_names(self) -> list[dict[str, str]]:
        table = self._directory.table
        numbers = [*_NUMBER_COLUMNS, *table.statistic_names]
        return [
            *({"name": name, "kind": "number"} for name in numbers),
            *({"name": name, "kind": "text"} for name in _TEXT_COLUMNS),
        ]

    def columns(self, names: Sequence[str]) -> dict[str, Any]:
        """Return columns of the episode table, in episode order.

        Numbers as ``{"numbers": [...]}``, ``None`` where there is none; texts as ``{"words": [...],
        "codes": [...]}``, each distinct one once.

        Raises:
            OutputError: If there is no such column.
        """
        with self._lock:
            table = self._directory.table
            known = {column["name"]: column["kind"] for column in self._column_names()}
            found: dict[str, Any] = {}
            for name in names:
                if name not in known:
                    raise OutputError(f"the episodes have no column {name!r}")
                values = table[name]
                if known[name] == "text":
                    found[name] = _words([str(value) for value in values])
                elif np.issubdtype(np.asarray(values).dtype, np.integer):
                    found[name] = {"numbers": np.asarray(values).tolist()}
                else:
                    numbers = np.asarray(values, dtype=np.float64).tolist()
                    found[name] = {"numbers": [finite_or_none(number) for number in numbers]}
            return {"version": self._version, "n": len(table), "columns": found}

    def _config_text(self) -> str:
        try:
            with (self.path / CONFIG_FILE).open(encoding="utf-8", errors="replace") as file:
                return file.read(_LARGEST_CONFIG_SHOWN)
        except OSError:
            import yaml

            return yaml.safe_dump(self._directory.config, sort_keys=False)[:_LARGEST_CONFIG_SHOWN]


def finite_or_none(number: float) -> float | None:
    """Return a number that JSON knows."""
    return number if math.isfinite(number) else None


def _words(texts: Sequence[str]) -> dict[str, Any]:
    codes: dict[str, int] = {}
    coded = [codes.setdefault(text, len(codes)) for text in texts]
    return {"words": list(codes), "codes": coded}


def _plain(value: Any) -> Any:
    """Return a value of a config with nothing in it that JSON does not know."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value[:1000]]
    if isinstance(value, float):
        return finite_or_none(value)
    if isinstance(value, int) and abs(value) > _LARGEST_EXACT:
        return str(value)
    return value if isinstance(value, str | int | None) else str(value)


def _check_is_run(path: Path) -> None:
    """Name the runs in a directory, if it is none itself."""
    if (path / JOURNAL_FILE).exists() or (path / EPISODES_FILE).exists():
        return
    runs = [
        p.parent for depth in ("*", "*/*") for p in sorted(path.glob(f"{depth}/{JOURNAL_FILE}"))
    ]
    if runs:
        raise OutputError(
            f"{path} is no run, but holds {len(runs)}: name one or more, such as {runs[-1]}"
        )
