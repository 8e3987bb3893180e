"""The specification of Maze, as tests."""

import pytest

# Contracts assert outside of test modules; their failures should be as readable.
pytest.register_assert_rewrite("tests.contracts")
