"""Each run has a directory of its own."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from maze.core.errors import OutputError
from maze.core.output_directory import claim, default_output_directory, take


def test_a_claimed_directory_is_new_and_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert claim(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    assert default_output_directory().parent.parent == tmp_path / "outputs"


def test_who_comes_later_gets_a_suffix(tmp_path):
    names = [claim(tmp_path / "12-00-00").name for _ in range(3)]
    assert names == ["12-00-00", "12-00-00-1", "12-00-00-2"]


def test_no_two_claims_get_the_same_directory(tmp_path):
    with ThreadPoolExecutor(16) as pool:
        claimed = list(pool.map(lambda _: claim(tmp_path / "x" / "same"), range(50)))
    assert len(set(claimed)) == 50


def test_a_named_directory_may_exist_but_not_hold_a_run(tmp_path):
    (tmp_path / "notes.txt").touch()
    assert take(tmp_path) == tmp_path
    (tmp_path / "config.yaml").touch()
    with pytest.raises(OutputError, match="holds a run already"):
        take(tmp_path)


@pytest.mark.parametrize("create", [claim, take])
def test_a_directory_that_cannot_be_created_is_an_output_error(tmp_path, create):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot create the output directory"):
        create(tmp_path / "file" / "below")
