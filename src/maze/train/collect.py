"""Collects segments of experience: the second driver over the one episode loop.

Lanes are played side by side, as in a rollout, and an episode goes on where the last segment was
cut. What is collected is a *chain* of decisions: each has a row of what was observed and chosen,
its reward, and the decision that came after it. From these, trainers compute advantages or
transitions, for plain environments as for sub-steps and several agents.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.random import SeedSequence
from numpy.typing import NDArray

from maze.core.env.structured_env import Action, ActorID, Observation, StructuredEnv
from maze.core.episode import Episode, EpisodeSpec
from maze.core.errors import ConfigError, RunStoppedError
from maze.core.rollout.play import Lane, PlayOptions
from maze.core.seeding import SEED_BITS
from maze.core.wrappers.wrapper import StepResult, Wrapper
from maze.train.models.model import env_actions
from maze.train.observations import Arrays
from maze.train.teacher import TeacherWrapper, teacher_in
from maze.train.torch_policy import Noise, TorchPolicy

Credit: TypeAlias = Literal["auto", "joint", "agents"]
"""Whose decisions make a chain. ``joint``: all of them, and each is followed by the next one,
whoever makes it. ``agents``: those of each agent, with rewards of its own. ``auto``: ``agents``
where a step key has several agents."""

TeacherRole: TypeAlias = Literal["labels", "plays"]
"""What a teacher does beside the policy: says what it would do, or also does it."""

GOES_ON, TERMINATED, CUT = range(3)
"""What follows a decision: the next one of its chain, nothing, or nothing that is known."""

_TRAINING_STREAM = 17


@dataclass(frozen=True)
class Rows:
    """What was observed and decided by one network."""

    observations: Arrays
    """By entry, shape (n, ...)."""
    codes: Mapping[str, NDArray[Any]]
    """By head of the action, shape (n, n_code); zeros where nothing was decided."""
    labels: Mapping[str, NDArray[Any]] | None = None
    """The codes of what a teacher would have done, if there was one."""
    is_labelled: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    """Whether there is a label; shape (n,), if there was a teacher."""


@dataclass(frozen=True)
class Segment:
    """Consecutive decisions of some lanes. The arrays below have an entry for each decision.

    Chains are one after the other; each ends with a decision that is not ``GOES_ON``.
    """

    rows: Mapping[str, Rows]
    """By name of the network."""
    networks: Sequence[str]
    """Names, in the order of ``network``."""
    network: NDArray[np.int64]
    """Whose decision it is."""
    row: NDArray[np.int64]
    """Where it is among those of its network."""
    reward: NDArray[np.float64]
    """That followed it; 0 for those that are ``CUT``."""
    time: NDArray[np.int64]
    """Structured steps from the start of its episode."""
    follows: NDArray[np.int64]
    """``GOES_ON``, ``TERMINATED`` or ``CUT``. A decision that is cut has not been taken, or its
    outcome is not known: it serves for its value alone."""
    first_network: NDArray[np.int64]
    """Whose was the first decision of the same structured step."""
    first_row: NDArray[np.int64]
    """And where it is."""
    n_steps: int
    """Structured steps in it, over all lanes."""
    episodes: Sequence[PlayedEpisode]
    """That ended in it."""


@dataclass(frozen=True)
class PlayedEpisode:
    """What is told of an episode that ended while collecting."""

    episode_return: float
    n_steps: int
    ending: str
    statistics: Mapping[str, float]
    error: str = ""


@dataclass
class LaneState:
    """Where a lane is, so that it can be brought there again: played from its seeds."""

    n_begun: int
    """Episodes that were begun in it."""
    networks: list[int] = field(default_factory=list)
    """Of the decisions of the current episode, whose each was."""
    codes: list[tuple[Mapping[str, NDArray[Any]], int]] = field(default_factory=list)
    """And what was decided: codes by head, and in which of their rows."""


class _StepTap(Wrapper):
    """Keeps what the last step returned: the loop tells it only when the episode has ended."""

    last: StepResult

    def step(self, action: Action) -> StepResult:
        self.last = result = self._inner_step(action)
        return result


class _CollectingLane:
    """A lane in which episode after episode is played, and what is collected in it."""

    def __init__(
        self, index: int, build_env: Callable[[], StructuredEnv], options: PlayOptions, seed: int
    ) -> None:
        self.index = index
        self.lane = Lane(lambda: self._open(build_env), options, shares_process=True)
        self._seed = seed
        self.state = LaneState(0)
        self.observation: Observation = {}
        self.memory: Noise
        self.turns: Generator[Observation | None, Action, Episode | None]
        self.tap: _StepTap
        self.is_flat = True
        self.teacher: TeacherWrapper | None = None
        self.n_collected = 0
        self.chains: dict[Any, list[list[Any]]] = {}
        """By actor, or by ``None`` for all: entries of chains, see ``_Entry``."""
        self.in_step: list[list[Any]] = []
        """Those of the structured step that is not complete yet."""
        self.time = 0

    def _open(self, build_env: Callable[[], StructuredEnv]) -> StructuredEnv:
        self.tap = _StepTap(build_env())
        self.teacher = None
        self.is_flat = self.tap.is_flat
        return self.tap

    def label(self) -> Action:
        """Return what the teacher would do now."""
        if self.teacher is None:
            self.teacher = teacher_in(self.tap)
        return self.teacher.teacher_action()

    def spec(self) -> EpisodeSpec:
        """Return the next episode. Its seeds depend on the lane and its number there alone."""
        number = self.state.n_begun
        sequence = SeedSequence(self._seed, spawn_key=(_TRAINING_STREAM, self.index, number))
        env_seed, agent_seed = (sequence.generate_state(2) >> (32 - SEED_BITS)).tolist()
        self.state = LaneState(number + 1)
        return EpisodeSpec(number, env_seed, agent_seed)


# An entry of a chain: network, row, reward, time, follows, first network, first row.
_NETWORK, _ROW, _REWARD, _TIME, _FOLLOWS, _FIRST_NETWORK, _FIRST_ROW = range(7)


class Collector:
    """Lanes of one process.

    Args:
        build_env: makes an environment with its wrappers.
        policy: decides.
        lanes: indices of the lanes; those of all processes together are 0, 1, ...
        seed: from which those of all episodes are derived.
        options: limits of an episode.
        credit: see ``Credit``.
        max_failures: episodes that may fail before the training ends.
    """

    def __init__(
        self,
        build_env: Callable[[], StructuredEnv],
        policy: TorchPolicy,
        lanes: Sequence[int],
        seed: int,
        options: PlayOptions,
        credit: Credit = "auto",
        max_failures: int = 10,
    ) -> None:
        self.policy = policy
        self._networks = list(policy.model.networks)
        self._numbers = {name: number for number, name in enumerate(self._networks)}
        self._lanes = [_CollectingLane(index, build_env, options, seed) for index in lanes]
        self._credit = credit
        self._max_failures = max_failures
        self._n_failed = 0
        self._played: list[PlayedEpisode] = []
        self._has_begun = False

    def close(self) -> None:
        """Close the environments."""
        for lane in self._lanes:
            lane.lane.close()

    def states(self) -> list[LaneState]:
        """Return where the lanes are."""
        return [lane.state for lane in self._lanes]

    def restore(self, states: Sequence[LaneState]) -> None:
        """Bring the lanes to where they were: play their episodes again, from their decisions."""
        self._has_begun = True
        for lane, state in zip(self._lanes, states, strict=True):
            lane.state = LaneState(state.n_begun - 1)
            self._begin(lane)
            for number, (codes, row) in zip(state.networks, state.codes, strict=True):
                lane.memory.next()
                if self._step(lane, self._action_of(number, codes, row)) is not None:
                    raise RunStoppedError(
                        "an episode of the training ended earlier when it was played again: the"
                        " environment is not deterministic, so that the training cannot go on"
                        " where it was. Start a new one from its weights with input_dir=..."
                    )
            lane.state = LaneState(state.n_begun, list(state.networks), list(state.codes))

    def collect(self, n_steps: int, teacher: TeacherRole | None = None) -> Segment:
        """Play so many structured steps in each lane, across ends of episodes.

        Args:
            n_steps: in each lane.
            teacher: what the teacher does that is in the environments; ``None``: nothing.

        Raises:
            RunStoppedError: If more episodes fail than may.
        """
        lanes = self._lanes
        if not self._has_begun:
            self._has_begun = True
            for lane in lanes:
                self._begin(lane)
        by_agent = self._by_agent()
        buffers = _Buffers(self._networks)
        for lane in lanes:
            lane.n_collected = 0
        active = list(lanes)
        while active:
            actions, decisions = self.policy.decide(
                [lane.observation for lane in active],
                [lane.lane.actor for lane in active],
                [lane.memory for lane in active],
                False,
            )
            for decision in decisions:
                number = self._numbers[decision.network]
                labels = None
                if teacher is not None:
                    labels = self._labels(decision.network, [active[i] for i in decision.who])
                    if teacher == "plays":
                        decision = decision._replace(codes=labels)
                        network = self.policy.model.networks[decision.network]
                        taken = env_actions(network, labels)
                        for i, who in enumerate(decision.who):
                            actions[who] = taken[i]
                row = buffers.add(decision.network, decision.observations, decision.codes, labels)
                for i, who in enumerate(decision.who):
                    lane = active[who]
                    entry = [number, row + i, 0.0, lane.time, GOES_ON, number, row + i]
                    if lane.in_step:
                        first = lane.in_step[0]
                        entry[_FIRST_NETWORK], entry[_FIRST_ROW] = first[_NETWORK], first[_ROW]
                    lane.in_step.append(entry)
                    chain = lane.lane.actor if by_agent else None
                    lane.chains.setdefault(chain, []).append(entry)
                    lane.state.networks.append(number)
                    lane.state.codes.append((decision.codes, i))
            for lane, action in zip(active, actions, strict=True):
                self._advance(lane, action, by_agent, buffers)
            if any(lane.n_collected >= n_steps for lane in active):
                active = [lane for lane in active if lane.n_collected < n_steps]
        self._cut(by_agent, buffers)
        return self._segment(buffers, n_steps * len(lanes))

    def _labels(self, name: str, lanes: Sequence[_CollectingLane]) -> dict[str, NDArray[Any]]:
        """Return the codes of what the teacher would do, by head."""
        actions = [lane.label() for lane in lanes]
        return {
            head.name: head.distribution.from_env(
                np.array([action[head.name] for action in actions])
            )
            for head in self.policy.model.networks[name].heads
        }

    def _by_agent(self) -> bool:
        if self._credit != "auto":
            return self._credit == "agents"
        return any(n != 1 for n in self.policy.model.specs.agent_counts.values())

    def _begin(self, lane: _CollectingLane) -> None:
        """Start the next episode that can be started."""
        while True:
            spec = lane.spec()
            lane.turns = lane.lane.play(spec)
            lane.memory = self.policy.start_episode(spec.agent_seed)
            lane.time = 0
            lane.in_step = []
            try:
                observation = next(lane.turns)
                assert observation is not None, "a part comes before the episode has begun"
                lane.observation = observation
                return
            except StopIteration as end:
                self._count(end.value)

    def _step(self, lane: _CollectingLane, action: Action) -> Episode | None:
        """Play an action; return the episode if it has ended."""
        turns = lane.turns
        try:
            observation = turns.send(action)
            if observation is None:  # A part of a long episode, which nobody wants here.
                observation = next(turns)
            assert observation is not None
        except StopIteration as end:
            episode: Episode = end.value
            return episode
        lane.observation = observation
        lane.time = lane.time + 1 if lane.is_flat else lane.tap.env_time()
        return None

    def _advance(
        self, lane: _CollectingLane, action: Action, by_agent: bool, buffers: _Buffers
    ) -> None:
        time = lane.time
        episode = self._step(lane, action)
        if episode is None:
            lane.in_step[-1][_REWARD] = float(lane.tap.last[1])
            if lane.time != time:
                self._complete(lane, by_agent)
                lane.n_collected += 1
            return
        self._count(episode)
        lane.n_collected += 1
        if episode.failure is not None:
            # What it decided last had no outcome.
            for entries in lane.chains.values():
                if entries and entries[-1][_FOLLOWS] == GOES_ON:
                    entries[-1][_FOLLOWS] = CUT
        else:
            lane.in_step[-1][_REWARD] = float(lane.tap.last[1])
            self._complete(lane, by_agent)
            has_terminated = episode.ending == "terminated"
            if not (has_terminated or by_agent):
                self._add_last(lane, lane.tap.last[0], lane.tap.actor_id(), time + 1, buffers)
            for entries in lane.chains.values():
                if entries and entries[-1][_FOLLOWS] == GOES_ON:
                    # Of an agent that was cut off, nobody knows what it would have seen next.
                    entries[-1][_FOLLOWS] = TERMINATED if has_terminated else CUT
        self._begin(lane)

    def _complete(self, lane: _CollectingLane, by_agent: bool) -> None:
        """Share the reward of a structured step, if agents have their own."""
        if by_agent:
            rewards = lane.tap.actor_rewards()
            if rewards is not None and len(rewards) == len(lane.in_step):
                for entry, reward in zip(lane.in_step, rewards, strict=True):
                    entry[_REWARD] = float(reward)
        lane.in_step = []

    def _add_last(
        self,
        lane: _CollectingLane,
        observation: Observation,
        actor: ActorID,
        time: int,
        buffers: _Buffers,
    ) -> None:
        """Add a decision that is not taken, for its value."""
        name = self.policy.model.network_of(actor)
        network = self.policy.model.networks[name]
        codes = {
            head.name: np.zeros((1, head.distribution.n_code), head.distribution.code_dtype)
            for head in network.heads
        }
        row = buffers.add(name, network.encoder.stack([observation]), codes)
        number = self._numbers[name]
        lane.chains.setdefault(None, []).append([number, row, 0.0, time, CUT, number, row])

    def _cut(self, by_agent: bool, buffers: _Buffers) -> None:
        """End all chains here. Episodes go on in the next segment."""
        for lane in self._lanes:
            if not by_agent:
                entries = lane.chains.get(None)
                if entries and entries[-1][_FOLLOWS] == GOES_ON:
                    self._add_last(lane, lane.observation, lane.lane.actor, lane.time, buffers)
                continue
            for entries in lane.chains.values():
                if entries and entries[-1][_FOLLOWS] == GOES_ON:
                    entries[-1][_FOLLOWS] = CUT

    def _segment(self, buffers: _Buffers, n_steps: int) -> Segment:
        entries: list[list[Any]] = []
        for lane in self._lanes:
            for chain in lane.chains.values():
                entries += chain
            lane.chains = {}
            lane.in_step = []
        columns = list(zip(*entries, strict=True))
        played, self._played = self._played, []
        return Segment(
            rows=buffers.rows(),
            networks=self._networks,
            network=np.array(columns[_NETWORK], np.int64),
            row=np.array(columns[_ROW], np.int64),
            reward=np.array(columns[_REWARD], np.float64),
            time=np.array(columns[_TIME], np.int64),
            follows=np.array(columns[_FOLLOWS], np.int64),
            first_network=np.array(columns[_FIRST_NETWORK], np.int64),
            first_row=np.array(columns[_FIRST_ROW], np.int64),
            n_steps=n_steps,
            episodes=played,
        )

    def _count(self, episode: Episode) -> None:
        failure = episode.failure
        self._played.append(
            PlayedEpisode(
                float(episode.episode_return),
                episode.n_steps,
                episode.ending,
                episode.statistics,
                "" if failure is None else str(failure),
            )
        )
        if failure is None:
            return
        if failure.is_contract_violation:
            raise RunStoppedError(f"{failure}\n{failure.traceback}")
        self._n_failed += 1
        if self._n_failed > self._max_failures:
            raise RunStoppedError(
                f"{self._n_failed} episodes have failed, more than training.max_failures="
                f"{self._max_failures} allows. The last one: {failure}\n{failure.traceback}"
            )

    def _action_of(self, number: int, codes: Mapping[str, NDArray[Any]], row: int) -> Action:
        network = self.policy.model.networks[self._networks[number]]
        return env_actions(network, {head: code[row : row + 1] for head, code in codes.items()})[0]


class _Buffers:
    """What is collected, by network."""

    def __init__(self, names: Sequence[str]) -> None:
        self._observations: dict[str, list[Arrays]] = {name: [] for name in names}
        self._codes: dict[str, list[Mapping[str, NDArray[Any]]]] = {name: [] for name in names}
        self._labels: dict[str, list[Mapping[str, NDArray[Any]]]] = {name: [] for name in names}
        self._is_labelled: dict[str, list[NDArray[np.bool_]]] = {name: [] for name in names}
        self._n = dict.fromkeys(names, 0)

    def add(
        self,
        name: str,
        observations: Arrays,
        codes: Mapping[str, NDArray[Any]],
        labels: Mapping[str, NDArray[Any]] | None = None,
    ) -> int:
        """Add rows; return the number of the first."""
        row = self._n[name]
        if labels is not None or self._labels[name]:
            self._labels[name].append(codes if labels is None else labels)
            n = len(next(iter(codes.values())))
            self._is_labelled[name].append(np.full(n, labels is not None))
        self._observations[name].append(observations)
        self._codes[name].append(codes)
        self._n[name] += len(next(iter(codes.values())))
        return row

    def rows(self) -> dict[str, Rows]:
        return {
            name: Rows(
                _joined(self._observations[name]),
                _joined(self._codes[name]),
                _joined(self._labels[name]) if self._labels[name] else None,
                np.concatenate([np.zeros(0, np.bool_), *self._is_labelled[name]]),
            )
            for name, n in self._n.items()
            if n
        }


def _joined(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Arrays:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def join_segments(segments: Sequence[Segment]) -> Segment:
    """Return segments of several processes as one, in the order of their lanes."""
    if len(segments) == 1:
        return segments[0]
    networks = segments[0].networks
    offsets = np.zeros(len(networks), np.int64)
    rows: list[NDArray[np.int64]] = []
    first_rows: list[NDArray[np.int64]] = []
    parts: dict[str, list[Rows]] = {}
    for segment in segments:
        rows.append(segment.row + offsets[segment.network])
        first_rows.append(segment.first_row + offsets[segment.first_network])
        for number, name in enumerate(networks):
            of_network = segment.rows.get(name)
            if of_network is not None:
                parts.setdefault(name, []).append(of_network)
                offsets[number] += len(next(iter(of_network.codes.values())))
    return Segment(
        rows={
            name: Rows(
                _joined([part.observations for part in of_name]),
                _joined([part.codes for part in of_name]),
                _joined([part.labels for part in of_name if part.labels is not None])
                if all(part.labels is not None for part in of_name)
                else None,
                np.concatenate([part.is_labelled for part in of_name]),
            )
            for name, of_name in parts.items()
        },
        networks=networks,
        network=np.concatenate([s.network for s in segments]),
        row=np.concatenate(rows),
        reward=np.concatenate([s.reward for s in segments]),
        time=np.concatenate([s.time for s in segments]),
        follows=np.concatenate([s.follows for s in segments]),
        first_network=np.concatenate([s.first_network for s in segments]),
        first_row=np.concatenate(first_rows),
        n_steps=sum(s.n_steps for s in segments),
        episodes=[episode for s in segments for episode in s.episodes],
    )


def check_credit(credit: Any) -> Credit:
    """Refuse another word than those of ``Credit``."""
    if credit not in ("auto", "joint", "agents"):
        raise ConfigError(f"'credit' has to be auto, joint or agents, got {credit!r}")
    checked: Credit = credit
    return checked
