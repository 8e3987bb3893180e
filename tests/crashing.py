"""Runs that are killed at a certain moment: before, in the middle of or after any write.

``python -m tests.crashing`` reads from its standard input what to play, and where and when to be
killed, and answers with ``killed`` or ``ended``. It has no threads, so that it can fork.
"""

import dataclasses
import json
import os
import signal
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from maze.core.ledger import data_files, journal
from maze.core.rollout.job import Job
from maze.core.rollout.rollout_runner import Resume, RolloutRunner
from maze.core.rollout.sequential_rollout_runner import SequentialRolloutRunner
from tests.envs import FaultyEnv, TwoStepEnv, raise_error
from tests.runs import numbered

N = 12
BAD = {2, 5, 8}


class InParts(SequentialRolloutRunner):
    """Hands episodes over in parts of three steps."""

    def _job(self, *args: Any) -> Job:
        job = super()._job(*args)
        return dataclasses.replace(job, play=dataclasses.replace(job.play, part_steps=3))


class UnevenEnv(FaultyEnv):
    """Some episodes are longer than others, so that in lanes they do not end in order."""

    def __init__(self, seeds: set[int] | frozenset[int] = frozenset(BAD)) -> None:
        super().__init__(raise_error, seeds)

    def reset(self, **options: Any) -> Any:
        result = super().reset(**options)
        assert self.seed is not None
        self.n_steps = 3 + 5 * (self.seed % 3)
        return result


WHOLE = partial(UnevenEnv, frozenset())


@dataclasses.dataclass(frozen=True)
class Scenario:
    """Something that a run does, which may be interrupted."""

    env: Callable[[], Any]
    runner: type[RolloutRunner] = SequentialRolloutRunner
    n_lanes: int = 1
    first: tuple[Callable[[], Any], int] | None = None
    """Environment and number of episodes of the run that goes on; ``None`` for a new one."""
    retry_failed: bool = False
    is_damaged: bool = False
    """Whether a data file is damaged before the run goes on."""

    def play(
        self,
        directory: Path,
        env: Callable[[], Any],
        n_episodes: int = N,
        resume: Resume | None = None,
    ) -> None:
        runner = self.runner(n_episodes=n_episodes, n_lanes=self.n_lanes, output_dir=directory)
        runner.run_with(env, seeding=numbered(N), resume=resume)

    def prepare(self, directory: Path) -> None:
        """Play what was there before."""
        if self.first is not None:
            self.play(directory, *self.first)
        if self.is_damaged:
            path = directory / "trajectory_data" / "steps_0.arrow"
            data = bytearray(path.read_bytes())
            data[len(data) // 2] ^= 1
            path.write_bytes(data)

    def act(self, directory: Path) -> None:
        """Do what may be interrupted."""
        resume = None if self.first is None else Resume(self.retry_failed)
        self.play(directory, self.env, resume=resume)

    def complete(self, directory: Path) -> None:
        """Go on after that, or begin if it had not."""
        has_begun = (directory / "journal.jsonl").exists()
        retry = self.retry_failed and self.first is not None
        self.play(directory, self.env, resume=Resume(retry) if has_begun else None)


SCENARIOS: Mapping[str, Scenario] = {
    "a new run": Scenario(UnevenEnv),
    "in lanes": Scenario(UnevenEnv, n_lanes=3),
    "several step keys": Scenario(partial(TwoStepEnv, 4), n_lanes=2),
    "in parts": Scenario(UnevenEnv, runner=InParts, n_lanes=3),
    "extended": Scenario(UnevenEnv, n_lanes=3, first=(UnevenEnv, 5)),
    "failed ones again": Scenario(WHOLE, n_lanes=3, first=(UnevenEnv, N), retry_failed=True),
    "damaged": Scenario(UnevenEnv, first=(UnevenEnv, N), is_damaged=True),
    "parts, failed ones again": Scenario(
        WHOLE, runner=InParts, n_lanes=3, first=(UnevenEnv, N), retry_failed=True
    ),
}

_CHANGES = ("open", "os.rename", "os.remove", "os.truncate", "os.mkdir", "shutil.rmtree")


def die_at(moment: int, directory: Path) -> None:
    """Kill this process at the moment with this number, counted from 1."""
    n = 0

    def tick() -> None:
        nonlocal n
        n += 1
        if n == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    def audit(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _CHANGES and str(directory) in str(arguments[0]):
            is_only_read = event == "open" and arguments[1] in ("r", "rb")
            if not is_only_read:
                tick()

    def write_all(file: BinaryIO, data: bytes) -> None:
        tick()
        half = len(data) // 2
        os.write(file.fileno(), data[:half])
        tick()
        os.write(file.fileno(), data[half:])
        tick()

    sys.addaudithook(audit)
    for module in (journal, data_files):
        module.write_all = write_all  # type: ignore[attr-defined]


def main() -> None:
    for line in sys.stdin:
        scenario, directory, moment = json.loads(line)
        child = os.fork()
        if not child:
            die_at(moment, Path(directory))
            SCENARIOS[scenario].act(Path(directory))
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print({9: "killed", 0: "ended"}.get(status, f"status {status}"), flush=True)


if __name__ == "__main__":
    main()
