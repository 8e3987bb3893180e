"""Tells Hydra where the configs of this project are. Hydra finds it by the folder's name."""

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin


class ThermostatSearchPath(SearchPathPlugin):
    """Adds ``thermostat/conf``, behind the configs of Maze."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        search_path.append("thermostat", "pkg://thermostat.conf")
