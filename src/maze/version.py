"""The version of Maze, in the one place that the packaging and the program both read."""

__version__ = "0.1.0"
