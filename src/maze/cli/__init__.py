"""The command line: ``maze-run`` and its siblings."""
