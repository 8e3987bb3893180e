"""``maze show``: a run, its episodes or one of them as text, for a terminal on a remote machine.

It reads what was recorded and imports nothing that the directory names. Texts from there are
printed without what would do something to a terminal.
"""

from __future__ import annotations

import argparse
import math
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.cli.arguments import whole_number
from maze.cli.messages import OK, aligned, print_lines
from maze.core.errors import ConfigError, OutputError, did_you_mean

if TYPE_CHECKING:
    from maze.core.rollout.run_directory import RunDirectory

DESCRIPTION = """\
Shows a run: what was played, its statistics, and a table of its episodes. With --episode, the steps
of one: what was observed and done, rewards and events. A training is shown by its evaluations.

  maze show DIR --sort return --descending --where "n_steps>100" --limit 10
  maze show DIR --where ending=failed
  maze show DIR --episode 12 --steps 100:120
"""

_COLUMNS = ("episode_index", "ending", "return", "n_steps", "env_seed", "agent_seed", "seconds")
_TITLES = {"episode_index": "episode", "n_steps": "steps"}
_COMPARISONS: Mapping[str, Callable[[Any, Any], Any]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "=": operator.eq,
    "<": operator.lt,
    ">": operator.gt,
}
_WIDEST = 44


def add_parser(subparsers: Any) -> None:
    """Describe the command."""
    parser = subparsers.add_parser(
        "show",
        help="show a run, its episodes, or the steps of one as text",
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("directory", metavar="DIR", help="output directory of the run")
    parser.add_argument("--episode", type=whole_number, metavar="N", help="show the steps of one")
    parser.add_argument(
        "--steps", metavar="FROM:TO", help="of the episode, such as 10:20 or :5; =-5: for the last"
    )
    parser.add_argument(
        "--sort", default="episode_index", metavar="COLUMN", help="of the table; lowest first"
    )
    parser.add_argument("--descending", action="store_true", help="highest first")
    parser.add_argument(
        "--where",
        action="append",
        default=[],
        metavar="CONDITION",
        help="only episodes with COLUMN=VALUE; also != < <= > >=; may be given several times",
    )
    parser.add_argument(
        "--limit", type=whole_number, default=20, metavar="N", help="episodes or steps; 0: all"
    )
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Run the command and return its exit code."""
    from maze.cli.resume import config_of_training
    from maze.core.rollout.run_directory import RunDirectory

    path = Path(arguments.directory)
    if (training := config_of_training(path)) is not None:
        print_lines(_training_lines(path, training))
        return OK
    directory = RunDirectory(path)
    if arguments.episode is not None:
        print_lines(_episode_lines(directory, arguments))
    else:
        print_lines(_run_lines(directory, arguments))
    return OK


# A run.


def _run_lines(directory: RunDirectory, arguments: argparse.Namespace) -> Iterator[str]:
    yield from _summary_lines(directory)
    table = directory.table
    data = {name: table[name] for name in _column_names(directory)}
    chosen = list(range(len(table)))
    for condition in arguments.where:
        matches = _condition(condition, data)
        chosen = [i for i in chosen if matches(i)]
    column = _column_name(arguments.sort, data, "--sort")
    chosen.sort(key=lambda i: _sort_key(data[column][i]), reverse=arguments.descending)
    shown = chosen[: arguments.limit] if arguments.limit else chosen
    asked = [column, *(_column_name(_split(c)[0], data, "--where") for c in arguments.where)]
    columns = list(dict.fromkeys([*_COLUMNS, *asked]))
    rows = [[_cell(data[name][i]) for name in columns] for i in shown]
    yield ""
    yield from aligned([[_TITLES.get(name, name) for name in columns], *rows])
    if len(shown) < len(table):
        yield f"{len(shown):,} of {len(table):,} episodes"
    failed = [i for i in shown if data["ending"][i] == "failed"]
    for i in failed[:5]:
        index = int(data["episode_index"][i])
        yield ""
        yield f"episode {index}: {printable(str(data['error'][i]))}"
        yield f"  maze replay {directory.path} --episode {index} --pdb"


def _summary_lines(directory: RunDirectory) -> Iterator[str]:
    from maze.core.rollout.result import format_number
    from maze.core.rollout.rollout_runner import names_of
    from maze.core.statistics.summary import summarize

    table, config = directory.table, directory.config
    endings = list(table["ending"])
    counts = {ending: endings.count(ending) for ending in ("terminated", "truncated", "failed")}
    requested = None if directory.journal is None else directory.journal.n_requested
    of = "" if requested in (None, len(table)) else f" of {requested:,}"
    names = map(printable, names_of(config))
    yield " · ".join([*names, f"{len(table):,}{of} episodes"])
    yield " · ".join(f"{ending} {n:,}" for ending, n in counts.items())
    yield from _origin_lines(config.get("dataset"))
    is_played = [ending != "failed" for ending in endings]
    rows = [["", "mean", "95 % CI", "std", "min", "median", "max"]]
    for name in ("return", "n_steps", *table.statistic_names):
        column = table[name]
        values = [float(column[i]) for i in range(len(table)) if is_played[i]]
        summary = summarize([value for value in values if value == value])
        if summary.n:
            numbers = (summary.std, summary.min, summary.median, summary.max)
            rows.append(
                [
                    printable(_TITLES.get(name, name)),
                    format_number(summary.mean),
                    f"± {format_number(summary.ci_half_width)}" if summary.n > 1 else "",
                    *(format_number(number) if number == number else "" for number in numbers),
                ]
            )
    yield ""
    yield from aligned(rows)


def _origin_lines(dataset: Any) -> Iterator[str]:
    """Say where a recording comes from that was not played."""
    if not isinstance(dataset, Mapping):
        return
    sources = [one for one in dataset.get("sources") or () if isinstance(one, Mapping)]
    named = ", ".join(f"{one.get('name')} ({one.get('n_episodes')} episodes)" for one in sources)
    yield printable(f"{dataset.get('operation')}: {named}")
    for note in dataset.get("notes") or ():
        yield printable(f"note: {note}")


def _column_names(directory: RunDirectory) -> list[str]:
    return [
        *_COLUMNS,
        "episode_id",
        "attempts",
        "digest",
        "error",
        *directory.table.statistic_names,
    ]


def _condition(text: str, data: Mapping[str, Any]) -> Callable[[int], bool]:
    name, sign, value = _split(text)
    column = data[_column_name(name, data, "--where")]
    compare = _COMPARISONS[sign]
    try:
        number = float(value)
    except ValueError:
        if sign not in ("=", "!="):
            raise ConfigError(
                f"--where {text}: '{value}' is no number, so that only = and != make sense"
            ) from None
        return lambda i: bool(compare(str(column[i]), value))
    return lambda i: not isinstance(column[i], str) and bool(compare(float(column[i]), number))


def _split(text: str) -> tuple[str, str, str]:
    found = re.fullmatch(r"\s*(.+?)\s*(<=|>=|!=|=|<|>)\s*(.*?)\s*", text)
    if found is None:
        raise ConfigError(
            f"--where {text}: expected COLUMN=VALUE, for instance ending=failed or 'return<-100'"
        )
    return found[1], found[2], found[3]


def _column_name(name: str, data: Mapping[str, Any], option: str) -> str:
    name = {title: column for column, title in _TITLES.items()}.get(name, name)
    if name not in data:
        raise ConfigError(
            f"{option}: there is no column '{name}'.{did_you_mean(name, data)} There are:"
            f" {', '.join(data)}"
        )
    return name


def _sort_key(value: Any) -> tuple[bool, Any]:
    is_text = isinstance(value, str)
    is_nan = not is_text and value != value
    return (is_nan, "" if is_nan and is_text else 0.0 if is_nan else value)


# An episode.


def _episode_lines(directory: RunDirectory, arguments: argparse.Namespace) -> Iterator[str]:
    from maze.core.rollout.replay import recorded_row

    row = recorded_row(directory, arguments.episode)
    ending = f"truncated by the {row.truncated_by}" if row.truncated_by else row.ending
    numbers = f"{row.n_steps:,} steps, return {row.episode_return:g}"
    yield f"episode {row.episode_index}: {numbers}, {ending}"
    yield f"env_seed={row.env_seed} agent_seed={row.agent_seed} digest={row.digest or '-'}"
    for name, value in row.statistics.items():
        yield f"{printable(name)} {value:g}"
    if row.failure is not None:
        yield ""
        yield printable(str(row.failure))
        yield from (printable(line) for line in row.failure.traceback.splitlines())
    try:
        trajectory = directory.trajectory(row.episode_index)
    except OutputError as error:
        yield ""
        yield str(error)
        return
    steps = _steps_of(trajectory)
    try:
        events = _events_of(directory, row.episode_index)
    except OutputError as error:
        events = {}
        yield ""
        yield str(error)
    low, high = _range(arguments.steps, len(steps))
    limited = high if arguments.steps or not arguments.limit else min(high, low + arguments.limit)
    several_actors = len({step[1] for step in steps}) > 1
    total, rows = 0.0, []
    for number, (time, actor, observation, action, reward) in enumerate(steps):
        total += reward
        if not low <= number < limited:
            continue
        is_last_of_time = number + 1 == len(steps) or steps[number + 1][0] != time
        happened = ", ".join(events.get(time, ())) if is_last_of_time else ""
        rows.append(
            [
                str(number),
                *([str(time), actor] if several_actors else []),
                _text_of(observation),
                _text_of(action),
                f"{reward:g}",
                f"{total:g}",
                happened,
            ]
        )
    head = ["step", *(["time", "actor"] if several_actors else [])]
    yield ""
    yield from aligned([[*head, "observation", "action", "reward", "sum", "events"], *rows])
    if limited - low < len(steps):
        yield f"{len(rows):,} of {len(steps):,} steps; --steps FROM:TO shows others, --limit 0 all"


def _steps_of(trajectory: Any) -> list[tuple[int, str, Any, Any, float]]:
    """Return time, actor, observation, action and reward of each sub-step, in their order."""
    found: list[tuple[int, tuple[int, str, Any, Any, float]]] = []
    for key, part in trajectory.by_step_key.items():
        for i, reward in enumerate(part.rewards.tolist()):
            actor = f"{printable(str(key))}/{int(part.agent_ids[i])}"
            time = int(part.env_times[i])
            observation, action = _row(part.observations, i), _row(part.actions, i)
            found.append((int(part.steps[i]), (time, actor, observation, action, reward)))
    return [step for _, step in sorted(found, key=lambda one: one[0])]


def _events_of(directory: RunDirectory, episode_index: int) -> dict[int, list[str]]:
    """Return what happened, by time: names of events with their attributes."""
    happened: dict[int, list[str]] = {}
    for event in directory.events_of(episode_index):
        told = " ".join(f"{name}={value}" for name, value in event.attributes.items())
        shown = printable(f"{event.event_type}({told})" if told else event.event_type)
        happened.setdefault(event.env_time, []).append(shown)
    return happened


def _range(text: str | None, n: int) -> tuple[int, int]:
    if text is None:
        return 0, n
    found = re.fullmatch(r"(-?\d*):(-?\d*)|(-?\d+)", text)
    if found is None or text in (":", ""):
        raise ConfigError(f"--steps {text}: expected FROM:TO, such as 10:20, :5, -5: or 7")
    if found[3] is not None:
        low = int(found[3]) % n if n else 0
        return low, low + 1
    low, high, _ = slice(*(int(part) if part else None for part in found.group(1, 2))).indices(n)
    return low, max(low, high)


def _row(nested: Any, index: int) -> Any:
    if isinstance(nested, Mapping):
        return {key: _row(value, index) for key, value in nested.items()}
    if isinstance(nested, tuple):
        return tuple(_row(value, index) for value in nested)
    return nested[index]


def _text_of(value: Any) -> str:
    """Return a value on one line, shortened."""
    if isinstance(value, Mapping):
        if len(value) == 1:
            return _text_of(next(iter(value.values())))
        text = " ".join(f"{printable(str(key))}={_text_of(one)}" for key, one in value.items())
        return text if len(text) <= 2 * _WIDEST else f"{text[: 2 * _WIDEST - 3]}..."
    shape = getattr(value, "shape", None)
    if shape:
        if math.prod(shape) > 8:
            return f"{'x'.join(map(str, shape))} from {value.min():.3g} to {value.max():.3g}"
        return "[" + " ".join(f"{number:.4g}" for number in value.ravel().tolist()) + "]"
    if isinstance(value, float) or (shape == () and value.dtype.kind == "f"):
        return f"{float(value):.4g}"
    text = printable(str(value))
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."


# A training.


def _training_lines(path: Path, config: Mapping[str, Any]) -> Iterator[str]:
    import csv

    from maze.core.rollout.rollout_runner import names_of

    env, algorithm = map(printable, names_of({**config, "policy": config.get("algorithm")}))
    yield f"{env} · trained by {algorithm}"
    evaluations = path / "evaluations.csv"
    if not evaluations.exists():
        yield "it was not evaluated yet"
        return
    by_steps: dict[int, list[float]] = {}
    with evaluations.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_steps.setdefault(int(row["n_steps"]), []).append(float(row["return"]))
    means = {n: sum(returns) / len(returns) for n, returns in by_steps.items()}
    best = max(means, key=lambda n: means[n])
    yield ""
    yield from aligned(
        [
            ["steps", "mean return", "worst", "best", ""],
            *(
                [
                    f"{n:,}",
                    f"{means[n]:.4g}",
                    f"{min(returns):.4g}",
                    f"{max(returns):.4g}",
                    "*" if n == best else "",
                ]
                for n, returns in by_steps.items()
            ),
        ]
    )
    yield ""
    yield f"roll it out with  maze-run policy=torch_policy input_dir={path}"


# Text.


def printable(text: str) -> str:
    """Return a text without characters that would do something to a terminal."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def _cell(value: Any) -> str:
    if isinstance(value, str):
        text = printable(value)
        return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 3]}..."
    number = float(value)
    if number != number:
        return "-"
    return f"{int(number)}" if number.is_integer() else f"{number:.4g}"
