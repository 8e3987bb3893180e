"""PettingZoo's environments, in which agents take turns, as structured environments.

PettingZoo asks whoever drives an environment to keep its books: to give agents that are out of the
game an action of ``None`` until they are gone, and to collect from a dictionary what every agent
was paid in a step. That is done here, so that a policy sees living agents only, and the usual
loop, with its files, replays and statistics, plays games as it plays everything else.

    PettingZoo                                      Maze
    agents player_0 and player_1, equal spaces      step key "player", agents 0 and 1
    an agent "speaker"                              step key "speaker", agent 0
    observation_space(agent), a plain space         {"observation": ...}
    action_space(agent), a plain space              {"action": ...}
    observation["action_mask"]                      action_masks: {"action": "action_mask"}
    rewards after a step                            their sum, and an AgentReward for each
    a round, in which each agent acts once          a structured step
    no agents are left                              terminated or truncated
"""

from __future__ import annotations

import copy
import difflib
import importlib
import importlib.util
import inspect
import pkgutil
import re
import warnings
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, NoReturn

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.env.structured_env import Action, ActorID, Observation, StepKey, StructuredEnv
from maze.core.errors import ConfigError, ContractError, MissingExtraError
from maze.core.events.event import Event, EventStatistic
from maze.core.factory import resolve
from maze.core.wrappers.wrapper import StepResult

MASK = "action_mask"
"""The key under which PettingZoo's environments give masks."""

# Its resets keep the countdown to the next zombie.
_FORGETS_TO_RESET = frozenset({"butterfly/knights_archers_zombies_v11"})


@dataclass(frozen=True)
class AgentReward(Event):
    """An agent was given a reward.

    Each agent gets one of 0 at the reset, so that its column is there in any case. Other rewards
    of 0 are no events.
    """

    agent: str
    """PettingZoo's name of the agent."""
    value: float
    """As the environment gives it: wrappers of rewards do not change it."""

    statistics: ClassVar[tuple[EventStatistic, ...]] = (
        EventStatistic("sum", sum, "value", group_by="agent"),
    )


class PettingZooEnv(StructuredEnv):
    """A PettingZoo environment; one for parallel agents is played one agent after the other.

    Agents whose names differ only in a number at their end are of one step key, the name without
    the number, provided that their spaces are equal; their agent ids are 0, 1, ... in the order of
    ``possible_agents``, whatever their numbers are, so that they are below ``agent_counts``. Any
    other agent has a step key of its own. ``agent_names`` tells who is who.

    A structured step is a round: it is complete when an agent comes up that has acted in it
    already, or when the episode ends. The reward of a sub-step is the sum of what all agents were
    given in it; what each was given is in ``AgentReward``. The episode ends when no agents are
    left: it is truncated if those that left last were truncated, all of them, else terminated.
    The last observation is that of the agent that acted last.

    A mask is declared where an agent with a plain action observes ``action_mask``, with an entry
    for each value of the action. One that is in the agent's info instead is put into the
    observation under that key; whether there is one is looked up in a first reset.

    A copy and what comes out of a pickle have to be reset before they are stepped.

    Args:
        name: of an environment that PettingZoo ships (``classic/tictactoe_v3``), the dotted path
            of a module that has ``env()`` or ``parallel_env()``, or of what makes an environment;
            or a PettingZoo environment, whose layers are left as they are.
        render_mode: with a name, one of the environment's ``metadata["render_modes"]``.
        kwargs: with a name, further arguments of the environment.
        new_each_episode: with a name, whether the environment is made anew at each reset but the
            first: for one whose ``reset`` leaves something of the episode before. ``None``: if it
            is known to be like that.

    Raises:
        ConfigError: If there is no such environment, it does not take these arguments, misses a
            package, or does not know its agents from the start.
        MissingExtraError: If PettingZoo is not installed.
        ContractError: From ``reset`` and ``step``, if it does not keep PettingZoo's interface.
    """

    aec_env: Any
    """PettingZoo's environment, without the layer that was taken off."""
    agent_names: Mapping[ActorID, str]
    """PettingZoo's name of each agent."""

    def __init__(
        self,
        name: Any,
        render_mode: str | None = None,
        kwargs: Mapping[str, Any] | None = None,
        new_each_episode: bool | None = None,
    ) -> None:
        if isinstance(name, str):
            arguments = dict(kwargs or {})
            mode = arguments.pop("render_mode", None) if render_mode is None else render_mode
            if new_each_episode is None:
                new_each_episode = _canonical(name) in _FORGETS_TO_RESET
            recipe = Recipe(name, mode, arguments, new_each_episode)
            self._set_up(recipe.make(), recipe, None)
        elif render_mode is not None or kwargs:
            raise ConfigError(
                "'render_mode' and 'kwargs' are for an environment that is made from its name."
                f" Give them to {type(name).__name__} when it is constructed, or pass the name."
            )
        elif new_each_episode:
            raise ConfigError(
                f"this {type(name).__name__} was not made from a name, so it cannot be made anew"
                " for each episode: pass the name, or the dotted path of what makes it"
            )
        else:
            self._set_up(_as_aec(name, "'name' of PettingZooEnv"), None, None)

    def _set_up(
        self, aec_env: Any, recipe: Recipe | None, info_masks: Mapping[StepKey, int] | None
    ) -> None:
        """Set all attributes; ``info_masks`` is ``None`` where it has to be found out."""
        self._recipe = recipe
        self._put_in(aec_env)
        agents = _possible_agents(aec_env)
        observed = {agent: aec_env.observation_space(agent) for agent in agents}
        acted = {agent: aec_env.action_space(agent) for agent in agents}
        self._actors = actors_of({agent: (observed[agent], acted[agent]) for agent in agents})
        self.agent_names = {actor: str(agent) for agent, actor in self._actors.items()}
        agent_counts: dict[StepKey, int] = {}
        self._spaces: dict[StepKey, spaces.Dict] = {}
        action_spaces: dict[StepKey, spaces.Dict] = {}
        for agent, (key, _) in self._actors.items():
            agent_counts[key] = agent_counts.get(key, 0) + 1
            self._spaces[key] = _as_dict(observed[agent], "observation")
            action_spaces[key] = _as_dict(acted[agent], "action")
        self.agent_counts, self.action_spaces = agent_counts, action_spaces
        self.observation_spaces = self._spaces
        self._wraps_observation = {
            agent for agent in agents if not isinstance(observed[agent], spaces.Dict)
        }
        self._wraps_action = {
            agent for agent in agents if not isinstance(acted[agent], spaces.Dict)
        }
        self.events = []
        self.metadata = aec_env.metadata
        self.render_mode = getattr(aec_env, "render_mode", None)
        self._first_actor = next(iter(self._actors.values()))
        self._forget_episode()
        self._declare_masks(info_masks)

    def _put_in(self, aec_env: Any) -> None:
        self._layered_env = aec_env
        self.aec_env = _peeled(aec_env) if self._recipe else aec_env
        self._state = _state_of(aec_env)
        self._was_reset = False

    def _declare_masks(self, info_masks: Mapping[StepKey, int] | None) -> None:
        sizes = {
            key: mask_size
            for key, space in self.action_spaces.items()
            if (mask_size := _mask_size(space)) is not None
        }
        masked = {
            key
            for key, n in sizes.items()
            if _n_entries(self.observation_spaces[key].spaces.get(MASK)) == n
        }
        if info_masks is None:
            unmasked = {key: n for key, n in sizes.items() if key not in masked}
            info_masks = unmasked if unmasked and self._has_masks_in_info(unmasked) else {}
        for key, n in info_masks.items():
            of_key = self.observation_spaces[key].spaces
            self._spaces[key] = spaces.Dict({**of_key, MASK: spaces.MultiBinary(n)})
        self._info_masks = dict(info_masks)
        self.action_masks = {
            key: {"action": MASK} for key in self.agent_counts if key in masked | info_masks.keys()
        }

    def _has_masks_in_info(self, sizes: Mapping[StepKey, int]) -> bool:
        """Return whether an agent has a mask in its info, after a first reset."""
        self._reset_inside(0, None)
        return any(
            isinstance(info, Mapping)
            and MASK in info
            and np.size(info[MASK]) == sizes.get(self._actors[agent].step_key)
            for agent, info in self._state.infos.items()
        )

    def _forget_episode(self) -> None:
        # What PettingZoo calls the agent whose turn it is; ``None`` before and after an episode.
        self._agent: Hashable | None = None
        self._last_agent: Hashable | None = None
        self._actor = self._first_actor
        self._time = 0
        # Of the structured step: who has acted, in order, and what who was given.
        self._acted: list[Hashable] = []
        self._given: dict[Hashable, float] = {}
        self._is_complete = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode; see ``StructuredEnv.reset``."""
        self._forget_episode()
        if self._was_reset and self._recipe and self._recipe.new_each_episode:
            self._layered_env.close()
            self._put_in(self._recipe.make())
        self._reset_inside(seed, options)
        state = self._state
        if state.agents and _is_dead(state, state.agent_selection):
            self._step_dead()
        if not state.agents:
            raise ContractError(f"after a reset, {_name(self.aec_env)} has no agents that act")
        self.events.extend([AgentReward(name, 0.0) for name in self.agent_names.values()])
        self._given.clear()  # What was handed out before anybody acted.
        agent = self._take_turn()
        return self._observe(agent), state.infos.get(agent, {})

    def step(self, action: Action) -> StepResult:
        """Play the action of the agent whose turn it is, and then those of dead agents."""
        agent = self._agent
        if agent is None:
            raise gym.error.ResetNeeded(
                "step() was called before reset() or after the end of an episode"
            )
        if agent in self._wraps_action:
            try:
                action = action["action"]
            except (KeyError, TypeError, IndexError):
                _raise_bad_action(action)
        if self._is_complete:
            self._acted, self._given, self._is_complete = [], {}, False
        self._acted.append(agent)
        self._last_agent = agent
        state = self._state
        self.aec_env.step(action)
        reward = self._collect_rewards()
        if state.agents and not _is_dead(state, state.agent_selection):
            following = self._take_turn()
            return self._observe(following), reward, False, False, state.infos.get(following, {})
        # Dead agents can be asked for what they see until they are gone.
        observation: Any = None
        info: dict[str, Any] = {}
        if all(_is_dead(state, each) for each in state.agents):
            observation, info = self._observe(agent), state.infos.get(agent, {})
        if not state.agents:  # It does not wait for the steps of dead agents.
            endings = state.terminations, state.truncations
            n_terminated, n_truncated = (sum(map(bool, flags.values())) for flags in endings)
        else:
            rest, n_terminated, n_truncated = self._step_dead()
            reward += rest
        if state.agents:
            following = self._take_turn()
            observation = self._observe(following)
            return observation, reward, False, False, state.infos.get(following, {})
        if observation is None:
            observation = self._observe(agent)
        self._agent = None
        self._is_complete = True
        self._time += 1
        is_truncated = n_truncated > 0 and not n_terminated
        return observation, reward, not is_truncated, is_truncated, info

    def _take_turn(self) -> Hashable:
        """Turn to the agent that comes up, and return it."""
        agent: Hashable = self._state.agent_selection
        if agent in self._acted:
            self._is_complete = True
            self._time += 1
        try:
            self._actor = self._actors[agent]
        except KeyError:
            raise ContractError(
                f"agent {agent!r} of {_name(self.aec_env)} is none of its possible_agents:"
                f" {', '.join(map(repr, self._actors))}"
            ) from None
        self._agent = agent
        return agent

    def _step_dead(self) -> tuple[float, int, int]:
        """Step dead agents until a living one comes up or none is left.

        Returns:
            The rewards handed out, and how many of the agents were terminated and how many were
            truncated and not terminated.
        """
        state, reward, n_terminated, n_truncated = self._state, 0.0, 0, 0
        while state.agents and _is_dead(state, state.agent_selection):
            agent = state.agent_selection
            if state.terminations[agent]:
                n_terminated += 1
            else:
                n_truncated += 1
            self.aec_env.step(None)
            if agent in state.agents:
                raise ContractError(
                    f"agent {agent!r} of {_name(self.aec_env)} is terminated or truncated, and is"
                    " still among its agents after a step with None: let step() call"
                    " self._was_dead_step(action) for such an agent"
                )
            reward += self._collect_rewards()
        return reward, n_terminated, n_truncated

    def _collect_rewards(self) -> float:
        """Return the sum of what the last step handed out."""
        total = 0.0
        for agent, reward in self._state.rewards.items():
            if reward:
                value = float(reward)
                total += value
                self._given[agent] = self._given.get(agent, 0.0) + value
                self.events.append(AgentReward(str(agent), value))
        return total

    def _observe(self, agent: Hashable) -> Observation:
        observation = self.aec_env.observe(agent)
        if agent in self._wraps_observation:
            observation = {"observation": observation}
        if self._info_masks and (n := self._info_masks.get(self._actors[agent].step_key)):
            mask = self._state.infos.get(agent, {}).get(MASK)
            observation = {**observation, MASK: _mask(mask, n)}
        seen: Observation = observation
        return seen

    def _reset_inside(self, seed: int | None, options: dict[str, Any] | None) -> None:
        self._was_reset = True
        try:
            self.aec_env.reset(seed=seed, options=options)
        except TypeError:
            _check_takes_seed_and_options(self.aec_env.unwrapped)
            raise

    def actor_id(self) -> ActorID:
        """Return who acts next."""
        return self._actor

    def is_actor_done(self) -> bool:
        """Return whether the agent that acted last is terminated or truncated."""
        agent, state = self._last_agent, self._state
        if agent is None:
            return False
        return agent not in state.agents or _is_dead(state, agent)

    def env_time(self) -> int:
        """Return the number of structured steps completed since the reset."""
        return self._time

    def actor_rewards(self) -> Sequence[float] | None:
        """Return what each agent that acted in the structured step was given in it.

        Returns:
            A reward for each sub-step. ``None`` if an agent was given something in a round in
            which it did not act: that belongs to what it did earlier.
        """
        if not self._is_complete or not self._given.keys() <= set(self._acted):
            return None
        return [self._given.get(agent, 0.0) for agent in self._acted]

    def render(self) -> Any:
        """Return or show a picture of the state, as the render mode says.

        Raises:
            MissingExtraError: If pygame is not installed.
        """
        try:
            return self.aec_env.render()
        except ImportError as error:
            if error.name == "pygame":
                raise MissingExtraError(f"pygame, which draws {self._shown()},", "render") from None
            raise

    def close(self) -> None:
        """Close the environment inside."""
        self._layered_env.close()

    def with_render_mode(self, render_mode: str | None) -> PettingZooEnv:
        """Return a new environment made in the same way but for the render mode.

        Args:
            render_mode: one of ``metadata["render_modes"]``; ``None`` for no rendering.

        Raises:
            ConfigError: If this one was not made from a name, or does not have that render mode.
        """
        if self._recipe is None:
            raise ConfigError(
                f"this {self._shown()} was not made from a name, so it cannot be made again with"
                f" render mode {render_mode!r}: make it with render_mode={render_mode!r}"
            )
        recipe = replace(self._recipe, render_mode=render_mode)
        return _from_made(type(self), recipe.make(), recipe, self._info_masks)

    def _shown(self) -> str:
        return f"'{self._recipe.name}'" if self._recipe else _name(self.aec_env)

    def __reduce__(self) -> tuple[Any, ...]:
        if self._recipe is None:
            return _from_made, (type(self), self._layered_env, None, self._info_masks)
        return _from_recipe, (type(self), self._recipe, self._info_masks)

    def __deepcopy__(self, memo: dict[int, Any]) -> PettingZooEnv:
        # Most of PettingZoo's environments copy themselves by their arguments: their copies are
        # not where the original is.
        made = self._recipe.make() if self._recipe else copy.deepcopy(self._layered_env, memo)
        copied = _from_made(type(self), made, self._recipe, self._info_masks)
        memo[id(self)] = copied
        memo[id(self.events)] = copied.events
        return copied


def actors_of(
    agents: Mapping[Hashable, tuple[spaces.Space[Any], spaces.Space[Any]]],
) -> dict[Hashable, ActorID]:
    """Tell which step key and which agent id PettingZoo's agents get.

    Args:
        agents: the observation and the action space of each, in the order of their ids.
    """
    by_stem: dict[str, list[Hashable]] = {}
    for agent in agents:
        by_stem.setdefault(_stem(str(agent)), []).append(agent)
    names = set(map(str, agents))
    actors: dict[Hashable, ActorID] = {}
    for agent in agents:
        stem = _stem(str(agent))
        of_stem = by_stem[stem]
        are_equal = all(agents[other] == agents[of_stem[0]] for other in of_stem)
        is_taken = stem in names and len(of_stem) > 1
        if are_equal and not is_taken:
            actors[agent] = ActorID(stem, of_stem.index(agent))
        else:
            actors[agent] = ActorID(str(agent), 0)
    return actors


def _stem(name: str) -> str:
    """Return a name without the number at its end."""
    return re.sub(r"[ _-]*\d+$", "", name) or "agent"


@dataclass(frozen=True)
class Recipe:
    """How an environment was made from its name, so that it can be made again anywhere."""

    name: str
    render_mode: str | None = None
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    new_each_episode: bool = False
    """Whether that is done for each episode."""

    def make(self) -> Any:
        """Make the environment, with all its layers."""
        arguments = dict(self.kwargs)
        if self.render_mode is not None:
            arguments["render_mode"] = self.render_mode
        with warnings.catch_warnings():
            # That there will be another way to make it one day is no news to a user of Maze.
            warnings.simplefilter("ignore", DeprecationWarning)
            maker = _maker(self.name)
            try:
                made = maker(**arguments)
            except ImportError as error:
                _raise_missing(self.name, error)
            except TypeError as error:
                if "argument" not in str(error):
                    raise  # a fault inside of the environment
                shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
                raise ConfigError(
                    f"'{self.name}' cannot be made with {shown or 'no arguments'}: {error}. Give"
                    " arguments of the environment in 'kwargs'."
                ) from error
        aec_env = _as_aec(made, f"what '{self.name}' makes")
        modes = aec_env.metadata.get("render_modes")
        if self.render_mode is not None and modes is not None and self.render_mode not in modes:
            raise ConfigError(
                f"'{self.name}' has no render mode {self.render_mode!r}. It has:"
                f" {', '.join(map(repr, modes)) or 'none'}."
            )
        return aec_env


def is_shipped(name: str) -> bool:
    """Return whether a name stands for an environment that PettingZoo itself ships."""
    try:
        return _canonical(name) in _shipped()
    except MissingExtraError:
        return False


def _from_recipe(
    env_class: type[PettingZooEnv], recipe: Recipe, info_masks: Mapping[StepKey, int]
) -> PettingZooEnv:
    return _from_made(env_class, recipe.make(), recipe, info_masks)


def _from_made(
    env_class: type[PettingZooEnv],
    aec_env: Any,
    recipe: Recipe | None,
    info_masks: Mapping[StepKey, int],
) -> PettingZooEnv:
    env = object.__new__(env_class)
    env._set_up(aec_env, recipe, info_masks)
    return env


def _canonical(name: str) -> str:
    """Return the one of a name's spellings that is in the list of PettingZoo's environments."""
    path = name.removeprefix("pettingzoo.").removeprefix("pettingzoo/").replace(".", "/")
    return re.sub(r"-v(\d+)$", r"_v\1", path)


@cache
def _shipped() -> dict[str, tuple[str, str]]:
    """Return module and function of each environment that PettingZoo ships."""
    pettingzoo = _pettingzoo()
    # Its older releases have no registry, and its later ones will have no modules with versions.
    if (registry := getattr(pettingzoo, "aec_registry", None)) is not None:
        entry_points = {
            re.sub(r"-v(\d+)$", r"_v\1", known): str(spec.entry_point)
            for known, spec in registry.items()
        }
        return {
            known: (entry_point.partition(":")[0], entry_point.partition(":")[2])
            for known, entry_point in entry_points.items()
            if entry_point.startswith("pettingzoo.")
        }
    shipped = {}
    for folder in pkgutil.iter_modules(pettingzoo.__path__):
        below = [str(Path(path) / folder.name) for path in pettingzoo.__path__]
        for module in pkgutil.iter_modules(below):
            if re.search(r"_v\d+$", module.name):
                path = f"pettingzoo.{folder.name}.{module.name}"
                shipped[f"{folder.name}/{module.name}"] = (path, "env")
    return shipped


def _pettingzoo() -> ModuleType:
    try:
        return importlib.import_module("pettingzoo")
    except ImportError as error:
        raise MissingExtraError("PettingZoo", "pettingzoo") from error


def _maker(name: str) -> Callable[..., Any]:
    """Return the function that makes the environment of a name."""
    shipped = _shipped()
    canonical = _canonical(name)
    if canonical in shipped:
        path, attribute = shipped[canonical]
        try:
            maker: Callable[..., Any] = getattr(importlib.import_module(path), attribute)
        except ImportError as error:
            _raise_missing(name, error)
        return maker
    folders = {known.partition("/")[0] for known in shipped} | {"mpe", "magent"}
    first = canonical.partition("/")[0]
    is_path = all(part.isidentifier() for part in name.split("."))
    if not is_path or first in folders or importlib.util.find_spec(first) is None:
        raise ConfigError(_unknown_name(name, canonical, shipped))
    found = resolve(name, "env.name")
    if isinstance(found, ModuleType):
        made_by = getattr(found, "env", None) or getattr(found, "parallel_env", None)
        if made_by is None:
            raise ConfigError(
                f"module '{name}' has neither env() nor parallel_env(), which would make a"
                " PettingZoo environment. Name a module that has, or the function or class itself."
            )
        found = made_by
    if not callable(found):
        raise ConfigError(f"'{name}' is {found!r}, expected what makes a PettingZoo environment")
    made_by_name: Callable[..., Any] = found
    return made_by_name


def _unknown_name(name: str, canonical: str, shipped: Mapping[str, object]) -> str:
    folder, _, rest = canonical.rpartition("/")
    moved = {"mpe": "mpe2", "magent": "magent2.environments"}
    if folder in moved and not any(known.startswith(f"{folder}/") for known in shipped):
        package = moved[folder].partition(".")[0]
        return (
            f"there is no PettingZoo environment '{name}': those of '{folder}' are in a package"
            f" of their own now. With pip install {package}, it may be '{moved[folder]}.{rest}'."
        )
    return (
        f"there is no PettingZoo environment '{name}'.{_near_names(folder, rest, shipped)} An"
        " environment of your own is named by the dotted path of a module that has env() or"
        " parallel_env()."
    )


def _near_names(folder: str, rest: str, shipped: Collection[str]) -> str:
    by_end = {known.partition("/")[2]: known for known in shipped}
    ends = [rest] if rest in by_end else difflib.get_close_matches(rest, by_end, n=3, cutoff=0.7)
    if not ends and len(rest) > 2:
        ends = [end for end in by_end if rest in end][:3]
    if ends:
        return f" Did you mean {' or '.join(repr(by_end[end]) for end in ends)}?"
    if not (of_folder := [known for known in shipped if known.startswith(f"{folder}/")]):
        folders = sorted({known.partition("/")[0] for known in shipped})
        return f" They begin with {'/, '.join(folders)}/: one of these alone lists its names."
    return f" Of '{folder}' there are: {', '.join(sorted(of_folder))}."


def _raise_missing(name: str, error: ImportError) -> NoReturn:
    if error.name == "pygame":
        raise MissingExtraError(f"pygame, which '{name}' needs,", "render") from error
    if isinstance(error, ModuleNotFoundError):
        message = f"'{name}' needs the package '{error.name}', which is not installed."
    else:
        message = f"'{name}' cannot be made: {str(error).rstrip('.')}."
    canonical = _canonical(name)
    if canonical in _shipped() and "pip install" not in message:
        message += f" Install it with: pip install 'pettingzoo[{canonical.partition('/')[0]}]'"
    raise ConfigError(message) from error


def _as_aec(env: Any, what: str) -> Any:
    """Return the environment, converted if it is one for parallel agents."""
    pettingzoo = _pettingzoo()
    if isinstance(env, pettingzoo.ParallelEnv):
        conversions = importlib.import_module("pettingzoo.utils.conversions")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it has no render mode
            return conversions.parallel_to_aec(env)
    if isinstance(env, pettingzoo.AECEnv):
        return env
    raise ConfigError(
        f"{what} has to be a PettingZoo environment (an AECEnv or a ParallelEnv), got"
        f" {type(env).__module__}.{type(env).__qualname__}"
    )


def _peeled(aec_env: Any) -> Any:
    """Take off the layer that checks the order of calls, which is kept here."""
    wrappers = importlib.import_module("pettingzoo.utils.wrappers")
    return aec_env.env if type(aec_env) is wrappers.OrderEnforcingWrapper else aec_env


def _state_of(aec_env: Any) -> Any:
    """Return the object whose attributes are the state of the agents.

    PettingZoo's wrappers hand each of them through one by one, which takes longer than a move in
    a small game.
    """
    wrappers = importlib.import_module("pettingzoo.utils.wrappers")
    see_through = {
        wrappers.OrderEnforcingWrapper,
        wrappers.AssertOutOfBoundsWrapper,
        wrappers.ClipOutOfBoundsWrapper,
        wrappers.CaptureStdoutWrapper,
        wrappers.TerminateIllegalWrapper,
    }
    while type(aec_env) in see_through:
        aec_env = aec_env.env
    return aec_env


def _possible_agents(aec_env: Any) -> list[Hashable]:
    agents = getattr(aec_env, "possible_agents", None)
    if not agents:
        raise ConfigError(
            f"{_name(aec_env)} does not say its possible_agents, got {agents!r}: an environment"
            " has to know all its agents, and their spaces, before it is reset"
        )
    return list(agents)


def _as_dict(space: spaces.Space[Any], key: str) -> spaces.Dict:
    return space if isinstance(space, spaces.Dict) else spaces.Dict({key: space})


def _mask_size(space: spaces.Dict) -> int | None:
    """Return how many entries a mask of a plain action has; ``None`` if it cannot be masked."""
    head = space.spaces.get("action")
    if isinstance(head, spaces.Discrete):
        return int(head.n)
    return int(np.sum(head.nvec)) if isinstance(head, spaces.MultiDiscrete) else None


def _n_entries(space: spaces.Space[Any] | None) -> int | None:
    return None if space is None or space.shape is None else int(np.prod(space.shape))


def _mask(mask: Any, n: int) -> NDArray[np.int8]:
    """Return a mask from an info; where there is none, all is allowed."""
    if mask is None:
        return np.ones(n, np.int8)
    return np.asarray(mask).ravel().astype(np.int8)


def _is_dead(state: Any, agent: Hashable) -> bool:
    return bool(state.terminations[agent] or state.truncations[agent])


def _name(aec_env: Any) -> str:
    return type(aec_env.unwrapped).__name__


def _raise_bad_action(action: object) -> NoReturn:
    found = f"keys {list(action)}" if isinstance(action, Mapping) else type(action).__name__
    raise ContractError(
        f"an action for this environment has to be a dictionary {{'action': ...}}, got {found}."
    ) from None


def _check_takes_seed_and_options(env: Any) -> None:
    """Raise if that is why a reset failed."""
    try:
        inspect.signature(env.reset).bind(seed=None, options=None)
    except TypeError as error:
        raise ContractError(
            f"reset() of {type(env).__name__} has to take the keywords 'seed' and 'options', as in"
            f" reset(self, seed=None, options=None): {error}."
        ) from None
