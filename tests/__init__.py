"""The specification of Maze, as tests."""

import sys

# Contracts assert outside of test modules; their failures should be as readable. Workers that
# import environments from here have no use for pytest, which takes longer than to play.
if (pytest := sys.modules.get("pytest")) is not None:
    pytest.register_assert_rewrite("tests.contracts", "tests.runs")
