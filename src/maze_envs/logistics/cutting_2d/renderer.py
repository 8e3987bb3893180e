"""Drawings of the cutting environment: the last cut, the next order, and the inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from maze.core.env.renderer import LastStep, Renderer
from maze_envs.logistics.cutting_2d.pieces import Piece, fits, leftovers, rotated
from maze_envs.logistics.cutting_2d.state import (
    CutAction,
    Cutting2DState,
    SelectAction,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, FAINT, LINE = "#333b47", "#838b98", "#c4cad3"
RAW, LEFT_OVER, ORDER, SELECTED = "#c9d8e6", "#e6ebf1", "#eeb55c", "#5b8db8"

# In pixels from the lower left corner.
WIDTH, HEIGHT, HEADLINE = 800, 450, 424
CUT_AREA = (28.0, 56.0, 236.0, 300.0)
ORDER_AREA = (296.0, 56.0, 104.0, 300.0)
INVENTORY_AREA = (436.0, 28.0, 340.0, 328.0)
"""x, y, width and height of what is drawn in them."""
TITLES = 380
GAP = 10.0
SMALLEST_LABELLED = 26.0


class Cutting2DRenderer(Renderer[Cutting2DState, Any]):
    """Draws the last cut on the left, the order that is next, and the inventory on the right.

    Pieces in the inventory are drawn once for each size, with their number, the largest first. All
    three are drawn in scales of their own.
    """

    figure_size = (WIDTH / 100, HEIGHT / 100)
    frames_per_second = 3.0

    def draw(self, figure: Figure, state: Cutting2DState, last: LastStep | None) -> None:
        """Draw a state."""
        sheet = _Sheet(figure)
        sheet.text(28, HEADLINE, f"Order {state.n_steps + 1}", size=14, weight="bold")
        summary = (
            f"{_counted(state.n_raw_pieces, 'raw piece')} of {_size(state.raw_piece_size)} so far,"
            f" {_counted(len(state.inventory), 'piece')} in stock"
        )
        sheet.text(156, HEADLINE - 1, summary, size=10, colour=FAINT)
        _draw_cut(sheet, state, last)
        _draw_order(sheet, state)
        _draw_inventory(sheet, state)


class _Sheet:
    """Draws in pixels."""

    def __init__(self, figure: Figure) -> None:
        from matplotlib.lines import Line2D
        from matplotlib.patches import Rectangle
        from matplotlib.transforms import Affine2D

        self._figure: Any = figure
        self._line, self._rectangle = Line2D, Rectangle
        self._pixels = Affine2D().scale(0.01) + figure.dpi_scale_trans

    def text(
        self,
        x: float,
        y: float,
        text: str,
        size: float = 9.0,
        colour: str = INK,
        weight: str = "normal",
        align: str = "left",
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
        corner: tuple[float, float],
        size: tuple[float, float],
        face: str,
        edge: str = INK,
        line_width: float = 0.8,
    ) -> None:
        """Draw a rectangle from its lower left corner."""
        self._add(
            self._rectangle(
                corner, *size, facecolor=face, edgecolor=edge, linewidth=line_width, zorder=2
            )
        )

    def line(self, start: tuple[float, float], end: tuple[float, float], style: str) -> None:
        """Draw a line."""
        (x0, y0), (x1, y1) = start, end
        self._add(self._line([x0, x1], [y0, y1], color=INK, lw=1.6, ls=style, zorder=4))

    def _add(self, artist: Any) -> None:
        artist.set_transform(self._pixels)
        self._figure.add_artist(artist)


class _Drawn(NamedTuple):
    """Where a piece is drawn."""

    x: float
    y: float
    scale: float
    """Pixels for a unit of length."""


def _draw_cut(sheet: _Sheet, state: Cutting2DState, last: LastStep | None) -> None:
    """Draw what the last action did, or the piece that is selected now."""
    left = CUT_AREA[0]
    selected = state.piece_selected
    if state.selected_piece is not None:
        sheet.text(left, TITLES, "selected", weight="bold")
        if selected is None:
            sheet.text(left, TITLES - 30, f"no piece {state.selected_piece}", colour=FAINT)
        else:
            _draw_piece(sheet, selected, SELECTED, _placed(selected, CUT_AREA))
        return
    sheet.text(left, TITLES, "last cut", weight="bold")
    if last is None or isinstance(last.action, SelectAction):
        sheet.text(left, TITLES - 30, "none yet", colour=FAINT)
        return
    action: CutAction = last.action
    before: Cutting2DState = last.state
    if not 0 <= action.piece_index < len(before.inventory):
        sheet.text(left, TITLES - 30, f"invalid: no piece {action.piece_index}", colour=FAINT)
        return
    piece, order = before.inventory[action.piece_index], before.current_demand
    demand = rotated(order) if action.rotate else order
    drawn = _placed(piece, CUT_AREA)
    is_raw = piece == state.raw_piece_size
    _draw_piece(sheet, piece, RAW if is_raw else LEFT_OVER, drawn, label=False)
    if not fits(piece, demand):
        sheet.text(
            *(left, drawn.y - 16, f"invalid: {_size(demand)} does not fit into {_size(piece)}"),
            colour=FAINT,
        )
        return
    _draw_piece(sheet, demand, ORDER, drawn)
    _draw_lines(sheet, piece, demand, action.reverse_cutting_order, drawn)
    left_over = leftovers(piece, demand, action.reverse_cutting_order)
    told = ", ".join(map(_size, left_over)) or "nothing"
    sheet.text(left, drawn.y - 16, f"from {_size(piece)}, left: {told}", colour=FAINT)


def _draw_lines(
    sheet: _Sheet, piece: Piece, demand: Piece, is_reversed: bool, drawn: _Drawn
) -> None:
    """Draw the cuts: the first one is a whole line, the second one is dashed."""
    x, y, scale = drawn
    (width, height), (w, h) = piece, demand
    # A cut across the piece, and one across what it leaves beside the order.
    along_x = (w, 0), (w, h if is_reversed else height)
    along_y = (0, h), (width if is_reversed else w, h)
    cuts = [(along_x, w < width), (along_y, h < height)]
    if is_reversed:
        cuts.reverse()
    styles = iter(("-", (0, (3, 2))))
    for (start, end), is_cut in cuts:
        if is_cut:
            sheet.line(
                (x + start[0] * scale, y + start[1] * scale),
                (x + end[0] * scale, y + end[1] * scale),
                next(styles),  # type: ignore[arg-type]
            )


def _draw_order(sheet: _Sheet, state: Cutting2DState) -> None:
    order = state.current_demand
    sheet.text(ORDER_AREA[0], TITLES, "next order", weight="bold")
    # In the scale of raw pieces in the cut's place, so that both can be compared.
    longest = max(state.raw_piece_size)
    scale = min(CUT_AREA[2] / longest, ORDER_AREA[2] / order[0], ORDER_AREA[3] / order[1])
    x, y, _, height = ORDER_AREA
    drawn = _Drawn(x, y + (height - order[1] * scale), scale)
    _draw_piece(sheet, order, ORDER, drawn, label=False)
    sheet.text(x, drawn.y - 14, _size(order), colour=INK)


def _draw_inventory(sheet: _Sheet, state: Cutting2DState) -> None:
    left = INVENTORY_AREA[0]
    sheet.text(left, TITLES, "inventory", weight="bold")
    numbers = Counter(state.inventory)
    sizes = sorted(numbers, key=lambda piece: (-piece[1], -piece[0]))
    scale = _largest_scale(sizes)
    for piece, (x, y) in zip(sizes, _shelves(sizes, scale), strict=True):
        is_raw = piece == state.raw_piece_size
        is_selected = piece == state.piece_selected
        face = SELECTED if is_selected else RAW if is_raw else LEFT_OVER
        drawn = _Drawn(x, y, scale)
        _draw_piece(sheet, piece, face, drawn, numbers[piece])


def _draw_piece(
    sheet: _Sheet, piece: Piece, face: str, drawn: _Drawn, n: int = 1, *, label: bool = True
) -> None:
    x, y, scale = drawn
    width, height = piece[0] * scale, piece[1] * scale
    sheet.box((x, y), (width, height), face)
    if not label:
        return
    text = _size(piece) if n == 1 else f"{_size(piece)}\n{n} times"
    middle = (x + width / 2, y + height / 2)
    colour = "white" if face == SELECTED else INK
    if min(width, height) >= SMALLEST_LABELLED and width >= 7 * len(_size(piece)):
        for i, line in enumerate(text.split("\n")):
            if i == 0 or height >= 2 * SMALLEST_LABELLED or n == 1:
                sheet.text(
                    *(middle[0], middle[1] - 13 * i + (6 if "\n" in text else 0), line),
                    size=8 if i == 0 else 7,
                    colour=colour,
                    align="center",
                )
    elif n > 1 and min(width, height) >= 10:
        sheet.text(*middle, str(n), size=7, colour=colour, align="center")


def _placed(piece: Piece, area: tuple[float, float, float, float]) -> _Drawn:
    """Return where a piece is drawn that fills an area as far as it can, from its upper left."""
    x, y, width, height = area
    scale = min(width / piece[0], height / piece[1])
    return _Drawn(x, y + (height - piece[1] * scale), scale)


def _largest_scale(sizes: Sequence[Piece]) -> float:
    """Return the largest scale in which all sizes find a place, to within some percent."""
    _, low, width, height = INVENTORY_AREA
    scale = min(width / max(x for x, _ in sizes), height / max(y for _, y in sizes), 56.0)
    while scale > 0.01:
        if min(y for _, y in _shelves(sizes, scale)) >= low:
            break
        scale *= 0.94
    return scale


def _shelves(sizes: Sequence[Piece], scale: float) -> list[tuple[float, float]]:
    """Return the lower left corners of pieces that are put in rows, from the upper left on."""
    left, low, width, height = INVENTORY_AREA
    gap = min(GAP, 2.0 + scale)
    x, top, row = left, low + height, 0.0
    corners = []
    for piece in sizes:
        w, h = piece[0] * scale, piece[1] * scale
        if x > left and x + w > left + width:
            x, top, row = left, top - row - gap, 0.0
        corners.append((x, top - h))
        x, row = x + w + gap, max(row, h)
    return corners


def _size(piece: Piece) -> str:
    return f"{piece[0]} × {piece[1]}"


def _counted(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"
