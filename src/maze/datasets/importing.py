"""Recordings of other libraries' datasets: Minari, D4RL-style HDF5, imitation, Stable-Baselines3.

Each reader yields episodes as arrays, one at a time; they are written like any other recording.
What a format does not know (seeds, how an episode was cut off, the last observation) is said in the
dataset card, and not made up.
"""

from __future__ import annotations

import importlib
import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.episode import Ending, Episode, EpisodePart, EpisodeSpec, HandedOver, PartID
from maze.core.errors import ConfigError, MissingExtraError, OutputError, SpaceError
from maze.core.rollout.job import EnvRecipe, EnvSource
from maze.core.rollout.play import episode_id
from maze.core.rollout.result import RolloutResult
from maze.core.rollout.rollout_runner import as_plain
from maze.core.trajectory.columns import Leaf, LeafColumn, StepColumns, leaves, part_steps, to_plain
from maze.datasets.recorded import RecordedSpaces
from maze.datasets.writer import Origin, Written, write_recording

FORMATS = ("minari", "d4rl", "imitation", "sb3")
_MAX_SEED = 2**32
_OVERWRITTEN = (
    "what was overwritten in the buffer is missing, so that the first episode of each environment"
    " may lack its beginning and the last one its end"
)


@dataclass(frozen=True)
class ForeignEpisode:
    """An episode as another library has it."""

    observations: Any
    """In the nesting of the space; of each leaf T + 1 values, T if the last one is not known."""
    actions: Any
    """Of each leaf, T values."""
    rewards: NDArray[np.float64]
    """Shape (T,)."""
    ending: Ending
    name: str
    """What it is called there."""
    seed: int | None = None


@dataclass(frozen=True)
class Foreign:
    """A dataset of another library, opened."""

    name: str
    n_episodes: int
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    episodes: Callable[[], Iterator[ForeignEpisode]]
    """Reads them, one after the other."""
    env: str | None = None
    """The Gymnasium id of the environment, if it is known."""
    policy: str = "unknown"
    notes: Sequence[str] = ()
    """What the format does not know."""
    about: Mapping[str, Any] = field(default_factory=dict)


def import_dataset(
    source: Any,
    output_dir: str | Path,
    format: str,
    *,
    env: EnvSource | None = None,
    trust: bool = False,
    command: str = "",
) -> RolloutResult:
    """Write another library's dataset as a recording.

        import_dataset("mujoco/pusher/expert-v0", "pusher", "minari")
        import_dataset("hopper.hdf5", "hopper", "d4rl", env="Hopper-v5")
        import_dataset(model.replay_buffer, "replayed", "sb3", env="Pendulum-v1")

    Args:
        source: for ``minari``, the id of a local dataset, the path of its folder, or a
            ``MinariDataset``; for ``d4rl``, an HDF5 file; for ``imitation``, what its
            ``serialize.save`` has written; for ``sb3``, a replay or rollout buffer, or the
            ``.pkl`` that ``save_replay_buffer`` has written.
        output_dir: which holds no recording yet.
        format: one of ``minari``, ``d4rl``, ``imitation``, ``sb3``.
        env: whose spaces the data has. ``None``: they are taken from the dataset where it has them,
            and else made of the data.
        trust: whether a ``.pkl`` may be unpickled, which can run any code.
        command: what was typed.

    Raises:
        ConfigError: If the format is unknown, or the data does not fit the spaces.
        OutputError: If the source cannot be read.
        MissingExtraError: If the library that reads it is not installed.
    """
    readers: Mapping[str, Callable[[], Foreign]] = {
        "minari": lambda: open_minari(source),
        "d4rl": lambda: open_d4rl(source),
        "imitation": lambda: open_imitation(source),
        "sb3": lambda: open_sb3(source, trust),
    }
    if format not in readers:
        raise ConfigError(f"'{format}' cannot be imported: choose one of {', '.join(FORMATS)}")
    foreign = readers[format]()
    observation_space, action_space = foreign.observation_space, foreign.action_space
    named: Any = foreign.env
    if env is not None:
        built = EnvRecipe(env).build()
        try:
            if not built.is_flat:
                raise ConfigError("'env' has several actors, of which these formats know nothing")
            observation_space = _inside(built.observation_space, "observation")
            action_space = _inside(built.action_space, "action")
        finally:
            built.close()
        named = as_plain(env)
    observed, acted = _as_dict(observation_space, "observation"), _as_dict(action_space, "action")
    recorded = RecordedSpaces({0: observed}, {0: acted}, is_flat=True)
    steps = part_steps(recorded.observation_spaces, recorded.action_spaces)
    names = [leaves(observed, "observation"), leaves(acted, "action")]
    seeds: list[tuple[int, int]] = []
    origins: list[Origin] = []
    for index, episode in enumerate(foreign.episodes()):
        seed = index if episode.seed is None else episode.seed
        seeds.append((seed % _MAX_SEED, index))
        origins.append(Origin(0, episode.name))

    def written(specs: Sequence[EpisodeSpec]) -> Iterator[Written]:
        for episode, spec in zip(foreign.episodes(), specs, strict=True):
            columns = _columns(episode, names, observation_space, action_space)
            for played in pieces(spec, columns, episode.rewards, episode.ending, steps):
                yield Written(played)

    config: dict[str, Any] = {
        "runner": {
            "_target_": "maze.core.rollout.sequential_rollout_runner.SequentialRolloutRunner",
            "n_episodes": len(seeds),
            "max_episode_steps": 0,
        },
        "env": named if named is not None else f"<{foreign.name}>",
        "policy": f"<{foreign.policy}>",
        "wrappers": {},
        "dataset": {
            "operation": f"import from {format}",
            **({"notes": list(foreign.notes)} if foreign.notes else {}),
            **foreign.about,
            "sources": [{"name": foreign.name, "n_episodes": len(seeds)}],
        },
    }
    return write_recording(
        output_dir, recorded, config, seeds, written, origins=origins, checks=True, command=command
    )


def pieces(
    spec: EpisodeSpec,
    columns: StepColumns,
    rewards: NDArray[np.float64],
    ending: Ending,
    part_steps: int,
) -> Iterator[EpisodePart | Episode]:
    """Return an episode of one actor in the parts in which it would have been played."""
    n = len(rewards)
    handed_over: HandedOver | None = None
    rest = columns
    done = 0
    while n - done > part_steps:
        if handed_over is None:
            handed_over = HandedOver(1)
        part = EpisodePart(
            spec=spec,
            episode_id=episode_id(spec),
            part_id=PartID(spec.index, handed_over.token, handed_over.n_parts),
            first_step=done,
            first_time=done,
            n_steps=done + part_steps,
            rewards=rewards[done : done + part_steps],
            env_times=None,
            columns={0: rest.first(part_steps, part_steps)},
            events=(),
        )
        handed_over.add(part, 0)
        yield part
        rest = rest.after(part_steps, part_steps)
        done += part_steps
    yield Episode(
        spec=spec,
        episode_id=episode_id(spec),
        ending=ending,
        truncated_by="env" if ending == "truncated" else "",
        rewards=rewards[done:],
        env_times=None,
        n_steps=n,
        columns={0: rest},
        events=(),
        statistics={},
        zero_statistics=frozenset(),
        episode_return=math.fsum(rewards),
        seconds=0.0,
        part_end=done + part_steps,
        handed_over=handed_over,
    )


def _as_dict(space: spaces.Space[Any], name: str) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({name: space})


def _inside(space: spaces.Dict, name: str) -> spaces.Space[Any]:
    """Return the space without the dictionary that Maze puts around a plain one."""
    return space[name] if list(space.spaces) == [name] else space


def _columns(
    episode: ForeignEpisode,
    names: Sequence[Sequence[Leaf]],
    observation_space: spaces.Space[Any],
    action_space: spaces.Space[Any],
) -> StepColumns:
    n = len(episode.rewards)
    found: list[tuple[LeafColumn, ...]] = []
    for of_role, values, space in zip(
        names,
        (episode.observations, episode.actions),
        (observation_space, action_space),
        strict=True,
    ):
        is_wrapped = not isinstance(space, spaces.Dict)
        found.append(tuple(_column(leaf, values, is_wrapped, episode.name) for leaf in of_role))
    observed, acted = found
    for columns, allowed in ((observed, (n, n + 1)), (acted, (n,))):
        for column in columns:
            if column.n not in allowed:
                raise OutputError(
                    f"{column.leaf.name} has {column.n} values in episode {episode.name}, which has"
                    f" {n} rewards"
                )
    return StepColumns(observed, acted, observed[0].n, acted[0].n)


def _column(leaf: Leaf, values: Any, is_wrapped: bool, name: str) -> LeafColumn:
    for part in leaf.path[1:] if is_wrapped else leaf.path:
        values = values[part]
    if leaf.dtype is None:
        plain = tuple(to_plain(leaf.space, value) for value in values)
        return LeafColumn(leaf, len(plain), b"", plain)
    array = np.asarray(values)
    if array.shape[1:] != leaf.shape and array.size == len(array) * int(np.prod(leaf.shape)):
        array = array.reshape(len(array), *leaf.shape)
    if array.shape[1:] != leaf.shape:
        raise SpaceError(
            f"{leaf.name} has shape {array.shape[1:]} in episode {name}, and {leaf.shape} in the"
            f" space {leaf.space}: name the environment that it comes from with env"
        )
    cast = np.ascontiguousarray(array, dtype=leaf.dtype)
    is_lossy = leaf.dtype.kind in "iub" and not np.array_equal(cast, array)
    if is_lossy:
        raise SpaceError(
            f"{leaf.name} is {array.dtype} in episode {name}, and its values do not fit"
            f" {leaf.dtype} of the space {leaf.space}"
        )
    return LeafColumn(leaf, len(cast), cast.tobytes())


# Minari.


def open_minari(source: Any) -> Foreign:
    """Open a dataset of Minari: by its id, by the path of its folder, or as it is."""
    minari = _library("minari", "minari")
    dataset = source
    if isinstance(source, str | Path):
        path = Path(source)
        try:
            if path.is_dir():
                data = path / "data" if (path / "data").is_dir() else path
                dataset = minari.MinariDataset(data)
            else:
                dataset = minari.load_dataset(str(source))
        except Exception as error:
            raise OutputError(
                f"'{source}' cannot be read as a dataset of Minari: {type(error).__name__}:"
                f" {error}. Local ones are listed by `minari list local`; MINARI_DATASETS_PATH says"
                " where they are"
            ) from error
    env = getattr(dataset, "env_spec", None)
    metadata = dataset.storage.metadata

    def episodes() -> Iterator[ForeignEpisode]:
        for episode in dataset.iterate_episodes():
            terminated = bool(np.asarray(episode.terminations)[-1])
            seed = _seed_of(dataset, episode)
            yield ForeignEpisode(
                episode.observations,
                episode.actions,
                np.asarray(episode.rewards, np.float64),
                "terminated" if terminated else "truncated",
                str(episode.id),
                seed,
            )

    return Foreign(
        name=str(metadata.get("dataset_id", source)),
        n_episodes=int(dataset.total_episodes),
        observation_space=dataset.observation_space,
        action_space=dataset.action_space,
        episodes=episodes,
        env=None if env is None else env.id,
        policy=str(metadata.get("algorithm_name") or "unknown"),
    )


def _seed_of(dataset: Any, episode: Any) -> int | None:
    try:
        (metadata,) = dataset.storage.get_episode_metadata([episode.id])
        seed = metadata.get("seed")
        return None if seed is None else int(seed)
    except (ValueError, TypeError, KeyError):
        return None


# D4RL.


def open_d4rl(source: Any) -> Foreign:
    """Open an HDF5 file in the form of D4RL: flat arrays over all steps."""
    h5py = _library("h5py", "minari")
    path = Path(source)
    try:
        with h5py.File(path, "r") as file:
            present = set(file)
            missing = {"observations", "actions", "rewards", "terminals"} - present
            if missing:
                raise OutputError(
                    f"'{path}' lacks {', '.join(sorted(missing))}: a file in the form of D4RL has"
                    " observations, actions, rewards, terminals, and mostly timeouts and"
                    f" next_observations. It has {', '.join(sorted(present))}"
                )
            rewards = np.asarray(file["rewards"], np.float64).ravel()
            terminals = np.asarray(file["terminals"]).astype(bool).ravel()
            timeouts = (
                np.asarray(file["timeouts"]).astype(bool).ravel()
                if "timeouts" in present
                else np.zeros(len(rewards), bool)
            )
            observed, acted = file["observations"], file["actions"]
            observation_space = _made_space(observed)
            action_space = _made_space(acted, is_action=True)
    except OSError as error:
        raise OutputError(f"'{path}' cannot be read as HDF5: {error}") from error
    ends = np.flatnonzero(terminals | timeouts) + 1
    bounds = [0, *ends.tolist()]
    if bounds[-1] != len(rewards):
        bounds.append(len(rewards))
    has_next = "next_observations" in present

    def episodes() -> Iterator[ForeignEpisode]:
        with h5py.File(path, "r") as file:
            for number, (low, high) in enumerate(itertools.pairwise(bounds)):
                observations = file["observations"][low:high]
                if has_next:
                    last = file["next_observations"][high - 1 : high]
                    observations = np.concatenate([observations, last])
                yield ForeignEpisode(
                    observations,
                    _squeezed(file["actions"][low:high]),
                    rewards[low:high],
                    "terminated" if terminals[high - 1] else "truncated",
                    str(number),
                )

    return Foreign(
        name=path.name,
        n_episodes=len(bounds) - 1,
        observation_space=observation_space,
        action_space=action_space,
        episodes=episodes,
        notes=[
            "the seeds of the episodes are not known",
            *(
                []
                if has_next
                else ["there are no next_observations: the last one of each episode is missing"]
            ),
            *(
                []
                if "timeouts" in present
                else ["there are no timeouts: episodes end where they terminate"]
            ),
        ],
    )


# imitation.


def open_imitation(source: Any) -> Foreign:
    """Open trajectories that ``imitation.data.serialize.save`` has written, or a list of them."""
    name = str(source) if isinstance(source, str | Path) else "trajectories"
    trajectories: Sequence[Any]
    if isinstance(source, str | Path):
        datasets = _library("datasets", "hf")
        try:
            # Its infos are pickled Python objects: they are not looked at.
            table = datasets.load_from_disk(str(source)).select_columns(
                ["obs", "acts", "terminal", "rews"]
            )
        except Exception as error:
            raise OutputError(
                f"'{source}' cannot be read as trajectories of imitation: {type(error).__name__}:"
                f" {error}. Expected what imitation.data.serialize.save has written, with rewards"
            ) from error
        trajectories = _Rows(table.with_format("numpy"))
        name = Path(source).name
    else:
        trajectories = [
            {"obs": one.obs, "acts": one.acts, "terminal": one.terminal, "rews": one.rews}
            for one in source
        ]
    if not len(trajectories):
        raise OutputError(f"there are no trajectories in '{name}'")
    first = trajectories[0]

    def episodes() -> Iterator[ForeignEpisode]:
        for number in range(len(trajectories)):
            one = trajectories[number]
            yield ForeignEpisode(
                _plain_array(one["obs"]),
                _squeezed(_plain_array(one["acts"])),
                np.asarray(one["rews"], np.float64),
                "terminated" if bool(one["terminal"]) else "truncated",
                str(number),
            )

    return Foreign(
        name=name,
        n_episodes=len(trajectories),
        observation_space=_made_space(_plain_array(first["obs"])),
        action_space=_made_space(
            np.concatenate([one.actions for one in episodes()]), is_action=True
        ),
        episodes=episodes,
        notes=[
            "the seeds of the episodes are not known",
            "an episode counts as truncated where imitation does not call it terminal",
        ],
    )


class _Rows(Sequence[Any]):
    def __init__(self, table: Any) -> None:
        self._table = table

    def __len__(self) -> int:
        return len(self._table)

    def __getitem__(self, index: Any) -> Any:
        return self._table[int(index)]


# Stable-Baselines3.


def open_sb3(source: Any, trust: bool = False) -> Foreign:
    """Open a buffer of Stable-Baselines3, or a file of ``save_replay_buffer``."""
    name = "buffer"
    if isinstance(source, str | Path):
        if not trust:
            raise ConfigError(
                f"'{source}' is a pickle, which can run any code when it is loaded. If you trust"
                " whoever made it, agree with --trust (in Python: trust=True)"
            )
        _library("stable_baselines3", "sb3")
        from stable_baselines3.common.save_util import load_from_pkl

        name = Path(source).name
        try:
            source = load_from_pkl(str(source))
        except Exception as error:
            raise OutputError(
                f"'{name}' cannot be read as a replay buffer: {type(error).__name__}: {error}"
            ) from error
    if not hasattr(source, "observations") or isinstance(source.observations, Mapping):
        raise ConfigError(
            f"{type(source).__name__} is no buffer of arrays: a ReplayBuffer or a RolloutBuffer of"
            " Stable-Baselines3 is expected, of an environment without dictionaries"
        )
    flows = _sb3_flows(source)

    def episodes() -> Iterator[ForeignEpisode]:
        number = 0
        for flow in flows:
            bounds = [0, *(np.flatnonzero(flow["ends"]) + 1).tolist()]
            if bounds[-1] != len(flow["rewards"]):
                bounds.append(len(flow["rewards"]))
            for low, high in itertools.pairwise(bounds):
                observations = flow["observations"][low:high]
                if flow["next"] is not None:
                    observations = np.concatenate([observations, flow["next"][high - 1 : high]])
                yield ForeignEpisode(
                    observations,
                    flow["actions"][low:high],
                    flow["rewards"][low:high].astype(np.float64),
                    "terminated" if flow["terminated"][high - 1] else "truncated",
                    str(number),
                )
                number += 1

    has_next = flows[0]["next"] is not None
    return Foreign(
        name=name,
        n_episodes=sum(1 for _ in episodes()),
        observation_space=source.observation_space,
        action_space=source.action_space,
        episodes=episodes,
        notes=[
            "the seeds of the episodes are not known",
            _OVERWRITTEN,
            *([] if has_next else ["a rollout buffer does not keep the last observation"]),
        ],
    )


def _sb3_flows(buffer: Any) -> list[dict[str, Any]]:
    """Return what each environment of a buffer gave, in the order of time."""
    n = buffer.buffer_size if getattr(buffer, "full", False) else buffer.pos
    order = np.arange(n)
    if hasattr(buffer, "dones") and buffer.full:
        order = np.roll(order, -buffer.pos)
    if not n:
        raise OutputError("the buffer is empty")
    flows: list[dict[str, Any]] = []
    is_replay = hasattr(buffer, "dones")
    observations = np.asarray(buffer.observations)
    if not is_replay and buffer.generator_ready:
        raise ConfigError(
            "the rollout buffer was sampled from already, by which it mixes its environments: take"
            " it before model.train() (in a callback's on_rollout_end)"
        )
    for i in range(buffer.n_envs):
        actions = np.asarray(buffer.actions)[order, i]
        if isinstance(buffer.action_space, spaces.Discrete):
            actions = actions.reshape(len(actions)).astype(np.int64)
        elif isinstance(buffer.action_space, spaces.Box):
            actions = actions.reshape(len(actions), *buffer.action_space.shape)
        following = None
        if is_replay:
            done = np.asarray(buffer.dones)[order, i].astype(bool)
            cut = np.asarray(getattr(buffer, "timeouts", np.zeros_like(buffer.dones)))[order, i]
            terminated = done & ~cut.astype(bool)
            if buffer.optimize_memory_usage:
                following = None
            else:
                following = np.asarray(buffer.next_observations)[order, i]
        else:
            starts = np.asarray(buffer.episode_starts)[order, i].astype(bool)
            done = np.append(starts[1:], False)
            # It does not tell a limit from a failure.
            terminated = done
        flows.append(
            {
                "observations": observations[order, i],
                "actions": actions,
                "rewards": np.asarray(buffer.rewards)[order, i],
                "ends": done,
                "terminated": terminated,
                "next": following,
            }
        )
    return flows


def _made_space(values: Any, is_action: bool = False) -> spaces.Space[Any]:
    """Make a space of values, where nobody says which one it was."""
    shape = tuple(values.shape[1:])
    dtype = np.dtype(values.dtype)
    if is_action and dtype.kind in "iu" and int(np.prod(shape)) == 1:
        return spaces.Discrete(int(np.asarray(values).max()) + 1)
    if dtype == np.uint8:
        return spaces.Box(0, 255, shape, np.uint8)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return spaces.Box(limits.min, limits.max, shape, dtype.type)
    return spaces.Box(-np.inf, np.inf, shape, dtype.type)


def _squeezed(actions: NDArray[Any]) -> NDArray[Any]:
    """Return whole numbers in a column as a plain row of them."""
    if actions.dtype.kind in "iu" and actions.ndim == 2 and actions.shape[1] == 1:
        return actions[:, 0]
    return actions


def _plain_array(values: Any) -> NDArray[Any]:
    array = np.asarray(values)
    return np.stack(list(array)) if array.dtype == object else array


def _library(name: str, extra: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError:
        raise MissingExtraError(name, extra) from None
