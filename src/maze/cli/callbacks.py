"""What Hydra calls when runs begin and end: a directory for each, and a table over several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from maze.cli.messages import print_lines
from maze.core.errors import MazeError, OutputError
from maze.core.output_directory import claim, take


class Refusal(BaseException):
    """Carries an error out of a callback. Hydra turns any ``Exception`` there into a warning."""

    def __init__(self, error: MazeError) -> None:
        super().__init__(str(error))
        self.error = error


class OutputDirectories(Callback):
    """Gives each run a directory of its own."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the output directory before Hydra writes into it."""
        _let_choices_be_named(config)
        directory = _own_directory(config, "hydra.run.dir", config.hydra.run.dir)
        with read_write(config), open_dict(config):
            config.hydra.run.dir = str(directory)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Claim the directory of all runs."""
        _let_choices_be_named(config)
        directory = _own_directory(config, "hydra.sweep.dir", config.hydra.sweep.dir)
        with read_write(config), open_dict(config):
            config.hydra.sweep.dir = str(directory)
            # The config of each run is composed anew, from the overrides.
            config.hydra.overrides.hydra.append(f"hydra.sweep.dir={_quoted(str(directory))}")

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Print the table over the runs."""
        from maze.cli.sweep_table import sweep_table

        print_lines(["", sweep_table(Path(config.hydra.sweep.dir))])


def _let_choices_be_named(config: DictConfig) -> None:
    """Let ``${hydra:runtime.choices.env}`` be used in names of directories; Hydra does so later."""
    HydraConfig.instance().set_config(config)
    OmegaConf.set_readonly(config.hydra, None)


def _own_directory(config: DictConfig, option: str, directory: str) -> Path:
    is_named = any(o.lstrip("+").startswith(f"{option}=") for o in config.hydra.overrides.hydra)
    try:
        return take(Path(directory)) if is_named else claim(Path(directory))
    except OutputError as error:
        raise Refusal(error) from error


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
