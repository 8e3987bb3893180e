"""A teacher beside the student: it says at each decision what it would do.

A teacher has wrappers of its own, and may have to see something else than the student: a heuristic
wants raw numbers where a network wants normalised ones. So what the environment returns goes
through two stacks of wrappers, the student's and the teacher's. The environment is played once.
"""

from __future__ import annotations

from typing import Any

from maze.core.env.structured_env import Action, Observation, StructuredEnv
from maze.core.env.supplied_env import Outcome, SuppliedEnv
from maze.core.errors import ConfigError
from maze.core.rollout.job import PolicySource, WrapperSource, build_policy
from maze.core.wrappers.apply import apply_wrappers
from maze.core.wrappers.wrapper import StepResult, Wrapper, put_around


class TeacherWrapper(Wrapper):
    """Shows a teacher what happens, and asks it on demand. It changes nothing.

    Args:
        env: the environment inside, without the student's wrappers.
        teacher: a policy, or a config of one.
        teacher_wrappers: between this environment and the teacher.

    Raises:
        ConfigError: If the teacher's actions are not those of the environment, because one of its
            wrappers changes them.
    """

    plays_each_action_once = True

    def __init__(
        self, env: StructuredEnv, teacher: PolicySource, teacher_wrappers: WrapperSource = None
    ) -> None:
        super().__init__(env)
        self._outcome = Outcome({})
        supplied = SuppliedEnv(
            env.observation_spaces,
            env.action_spaces,
            env.agent_counts,
            env.action_masks,
            self._take,
        )
        stack = apply_wrappers(env, teacher_wrappers)
        if dict(stack.action_spaces) != dict(env.action_spaces):
            raise ConfigError(
                "a wrapper of the teacher changes its actions, which then are not those of the"
                f" environment: {dict(stack.action_spaces)} instead of {dict(env.action_spaces)}"
            )
        self._seen_by_teacher = put_around(stack, env, supplied)
        self._teacher = build_policy(teacher, self._seen_by_teacher)
        self._memory: Any = None
        self._observation: Observation = {}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode, of the teacher as well."""
        observation, info = self._inner_reset(seed=seed, options=options)
        self._outcome = self._seen(observation)
        self._observation, _ = self._seen_by_teacher.reset(seed=seed)
        self._memory = self._teacher.start_episode(seed or 0)
        return observation, info

    def step(self, action: Action) -> StepResult:
        """Play the action, and show the teacher what came of it."""
        result = self._inner_step(action)
        self._outcome = self._seen(result[0], result[1], result[2], result[3])
        self._observation = self._seen_by_teacher.step(action)[0]
        return result

    def teacher_action(self) -> Action:
        """Return what the teacher would do now. Ask it once for each decision."""
        return self._teacher.act(
            self._observation, self._seen_by_teacher.actor_id(), self._memory, True
        )

    def _take(self, action: Action | None) -> Outcome:
        """Return what came of an action, to the environment inside of the teacher's wrappers."""
        return self._outcome

    def _seen(
        self,
        observation: Observation,
        reward: float = 0.0,
        terminated: bool = False,
        truncated: bool = False,
    ) -> Outcome:
        env = self.env
        time = 0 if env.is_flat else env.env_time()
        return Outcome(observation, reward, terminated, truncated, None, env.actor_id(), time)


def teacher_in(env: StructuredEnv) -> TeacherWrapper:
    """Return the teacher's wrapper in a stack."""
    while isinstance(env, Wrapper):
        if isinstance(env, TeacherWrapper):
            return env
        env = env.env
    raise ConfigError("there is no teacher in this environment")
