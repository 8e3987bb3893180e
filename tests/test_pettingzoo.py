"""PettingZoo's environments as structured ones: turns, deaths, masks, rewards, names."""

import sys
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

import maze
from maze.core.agent.masked_random_policy import MaskedRandomPolicy
from maze.core.agent.random_policy import RandomPolicy
from maze.core.env.structured_env import ActorID
from maze.core.errors import ConfigError, ContractError, MissingExtraError
from maze.core.rollout.parallel_rollout_runner import ParallelRolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from maze.core.rollout.trust import what_would_be_imported
from maze.core.seeding import Seeding
from maze.core.wrappers.pettingzoo_env import AgentReward, PettingZooEnv, actors_of
from tests.contracts import EnvContract, play, same

AECEnv: Any = pytest.importorskip("pettingzoo").AECEnv

TARGET = "maze.core.wrappers.pettingzoo_env.PettingZooEnv"
TICTACTOE, CONNECT_FOUR, RPS = "classic/tictactoe_v3", "classic/connect_four_v3", "classic/rps_v2"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)


class Survivors(AECEnv):  # type: ignore[misc]
    """Three agents count; one of them leaves after each round, and the last one is cut off.

    Each agent is paid its number when it acts, and whoever leaves gets 10 then.
    """

    metadata: dict[str, Any] = {"name": "survivors_v0", "render_modes": []}  # noqa: RUF012

    def __init__(self, ends_by: str = "truncation") -> None:
        super().__init__()
        self.ends_by = ends_by
        self.possible_agents = ["walker_0", "walker_1", "walker_2"]
        self.render_mode = None
        self.observation_spaces = dict.fromkeys(
            self.possible_agents, spaces.Box(0.0, 99.0, (2,), np.float32)
        )
        self.action_spaces: Any = dict.fromkeys(self.possible_agents, spaces.Discrete(3))

    def observation_space(self, agent: Any) -> Any:
        return self.observation_spaces[agent]

    def action_space(self, agent: Any) -> Any:
        return self.action_spaces[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        self.agents = list(self.possible_agents)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self._cumulative_rewards = dict.fromkeys(self.agents, 0.0)
        self.terminations = dict.fromkeys(self.agents, False)
        self.truncations = dict.fromkeys(self.agents, False)
        self.infos: dict[Any, dict[str, Any]] = {agent: {} for agent in self.agents}
        self.n_steps = (seed or 0) % 10
        self.agent_selection = self.agents[0]

    def observe(self, agent: Any) -> Any:
        return np.array([self.possible_agents.index(agent), self.n_steps], np.float32)

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.n_steps += 1
        self.rewards = dict.fromkeys(self.agents, 0.0)
        self.rewards[agent] = float(self.possible_agents.index(agent))
        at = self.agents.index(agent)
        if at + 1 == len(self.agents):  # The round is over.
            leaves = self.agents[0]
            self.rewards[leaves] += 10.0
            is_last = len(self.agents) == 1
            if is_last and self.ends_by == "truncation":
                self.truncations[leaves] = True
            else:
                self.terminations[leaves] = True
            self.agent_selection = self.agents[0 if is_last else 1]
            self._deads_step_first()
        else:
            self.agent_selection = self.agents[at + 1]


class Forgetful(Survivors):
    """What it has counted in one episode is still there in the next."""

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        before = getattr(self, "n_steps", 0)
        super().reset(seed, options)
        self.n_steps += before


class TestTicTacToe(EnvContract):
    def make_env(self):
        return PettingZooEnv(TICTACTOE)


class TestConnectFour(EnvContract):
    def make_env(self):
        return PettingZooEnv(CONNECT_FOUR)


class TestParallelAgents(EnvContract):
    def make_env(self):
        return PettingZooEnv(RPS, kwargs={"max_cycles": 4})


class TestAgentsThatLeave(EnvContract):
    def make_env(self):
        return PettingZooEnv(Survivors())


class TestMadeAnewForEachEpisode(EnvContract):
    def make_env(self):
        return PettingZooEnv(f"{__name__}.Forgetful", new_each_episode=True)


class TestKnownToForgetToReset(EnvContract):
    def make_env(self):
        pytest.importorskip("pygame")
        return PettingZooEnv("butterfly/knights_archers_zombies_v11")


# Who acts.


def test_agents_who_differ_by_a_number_are_of_one_step_key():
    box, two, three = spaces.Box(0, 1), spaces.Discrete(2), spaces.Discrete(3)
    agents: dict[Any, Any] = {
        "wolf_3": (box, two),
        "sheep-1": (box, two),
        "wolf_7": (box, two),
        "sheep-2": (box, three),
        "judge": (box, two),
    }
    assert actors_of(agents) == {
        "wolf_3": ActorID("wolf", 0),
        "wolf_7": ActorID("wolf", 1),
        # Their spaces differ.
        "sheep-1": ActorID("sheep-1", 0),
        "sheep-2": ActorID("sheep-2", 0),
        "judge": ActorID("judge", 0),
    }


def test_a_name_is_not_taken_twice():
    both: Any = (spaces.Box(0, 1), spaces.Discrete(2))
    agents: dict[Any, Any] = dict.fromkeys(["dealer", "dealer_1", "dealer_2", 7], both)
    assert actors_of(agents) == {
        "dealer": ActorID("dealer", 0),
        "dealer_1": ActorID("dealer_1", 0),
        "dealer_2": ActorID("dealer_2", 0),
        7: ActorID("agent", 0),
    }


def test_players_take_turns_and_a_round_is_a_step():
    env = PettingZooEnv(TICTACTOE)
    observation, _ = env.reset(seed=0)
    assert set(observation) == {"observation", "action_mask"}
    assert env.agent_counts == {"player": 2}
    seen = []
    for action in (0, 3, 1, 4):
        seen.append((env.env_time(), env.actor_id()))
        env.step({"action": action})
    one, two = ActorID("player", 0), ActorID("player", 1)
    assert seen == [(0, one), (0, two), (1, one), (1, two)]
    assert env.agent_names == {one: "player_1", two: "player_2"}


def test_a_game_that_is_won_ends_with_the_rewards_of_both():
    env = PettingZooEnv(TICTACTOE)
    env.reset(seed=0)
    env.events.clear()
    for action in (0, 3, 1, 4):
        assert env.step({"action": action})[1:4] == (0.0, False, False)
    _, reward, terminated, truncated, _ = env.step({"action": 2})
    assert (reward, terminated, truncated) == (0.0, True, False)  # One wins what the other loses.
    assert env.events == [AgentReward("player_1", 1.0), AgentReward("player_2", -1.0)]
    assert env.is_actor_done()


@pytest.mark.parametrize(("ends_by", "flags"), [("truncation", (0, 1)), ("termination", (1, 0))])
def test_agents_that_have_left_are_not_asked_any_more(ends_by, flags):
    env = PettingZooEnv(Survivors(ends_by))
    env.reset(seed=0)
    actors, rewards, shares = [], [], []
    is_over = False
    while not is_over:
        actors.append(env.actor_id().agent_id)
        _, reward, terminated, truncated, _ = env.step({"action": 0})
        rewards.append(reward)
        shares.append(env.actor_rewards())
        is_over = terminated or truncated
    assert actors == [0, 1, 2, 1, 2, 2]
    # What each gets when it acts, and 10 for the one who leaves at the end of the round.
    assert rewards == [0.0, 1.0, 12.0, 1.0, 12.0, 12.0]
    assert shares == [None, None, [10.0, 1.0, 2.0], None, [11.0, 2.0], [12.0]]
    assert (terminated, truncated) == flags
    assert env.env_time() == 3


class Heirs(Survivors):
    """Whoever comes first of those that stay inherits 5 from each that leaves."""

    def _was_dead_step(self, action: Any) -> None:
        super()._was_dead_step(action)
        self.rewards = dict.fromkeys(self.agents, 0.0)
        if self.agents:
            self.rewards[self.agents[0]] = 5.0


def test_what_is_paid_when_an_agent_leaves_belongs_to_the_step_before():
    env = PettingZooEnv(Heirs())
    env.reset(seed=0)
    assert [env.step({"action": 0})[1] for _ in range(3)] == [0.0, 1.0, 17.0]
    # The heir has acted in this round.
    assert env.actor_rewards() == [10.0, 6.0, 2.0]


class Absent(Survivors):
    """The last agent never acts, and is paid for what the others do."""

    def step(self, action: Any) -> None:
        super().step(action)
        if self.agent_selection == "walker_2" and not self.terminations["walker_2"]:
            self.agent_selection = "walker_0"
            self.rewards["walker_2"] = 3.0


def test_shares_are_not_known_where_somebody_is_paid_who_did_not_act():
    env = PettingZooEnv(Absent())
    env.reset(seed=0)
    assert [env.step({"action": 0})[1] for _ in range(2)] == [0.0, 4.0]
    assert env.actor_rewards() is None


class Late(Heirs):
    """The first agent is dead before the game begins; who comes next inherits."""

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.terminations["walker_0"] = True
        self.agent_selection = "walker_1"
        self._deads_step_first()


def test_an_agent_that_is_dead_from_the_start_is_not_asked_and_nothing_is_paid_before_a_step():
    env = PettingZooEnv(Late())
    observation, _ = env.reset(seed=0)
    assert env.actor_id() == ActorID("walker", 1)
    assert observation["observation"][0] == 1
    env.step({"action": 0})
    env.step({"action": 0})
    assert env.actor_rewards() == [11.0, 7.0]


class Abrupt(Survivors):
    """After the first step nobody is left, without steps of dead agents."""

    def step(self, action: Any) -> None:
        self.rewards = {"walker_0": 4.0}
        self.infos["walker_0"] = {"is": "last"}
        self.truncations = dict.fromkeys(self.agents, True)
        self.agents = []


def test_an_environment_may_send_all_agents_away_itself():
    env = PettingZooEnv(Abrupt())
    env.reset(seed=3)
    observation, *rest = env.step({"action": 0})
    assert observation["observation"].tolist() == [0.0, 3.0]
    assert rest == [4.0, False, True, {"is": "last"}]
    assert env.actor_rewards() == [4.0]
    with pytest.raises(gym.error.ResetNeeded, match="after the end of an episode"):
        env.step({"action": 0})


class AllAtOnce(Survivors):
    """All leave after the first step: the first one has lost, time is up for the others."""

    def step(self, action: Any) -> None:
        agent = self.agent_selection
        if self.terminations[agent] or self.truncations[agent]:
            self._was_dead_step(action)
            return
        self.terminations["walker_0"] = True
        self.truncations.update(walker_1=True, walker_2=True)


def test_an_episode_in_which_one_agent_was_terminated_is_terminated():
    env = PettingZooEnv(AllAtOnce())
    env.reset(seed=0)
    assert env.step({"action": 0})[2:4] == (True, False)


def test_rewards_of_agents_are_columns_of_the_statistics():
    runner = SequentialRolloutRunner(n_episodes=1, record_trajectory=False)
    result = runner.run_with(PettingZooEnv(Survivors()), seeding=Seeding(0, 0))
    (row,) = result.episodes
    assert row.episode_return == 38.0
    assert {name: row.statistics[f"AgentReward.sum/walker_{name}"] for name in range(3)} == {
        0: 10.0,
        1: 12.0,
        2: 16.0,
    }


def test_each_agent_has_its_column_also_in_an_episode_without_rewards():
    env = PettingZooEnv(TICTACTOE)
    env.reset(seed=0)
    assert env.events == [AgentReward("player_1", 0.0), AgentReward("player_2", 0.0)]


class Told(Survivors):
    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.infos["walker_0"] = {"seed": seed, "options": options}


def test_seed_and_options_are_handed_on():
    _, info = PettingZooEnv(Told()).reset(seed=7, options={"at": "night"})
    assert info == {"seed": 7, "options": {"at": "night"}}


# Masks.


def test_masks_are_declared_and_keep_a_random_player_within_the_rules():
    env = PettingZooEnv(CONNECT_FOUR)
    assert env.action_masks == {"player": {"action": "action_mask"}}
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    for seed in range(5):
        steps = play(env, policy, seed=seed)
        for step in steps:
            assert step.observation["action_mask"][step.action["action"]]


class MasksInInfo(Survivors):
    """Only the action that is the number of steps, modulo 3, is allowed."""

    def _tell(self) -> None:
        for agent in self.agents:
            mask = np.zeros(3, np.int8)
            mask[self.n_steps % 3] = 1
            self.infos[agent] = {"action_mask": mask}

    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self._tell()

    def step(self, action: Any) -> None:
        assert action is None or action == self.n_steps % 3
        super().step(action)
        self._tell()


class TwoLevers(Survivors):
    """Only the second position of the first lever and the third one of the second are allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.action_spaces = dict.fromkeys(self.possible_agents, spaces.MultiDiscrete([2, 3]))
        mask = spaces.MultiBinary(5)
        seen = spaces.Dict({"observation": spaces.Box(0.0, 99.0, (2,)), "action_mask": mask})
        self.observation_spaces: Any = dict.fromkeys(self.possible_agents, seen)

    def observe(self, agent: Any) -> Any:
        mask = np.array([0, 1, 0, 0, 1], np.int8)
        return {"observation": super().observe(agent), "action_mask": mask}

    def step(self, action: Any) -> None:
        assert action is None or list(action) == [1, 2]
        super().step(action)


def test_actions_of_several_numbers_are_masked_by_all_of_their_entries():
    env = PettingZooEnv(TwoLevers())
    assert env.action_masks == {"walker": {"action": "action_mask"}}
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    assert len(play(env, policy)) == 6


class MaskOfAnotherSize(MasksInInfo):
    def _tell(self) -> None:
        self.infos = {agent: {"action_mask": np.ones(4, np.int8)} for agent in self.agents}


def test_a_mask_that_does_not_fit_the_action_is_not_declared():
    assert PettingZooEnv(MaskOfAnotherSize()).action_masks == {}


class MaskOfTheFirst(MasksInInfo):
    def _tell(self) -> None:
        super()._tell()
        self.infos.update(walker_1={}, walker_2={})

    def step(self, action: Any) -> None:
        Survivors.step(self, action)
        self._tell()


def test_where_a_mask_is_missing_all_is_allowed():
    env = PettingZooEnv(MaskOfTheFirst())
    first, _ = env.reset(seed=0)
    second = env.step({"action": 0})[0]
    assert first["action_mask"].tolist() == [1, 0, 0]
    assert second["action_mask"].tolist() == [1, 1, 1]


def test_masks_in_the_info_become_observations():
    env = PettingZooEnv(MasksInInfo())
    assert env.observation_spaces["walker"]["action_mask"] == spaces.MultiBinary(3)
    policy = MaskedRandomPolicy(env.action_spaces, env.observation_spaces, env.action_masks)
    assert len(play(env, policy)) == 6


# Rollouts.


def test_episodes_do_not_depend_on_processes_and_lanes_and_play_again(tmp_path):
    env = {"_target_": TARGET, "name": CONNECT_FOUR}
    policy = {"_target_": "maze.core.agent.masked_random_policy.MaskedRandomPolicy"}

    def digests(name: str, runner: Any) -> list[str]:
        result = runner.run_with(env, policy, seeding=Seeding(5, 6), output_dir=tmp_path / name)
        assert all(row.ending == "terminated" for row in result.episodes)
        return [row.digest for row in result.episodes]

    one = digests("one", SequentialRolloutRunner(n_episodes=6))
    assert digests("lanes", SequentialRolloutRunner(n_episodes=6, n_lanes=4)) == one
    assert digests("two", ParallelRolloutRunner(n_processes=2, n_episodes=6)) == one
    assert len(set(one)) == 6
    assert maze.verify(tmp_path / "two", replay="all").is_good


def test_it_draws_itself():
    pytest.importorskip("pygame")
    env = PettingZooEnv(TICTACTOE, render_mode="rgb_array")
    env.reset(seed=0)
    frame = env.render()
    assert frame.ndim == 3
    other = PettingZooEnv(TICTACTOE).with_render_mode("rgb_array")
    other.reset(seed=0)
    assert same(other.render(), frame)
    env.close()
    other.close()


def test_what_pettingzoo_ships_is_trusted_and_nothing_else():
    def named(name: str) -> list[str]:
        return what_would_be_imported({"env": {"_target_": TARGET, "name": name}})

    assert named(TICTACTOE) == named("pettingzoo.classic.tictactoe_v3") == []
    assert named("canary.games") == ["canary.games"]


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "classic/tictactoe_v2"}, "Did you mean 'classic/tictactoe_v3'"),
        ({"name": "tictactoe"}, "Did you mean 'classic/tictactoe_v3'"),
        ({"name": "classic/texas_holdem_v5"}, r"mean 'classic/texas_holdem_v\d' or 'classic/"),
        ({"name": "four"}, "Did you mean 'classic/connect_four_v3'"),
        ({"name": "classic/"}, "Of 'classic' there are: .*classic/go_v5, .*classic/tictactoe_v3"),
        ({"name": "mpe/simple_v3"}, "pip install mpe2"),
        ({"name": "nothing.of_this.name"}, "They begin with atari/, butterfly/, classic/"),
        ({"name": TICTACTOE, "kwargs": {"size": 4}}, "cannot be made with size=4"),
        ({"name": TICTACTOE, "render_mode": "3d"}, "has no render mode '3d'. It has: "),
        ({"name": "json"}, r"module 'json' has neither env\(\) nor parallel_env\(\)"),
        ({"name": 3}, "has to be a PettingZoo environment"),
        ({"name": Survivors(), "kwargs": {"a": 1}}, "made from its name"),
        ({"name": Survivors(), "new_each_episode": True}, "cannot be made anew for each episode"),
    ],
)
def test_bad_arguments_are_told(arguments, message):
    with pytest.raises(ConfigError, match=message):
        PettingZooEnv(**arguments)


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "multi_agent_ale_py", None)
    with pytest.raises(ConfigError, match=r"multi_agent_ale_py.*pip install 'pettingzoo\[atari\]'"):
        PettingZooEnv("atari/pong_v3")


def test_without_pygame_the_extra_is_named(monkeypatch):
    class Drawn(Survivors):
        def render(self) -> Any:
            raise ModuleNotFoundError("No module named 'pygame'", name="pygame")

    with pytest.raises(MissingExtraError, match=r"draws Drawn,.*maze-rollouts\[render\]"):
        PettingZooEnv(Drawn()).render()
    for name in [module for module in sys.modules if module.startswith("pettingzoo.butterfly")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pygame", None)
    with pytest.raises(MissingExtraError, match=r"cooperative_pong_v6.*maze-rollouts\[render\]"):
        PettingZooEnv("butterfly/cooperative_pong_v6")


def test_without_pettingzoo_the_extra_is_named(monkeypatch):
    from maze.core.wrappers import pettingzoo_env

    monkeypatch.setitem(sys.modules, "pettingzoo", None)
    pettingzoo_env._shipped.cache_clear()
    with pytest.raises(MissingExtraError, match=r"maze-rollouts\[pettingzoo\]"):
        PettingZooEnv(TICTACTOE)
    monkeypatch.undo()
    pettingzoo_env._shipped.cache_clear()


class Nobody(Survivors):
    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.agents = []


class Stranger(Survivors):
    def reset(self, seed: int | None = None, options: Any = None) -> None:
        super().reset(seed, options)
        self.agents = [self.agent_selection] = ["stranger"]
        self.terminations, self.truncations = {"stranger": False}, {"stranger": False}


class Seedless(Survivors):
    def reset(self) -> None:  # type: ignore[override]
        super().reset()


@pytest.mark.parametrize(
    ("env_class", "message"),
    [
        (Nobody, "after a reset, Nobody has no agents that act"),
        (Stranger, "agent 'stranger' of Stranger is none of its possible_agents: 'walker_0'"),
        (Seedless, r"reset\(\) of Seedless has to take the keywords 'seed' and 'options'"),
    ],
)
def test_what_does_not_keep_the_interface_is_told_at_the_reset(env_class, message):
    with pytest.raises(ContractError, match=message):
        PettingZooEnv(env_class()).reset(seed=1)


def test_agents_have_to_be_known_from_the_start():
    agentless = Survivors()
    agentless.possible_agents = []
    with pytest.raises(ConfigError, match=r"Survivors does not say its possible_agents, got \[\]"):
        PettingZooEnv(agentless)


def test_a_step_before_the_reset_is_told():
    with pytest.raises(gym.error.ResetNeeded, match="before reset"):
        PettingZooEnv(TICTACTOE).step({"action": 0})


class NeverGone(Survivors):
    def _was_dead_step(self, action: Any) -> None:
        pass


def test_an_agent_that_cannot_leave_is_told():
    env = PettingZooEnv(NeverGone())
    env.reset(seed=0)
    env.step({"action": 0})
    env.step({"action": 0})
    with pytest.raises(ContractError, match="still among its agents after a step with None"):
        env.step({"action": 0})


def test_a_bad_action_is_told():
    env = PettingZooEnv(TICTACTOE)
    env.reset(seed=0)
    with pytest.raises(ContractError, match=r"\{'action': \.\.\.\}, got keys \['move'\]"):
        env.step({"move": 1})


@pytest.mark.parametrize("name", ["classic/go_v5", "butterfly/cooperative_pong_v6"])
def test_a_random_policy_plays_other_games_that_are_here(name):
    pytest.importorskip("pygame")
    env = PettingZooEnv(name)
    assert play(env, RandomPolicy(env.action_spaces), seed=1)
    env.close()
