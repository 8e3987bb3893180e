"""The viewer's page in a real browser. Skipped where there is no Chromium."""

import re
import shutil

import numpy as np
import pytest

import maze
from maze.viewer.export import make_report
from maze.viewer.server import Server, Viewer
from tests.runs import numbered, sequential, with_config

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

expect = sync_api.expect
CUTTING = "maze_envs.logistics.cutting_2d"


def played(directory, env, n_episodes, policy=None, **options):
    sequential(n_episodes=n_episodes, output_dir=directory, **options).run_with(
        env, policy, seeding=numbered(n_episodes)
    )
    return directory


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    drawn = {"_target_": "tests.viewer_envs.DrawnWalkEnv"}
    hostile = played(folder / "hostile", {"_target_": "tests.viewer_envs.HostileEventsEnv"}, 2)
    with_config(hostile, {"env": {"name": "<img src=x onerror=alert(1)>"}})
    return [
        played(folder / "cart", "CartPole-v1", 30),
        played(folder / "right", "CartPole-v1", 30, policy=lambda observation: 1),
        played(folder / "failing", drawn, 6),
        hostile,
        played(
            folder / "cutting",
            {
                "_target_": f"{CUTTING}.env.cutting_2d_structured_masked",
                "max_pieces_in_inventory": 10,
                "raw_piece_size": [4, 3],
                "static_demand": [[1, 2], [2, 2]],
                "max_episode_steps": 20,
            },
            2,
            policy={
                "_target_": "maze.core.agent.flat_policies.FlatPolicies",
                "policies": {
                    key: {"_target_": f"{CUTTING}.greedy_policy.GreedyPolicy"} for key in (0, 1)
                },
            },
        ),
    ]


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def server(runs):
    with Viewer(runs, trust=True) as viewer:
        server = Server(viewer)
        yield server
        server.close()


@pytest.fixture
def page(browser):
    """A page of which it is asserted that it asks nobody but the server, and has no error."""
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("dialog", lambda dialog: errors.append(f"a script ran: {dialog.message}"))
    yield page
    page.close()
    assert not errors
    elsewhere = [url for url in asked if not re.match(r"(http://127\.0\.0\.1:|data:|file:)", url)]
    assert not elsewhere


@pytest.fixture
def go(page, server):
    def go(path=""):
        page.goto(f"{server.url}#/{path}")
        return page

    return go


def column(directory, name):
    return np.asarray(maze.load(directory).table[name])


def rows(page):
    return page.locator(".table .body .row")


def cells(page, name):
    """Return the texts of a column, in the order of the table."""
    titles = page.locator(".table [role=columnheader]").all_inner_texts()
    place = next(i for i, title in enumerate(titles) if title.strip(" ▲▼\n") == name)
    return page.locator(f".table .body .row .cell:nth-child({place + 1})").all_inner_texts()


def shown_frame(page):
    return page.locator(".picture img[data-step]").first


def expect_step(page, step):
    expect(page.get_by_test_id("step")).to_have_value(str(step))
    expect(page.get_by_role("heading", name=f"Step {step}", exact=True)).to_be_visible()


# The run.


def test_a_run_shows_what_was_run_and_what_came_out(go, runs):
    page = go()
    expect(page.get_by_role("heading", level=1)).to_contain_text("CartPole-v1")
    expect(page.locator(".summary").first).to_contain_text("30 episodes")
    mean = column(runs[0], "return").mean()
    expect(page.locator("table.statistics tr", has_text="return")).to_contain_text(f"{mean:.2f}")
    expect(page.get_by_role("img", name="Distribution of return").first).to_be_visible()
    expect(page.get_by_text("gymnasium")).to_be_visible()
    page.get_by_text("Configuration").click()
    expect(page.locator("pre")).to_contain_text("n_episodes: 30")


def test_episodes_are_sorted_by_a_click_on_a_column(go, runs):
    page = go()
    expect(rows(page).first).to_be_visible()
    returns = sorted(column(runs[0], "return"))
    sort = page.get_by_role("button", name="return", exact=True).last
    sort.click()
    assert cells(page, "return")[:5] == [f"{value:g}" for value in returns[:5]]
    sort.click()
    assert cells(page, "return")[0] == f"{returns[-1]:g}"
    expect(page.get_by_role("columnheader", name="return")).to_have_attribute(
        "aria-sort", "descending"
    )


def test_episodes_are_filtered_by_conditions(go, runs):
    page = go()
    n = int((column(runs[0], "return") < 20).sum())
    page.get_by_label("Filter").fill("return<20 ending=terminated")
    expect(page.locator("#filter-help")).to_have_text(f"{n} of 30 episodes")
    assert all(float(value) < 20 for value in cells(page, "return"))
    page.get_by_label("Filter").fill("seed=7")
    expect(page.locator("#filter-help")).to_have_text("1 of 30 episodes")
    page.get_by_label("Filter").fill("retur<20")
    expect(page.locator("#filter-help")).to_contain_text("Did you mean: return")
    page.get_by_label("Filter").fill("return<much")
    expect(page.locator("#filter-help")).to_contain_text("compared with a number")


def test_a_click_on_a_bar_shows_the_episodes_in_it(go):
    page = go()
    page.get_by_test_id("bar").first.click()
    expect(page.get_by_label("Filter")).to_have_value(re.compile("return"))
    expect(page.locator("#filter-help")).not_to_have_text("30 of 30 episodes")


def test_the_table_is_used_by_keys_alone(go):
    page = go()
    expect(rows(page).first).to_be_visible()
    page.locator(".table .body").focus()
    page.keyboard.press("End")
    expect(page.locator(".row.chosen")).to_contain_text("29")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", level=1)).to_contain_text("episode 28")


def test_failed_episodes_are_shown_with_their_error_and_how_to_reproduce_them(go):
    page = go("run/2")
    failures = page.get_by_role("region", name="Failed episodes")
    expect(failures).to_contain_text("the <script>alert(1)</script> broke")
    expect(failures).to_contain_text("--episode 3 --pdb --trust")
    failures.get_by_role("link", name="episode 3").click()
    expect(page.get_by_role("region", name="Failure")).to_contain_text("ValueError")
    expect(page.get_by_text("Traceback (most recent call last)")).to_be_visible()
    page.get_by_role("button", name="step 4", exact=True).click()
    expect_step(page, 4)


# An episode.


def test_an_episode_is_scrubbed_by_keys_slider_and_clicks(go, runs):
    n_steps = int(column(runs[0], "n_steps")[5])
    page = go("run/0/episode/5")
    expect(shown_frame(page)).to_have_attribute("data-step", "0")
    expect(page.locator(".badge.good")).to_have_text("played again · proven by its digest")
    for key, step in [
        ("ArrowRight", 1),
        ("ArrowRight", 2),
        ("ArrowLeft", 1),
        ("End", n_steps),
        ("Home", 0),
        ("Shift+ArrowRight", 10),
    ]:
        page.keyboard.press(key)
        expect_step(page, step)
        expect(shown_frame(page)).to_have_attribute("data-step", str(step))
    page.get_by_role("slider", name="Step").fill("4")
    expect_step(page, 4)
    lines = page.get_by_test_id("lines")
    box = lines.bounding_box()
    page.mouse.click(box["x"] + box["width"] - 1, box["y"] + 20)
    expect_step(page, n_steps)
    page.get_by_test_id("step").fill("3")
    page.get_by_test_id("step").press("Enter")
    expect_step(page, 3)


def test_the_values_of_a_step_are_those_recorded(go, runs):
    trajectory = maze.load(runs[0]).trajectory(5)
    page = go("run/0/episode/5?step=3")
    values = page.get_by_role("region", name="Values of the step")
    expect(values).to_contain_text(str(float(str(trajectory.observations[3][0])))[:8])
    expect(values.locator("tr", has_text="action")).to_contain_text(str(trajectory.actions[3]))
    page.keyboard.press("End")
    expect(values).to_contain_text("none: the episode is over")


def test_playing_shows_every_frame_and_ends_at_the_last(go, runs):
    n_steps = int(column(runs[0], "n_steps")[5])
    page = go("run/0/episode/5")
    expect(shown_frame(page)).to_have_attribute("data-step", "0")
    page.get_by_title("Speed").select_option("120")
    page.locator("h1").click()
    page.keyboard.press(" ")
    expect(page.get_by_role("button", name="Pause", exact=True)).to_be_visible()
    expect(shown_frame(page)).to_have_attribute("data-step", str(n_steps), timeout=20_000)
    expect(page.get_by_role("button", name="Play", exact=True)).to_be_visible()
    expect_step(page, n_steps)


def test_a_key_shows_a_prefetched_frame_at_once(go):
    page = go("run/0/episode/5")
    expect(shown_frame(page)).to_have_attribute("data-step", "0")
    page.wait_for_timeout(1500)  # Meanwhile the next frames come.
    loads = []
    page.on("request", lambda request: loads.append(request.url))
    page.keyboard.press("ArrowRight")
    # In the same turn: the frame was there already.
    assert shown_frame(page).get_attribute("data-step") == "1"
    assert not [url for url in loads if url.endswith("/frames/1")]


def test_episodes_follow_each_other_in_the_order_of_the_table(go, runs):
    page = go()
    expect(rows(page).first).to_be_visible()
    page.get_by_role("button", name="return", exact=True).last.click()
    first, second = cells(page, "episode")[:2]
    rows(page).first.click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"episode {first}")
    page.keyboard.press("n")
    expect(page.get_by_role("heading", level=1)).to_contain_text(f"episode {second}")
    page.keyboard.press("u")
    expect(page.get_by_label("Filter")).to_be_visible()


def test_in_a_notebook_the_page_goes_from_the_table_to_an_episode_and_back(page, runs, tmp_path):
    shown = maze.view(runs[0], episodes=[4])._repr_html_()
    notebook = tmp_path / "notebook.html"
    notebook.write_text(f'<!doctype html><meta charset="utf-8">{shown}', encoding="utf-8")
    page.goto(notebook.as_uri())
    frame = page.frame_locator("iframe")
    frame.get_by_role("link", name="4", exact=True).click()
    expect(frame.get_by_role("heading", level=1)).to_contain_text("episode 4")
    image = frame.locator(".picture img[data-step]").first
    expect(image).to_have_attribute("data-step", "0")
    page.keyboard.press("ArrowRight")
    expect(image).to_have_attribute("data-step", "1")
    frame.get_by_title("Back to the run (u)").click()
    expect(frame.get_by_label("Filter")).to_be_visible()
    assert page.url == notebook.as_uri()


def test_sub_steps_and_actors_are_told_apart(go):
    page = go("run/3/episode/0?step=1")
    expect(page.get_by_role("img", name="Actors: place/0, select/0")).to_be_visible()
    values = page.get_by_role("region", name="Values of the step")
    expect(values).to_contain_text("time 0 · actor place/0")
    expect(values).to_contain_text("Placed(")


def test_a_cutting_run_is_opened_from_its_key_figures_to_a_drawn_sub_step(go):
    page = go("run/4")
    expect(page.locator("table.statistics")).to_contain_text("kpi.raw piece usage per step")
    page.get_by_role("link", name="1", exact=True).click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("episode 1")
    expect(page.locator(".summary").first).to_contain_text("20 steps of 40 sub-steps")
    expect(shown_frame(page)).to_have_attribute("data-step", "0")
    page.keyboard.press("ArrowRight")
    expect(shown_frame(page)).to_have_attribute("data-step", "1")
    values = page.get_by_role("region", name="Values of the step")
    expect(values).to_contain_text("time 0 · actor 1/0")
    expect(values).to_contain_text("action.cut_rotation")
    page.keyboard.press("End")
    expect(shown_frame(page)).to_have_attribute("data-step", "40", timeout=20_000)
    expect(page.get_by_text("digest", exact=False).first).to_be_visible(timeout=20_000)


def test_nothing_from_a_run_is_taken_for_markup(go):
    page = go("run/3")
    expect(page.get_by_role("heading", level=1)).to_contain_text("<img src=x onerror=alert(1)>")
    assert page.locator("img").count() == 0
    page = go("run/3/episode/0?step=1")
    expect(page.get_by_role("region", name="Values of the step")).to_contain_text(
        "<script>alert(1)</script>"
    )
    assert page.locator("main script").count() == 0


# Two runs.


def test_two_runs_are_compared_and_a_pair_is_played_side_by_side(go, runs):
    page = go("compare/0/1")
    a, b = (column(run, "return") for run in runs[:2])
    expect(page.locator("table.statistics tr", has_text="return")).to_contain_text(
        f"{(b - a).mean():.2f}"
    )
    expect(page.get_by_text("30 pairs of episodes")).to_be_visible()
    rows(page).nth(2).click()
    expect(page.get_by_role("status")).to_contain_text("first in the action")
    pictures = page.locator(".picture img[data-step]")
    expect(pictures).to_have_count(2, timeout=15_000)
    page.keyboard.press("ArrowRight")
    for i in range(2):
        expect(pictures.nth(i)).to_have_attribute("data-step", "1")
    page.keyboard.press("Home")
    page.get_by_role("button", name="go to step").click()


# Looks.


@pytest.mark.parametrize("width", [1280, 3840])
@pytest.mark.parametrize("path", ["", "run/0/episode/5", "compare/0/1"])
def test_pages_fit_their_width_and_do_not_jump(go, page, width, path):
    page.set_viewport_size({"width": width, "height": width * 9 // 16})
    go(path)
    page.locator("h1").wait_for()
    page.wait_for_timeout(800)
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    if "episode" in path:
        before = page.get_by_test_id("lines").bounding_box()
        for _ in range(5):
            page.keyboard.press("ArrowRight")
        page.wait_for_timeout(300)
        assert page.get_by_test_id("lines").bounding_box() == before


def test_every_control_has_a_name(go, page):
    for path in ("", "run/0/episode/5", "compare/0/1"):
        go(path)
        page.locator("h1").wait_for()
        page.wait_for_timeout(500)
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, svg[role=img]")]
                .filter((e) => !(e.getAttribute("aria-label") || e.textContent.trim()
                    || e.labels?.length))
                .map((e) => e.outerHTML.slice(0, 100))"""
        )
        assert unnamed == []


def test_light_and_dark_follow_the_system_and_can_be_chosen(go, page):
    go()
    background = "getComputedStyle(document.body).backgroundColor"
    page.emulate_media(color_scheme="light")
    light = page.evaluate(background)
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate(background)
    assert light != dark
    button = page.get_by_role("button", name="Colours")
    for chosen in (light, dark):
        button.click()
        expect(page.locator("body")).to_have_css("background-color", chosen)


# Reports.


def test_a_report_opens_from_disk_without_a_server(page, runs, tmp_path):
    with Viewer([runs[2]], trust=True) as viewer:
        make_report(viewer).write(tmp_path / "report.html")
    page.goto((tmp_path / "report.html").as_uri())
    expect(page.get_by_role("heading", level=1)).to_contain_text("DrawnWalkEnv")
    expect(page.locator(".note.report")).to_contain_text("4 of 6 episodes")
    links = page.locator(".table .body a")
    expect(links).to_have_count(4)
    links.first.click()
    expect(shown_frame(page)).to_have_attribute("data-step", "0")
    page.keyboard.press("End")
    expect_step(page, 40)
    assert page.evaluate("document.querySelector('.picture img').naturalWidth") == 32
    assert "played again" in page.locator(".badge").inner_text()


# Size.


def test_an_episode_of_a_hundred_thousand_steps_stays_usable(page, tmp_path):
    env = {"_target_": "tests.viewer_envs.DrawnWalkEnv", "n_steps": 100_000}
    directory = played(tmp_path / "run", env, 1, max_episode_steps=0)
    with Viewer([directory], trust=True) as viewer:
        server = Server(viewer)
        try:
            page.goto(f"{server.url}#/run/0/episode/0")
            expect(shown_frame(page)).to_have_attribute("data-step", "0", timeout=15_000)
            page.keyboard.press("End")
            expect_step(page, 100_000)
            page.keyboard.press("ArrowLeft")
            expect_step(page, 99_999)
            assert (
                page.locator("svg path").evaluate_all(
                    "paths => Math.max(...paths.map((path) => path.getAttribute('d').length))"
                )
                < 100_000
            )
            page.keyboard.press("+")
            expect(page.locator(".range span").first).not_to_have_text("0")
        finally:
            server.close()
