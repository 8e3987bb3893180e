"""The file of the episode table: written group by group, and never read wrongly."""

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from maze.core import episode_table
from maze.core.episode import EpisodeRow, Failure
from maze.core.episode_table import (
    BatchColumns,
    EpisodeTable,
    EpisodeTableBuilder,
    read_failure,
    write_episode_table,
)
from maze.core.errors import OutputError
from tests.test_result import FAILURE, make_row


class Journal(Sequence[BatchColumns]):
    """Batches of rows that are made when they are asked for, which is counted."""

    def __init__(self, *batches: Sequence[EpisodeRow], zero_statistics: Sequence[str] = ()) -> None:
        self.batches, self.zero_statistics = batches, zero_statistics
        self.n_parsed = 0

    def __len__(self) -> int:
        return len(self.batches)

    def __getitem__(self, number: Any) -> Any:
        self.n_parsed += 1
        rows = self.batches[number]
        columns = zip(*rows, strict=True) if rows else [()] * len(EpisodeRow._fields)
        return {
            **dict(zip(EpisodeRow._fields, columns, strict=True)),
            "zero_statistics": self.zero_statistics,
        }


@contextmanager
def groups_of(n_rows: int) -> Iterator[None]:
    """Make groups of so few rows that a small table has several."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(episode_table, "_N_ROWS_IN_GROUP", n_rows)
        patch.setattr(episode_table, "_N_ROWS_AT_ONCE", 0)
        yield


def written(path: Path, journal: Journal) -> pa.Table:
    write_episode_table(path, journal)
    return pq.read_table(path)


ROWS = [
    make_row(
        index,
        index / 3,
        statistics={"Cut.count": float(index)} if index % 2 else {},
        failure=replace(FAILURE, message=f"no {index} \N{SNOWMAN} \ud83d")
        if index % 5 == 2
        else None,
    )
    for index in range(23)
]


@settings(max_examples=40, deadline=None)
@given(
    st.permutations(range(len(ROWS))),
    st.lists(st.integers(0, len(ROWS)), max_size=6),
    st.sampled_from([1, 4, 10, 100]),
    st.booleans(),
)
def test_the_file_is_the_same_however_the_rows_came_and_however_they_are_grouped(
    order, cuts, n_rows_in_group, is_at_once
):
    bounds = [0, *sorted(cuts), len(ROWS)]
    batches = [[ROWS[i] for i in order[start:end]] for start, end in pairwise(bounds)]
    builder = EpisodeTableBuilder()
    builder.add(ROWS, ["Cut.count"])
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "episodes.parquet"
        builder.build().write_parquet(path)
        expected = pq.read_table(path)
        journal = Journal(*batches, zero_statistics=["Cut.count"])
        with nullcontext() if is_at_once else groups_of(n_rows_in_group):
            assert written(path, journal).equals(expected, check_metadata=True)
            assert EpisodeTable.from_batches(journal) == builder.build()
        assert EpisodeTable.read_parquet(path) == builder.build()
        assert [file.name for file in Path(directory).iterdir()] == ["episodes.parquet"]


@pytest.mark.parametrize("n_rows_in_group", [2, 100])
def test_of_an_episode_that_was_played_again_the_later_row_counts(n_rows_in_group, tmp_path):
    failed = make_row(1, failure=FAILURE, statistics={"only.failed": 1.0, "kpi": 1.0})
    again = make_row(1, 7.0, statistics={"kpi": 2.0})
    path = tmp_path / "episodes.parquet"
    with groups_of(n_rows_in_group):
        write_episode_table(path, Journal([make_row(0), failed, make_row(2)], [make_row(3), again]))
    rows = [make_row(0), again, make_row(2), make_row(3)]
    assert EpisodeTable.read_parquet(path) == EpisodeTable.from_rows(rows)


def test_a_run_without_any_episode_has_a_table(tmp_path):
    for journal in (Journal(), Journal([])):
        assert written(tmp_path / "file", journal).equals(EpisodeTable.from_rows([]).to_arrow())


def test_a_batch_is_parsed_once_for_the_order_and_once_or_twice_for_its_rows(tmp_path):
    # Two workers that take turns, and one episode that comes last of all.
    indices = [*range(1, 1000), 0]
    batches = [
        [make_row(index) for index in indices[start + worker : start + 40 : 2]]
        for start in range(0, len(indices), 40)
        for worker in (0, 1)
    ]
    journal = Journal(*batches)
    with groups_of(100):
        write_episode_table(tmp_path / "episodes.parquet", journal)
    assert EpisodeTable.read_parquet(tmp_path / "episodes.parquet").episode_indices[0] == 0
    assert journal.n_parsed < 3 * len(journal)


def test_a_file_stays_as_it_was_if_a_new_one_cannot_be_finished(tmp_path):
    class Breaking(Journal):
        def __getitem__(self, number: Any) -> Any:
            if self.n_parsed == 3:
                raise OSError("the disk is gone")
            return super().__getitem__(number)

    path = tmp_path / "episodes.parquet"
    EpisodeTable.from_rows(ROWS[:2]).write_parquet(path)
    with groups_of(1), pytest.raises(OutputError, match=f"cannot write .*{path}.*disk is gone"):
        write_episode_table(path, Breaking(ROWS[:2], ROWS[2:3]))
    assert EpisodeTable.read_parquet(path) == EpisodeTable.from_rows(ROWS[:2])
    assert [file.name for file in tmp_path.iterdir()] == ["episodes.parquet"]


def test_a_full_disk_is_named(tmp_path):
    script = (
        "import resource, signal, sys\n"
        "from pathlib import Path\n"
        "from maze.core.errors import OutputError\n"
        "from tests.test_episode_table import ROWS, Journal, write_episode_table\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))\n"
        "try:\n"
        "    write_episode_table(Path(sys.argv[1]), Journal(ROWS))\n"
        "except OutputError as error:\n"
        "    print(error)"
    )
    command = [sys.executable, "-c", script, tmp_path / "episodes.parquet"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "cannot write the episode table" in done.stdout, done.stderr
    assert "File too large" in done.stdout
    assert not list(tmp_path.iterdir())


class TestDamage:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "episodes.parquet"
        with groups_of(10):
            write_episode_table(path, Journal(ROWS))
        return path

    @pytest.mark.parametrize("offset", range(3))
    def test_a_flipped_bit_is_noticed_wherever_it_is(self, path, offset):
        intact, expected = path.read_bytes(), EpisodeTable.from_rows(ROWS)
        places = range(offset, len(intact), 7)
        n_unnoticed = 0
        for place in places:
            damaged = bytearray(intact)
            damaged[place] ^= 1 << place % 8
            path.write_bytes(damaged)
            # The mark that there is a checksum can be lost, but nothing else.
            with suppress(OutputError):
                assert EpisodeTable.read_parquet(path) == expected
                n_unnoticed += 1
        assert n_unnoticed <= 2

    def test_a_cut_file_is_noticed_wherever_it_was_cut(self, path):
        intact = path.read_bytes()
        for n_bytes in range(0, len(intact), 13):
            path.write_bytes(intact[:n_bytes])
            with pytest.raises(OutputError, match=f"cannot read .*{path}"):
                EpisodeTable.read_parquet(path)

    def test_the_checksum_does_not_bother_other_readers(self, path):
        pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
        duckdb = pytest.importorskip("duckdb")
        query = f"select count(*), sum(episode_index), count(failure.place) from '{path}'"
        assert duckdb.sql(query).fetchall() == [(23, 253, 5)]
        expected = EpisodeTable.from_rows(ROWS)
        pandas.testing.assert_frame_equal(pandas.read_parquet(path), expected.to_pandas())
        assert polars.read_parquet(path).equals(expected.to_polars())


class TestForeignFiles:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (lambda t: t.drop_columns(["digest"]), "no column 'digest'"),
            (lambda t: t.append_column("kpi", [["a"] * 23]), "'kpi' has the type string"),
            (lambda t: t.append_column("error", t["error"]), "two columns of the same name"),
            (lambda t: t.take([1, 0]), "not in episode order"),
            (lambda t: t.take([1, 1]), "not in episode order"),
            (lambda t: t.take(pa.array([0, None])), "'episode_index' has empty cells"),
            (
                lambda t: t.replace_schema_metadata({"maze.episode_table": "2"}),
                "has format 2, .* use a newer Maze",
            ),
            (
                lambda t: t.set_column(13, "failure", [["broken"] * 23]),
                "'failure' has the type string",
            ),
        ],
    )
    def test_what_is_no_episode_table_is_told(self, change, message, tmp_path):
        path = tmp_path / "file.parquet"
        pq.write_table(change(EpisodeTable.from_rows(ROWS).to_arrow()), path)
        with pytest.raises(OutputError, match=f"cannot read .*{path}.*{message}"):
            EpisodeTable.read_parquet(path)

    def test_a_text_that_is_no_utf_8_is_told(self, tmp_path):
        table = EpisodeTable.from_rows(ROWS).to_arrow()
        texts = pa.array([b"\xff"] * 23).view(pa.string())
        pq.write_table(table.set_column(12, "error", texts), tmp_path / "file.parquet")
        with pytest.raises(OutputError, match="cannot read"):
            EpisodeTable.read_parquet(tmp_path / "file.parquet")

    def test_a_failure_of_another_version_is_understood(self, tmp_path):
        table = EpisodeTable.from_rows(ROWS).to_arrow()
        failures: list[Any] = table.column("failure").to_pylist()
        for failure in failures:
            if failure is not None:
                del failure["output"]
                failure["something_new"] = 1.0
        path = tmp_path / "file.parquet"
        pq.write_table(table.set_column(13, "failure", pa.array(failures)), path)
        assert EpisodeTable.read_parquet(path) == EpisodeTable.from_rows(ROWS)

    def test_a_failure_is_made_of_what_is_known_of_it(self):
        values = {**vars(FAILURE), "something_new": 1, "message": None}
        del values["output"]
        assert read_failure(values) == replace(FAILURE, message="")
        assert isinstance(read_failure({}), Failure)


def test_what_a_worker_printed_is_no_difference_of_episodes():
    loud, other = replace(FAILURE, output="hello"), replace(FAILURE, message="other")
    tables = [
        EpisodeTable.from_rows([make_row(0), make_row(1, failure=failure)._replace(error="")])
        for failure in (FAILURE, loud, other)
    ]
    assert tables[0] != tables[1]
    assert tables[0].has_equal_episodes(tables[1])
    assert not tables[0].has_equal_episodes(tables[2])


def test_a_column_is_a_copy(tmp_path):
    table = EpisodeTable.from_rows(ROWS)
    np.asarray(table["return"])[:] = 0.0
    assert table.row(3).episode_return == 1.0


N_MANY = 1_000_000


class ManyEpisodes(Sequence[BatchColumns]):
    """A million episodes in batches of 100, the first of which arrives last."""

    def __len__(self) -> int:
        return N_MANY // 100

    def __getitem__(self, number: Any) -> Any:
        indices = [(number * 100 + i + 1) % N_MANY for i in range(100)]
        return {
            "episode_index": indices,
            "episode_id": [f"{index:06}-{index * 2654435761 % 2**32:08x}" for index in indices],
            "env_seed": [index * 7919 % 2**31 for index in indices],
            "agent_seed": [index * 104729 % 2**31 for index in indices],
            "ending": ["terminated"] * 100,
            "truncated_by": [""] * 100,
            "episode_return": [float(index % 200) for index in indices],
            "n_steps": [index % 200 for index in indices],
            "seconds": [index % 977 / 1e7 for index in indices],
            "attempts": [1] * 100,
            "digest": [
                f"{index * 0x9E3779B97F4A7C15F39CC0605CED % 2**128:032x}" for index in indices
            ],
            "n_nan": [0] * 100,
            "error": [""] * 100,
            "failure": [None] * 100,
            "statistics": [{"kpi": index % 31 / 7} for index in indices],
        }


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_episodes_are_written_and_read_in_little_memory(tmp_path):
    script = (
        "import resource, sys\n"
        "from pathlib import Path\n"
        "from tests.test_episode_table import EpisodeTable, ManyEpisodes, write_episode_table\n"
        "def peak():\n"
        "    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "path, before = Path(sys.argv[1]), peak()\n"
        "write_episode_table(path, ManyEpisodes())\n"
        "written = peak()\n"
        "table = EpisodeTable.read_parquet(path)\n"
        "assert table.episode_indices.tolist() == list(range(1_000_000))\n"
        "print(written - before, peak() - written)"
    )
    command = [sys.executable, "-c", script, tmp_path / "episodes.parquet"]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=500)
    writing, reading = map(float, done.stdout.split())
    assert writing < 150
    assert reading < 350
