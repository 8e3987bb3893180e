"""The progress bar."""

import os
import pty
import subprocess
import sys

import pytest

from maze.core.rollout.progress import Progress

SCRIPT = """
import sys, time
from maze.core.rollout.progress import Progress
with Progress(4) as progress:
    for n_episodes in range(1, 5):
        progress.update(n_episodes, 100 * n_episodes, 21.5)
        time.sleep(0.2)
print("rich" in sys.modules)
"""


def play_on_terminal() -> str:
    """Run the script with standard error on a pseudo terminal, and return what that showed."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "xterm"}
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, stderr=theirs, env=environment
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 4096)
        except OSError:  # how Linux tells that the other side is closed
            break
        if not part:
            break
        shown += part
    os.close(ours)
    process.communicate(timeout=10)
    assert process.returncode == 0
    return shown.decode()


def test_on_a_terminal_it_shows_episodes_speed_and_mean_return():
    shown = play_on_terminal()
    assert "4/4" in shown
    assert "steps/s" in shown
    assert "mean return 21.5" in shown
    assert "left" in shown


def test_without_a_terminal_it_is_quiet_and_does_not_even_load_rich():
    run = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=10
    )
    assert (run.stdout, run.stderr) == ("False\n", "")


@pytest.mark.parametrize("show", [True, False])
def test_it_can_be_forced_and_forbidden(show, capsys):
    with Progress(1, show=show) as progress:
        progress.update(1, 10, float("nan"))
    captured = capsys.readouterr()
    assert ("1/1" in captured.err) == show
    assert captured.out == ""


def test_standard_output_and_error_are_as_before_when_it_ends_by_an_error():
    before = (sys.stdout, sys.stderr)
    with pytest.raises(KeyboardInterrupt), Progress(1, show=True):
        raise KeyboardInterrupt
    assert (sys.stdout, sys.stderr) == before
