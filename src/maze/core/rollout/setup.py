"""What a recorded run was set up with, so that it can be played again.

``config.yaml`` says it in plain values, and a config can name any code. Whoever got an output
directory from somebody else wants to look at it without running what that person thought of. So
there are two steps: a ``RunSetup`` holds the values and imports nothing, and ``check_trust`` tells
what rebuilding them would import, before it is done.

    config --RunSetup.from_config--> plain values --check_trust--> job() --> environment, policy
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from maze.core.errors import ConfigError
from maze.core.factory import TARGET, Factory, call, resolve
from maze.core.rollout.checks import CheckOptions
from maze.core.rollout.encoding import EncoderOptions
from maze.core.rollout.job import EnvRecipe, EnvSource, Job, PolicySource, WrapperSource
from maze.core.rollout.play import PlayOptions
from maze.core.rollout.rollout_runner import RolloutRunner
from maze.core.rollout.trust import (
    RANDOM,
    check_is_not_lost,
    is_name,
    kind_of_env,
    not_rebuildable,
)
from maze.core.seeding import EpisodePlan, EpisodeSpec, Seeding


@dataclass(frozen=True)
class RunSetup:
    """The values that a run was set up with. Nothing of them is imported before it is built."""

    runner: Mapping[str, Any]
    env: EnvSource
    policy: PolicySource = None
    wrappers: WrapperSource = None
    seeding_options: Mapping[str, Any] = field(default_factory=dict)
    """Arguments of ``Seeding``; an explicit list may be a config that makes one."""

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> RunSetup:
        """Take the groups out of a config as ``config.yaml`` holds it.

        Raises:
            ConfigError: If a group is missing or is of the wrong kind.
        """
        for group in ("runner", "env"):
            if config.get(group) is None:
                raise ConfigError(
                    f"the config of the run has no '{group}', so that it cannot be played again"
                )
        for group in ("runner", "seeding"):
            if not isinstance(config.get(group) or {}, Mapping):
                raise ConfigError(
                    f"'{group}' in the config of the run is {config[group]!r}, expected a mapping"
                )
        return cls(
            runner=config["runner"],
            env=config["env"],
            policy=config.get("policy"),
            wrappers=config.get("wrappers"),
            seeding_options=config.get("seeding") or {},
        )

    def seeding(self) -> Seeding:
        """Build the seeding."""
        options = dict(self.seeding_options)
        for name in ("explicit_env_seeds", "explicit_agent_seeds"):
            if isinstance(options.get(name), Mapping):
                options[name] = Factory(Sequence, where=f"seeding.{name}").build(options[name])
        seeding: Seeding = call(Seeding, options, where="seeding")
        return seeding

    def plan(self, n_episodes: int) -> EpisodePlan:
        """Return the first ``n_episodes`` of the run, fewer if its lists of seeds are shorter.

        Raises:
            ConfigError: If the config holds no base seeds, as every recorded run's does.
        """
        seeding = self.seeding()
        if seeding.env_base_seed is None or seeding.agent_base_seed is None:
            raise ConfigError(
                "the config of the run holds no base seeds (seeding.env_base_seed and"
                " seeding.agent_base_seed), so that its episodes are not known"
            )
        return seeding.plan(n_episodes)

    def spec(self, episode_index: int) -> EpisodeSpec:
        """Return one episode of the plan.

        Raises:
            ConfigError: If the plan is shorter.
        """
        plan = self.plan(episode_index + 1)
        if not 0 <= episode_index < len(plan):
            raise ConfigError(
                f"there is no episode {episode_index} in a plan of {len(plan)} episodes"
            )
        return plan[episode_index]

    def build_runner(self, **changes: Any) -> RolloutRunner:
        """Build the runner.

        Args:
            changes: options that take the place of the config's.
        """
        check_is_not_lost(self.runner.get(TARGET), "runner")
        return Factory(RolloutRunner, where="runner").build({**self.runner, **changes})

    def env_source(self) -> EnvSource:
        """Return what environments are made from. A dotted path is imported.

        Raises:
            ConfigError: If a Python object was given, which no config can hold.
        """
        if not isinstance(self.env, str):
            check_is_not_lost(self.env, "env")
            return self.env
        kind = kind_of_env(self.env)
        if kind == "lost":
            raise not_rebuildable(self.env, "env")
        source: EnvSource = resolve(self.env, "env") if kind == "path" else self.env
        return source

    def policy_source(self) -> PolicySource:
        """Return what the policy is made from.

        Raises:
            ConfigError: If a Python object was given, which no config can hold.
        """
        check_is_not_lost(self.policy, "policy")
        if isinstance(self.policy, str) and self.policy != RANDOM and not is_name(self.policy):
            raise not_rebuildable(self.policy, "policy")
        return self.policy

    def env_recipe(self) -> EnvRecipe:
        """Return the recipe for environments with their wrappers."""
        check_is_not_lost(self.wrappers, "wrappers")
        return EnvRecipe(self.env_source(), self.wrappers)

    def job(self) -> Job:
        """Return the job for playing in this process, one episode at a time, recording nothing."""
        runner = self.build_runner()
        return Job(
            env=self.env_recipe(),
            policy=self.policy_source(),
            play=PlayOptions(runner.max_episode_steps),
            checks=CheckOptions(runner.on_nan, runner.on_out_of_space),  # type: ignore[arg-type]
            encoder=EncoderOptions(keep_trajectories=False, keep_events=False),
            deterministic=runner.deterministic,
        )
