"""Going on with a recorded run: playing what is missing, or more of the same.

Which episodes a run has, and what they are, follows from its config. So a config may only be
changed in what makes no difference to an episode: how many there are, where they are played, and
when to give up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from maze.core.errors import ConfigError, OutputError
from maze.core.factory import TARGET, unknown_option
from maze.core.rollout.job import EnvSource, PolicySource, WrapperSource
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import Resume
from maze.core.rollout.run_directory import RunDirectory, read_config
from maze.core.rollout.setup import RunSetup
from maze.core.rollout.trust import GROUPS, check_trust

CHANGEABLE = (
    *("n_episodes", "n_processes", "n_lanes", "on_error", "max_failures", "max_attempts"),
    *("step_timeout_s", "episode_timeout_s", "recycle_after_episodes", "max_worker_memory_mb"),
    "show_progress",
)
"""Options of ``runner`` that may be changed when a run is resumed."""

_SEQUENTIAL = "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner"
_PARALLEL = "maze.core.rollout.parallel_rollout_runner.ParallelRolloutRunner"


_NOT_PLAYED_HERE = {
    "dataset": "its episodes come from other recordings. Complete those, and make it again",
    "deployment": "its episodes were played by another system (AgentDeployment)",
}
"""Keys of configs that say so."""


def resume_run(
    directory: str | Path,
    changes: Mapping[str, Any] | None = None,
    *,
    retry_failed: bool = False,
    env: EnvSource | None = None,
    policy: PolicySource = None,
    wrappers: WrapperSource = None,
    trust: bool = False,
    command: str = "",
    on_start: Callable[[str], None] = lambda text: None,
) -> RolloutResult:
    """Play the episodes that are missing in an output directory.

    Args:
        directory: of the run.
        changes: new values by dotted option, as ``{"runner.n_episodes": 1000}``.
        retry_failed: whether failed episodes are played again.
        env: takes the place of the config's, for a run whose environment was a Python object.
        policy: likewise.
        wrappers: likewise.
        trust: whether to import whatever the config names, see ``check_trust``.
        command: what was typed, for the record.
        on_start: told what is there, when nothing speaks against going on.

    Returns:
        The result over all episodes, recorded before or now.

    Raises:
        ConfigError: If a change would make other episodes, or the run cannot be set up.
        OutputError: If the directory holds no run, or another process writes to it.
    """
    run = RunDirectory(directory)
    if run.journal is None:
        raise OutputError(
            f"{run.path} has no journal.jsonl, without which nobody knows which of its data counts."
            " It can be read (maze.load), but not resumed"
        )
    recorded = run.config
    for key, whose in _NOT_PLAYED_HERE.items():
        if key in recorded:
            raise ConfigError(f"{run.path} cannot be completed or extended: {whose}")
    changed = {name: value for name, (_, value) in _edits(run.path / "config.yaml", recorded)}
    config = changed_config(recorded, {**changed, **(changes or {})})
    given = {"env": env, "policy": policy, "wrappers": wrappers}
    groups = [group for group in GROUPS if given.get(group) is None]
    check_trust(config, trust, groups)
    setup = RunSetup.from_config(config)
    on_start(f"{run.path}: {len(run.journal.episode_indices()):,} episodes are recorded")
    return setup.build_runner().run_with(
        setup.env_source() if env is None else env,
        setup.policy_source() if policy is None else policy,
        (setup.wrappers or {}) if wrappers is None else wrappers,
        seeding=setup.seeding(),
        output_dir=run.path,
        config=config,
        command=command,
        resume=Resume(retry_failed),
    )


def changed_config(recorded: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return a config with changes that make no difference to an episode.

    Args:
        recorded: of the run.
        changes: new values by dotted option.

    Raises:
        ConfigError: If there is one that would, or one that is not known.
    """
    config: dict[str, Any] = json.loads(json.dumps(recorded))
    harmful: list[str] = []
    for name, value in changes.items():
        group, _, option = name.partition(".")
        before = _value_at(recorded, name)
        if before == value and type(before) is type(value):
            continue
        if group == "runner" and option in CHANGEABLE:
            runner = config["runner"]
            if option == "n_processes" and runner.get(TARGET) == _SEQUENTIAL:
                runner[TARGET] = _PARALLEL
                runner.pop("render", None)
            runner[option] = value
        elif before is _MISSING:
            options = [f"runner.{changeable}" for changeable in CHANGEABLE]
            raise ConfigError(
                unknown_option(name, options, of="a resumed run", where="")
                if group != "runner"
                else unknown_option(option, CHANGEABLE, of="a resumed run", where="runner")
            )
        else:
            harmful.append(f"\n  {name}: {_shown(before)} -> {_shown(value)}")
    if harmful:
        raise ConfigError(
            "the run was recorded with another config, and its episodes would not be the same:"
            f"{''.join(harmful)}\nStart a run of its own with that. Resumed runs may change: "
            + ", ".join(f"runner.{option}" for option in CHANGEABLE)
        )
    return config


def _edits(path: Path, recorded: Mapping[str, Any]) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield what somebody has changed in ``config.yaml``: option, old and new value."""
    try:
        edited = json.loads(json.dumps(read_config(path), default=str))
    except (OutputError, ValueError, RecursionError):
        return  # It is written anew from the journal.
    if edited:
        yield from differences(recorded, edited)


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Yield the options that differ, with the old and the new value; ``None`` for none."""
    for key in dict.fromkeys([*before, *after]):
        old, new = before.get(key), after.get(key)
        name = f"{path}{key}"
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from differences(old, new, f"{name}.")
        elif old != new:
            yield name, (old, new)


class _Missing:
    def __repr__(self) -> str:
        return "nothing"


_MISSING = _Missing()


def _value_at(config: Mapping[str, Any], name: str) -> Any:
    """Return the value of a dotted option. Keys may have dots themselves, as wrappers do."""
    for key, value in config.items():
        if key == name:
            return value
        if name.startswith(f"{key}.") and isinstance(value, Mapping):
            found = _value_at(value, name[len(key) + 1 :])
            if found is not _MISSING:
                return found
    return _MISSING


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, str) else value
    return text if len(text) <= 100 else text[:97] + "..."
