"""``maze-run``: plays a policy in an environment, as a Hydra config says.

This is the place where configs become objects. Everything below takes plain values and paths, so
that Hydra is known here and nowhere else.

    arguments --Hydra--> config --plain containers--> runner.run_with --> result --> exit code
"""

from __future__ import annotations

import contextlib
import gc
import logging
import math
import os
import shlex
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from maze.cli.messages import (
    INTERRUPTED,
    OK,
    REQUEST_NOT_MET,
    perhaps_unread,
    print_interrupted,
    print_lines,
    report,
)
from maze.core.errors import ConfigError, RunStoppedError
from maze.core.rollout.interrupts import Terminations, late_interrupts
from maze.version import __version__

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from maze.core.rollout.result import RolloutResult

log = logging.getLogger(__name__)


def main() -> int:
    """Run the command with the arguments of the process.

    Returns:
        The exit code: 0 if every episode was played, 1 if some failed, 2 for bad input, 130 if
        it was interrupted by Ctrl-C, 143 by SIGTERM, 129 by SIGHUP.
    """
    arguments = sys.argv[1:]
    if "--version" in arguments:
        print(f"maze-run {__version__}")
        return OK
    show_traceback = "--debug" in arguments
    command = Command(
        shlex.join(["maze-run", *arguments]), show_traceback, trust="--trust" in arguments
    )
    # Start-up makes many objects and hardly any garbage; looking for it takes a tenth of the time.
    gc.disable()
    with Terminations() as terminations:
        try:
            code = command.run([text for text in arguments if text not in ("--debug", "--trust")])
        except KeyboardInterrupt:
            print_interrupted()
            code = INTERRUPTED
        finally:
            gc.enable()
    return terminations.exit_code(code) if code == INTERRUPTED else code


class Command:
    """One call of ``maze-run``: a single run, or several with ``--multirun``."""

    def __init__(self, text: str, show_traceback: bool, trust: bool = False) -> None:
        self._text = text
        self._show_traceback = show_traceback
        self._trust = trust
        self._exit_codes: list[int] = []
        self._starting = contextlib.ExitStack()

    def run(self, arguments: Sequence[str]) -> int:
        """Compose the config and play it; return the exit code."""
        with self._starting:
            # OmegaConf, interrupted in the middle of a change, fails with errors of its own: a
            # Ctrl-C that comes while the config is composed waits for the config.
            self._starting.enter_context(late_interrupts())
            return self._run(arguments)

    def _run(self, arguments: Sequence[str]) -> int:
        # As with `python -m`, so that a user's own module beside the command can be named.
        launch_directory = os.getcwd()
        if launch_directory not in sys.path:
            sys.path.append(launch_directory)
        sys.argv = [sys.argv[0], *arguments]
        logging.raiseExceptions = False  # A full disk is reported once, not by each log line too.
        os.environ["HYDRA_FULL_ERROR"] = "1"  # hands its errors on instead of printing them

        from maze.cli.callbacks import Refusal
        from maze.cli.hydra_defaults import check_flags, hydra_main

        try:
            check_flags(arguments)
            with perhaps_unread():
                hydra_main(self._play)
        except Refusal as refusal:
            return report(refusal.error, self._show_traceback)
        except Exception as error:
            return report(error, self._show_traceback)
        return max(self._exit_codes, default=OK)

    def _play(self, config: DictConfig) -> float:
        """Play one run; errors are reported here, so that further runs are played.

        Returns:
            What a sweeper looks at: the mean return, of a training that of its best evaluation.
        """
        self._starting.close()
        from hydra.core.hydra_config import HydraConfig
        from hydra.types import RunMode

        hydra_config = HydraConfig.get()
        is_one_of_several = hydra_config.mode == RunMode.MULTIRUN
        directory = Path(hydra_config.runtime.output_dir)
        log.info("%s", self._text)
        objective = math.nan
        try:
            print_lines(_heading(config, hydra_config, is_one_of_several))
            exit_code, objective = self._play_config(
                config,
                Path(hydra_config.runtime.cwd),
                directory,
                list(hydra_config.overrides.task),
            )
        except Exception as error:
            log.exception("the run ended with an error")
            if isinstance(error, ConfigError) and config.get("input_dir"):
                error.add_note(f"(with input_dir={config.input_dir})")
            if isinstance(error, RunStoppedError):
                print_result(error.result)
            exit_code = report(error, self._show_traceback)
            if not is_one_of_several:
                _remove_if_nothing_was_played(directory)
        self._exit_codes.append(exit_code)
        if exit_code == INTERRUPTED and is_one_of_several:
            from maze.cli.sweep_table import sweep_table

            print_lines(["", sweep_table(Path(hydra_config.sweep.dir))])
            raise KeyboardInterrupt
        return objective

    def _play_config(
        self,
        config: DictConfig,
        launch_directory: Path,
        directory: Path,
        overrides: Sequence[str],
    ) -> tuple[int, float]:
        """Play what a config says; return the exit code and the mean return."""
        from omegaconf import OmegaConf

        from maze.cli import training
        from maze.cli.input_directory import check_policy_has_directory, take_from_input_directory
        from maze.core.rollout.setup import RunSetup

        if config.get("input_dir"):
            config.input_dir = str((launch_directory / config.input_dir).resolve())
        plain: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
        if training.is_training(plain):
            gc.enable()
            trained = training.train(plain, directory, self._text)
            return training.exit_code_of(trained), trained.best_return
        check_policy_has_directory(plain)
        if plain.get("input_dir"):
            taken = take_from_input_directory(plain, overrides, self._trust)
            if taken:
                print_lines([f"from input_dir: {', '.join(taken)}", ""])
        for group in ("runner", "env", "policy"):
            if plain.get(group) is None:
                raise ConfigError(
                    f"the config has no '{group}'. Add it to the defaults list of the root"
                    f" config, or choose one with +{group}=..."
                )
        setup = RunSetup.from_config(plain)
        seeding = setup.seeding().resolved()
        plain["seeding"] = {**setup.seeding_options, **_base_seeds(seeding)}
        runner = setup.build_runner()
        gc.enable()
        result = runner.run_with(
            env=setup.env,
            agent=setup.policy,
            wrappers=setup.wrappers or {},
            seeding=seeding,
            output_dir=directory,
            config=plain,
            command=self._text,
        )
        print_result(result)
        summary = result.statistics.get("return")
        return exit_code_of(result), math.nan if summary is None else summary.mean


def print_result(result: object) -> None:
    """Print a result, if it is one."""
    from maze.core.rollout.result import RolloutResult

    if isinstance(result, RolloutResult):
        with perhaps_unread():
            result.print()


def exit_code_of(result: RolloutResult) -> int:
    """Return the exit code for a run that came to its end or was interrupted."""
    if result.interrupted:
        return INTERRUPTED
    return OK if result.request_met else REQUEST_NOT_MET


def _heading(config: DictConfig, hydra_config: Any, is_one_of_several: bool) -> list[str]:
    choices = hydra_config.runtime.choices
    told = [
        f"{group}={choices[group]}"
        for group in map(str, config)
        if choices.get(group) not in (None, "none", "default", "no_wrappers")
    ]
    lines = [
        f"maze-run {__version__}: {' '.join(told)}",
        f"output: {hydra_config.runtime.output_dir}",
        "",
    ]
    if is_one_of_several:
        lines.insert(0, f"\nrun {hydra_config.job.num}: {hydra_config.job.override_dirname}")
    return lines


def _base_seeds(seeding: Any) -> dict[str, int]:
    return {name: getattr(seeding, name) for name in ("env_base_seed", "agent_base_seed")}


def _remove_if_nothing_was_played(directory: Path) -> None:
    """Leave no trace of a start that failed, so that the same directory can be named again."""
    from maze.core.ledger.journal import JOURNAL_FILE, Journal

    journal = directory / JOURNAL_FILE
    if journal.exists() and any(
        entry.pieces or entry.kind == "episodes" for entry in Journal(journal).entries
    ):
        return
    files = ("maze_run.log", "config.yaml", JOURNAL_FILE, "episodes.parquet", ".lock")
    of_training = ("versions.yaml", "spaces.json")
    folders = (".hydra", "event_logs", "trajectory_data")
    names = {
        path.name
        for path in directory.iterdir()
        if not path.name.startswith("observation_statistics")
    }
    if names <= {*files, *of_training, *folders}:
        shutil.rmtree(directory)


if __name__ == "__main__":
    sys.exit(main())
