"""The result of a run, and its table of episodes."""

import io
import json
import math
import pickle
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from maze.core.episode import EpisodeBatch, EpisodeRow, EpisodeTiming, Failure
from maze.core.episode_table import EpisodeTable, EpisodeTableBuilder
from maze.core.errors import MissingExtraError, OutputError
from maze.core.rollout.result import RolloutResult, format_number, format_seconds
from maze.core.statistics.run_statistics import RunStatistics

FAILURE = Failure("step", 3, "ValueError", "<b>broken</b>", "Traceback ...\nValueError: broken")


def make_row(
    episode_index: int,
    episode_return: float = 1.0,
    *,
    n_steps: int = 10,
    failure: Failure | None = None,
    seconds: float = 1.0,
    statistics: Mapping[str, float] | None = None,
) -> EpisodeRow:
    return EpisodeRow(
        episode_index=episode_index,
        episode_id=f"episode-{episode_index}",
        env_seed=10 + episode_index,
        agent_seed=20 + episode_index,
        ending="failed" if failure else "terminated",
        truncated_by="",
        episode_return=episode_return,
        n_steps=n_steps,
        seconds=seconds,
        attempts=1,
        digest="d1g357",
        n_nan=0,
        error=str(failure) if failure else "",
        failure=failure,
        statistics=statistics or {},
    )


def make_result(rows: Sequence[EpisodeRow], **changes: Any) -> RolloutResult:
    statistics = RunStatistics()
    timings = tuple(EpisodeTiming(row.seconds, row.seconds / 2, row.seconds / 4) for row in rows)
    statistics.add(EpisodeBatch(tuple(rows), timings=timings))
    return result_of(statistics, **{"episodes": EpisodeTable.from_rows(rows), **changes})


def result_of(statistics: RunStatistics, **changes: Any) -> RolloutResult:
    values: dict[str, Any] = {
        "statistics": statistics.summaries(),
        "endings": statistics.endings,
        "n_truncated_by_runner": statistics.n_truncated_by_runner,
        "n_nan": statistics.n_nan,
        "n_requested": statistics.n_episodes,
        "n_done": statistics.n_episodes,
        "n_steps": statistics.n_steps,
        "wall_seconds": statistics.seconds,
        "time_split": statistics.time_split(),
        "n_processes": 1,
        "env_base_seed": 4_000_000_000,
        "agent_base_seed": 4_100_000_000,
        "episodes": EpisodeTableBuilder().build,
        "failures": statistics.failures,
        "env_name": "CartPole-v1",
    }
    return RolloutResult(**(values | changes))


ROWS = (
    make_row(0, 1.5, statistics={"Cut.count": 2.0, "kpi": math.nan}),
    make_row(1, 2.5, statistics={"Cut.count": 1.0}),
    make_row(2, 0.5, failure=FAILURE),
)


class TestEpisodeTable:
    def test_rows_come_out_in_episode_order_however_they_came_in(self):
        table = EpisodeTable.from_rows(reversed(ROWS))
        assert [row.episode_index for row in table] == [0, 1, 2]
        assert table == EpisodeTable.from_rows(ROWS)

    def test_a_row_is_found_by_its_episode_index(self):
        table = EpisodeTable.from_rows([ROWS[2], ROWS[0]])
        assert table.row(2) == ROWS[2]
        assert len(table) == 2
        with pytest.raises(KeyError, match="no episode 1"):
            table.row(1)

    def test_the_columns_begin_with_identity_and_outcome_and_end_with_the_statistics(self):
        names = EpisodeTable.from_rows(ROWS).to_arrow().column_names
        assert names[:7] == [
            "episode_index",
            "episode_id",
            "env_seed",
            "agent_seed",
            "ending",
            "truncated_by",
            "return",
        ]
        assert names[-2:] == ["Cut.count", "kpi"]

    def test_a_missing_statistic_is_null_and_nan_stays_nan(self):
        kpi: list[Any] = EpisodeTable.from_rows(ROWS).to_arrow().column("kpi").to_pylist()
        assert math.isnan(kpi[0])
        assert kpi[1:] == [None, None]

    @pytest.mark.parametrize("rows", [ROWS, ROWS[:1], ()], ids=["several", "one", "none"])
    def test_a_file_gives_back_the_same_table(self, rows, tmp_path):
        table = EpisodeTable.from_rows(rows)
        table.write_parquet(tmp_path / "episodes.parquet")
        assert EpisodeTable.read_parquet(tmp_path / "episodes.parquet") == table
        assert [path.name for path in tmp_path.iterdir()] == ["episodes.parquet"]

    @given(
        st.lists(
            st.tuples(st.floats(), st.dictionaries(st.sampled_from("abc"), st.floats())), max_size=5
        )
    )
    def test_any_table_survives_arrow(self, episodes):
        rows = [make_row(index, value, statistics=s) for index, (value, s) in enumerate(episodes)]
        table = EpisodeTable.from_rows(rows)
        assert EpisodeTable.from_arrow(table.to_arrow()) == table

    def test_a_missing_value_differs_from_nan(self):
        with_nan = EpisodeTable.from_rows([make_row(0, statistics={"a": math.nan}), make_row(1)])
        swapped = EpisodeTable.from_rows([make_row(0), make_row(1, statistics={"a": math.nan})])
        assert with_nan != swapped

    def test_how_long_it_took_does_not_count_as_a_difference_of_episodes(self):
        quick, slow = (EpisodeTable.from_rows([make_row(0, seconds=s)]) for s in (1.0, 2.0))
        assert quick.has_equal_episodes(slow)
        assert quick != slow
        assert not quick.has_equal_episodes(EpisodeTable.from_rows([make_row(0, 2.0)]))

    def test_data_frames_hold_the_same(self, tmp_path):
        pandas, polars = pytest.importorskip("pandas"), pytest.importorskip("polars")
        table = EpisodeTable.from_rows(ROWS)
        assert table.to_pandas()["return"].tolist() == [1.5, 2.5, 0.5]
        assert table.to_polars()["return"].to_list() == [1.5, 2.5, 0.5]
        path = tmp_path / "episodes.parquet"
        table.write_parquet(path)
        pandas.testing.assert_frame_equal(pandas.read_parquet(path), table.to_pandas())
        assert polars.read_parquet(path).equals(table.to_polars())

    @pytest.mark.parametrize("name", ["pandas", "polars"])
    def test_a_missing_data_frame_library_is_named(self, name, monkeypatch):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(MissingExtraError, match=name):
            getattr(EpisodeTable.from_rows(ROWS), f"to_{name}")()

    @pytest.mark.parametrize(
        ("rows", "message"),
        [
            ([ROWS[0], ROWS[0]], "episode 0 is there twice"),
            ([make_row(0, statistics={"return": 1.0})], "cannot be named 'return'"),
        ],
    )
    def test_a_table_that_would_contradict_itself_is_refused(self, rows, message):
        with pytest.raises(ValueError, match=message):
            EpisodeTable.from_rows(rows)

    def test_a_builder_can_go_on_after_a_table_was_made(self):
        builder = EpisodeTableBuilder()
        builder.add(ROWS[:1])
        first = builder.build()
        builder.add(ROWS[1:])
        assert (len(first), len(builder.build())) == (1, 3)

    def test_writing_a_table_does_not_load_pandas(self, tmp_path):
        script = (
            "import sys; from pathlib import Path\n"
            "from maze.core.episode_table import EpisodeTable\n"
            "EpisodeTable.from_rows([]).write_parquet(Path(sys.argv[1]))\n"
            "assert 'pyarrow' in sys.modules and 'pandas' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", script, tmp_path / "episodes.parquet"], check=True)

    def test_half_a_character_in_an_error_does_not_cost_the_table(self, tmp_path):
        failure = Failure("step", 0, "OSError", "no file \udcff", "")
        table = EpisodeTable.from_rows([make_row(0, failure=failure)])
        table.write_parquet(tmp_path / "episodes.parquet")
        read = EpisodeTable.read_parquet(tmp_path / "episodes.parquet")
        assert read.row(0).error == "environment after 0 steps: OSError: no file \\udcff"

    def test_what_cannot_be_read_or_written_is_named(self, tmp_path):
        path = tmp_path / "missing" / "episodes.parquet"
        with pytest.raises(OutputError, match=re.escape(str(path))):
            EpisodeTable.from_rows(ROWS).write_parquet(path)
        with pytest.raises(OutputError, match=re.escape(str(path))):
            EpisodeTable.read_parquet(path)
        (tmp_path / "other").write_text("not a table")
        with pytest.raises(OutputError, match="other"):
            EpisodeTable.read_parquet(tmp_path / "other")


class TestRequestMet:
    def test_when_all_episodes_were_played(self):
        assert make_result(ROWS[:2]).request_met

    @pytest.mark.parametrize(
        ("rows", "changes"),
        [
            (ROWS, {}),  # one failed
            (ROWS[:2], {"n_requested": 3}),
            (ROWS[:2], {"interrupted": True}),
        ],
    )
    def test_not_otherwise(self, rows, changes):
        assert not make_result(rows, **changes).request_met


class TestEpisodes:
    def test_they_are_loaded_when_asked_for_and_once(self):
        loaded = []

        def load() -> EpisodeTable:
            loaded.append(1)
            return EpisodeTable.from_rows(ROWS)

        result = make_result(ROWS, episodes=load)
        assert str(result)
        assert result.to_json_dict()
        assert not loaded
        assert result.returns.tolist() == [1.5, 2.5, 0.5]
        assert result.episodes is result.episodes
        assert len(loaded) == 1

    def test_it_does_not_show_how_they_were_given(self):
        late = make_result(ROWS, episodes=lambda: EpisodeTable.from_rows(ROWS))
        assert late == make_result(ROWS)
        assert late != make_result(ROWS, episodes=lambda: EpisodeTable.from_rows(ROWS[:1]))
        late = make_result(ROWS, episodes=lambda: EpisodeTable.from_rows(ROWS))
        assert pickle.loads(pickle.dumps(late)) == late
        assert replace(late, n_requested=9).episodes == late.episodes

    def test_they_are_needed_and_cannot_be_exchanged(self):
        with pytest.raises(TypeError, match="episodes"):
            RolloutResult({}, {}, 0, 0, 0, 0, 0, 0.0, {}, 1, None, None)
        with pytest.raises(FrozenInstanceError):
            make_result(ROWS).episodes = EpisodeTable.from_rows([])  # type: ignore[misc]

    def test_the_speed_is_that_of_this_session(self):
        assert make_result(ROWS, n_steps_before=10, wall_seconds=2.0).steps_per_second == 10.0


class TestJson:
    def test_two_runs_of_the_same_episodes_agree_outside_of_run_and_timing(self):
        again = [make_row(row.episode_index, row.episode_return, seconds=9.0) for row in ROWS[:2]]
        once = [make_row(row.episode_index, row.episode_return) for row in ROWS[:2]]
        one = make_result(once).to_json_dict()
        other = make_result(
            again[::-1], n_processes=5, output_directory=Path("out"), warnings=("slow",)
        ).to_json_dict()
        for part in ("run", "timing"):
            assert one.pop(part) != other.pop(part)
        assert json.dumps(one) == json.dumps(other)

    def test_it_is_strict_json_even_without_an_episode(self):
        text = json.dumps(make_result([], n_requested=5).to_json_dict(), allow_nan=False)
        assert json.loads(text)["statistics"]["return"]["mean"] is None

    def test_failures_are_told_in_parts_and_with_what_reproduces_them(self):
        failure = replace(FAILURE, output="line\n")
        result = make_result([make_row(4, failure=failure)], replay_command="r {episode_index}")
        assert result.to_json_dict()["failures"] == [
            {
                "episode_index": 4,
                "env_seed": 14,
                "agent_seed": 24,
                "error": str(failure),
                "place": "step",
                "step": 3,
                "exception_type": "ValueError",
                "message": "<b>broken</b>",
                "attempts": 1,
                "output": "line\n",
                "reproduce": "r 4",
            }
        ]

    @pytest.mark.parametrize(
        ("rows", "n_requested", "expected"),
        [
            (ROWS[:2], 2, None),
            (ROWS, 3, {"low": pytest.approx(5.5 / 3), "high": pytest.approx(6.5 / 3)}),
            (ROWS[:1], 2, {"low": 1.5, "high": 1.5}),  # one is missing
            (ROWS[2:], 1, {"low": None, "high": None}),  # nothing to judge by
        ],
    )
    def test_the_mean_is_told_as_a_range_if_episodes_failed_or_are_missing(
        self, rows, n_requested, expected
    ):
        values = make_result(rows, n_requested=n_requested).to_json_dict()
        assert values["mean_return_range"] == expected

    @given(
        st.lists(st.tuples(st.floats(), st.booleans(), st.floats()), max_size=12),
        st.randoms(use_true_random=False),
    )
    def test_a_run_in_two_sessions_ends_with_the_numbers_of_an_undisturbed_one(self, episodes, rng):
        rows = [
            make_row(index, value, failure=FAILURE if is_failed else None, statistics={"a": number})
            for index, (value, is_failed, number) in enumerate(episodes)
        ]
        rows += [make_row(len(rows) + 1)]  # without the statistic, which is 0 then
        expected, actual = RunStatistics(), RunStatistics()
        zeros = frozenset({"a"})
        expected.add(EpisodeBatch(tuple(rows), zero_statistics=zeros))
        rng.shuffle(rows)
        n_before = 0
        while rows:
            part = tuple(rows.pop() for _ in range(rng.randint(1, len(rows))))
            if rng.random() < 0.5:
                actual.add(EpisodeBatch(part, zero_statistics=zeros))
            else:
                columns = dict(zip(EpisodeRow._fields, zip(*part, strict=True), strict=True))
                actual.add_columns({**columns, "zero_statistics": ["a"]})
                n_before += sum(row.n_steps for row in part)
        assert actual.n_steps_before == n_before
        one, other = (
            {
                name: value
                for name, value in result_of(statistics).to_json_dict().items()
                if name not in ("run", "timing")
            }
            for statistics in (expected, actual)
        )
        assert json.dumps(one) == json.dumps(other)

    def test_seeds_that_were_listed_are_called_explicit(self):
        result = make_result(ROWS, env_base_seed=None)
        assert result.to_json_dict()["seeds"] == {
            "env_base_seed": "explicit",
            "agent_base_seed": 4_100_000_000,
        }


class TestText:
    def test_it_reads_like_this(self):
        rows = [make_row(index, float(n), n_steps=10 * n) for index, n in enumerate((9, 10, 14))]
        text = str(make_result(rows, n_processes=2, output_directory=Path("outputs/now")))
        assert [line.rstrip() for line in text.splitlines()] == [
            "CartPole-v1 · 3 episodes · 2 processes",
            "",
            "          mean   95 % CI    std   min   median   max",
            "────────────────────────────────────────────────────",
            "return   11.00    ± 6.57   2.65     9       10    14",
            "steps    110.0    ± 65.7   26.5    90      100   140",
            "",
            "endings      terminated 3 · truncated 0 · failed 0",
            "time         3 s · 110 steps/s",
            "spent on     environment 50 % · policy 25 % · recording 25 %",
            "repeat with  seeding.env_base_seed=4000000000 seeding.agent_base_seed=4100000000",
            "output       outputs/now",
        ]

    def test_it_fits_80_columns_whatever_the_names_and_numbers(self):
        statistics = {
            "InventoryReplenished.mean_number_of_pieces/a_rather_large_raw_piece": 123_456.789,
            "Cut.count": 1e12,
            "loss": -1.5e-9,
        }
        warning = "a warning " * 20
        rows = [make_row(0, -1_234_567.8, statistics=statistics), *ROWS[1:]]
        lines = str(make_result(rows, warnings=(warning,))).splitlines()
        copied = ("reproduce",)
        assert max(len(line) for line in lines if not line.startswith(copied)) <= 80

    def test_failures_come_with_their_seeds_and_one_line(self):
        text = str(make_result(ROWS))
        assert "failed       episode 2: env_seed=12 agent_seed=22" in text
        assert "environment after 3 steps: ValueError: <b>broken</b>" in text
        assert "tracebacks: column 'failure' of result.episodes" in text

    def test_a_failure_comes_with_what_its_worker_printed_last(self):
        output = f"1\n2\n\x1b[31mred\x1b[0m\x1b]0;title\x07\n{'x' * 500}\r50 %\a\n\n"
        text = str(make_result([make_row(0, failure=replace(FAILURE, output=output))]))
        lines = [line for line in text.splitlines() if line.startswith("printed")]
        assert [line.split() for line in lines] == [["printed", "red"]]
        assert "50 %\\x07" in text
        assert 100 < text.count("x" * 10) * 10 < 200  # bounded
        assert not {"\x1b", "\x07", "\r"} & {*text}
        assert "printed" not in str(make_result(ROWS))

    def test_the_command_that_reproduces_a_failure_stays_in_one_line(self):
        command = f"maze replay /{'long/' * 40}{{run}} --episode {{episode_index}} --pdb"
        lines = str(make_result(ROWS, replay_command=command)).splitlines()
        assert f"reproduce    maze replay /{'long/' * 40}{{run}} --episode 2 --pdb" in lines

    def test_a_failure_of_a_run_that_was_not_recorded_is_reproduced_by_its_seeds(self):
        command = (
            "maze.rollout(..., n_episodes=1,"
            " seed=Seeding(explicit_env_seeds=[12], explicit_agent_seeds=[22]))"
        )
        assert f"reproduce    {command}" in str(make_result(ROWS)).splitlines()

    def test_with_failures_it_tells_where_the_mean_could_have_been(self):
        text = str(make_result([make_row(0, 1.0), make_row(1, 3.0), make_row(2, failure=FAILURE)]))
        assert "\nmean return  1.667 to 2.333, if 1 failed were worst or best" in text
        assert "\nmean return" not in str(make_result(ROWS[:2]))
        assert "\nmean return" not in str(make_result(ROWS[2:]))  # nothing to judge by

    def test_of_a_run_that_ended_early_it_tells_that_what_finished_is_no_fair_sample(self):
        text = str(make_result(ROWS, n_requested=1000, stopped_because="an error"))
        assert "\nbias         short episodes finish first: these count for too much" in text
        assert "1.501 to 2.499, if 1 failed and 997 missing were worst or best" in text
        assert "\nbias" not in str(make_result(ROWS))

    def test_an_interrupted_run_says_so_and_how_far_it_came(self):
        text = str(make_result(ROWS[:2], n_requested=50, interrupted=True))
        assert "2 of 50 episodes" in text
        assert "\ninterrupted" in text

    def test_square_brackets_are_not_taken_for_markup(self):
        assert "[red]x[/]" in str(make_result(ROWS, env_name="[red]x[/]", warnings=("[red]x[/]",)))

    def test_no_colour_goes_to_a_file(self):
        file = io.StringIO()
        make_result(ROWS).print(file)
        assert "\x1b" not in file.getvalue()

    def test_a_stream_that_knows_ascii_only_gets_ascii(self):
        raw = io.BytesIO()
        file = io.TextIOWrapper(raw, encoding="ascii")
        make_result(ROWS, warnings=("naïve",)).print(file)
        file.flush()
        assert b"+/-" in raw.getvalue()

    def test_repr_is_one_line(self):
        assert repr(make_result(ROWS)) == "RolloutResult(3 of 3 episodes, mean return 2, 1 failed)"

    def test_a_notebook_gets_escaped_html(self):
        page = make_result(ROWS)._repr_html_()
        assert "&lt;b&gt;broken&lt;/b&gt;" in page
        assert "<b>broken" not in page
        assert "color" not in page


@pytest.mark.parametrize(
    ("number", "n_decimals", "text"),
    [
        (0.0, 3, "0"),
        (-0.0, 3, "0"),
        (1234567.0, 0, "1,234,567"),
        (22.375, 2, "22.38"),
        (0.0123, 1, "0.012"),  # two digits that count, although one decimal was asked for
        (1.5e-9, 2, "1.50e-09"),
        (-math.inf, 2, "-inf"),
        (math.nan, 2, "nan"),
    ],
)
def test_numbers_are_written_for_people(number, n_decimals, text):
    assert format_number(number, n_decimals) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.01234, "0.0123 s"),
        (12.34, "12.3 s"),
        (59.999, "60 s"),
        (61.0, "1 min 01 s"),
        (3_725.0, "1 h 02 min"),
    ],
)
def test_durations_are_written_for_people(seconds, text):
    assert format_seconds(seconds) == text
