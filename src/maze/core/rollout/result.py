"""What a run returns: statistics, the table of episodes, where time went and how to repeat it."""

from __future__ import annotations

import html
import io
import math
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TextIO, TypeAlias

import numpy as np
from numpy.typing import NDArray

from maze.core.episode import Ending, EpisodeRow
from maze.core.episode_table import EpisodeTable
from maze.core.statistics.summary import Summary

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

TimeShare: TypeAlias = Literal["environment", "policy", "recording"]

_PLAIN_WIDTH = 80
_N_STATISTICS_SHOWN = 30
_N_FAILURES_SHOWN = 3
_N_OUTPUT_LINES_SHOWN = 3
_N_CHARACTERS_OF_LINE = 200


class _LazyEpisodes:
    """The field ``episodes``: a table, or a function that is called for it the first time."""

    def __get__(self, result: RolloutResult | None, owner: type | None = None) -> EpisodeTable:
        if result is None:
            raise AttributeError("episodes")  # Which says that the field has no default.
        values = vars(result)
        if not isinstance(values["episodes"], EpisodeTable):
            values["episodes"] = values["episodes"]()
        episodes: EpisodeTable = values["episodes"]
        return episodes

    def __set__(
        self, result: RolloutResult, episodes: EpisodeTable | Callable[[], EpisodeTable]
    ) -> None:
        vars(result)["episodes"] = episodes


class ReturnRange(NamedTuple):
    """Between which two numbers a mean return lies."""

    low: float
    high: float


@dataclass(frozen=True)
class RolloutResult:
    """The outcome of a run. ``print()`` it, or let a notebook show it."""

    statistics: Mapping[str, Summary]
    """``return``, ``n_steps`` and every episode statistic, over the episodes that did not fail."""
    endings: Mapping[Ending, int]
    """Number of episodes by how they ended."""
    n_truncated_by_runner: int
    """Truncated episodes that the runner's own step limit cut off."""
    n_nan: int
    """Observations and rewards with a NaN, in all episodes."""
    n_requested: int
    """Episodes that were asked for."""
    n_done: int
    """Episodes that were finished, failed ones included."""
    n_steps: int
    """Structured steps of all these episodes."""
    wall_seconds: float
    """From the first worker's start to the last episode's commit."""
    time_split: Mapping[str, float]
    """Seconds in ``environment``, ``policy`` and ``recording`` (all the rest), summed over the
    processes, so that together they can be more than ``wall_seconds``."""
    n_processes: int
    """Processes that played; 1 for a sequential run."""
    env_base_seed: int | None
    """What the environment's seeds are derived from. ``None`` if they were listed one by one."""
    agent_base_seed: int | None
    """What the policy's seeds are derived from. ``None`` if they were listed one by one."""
    episodes: _LazyEpisodes = _LazyEpisodes()
    """A row per finished episode: an ``EpisodeTable``. It may be given as a function that returns
    it, which is called when it is asked for first."""
    output_directory: Path | None = None
    """Where the run was recorded, if it was."""
    failures: Sequence[EpisodeRow] = ()
    """The first few failed episodes; all of them are in ``episodes``."""
    replay_command: str | None = None
    """What plays an episode of the run again, with ``{episode_index}`` where its index belongs.
    ``None`` if there is nothing to replay from."""
    resume_command: str | None = None
    """What plays the episodes that are missing; ``None`` if it cannot be told."""
    warnings: Sequence[str] = ()
    interrupted: bool = False
    """Whether the user stopped the run."""
    stopped_because: str = ""
    """Why the run ended early by itself; empty if it did not."""
    env_name: str = ""
    """For the headline only."""
    policy_name: str = ""
    """For the headline only."""
    n_steps_before: int = 0
    """Of ``n_steps``, those of an earlier session of the run, on which ``wall_seconds`` and
    ``time_split`` were not spent."""

    @property
    def mean_return(self) -> float:
        """Mean return of the episodes that did not fail; NaN if there are none."""
        return self.statistics["return"].mean

    @property
    def returns(self) -> NDArray[np.float64]:
        """The return of each finished episode, in episode order; of failed ones, so far."""
        return np.asarray(self.episodes["return"], dtype=np.float64)

    @property
    def n_missing(self) -> int:
        """Episodes that were asked for and are not finished."""
        return max(self.n_requested - self.n_done, 0)

    @property
    def mean_return_range(self) -> ReturnRange | None:
        """Where the mean return could lie, had all episodes been played without an error.

        It is the mean if each episode that failed or is missing had returned as little, or as
        much, as any of the others. ``None`` if there are no such episodes; NaN if there are no
        others.
        """
        n_unknown = self.endings.get("failed", 0) + self.n_missing
        if not n_unknown:
            return None
        known = self.statistics["return"]
        share = n_unknown / (n_unknown + known.n)

        def mean_with(imputed: float) -> float:
            # Rounding could put it on the other side of the mean of the known ones.
            mean = known.mean * (1 - share) + imputed * share
            lowest, highest = sorted((known.mean, imputed))
            return min(max(mean, lowest), highest)

        return ReturnRange(mean_with(known.min), mean_with(known.max))

    @property
    def request_met(self) -> bool:
        """Whether every episode that was asked for was played without an error."""
        return (
            self.n_done == self.n_requested
            and not self.endings.get("failed", 0)
            and not self.interrupted
        )

    @property
    def steps_per_second(self) -> float:
        """Structured steps of all processes per second of wall time."""
        n_steps = self.n_steps - self.n_steps_before
        return n_steps / self.wall_seconds if self.wall_seconds > 0 else math.nan

    def reproduction(self, row: EpisodeRow) -> str:
        """Return what to type to play an episode again."""
        if self.replay_command is not None:
            return self.replay_command.replace("{episode_index}", str(row.episode_index))
        return (
            "maze.rollout(..., n_episodes=1,"
            f" seed=Seeding(explicit_env_seeds=[{row.env_seed}],"
            f" explicit_agent_seeds=[{row.agent_seed}]))"
        )

    def to_json_dict(self) -> dict[str, Any]:
        """Return the content of ``statistics.json``.

        Two runs with equal seeds agree on everything outside of ``run`` and ``timing``, but for
        ``attempts``, ``output`` and ``reproduce`` in ``failures``.
        """
        mean_range = self.mean_return_range
        return {
            "n_requested": self.n_requested,
            "n_episodes": self.n_done,
            "n_steps": self.n_steps,
            "n_nan": self.n_nan,
            "endings": dict(self.endings),
            "n_truncated_by_runner": self.n_truncated_by_runner,
            "seeds": {
                "env_base_seed": _seed_or_explicit(self.env_base_seed),
                "agent_base_seed": _seed_or_explicit(self.agent_base_seed),
            },
            "statistics": {
                name: summary.to_json_dict() for name, summary in self.statistics.items()
            },
            "mean_return_range": None
            if mean_range is None
            else {name: _finite_or_none(mean) for name, mean in mean_range._asdict().items()},
            "failures": [self._failure_to_json(row) for row in self.failures],
            "run": {
                "request_met": self.request_met,
                "interrupted": self.interrupted,
                "stopped_because": self.stopped_because,
                "n_processes": self.n_processes,
                "output_directory": _text_or_none(self.output_directory),
                "warnings": list(self.warnings),
            },
            "timing": {
                "wall_seconds": self.wall_seconds,
                "steps_per_second": _finite_or_none(self.steps_per_second),
                "seconds_in": dict(self.time_split),
            },
        }

    def _failure_to_json(self, row: EpisodeRow) -> dict[str, Any]:
        failure = row.failure
        return {
            "episode_index": row.episode_index,
            "env_seed": row.env_seed,
            "agent_seed": row.agent_seed,
            "error": row.error,
            "place": None if failure is None else failure.place,
            "step": None if failure is None else failure.step,
            "exception_type": None if failure is None else failure.exception_type,
            "message": None if failure is None else failure.message,
            "attempts": row.attempts,
            "output": "" if failure is None else failure.output,
            "reproduce": self.reproduction(row),
        }

    def to_pandas(self) -> pd.DataFrame:
        """Return the table of episodes as a pandas data frame."""
        return self.episodes.to_pandas()

    def to_polars(self) -> pl.DataFrame:
        """Return the table of episodes as a polars data frame."""
        return self.episodes.to_polars()

    def print(self, file: TextIO | None = None) -> None:
        """Print the result as wide as the terminal, in colour if it is one.

        Args:
            file: ``None`` prints to standard output.
        """
        from rich.console import Console

        # In a notebook, rich would make HTML of its own.
        _print_on(Console(file=file or sys.stdout, highlight=False, force_jupyter=False), self)

    def __str__(self) -> str:
        from rich.console import Console

        text = io.StringIO()
        console = Console(
            file=text,
            width=_PLAIN_WIDTH,
            color_system=None,
            force_terminal=False,
            force_jupyter=False,
            highlight=False,
        )
        _print_on(console, self)
        return text.getvalue().rstrip("\n")

    def __repr__(self) -> str:
        n_failed = self.endings.get("failed", 0)
        parts = [
            f"{self.n_done} of {self.n_requested} episodes",
            f"mean return {self.mean_return:.4g}",
            *([f"{n_failed} failed"] if n_failed else []),
            *(["interrupted"] if self.interrupted else []),
            *([str(self.output_directory)] if self.output_directory else []),
        ]
        return f"RolloutResult({', '.join(parts)})"

    def __getstate__(self) -> dict[str, Any]:
        """Take the table along: what loads it may be good in this process only."""
        return {**vars(self), "episodes": self.episodes}

    def _repr_html_(self) -> str:
        return _as_html(self)


# What is shown, whatever it is shown on.


class _Fact(NamedTuple):
    """A labelled line below the table."""

    label: str
    text: str
    style: str = ""
    is_copied: bool = False
    """Whether people copy it, so that no line break may get into it."""


_DISPENSABLE_COLUMNS = ("median", "n", "std", "min", "max")
"""The first to go where the terminal is narrow."""


def _headline(result: RolloutResult) -> list[str]:
    n_done, n_requested = result.n_done, result.n_requested
    episodes = f"{n_done:,}" if n_done == n_requested else f"{n_done:,} of {n_requested:,}"
    return [
        *([result.env_name] if result.env_name else []),
        *([result.policy_name] if result.policy_name else []),
        f"{episodes} episode{'s' * (n_requested != 1)}",
        f"{result.n_processes} process{'es' * (result.n_processes != 1)}",
    ]


def _statistics_rows(result: RolloutResult) -> dict[str, dict[str, str]]:
    """Return the cells by name of the statistic and of the column."""
    shown = dict(list(result.statistics.items())[:_N_STATISTICS_SHOWN])
    rows = {name: _cells(summary) for name, summary in shown.items()}
    n_summarised = result.n_done - result.endings.get("failed", 0)
    if any(summary.n != n_summarised for summary in shown.values()):
        for name, summary in shown.items():
            rows[name]["n"] = f"{summary.n:,}"
    return {{"n_steps": "steps"}.get(name, name): row for name, row in rows.items()}


def _facts(result: RolloutResult, separator: str) -> Iterator[_Fact]:
    if result.interrupted:
        yield _Fact("interrupted", "what had finished by then is kept", "bold yellow")
    if result.stopped_because:
        yield _Fact("stopped", result.stopped_because, "bold red")
    if result.n_missing and result.n_done:
        yield _Fact("bias", "short episodes finish first: these count for too much", "yellow")
    n_hidden = len(result.statistics) - _N_STATISTICS_SHOWN
    if n_hidden > 0:
        yield _Fact("statistics", f"{n_hidden:,} more in statistics.json and in the result")

    counts = {ending: f"{ending} {n:,}" for ending, n in result.endings.items()}
    if result.n_truncated_by_runner:
        counts["truncated"] += f" ({result.n_truncated_by_runner:,} by the runner's limit)"
    n_failed = result.endings.get("failed", 0)
    yield _Fact("endings", separator.join(counts.values()), "red" if n_failed else "")
    mean_range = result.mean_return_range
    if mean_range is not None and not math.isnan(mean_range.low):
        yield _Fact("mean return", _described(mean_range, n_failed, result.n_missing), "yellow")
    if result.n_nan:
        yield _Fact("NaN", f"in {result.n_nan:,} observations or rewards", "yellow")

    total = sum(result.time_split.values())
    shares = [
        f"{name} {seconds / total:.0%}".replace("%", " %")
        for name, seconds in result.time_split.items()
        if total > 0
    ]
    speed = [f"{result.steps_per_second:,.0f} steps/s"] if result.n_steps else []
    duration = format_seconds(result.wall_seconds)
    yield _Fact("time", separator.join([duration, *speed]))
    if shares:
        yield _Fact("spent on", separator.join(shares))

    seeds = {
        "seeding.env_base_seed": result.env_base_seed,
        "seeding.agent_base_seed": result.agent_base_seed,
    }
    given = " ".join(f"{name}={seed}" for name, seed in seeds.items() if seed is not None)
    if result.env_base_seed is not None and result.env_base_seed == result.agent_base_seed:
        given += f" (maze.rollout: seed={result.env_base_seed})"
    if given:
        yield _Fact("repeat with", given, is_copied=True)
    if result.output_directory:
        yield _Fact("output", str(result.output_directory), is_copied=True)
    if result.n_missing and result.resume_command:
        yield _Fact("go on with", result.resume_command, is_copied=True)
    for warning in result.warnings:
        yield _Fact("warning", warning, "yellow")
    for row in result.failures[:_N_FAILURES_SHOWN]:
        seeds_of_row = f"env_seed={row.env_seed} agent_seed={row.agent_seed}"
        episode = f"episode {row.episode_index}: {seeds_of_row}"
        yield _Fact("failed", f"{episode}\n{_printable(_shortened(row.error))}", "red")
        printed = _last_lines(row.failure.output if row.failure else "")
        if printed:
            yield _Fact("printed", printed, "dim")
        yield _Fact("reproduce", result.reproduction(row), is_copied=True)
    if n_failed:
        n_more = n_failed - min(len(result.failures), _N_FAILURES_SHOWN)
        more = f"{n_more:,} more; " if n_more else ""
        place = "episodes.parquet" if result.output_directory else "result.episodes"
        yield _Fact("", f"{more}tracebacks: column 'failure' of {place}", "red")


def _cells(summary: Summary) -> dict[str, str]:
    numbers = {
        "mean": summary.mean,
        "95 % CI": summary.ci_half_width,
        "std": summary.std,
        "min": summary.min,
        "median": summary.median,
        "max": summary.max,
    }
    sizes = [abs(number) for number in numbers.values() if math.isfinite(number)]
    if sizes and (max(sizes) >= 1e9 or 0 < max(sizes) < 1e-3):
        cells = {name: f"{number:.2e}" if number else "0" for name, number in numbers.items()}
    else:
        center, spread = abs(summary.mean), summary.std
        decimals = _decimals(max(center, spread) if spread > 0 else center, n_digits=4)
        cells = {name: format_number(number, decimals) for name, number in numbers.items()}
        # Whole numbers are shown as such. Their mean needs decimals, unless all are the same.
        if summary.min.is_integer() and summary.max.is_integer():
            whole = ["min", "max", *(["mean"] if summary.min == summary.max else [])]
            cells |= {name: f"{numbers[name]:,.0f}" for name in whole}
            cells["median"] = f"{summary.median:,.{0 if summary.median.is_integer() else 1}f}"
    cells = {name: "-" if math.isnan(numbers[name]) else cell for name, cell in cells.items()}
    if not math.isnan(summary.ci_half_width):
        cells["95 % CI"] = f"± {cells['95 % CI']}"
    return cells


def format_number(number: float, n_decimals: int = 0) -> str:
    """Write a number for people, with thousands separators.

    Args:
        number: any, also infinite.
        n_decimals: how many to show; more are shown where fewer than two digits that count would
            be left, none for a zero.
    """
    if number == 0 or not math.isfinite(number):
        return f"{number + 0.0:.0f}"
    if abs(number) < 1e-6:
        return f"{number:.2e}"
    if not number.is_integer():
        n_decimals = max(n_decimals, _decimals(number, n_digits=2))
    return f"{number:,.{n_decimals}f}"


def format_seconds(seconds: float) -> str:
    """Write a duration for people, as ``1.23 s`` or ``1 h 02 min``."""
    if seconds < 60:
        return f"{seconds:.3g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60:,} h {minutes % 60:02} min"


def _decimals(number: float, n_digits: int) -> int:
    """Return the decimals with which a number shows that many significant digits."""
    if number == 0 or not math.isfinite(number):
        return 0
    return max(0, n_digits - 1 - math.floor(math.log10(abs(number))))


def _shortened(text: str, n_characters: int = 320) -> str:
    return text if len(text) <= n_characters else text[: n_characters - 3] + "..."


def _described(mean_range: ReturnRange, n_failed: int, n_missing: int) -> str:
    sizes = [abs(mean) for mean in mean_range if math.isfinite(mean)]
    decimals = _decimals(max(sizes, default=0), n_digits=4)
    low, high = (
        f"{mean:.2e}" if max(sizes, default=0) >= 1e9 else format_number(mean, decimals)
        for mean in mean_range
    )
    counts = {"failed": n_failed, "missing": n_missing}
    those = " and ".join(f"{n:,} {what}" for what, n in counts.items() if n)
    return f"{low} to {high}, if {those} were worst or best"


_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]"  # colours and movements of the cursor
    r"|\][^\x07\x1b]*(?:\x07|\x1b\\)?"  # titles and links
    r"|.)?"
)


def _printable(text: str) -> str:
    """Spell out what would act on the terminal, and leave colours away."""
    return "".join(
        character if character.isprintable() or character == "\n" else ascii(character)[1:-1]
        for character in _ESCAPE_SEQUENCE.sub("", text)
    )


def _last_lines(output: str) -> str:
    lines = [line for line in _ESCAPE_SEQUENCE.sub("", output).splitlines() if line.strip()]
    return "\n".join(
        _shortened(_printable(line.expandtabs().rstrip()), _N_CHARACTERS_OF_LINE)
        for line in lines[-_N_OUTPUT_LINES_SHOWN:]
    )


def _seed_or_explicit(seed: int | None) -> int | str:
    return "explicit" if seed is None else seed


def _text_or_none(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _finite_or_none(number: float) -> float | None:
    return number if math.isfinite(number) else None


# In a terminal, or as plain text.


def _print_on(console: Console, result: RolloutResult) -> None:
    from rich.text import Text

    is_unicode = console.encoding.lower().startswith("utf")
    separator = " · " if is_unicode else ", "

    def text(content: str, style: str = "") -> Text:
        return Text.assemble((content if is_unicode else _to_ascii(content), style))

    name, *rest = _headline(result)
    console.print(text(name, "bold") + text(separator.join(["", *rest])))
    console.print()
    console.print(_rich_table(_statistics_rows(result), console.width, text))
    console.print()
    facts = list(_facts(result, separator))
    margin = max(len(fact.label) for fact in facts) + 2
    for fact in facts:
        label, content = text(f"{fact.label:{margin}}", "dim"), text(fact.text, fact.style)
        if fact.is_copied:
            console.print(label + content, soft_wrap=True)
            continue
        for line in content.wrap(console, max(console.width - margin, 20)):
            line.rstrip()
            console.print(label + line)
            label = Text(" " * margin)


def _rich_table(
    rows: Mapping[str, Mapping[str, str]], width: int, text: Callable[[str, str], Text]
) -> Table:
    from rich import box
    from rich.table import Table

    columns, name_width = _fit(rows, width)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_edge=False)
    table.add_column("", no_wrap=True)
    for column in columns:
        table.add_column(text(column, ""), justify="right", no_wrap=True)
    for name, cells in rows.items():
        numbers = [text(cells[column], "bold" * (column == "mean")) for column in columns]
        table.add_row(text(_folded(name, name_width), ""), *numbers)
    return table


def _fit(rows: Mapping[str, Mapping[str, str]], width: int) -> tuple[list[str], int]:
    """Return the columns for which there is room, and the width that is left for the names."""
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    widths = {
        column: 3 + max(len(column), *(len(cells[column]) for cells in rows.values()))
        for column in columns
    }
    bearable = min(max(len(name) for name in rows), 20)
    for column in _DISPENSABLE_COLUMNS:
        if sum(widths[column] for column in columns) <= width - bearable:
            break
        columns = [other for other in columns if other != column]
    return columns, max(width - sum(widths[column] for column in columns), bearable)


def _folded(name: str, width: int) -> str:
    """Break a long name of a statistic into lines, where a word of it ends if possible."""
    lines = [""]
    for part in re.split(r"(?<=[./_ ])", name):
        if len(lines[-1]) + len(part) > width and lines[-1].strip():
            lines.append("  ")
        lines[-1] += part
    return "\n".join(lines)


def _to_ascii(content: str) -> str:
    content = content.replace("±", "+/-").replace(" · ", ", ")
    return content.encode("ascii", "backslashreplace").decode()


# In a notebook.


def _as_html(result: RolloutResult) -> str:
    """Return a table without colours of its own, for light and dark pages alike."""
    rows = _statistics_rows(result)
    columns = list(dict.fromkeys(column for cells in rows.values() for column in cells))
    right, left = 'style="text-align:right"', 'style="text-align:left"'
    head = "".join(f"<th {right}>{html.escape(column)}</th>" for column in columns)
    body = "".join(
        f"<tr><th {left}>{html.escape(name)}</th>"
        + "".join(f"<td {right}>{html.escape(cells[column])}</td>" for column in columns)
        + "</tr>"
        for name, cells in rows.items()
    )
    facts = "".join(
        f"<tr><th {left}>{html.escape(fact.label)}</th>"
        f"<td {left}>{html.escape(fact.text).replace(chr(10), '<br>')}</td></tr>"
        for fact in _facts(result, " · ")
    )
    return (
        f"<div><p><strong>{html.escape(' · '.join(_headline(result)))}</strong></p>"
        f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{body}</tbody></table>"
        f"<table><tbody>{facts}</tbody></table></div>"
    )
