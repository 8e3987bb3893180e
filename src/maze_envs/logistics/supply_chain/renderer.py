"""Draws a supply chain: who has and owes what, what is under way, and what was ordered.

Above, the chain from the factory to the customer, with goods going to the right and orders to the
left; below, the orders of the last periods, in which a bullwhip is plain to see.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from maze.core.env.renderer import LastStep, Renderer
from maze_envs.logistics.supply_chain.state import (
    N_PERIODS_KEPT,
    Order,
    Orders,
    Stage,
    SupplyChainState,
    stage_names,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, LINE, CARD, GRID = "#333b47", "#838b98", "#c4cad3", "#f4f6f8", "#eceff3"
STOCK, OWED, ORDER, DEMAND = "#5b8db8", "#d0675c", "#d99a2b", "#e1e5ea"

# In pixels from the lower left corner.
WIDTH, HEIGHT, HEADLINE = 960, 540, 518
WIDEST_CARD, CARD_LOW, CARD_HIGH = 96, 224, 490
FACTORY_X, CUSTOMER_X, CUSTOMER_RADIUS = 174, 904, 37
ORDER_LANE, GOODS_LANE = 432, 322
LONGEST_UP, LONGEST_DOWN = 104, 72
"""Of the bars; stock goes up from the goods lane, and what is owed goes down."""
BOX_HEIGHT, WIDEST_BOX, NARROWEST_BOX = 22, 32, 16
PLOT_LEFT, PLOT_RIGHT, PLOT_LOW, PLOT_HIGH = 46, 936, 36, 176


class SupplyChainRenderer(Renderer[SupplyChainState, Order | Orders]):
    """Draws chains of any length; they look best with two to five stages.

    Where there is no room for a number at each place under way, their sum is shown.
    """

    figure_size = (WIDTH / 100, HEIGHT / 100)
    frames_per_second = 8.0

    def draw(self, figure: Figure, state: SupplyChainState, last: LastStep | None) -> None:
        """Draw a state. It holds all that is shown, so that ``last`` is not needed."""
        sheet = _Sheet(figure)
        colours = _stage_colours(len(state.stages))
        _draw_headline(sheet, state)
        _ChainDrawing(sheet, state, colours).draw()
        _draw_orders(sheet, state, colours)


class _Sheet:
    """Draws in pixels. Without axes, whose ticks and limits take longer than all the rest."""

    def __init__(self, figure: Figure) -> None:
        from matplotlib import lines, patches
        from matplotlib.transforms import Affine2D

        self._figure: Any = figure
        self._lines, self._patches = lines, patches
        self._pixels = Affine2D().scale(0.01) + figure.dpi_scale_trans

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 9.0,
        colour: str = INK,
        weight: str = "normal",
        align: str = "center",
    ) -> None:
        """Write, with the middle of the line at a height."""
        self._figure.text(
            *(x, y, text),
            fontsize=size,
            color=colour,
            fontweight=weight,
            ha=align,
            va="center_baseline",
            transform=self._pixels,
            zorder=5,
        )

    def box(
        self,
        x: float,
        y: float,
        size: tuple[float, float],
        face: str,
        edge: str = "none",
        line_width: float = 1.0,
        radius: float = 2.0,
        zorder: float = 2.0,
    ) -> None:
        """Draw a box with round corners around a middle."""
        width, height = size
        self._add(
            self._patches.FancyBboxPatch(
                *((x - width / 2, y - height / 2), width, height),
                boxstyle=f"round,pad=0,rounding_size={radius}",
                facecolor=face,
                edgecolor=edge,
                linewidth=line_width,
                zorder=zorder,
            )
        )

    def area(self, points: Sequence[tuple[float, float]], colour: str, zorder: float = 2.0) -> None:
        """Fill a polygon."""
        polygon = self._patches.Polygon(points, closed=True, fc=colour, lw=0, zorder=zorder)
        self._add(polygon)

    def circle(self, x: float, y: float, radius: float) -> None:
        """Draw a circle around a middle."""
        self._add(self._patches.Circle((x, y), radius, fc=CARD, ec=LINE, lw=0.8, zorder=2))

    def line(
        self,
        points: Sequence[tuple[float, float]],
        colour: str = LINE,
        width: float = 1.2,
        zorder: float = 1.0,
    ) -> None:
        """Draw a line through points."""
        x, y = zip(*points, strict=True)
        self._add(self._lines.Line2D(x, y, color=colour, lw=width, zorder=zorder))

    def arrow(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        """Draw an arrow, which is horizontal or vertical."""
        (x, y), along, across = end, (end[0] - start[0]), (end[1] - start[1])
        dx = 8.0 * ((along > 0) - (along < 0))
        dy = 8.0 * ((across > 0) - (across < 0))
        base = (x - dx, y - dy)
        self.line([start, base])
        sides = [(base[0] + dy * side, base[1] + dx * side) for side in (0.5, -0.5)]
        self.area([end, *sides], LINE, zorder=1)

    def _add(self, artist: Any) -> None:
        artist.set_transform(self._pixels)
        self._figure.add_artist(artist)


def _draw_headline(sheet: _Sheet, state: SupplyChainState) -> None:
    sheet.text(24, HEADLINE, f"Period {state.time}", size=14, weight="bold", align="left")
    cost = f"cost {state.history[-1].cost:,.1f}" if state.history else "start"
    sheet.text(146, HEADLINE - 1, cost, size=10, colour=FAINT, align="left")
    x = WIDTH - 24.0
    for label, colour, width in (
        ("ordered", ORDER, 48),
        ("owed", OWED, 34),
        ("in stock or under way", STOCK, 138),
    ):
        x -= width
        sheet.text(x, HEADLINE - 1, label, colour=FAINT, align="left")
        sheet.box(x - 11, HEADLINE, (9, 9), face=colour)
        x -= 36


class _ChainDrawing:
    """The chain itself."""

    def __init__(self, sheet: _Sheet, state: SupplyChainState, colours: Sequence[str]) -> None:
        self.sheet = sheet
        self.state = state
        self.colours = colours
        self.names = [name.partition("_")[2] for name in stage_names(len(state.stages))]
        self.pitch = (CUSTOMER_X - FACTORY_X) / len(state.stages)
        self.card_width = min(WIDEST_CARD, self.pitch / 2)
        self.pixels_per_unit = _pixels_per_unit(state.stages)

    def draw(self) -> None:
        """Draw it."""
        state = self.state
        self._customer()
        # What was ordered in this period, if not all stages have ordered yet.
        pending = dict(zip(state.open_stages, state.orders, strict=False))
        next_stage = state.open_stages[len(pending)] if pending else None
        for i, stage in enumerate(state.stages):
            self._card(i, stage, is_next=i == next_stage)
            if i + 1 < len(state.stages):
                self._orders(i, stage.orders_under_way, pending.get(i))
            self._goods(i, stage.goods_under_way, pending.get(i))

    def _left(self, stage: int) -> float:
        return self._x(stage) - self.card_width / 2

    def _right(self, stage: int) -> float:
        return self._x(stage) + self.card_width / 2

    def _x(self, stage: int) -> float:
        """Return the middle of a stage's card."""
        return CUSTOMER_X - self.pitch * (stage + 1)

    def _card(self, i: int, stage: Stage, is_next: bool) -> None:
        sheet, x = self.sheet, self._x(i)
        sheet.box(
            *(x, (CARD_LOW + CARD_HIGH) / 2, (self.card_width, CARD_HIGH - CARD_LOW)),
            face=CARD,
            edge=ORDER if is_next else LINE,
            line_width=2.0 if is_next else 0.8,
            radius=6,
        )
        sheet.text(x, CARD_HIGH - 15, self.names[i], size=self.card_width / 10, weight="bold")
        # The colour of its line below.
        sheet.box(x, CARD_HIGH - 27, (40, 3), face=self.colours[i], radius=1, zorder=3)
        if i not in self.state.open_stages:
            sheet.text(x, CARD_LOW + 12, "closed", colour=FAINT)
        reach = self.card_width / 2 - 14
        sheet.line([(x - reach, GOODS_LANE), (x + reach, GOODS_LANE)], zorder=4)
        up = stage.inventory * self.pixels_per_unit
        down = stage.backlog * self.pixels_per_unit
        for height, colour in ((up, STOCK), (-down, OWED)):
            ends = (GOODS_LANE, GOODS_LANE + height)
            corners = [(x - 15, ends[0]), (x + 15, ends[0]), (x + 15, ends[1]), (x - 15, ends[1])]
            if height:
                sheet.area(corners, colour, zorder=3)
        if stage.inventory or not stage.backlog:
            sheet.text(x, GOODS_LANE + up + 10, str(stage.inventory), colour=STOCK, weight="bold")
        if stage.backlog:
            sheet.text(x, GOODS_LANE - down - 10, str(stage.backlog), colour=OWED, weight="bold")

    def _orders(self, i: int, under_way: Sequence[int], pending: int | None) -> None:
        """Draw the orders of a stage on their way to the left; the oldest is there first."""
        left, right = self._right(i + 1), self._left(i)
        self.sheet.arrow((right, ORDER_LANE), (left, ORDER_LANE))
        # The last place is for the order of this period.
        places = _places(left, right, len(under_way) + 1)
        if places[0].width < NARROWEST_BOX:
            places, under_way = _places(left, right, 2), [sum(under_way)]
        for place, units in zip(places, under_way, strict=False):
            self._slip(place, units)
        if pending is not None:
            self._slip(places[-1], pending, is_new=True)

    def _goods(self, i: int, under_way: Sequence[int], pending: int | None) -> None:
        """Draw the goods on their way to a stage at the right; what arrives first is nearest."""
        is_production = i + 1 == len(self.state.stages)
        left, right = 14.0 if is_production else self._right(i + 1), self._left(i)
        self.sheet.arrow((left, GOODS_LANE), (right, GOODS_LANE))
        # The factory's order of this period goes to the beginning of its production.
        places = _places(left, right, len(under_way) + is_production)[::-1]
        if places[0].width < NARROWEST_BOX:
            places, under_way = _places(left, right, 1 + is_production)[::-1], [sum(under_way)]
        for place, units in zip(places, under_way, strict=False):
            self._crate(place, units)
        if is_production:
            middle = (left + right) / 2
            self.sheet.text(middle, GOODS_LANE + 25, "production", colour=FAINT)
            if pending is not None:
                self._slip(places[-1], pending, GOODS_LANE, is_new=True)

    def _customer(self) -> None:
        """Draw the customer, what was wanted in the last period, and what was delivered."""
        sheet, retailer, left = self.sheet, self.state.stages[0], self._right(0)
        x, y = CUSTOMER_X, (ORDER_LANE + GOODS_LANE) / 2
        sheet.line([(x, y + CUSTOMER_RADIUS), (x, ORDER_LANE), (left + 8, ORDER_LANE)])
        sheet.arrow((left + 9, ORDER_LANE), (left, ORDER_LANE))
        sheet.line([(left, GOODS_LANE), (x, GOODS_LANE), (x, y - CUSTOMER_RADIUS - 8)])
        sheet.arrow((x, y - CUSTOMER_RADIUS - 9), (x, y - CUSTOMER_RADIUS))
        (between,) = _places(left, x - 20, 1)
        self._slip(between, retailer.incoming_order)
        self._crate(between, retailer.shipped)
        sheet.circle(x, y, CUSTOMER_RADIUS)
        sheet.text(x, y, "customer", weight="bold")

    def _slip(self, place: _Place, units: int, y: float = ORDER_LANE, is_new: bool = False) -> None:
        """Draw an order."""
        face, ink = (ORDER, "white") if is_new else ("white", INK)
        self._units(place, y, units, face, ORDER, ink)

    def _crate(self, place: _Place, units: int) -> None:
        """Draw goods; none are faint."""
        face, edge, ink = (STOCK, STOCK, "white") if units else ("white", LINE, FAINT)
        self._units(place, GOODS_LANE, units, face, edge, ink)

    def _units(self, place: _Place, y: float, units: int, face: str, edge: str, ink: str) -> None:
        size = (place.width, BOX_HEIGHT)
        self.sheet.box(place.x, y, size, face=face, edge=edge, radius=4, zorder=4)
        digits = str(units)
        self.sheet.text(place.x, y, digits, colour=ink, size=9 if len(digits) < 4 else 7)


def _draw_orders(sheet: _Sheet, state: SupplyChainState, colours: Sequence[str]) -> None:
    """Draw what was wanted and ordered in the last periods."""
    history = state.history
    largest = max((n for period in history for n in (period.demand, *period.orders)), default=0)
    top = _at_least(largest, smallest=8)
    begin = max(0, state.time - N_PERIODS_KEPT)
    first = state.time - len(history)

    def x(time: float) -> float:
        return PLOT_LEFT + (time - begin) / N_PERIODS_KEPT * (PLOT_RIGHT - PLOT_LEFT)

    def y(units: float) -> float:
        return PLOT_LOW + units / top * (PLOT_HIGH - PLOT_LOW)

    def steps(values: Sequence[int]) -> list[tuple[float, float]]:
        # The period that begins at time t is drawn from t to t + 1.
        times = enumerate(values, start=first)
        return [(x(time + end), y(units)) for time, units in times for end in (0, 1)]

    title = "orders of the stages by period, and the customer's demand (grey)"
    sheet.text(PLOT_LEFT, PLOT_HIGH + 19, title, size=9.5, align="left")
    for units in (0, top // 2, top):
        sheet.line(
            [(PLOT_LEFT, y(units)), (PLOT_RIGHT, y(units))], LINE if not units else GRID, 0.8
        )
        sheet.text(PLOT_LEFT - 8, y(units), str(units), 8, FAINT, align="right")
    for time in range(-(-begin // 4) * 4, begin + N_PERIODS_KEPT + 1, 4):
        sheet.text(x(time), PLOT_LOW - 13, str(time), 8, FAINT)
    if history:
        demand = steps([period.demand for period in history])
        sheet.area([(x(first), y(0)), *demand, (x(state.time), y(0))], DEMAND, zorder=0)
    # Those next to the customer on top.
    for i in reversed(range(len(state.stages))) if history else ():
        orders = steps([period.orders[i] for period in history])
        sheet.line(orders, colours[i], 1.7, zorder=3.0 - 0.01 * i)


class _Place(NamedTuple):
    """Room for a box between two ends."""

    x: float
    width: float


def _places(left: float, right: float, n: int) -> list[_Place]:
    """Return places for boxes, from left to right; the heads of arrows are left free."""
    room = (right - left - 20) / n
    return [_Place(left + 10 + room * (i + 0.5), min(room - 3, WIDEST_BOX)) for i in range(n)]


def _pixels_per_unit(stages: Sequence[Stage]) -> float:
    """Return the scale of the bars. It goes in steps, so that it seldom changes between frames."""
    up = max(stage.inventory for stage in stages)
    down = max(stage.backlog for stage in stages)
    return LONGEST_UP / _at_least(max(up, down * LONGEST_UP / LONGEST_DOWN), smallest=24)


def _at_least(number: float, smallest: int) -> int:
    """Return the first of ``smallest`` times 1, 1.5, 2, 3, 4, 6, 8 ... that is large enough."""
    low, high = smallest, smallest * 3 // 2
    while number > low:
        low, high = high, low * 2
    return low


def _stage_colours(n_stages: int) -> list[str]:
    """Return a colour for each stage, the darker the further from the customer."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    colours = colormaps["YlGnBu"]
    return [to_hex(colours(0.42 + 0.55 * i / (n_stages - 1))) for i in range(n_stages)]
