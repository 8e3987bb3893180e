"""Summary of a number over episodes: mean with its confidence interval, spread and range.

All sums are correctly rounded, so a summary depends on the values alone: not on their order, and
so neither on which worker finished first nor on the machine's vector instructions.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class Summary:
    """A number summarised over episodes.

    What cannot be said is NaN (``null`` in JSON): everything if there is no value, and ``std`` and
    the interval if there are fewer than two values or an infinite one.
    """

    n: int
    """Number of values, without the NaN ones."""
    mean: float
    ci_low: float
    """Lower end of the 95 % confidence interval of the mean, by Student's t."""
    ci_high: float
    """Upper end of that interval."""
    std: float
    """Standard deviation of a single value, estimated with n - 1 in the denominator."""
    min: float
    median: float
    max: float
    n_nan: int
    """Values that were left out because they were NaN."""

    @property
    def ci_half_width(self) -> float:
        """Half of the confidence interval: the mean lies within plus or minus this."""
        return (self.ci_high - self.ci_low) / 2

    def to_json_dict(self) -> dict[str, float | None]:
        """Return the fields by name, with ``None`` where there is no finite number."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value if math.isfinite(value) else None for name, value in values.items()}

    # Two summaries of the same values have to be equal, although NaN is not equal to itself.
    def __eq__(self, other: object) -> bool:
        return isinstance(other, Summary) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[float | None, ...]:
        return tuple(None if math.isnan(value) else value for value in astuple(self))


def summarize(values: Sequence[float] | NDArray[np.float64], n_zeros: int = 0) -> Summary:
    """Summarise numbers, whatever their order.

    Takes as much memory as the values meanwhile.

    Args:
        values: one for each episode. NaN values are left out and counted.
        n_zeros: zeros that there are besides.
    """
    numbers = np.zeros(len(values) + n_zeros)
    # Added, so that there is one zero only: which one came first would show, in the range.
    np.add(values, 0.0, out=numbers[: len(values)])
    numbers.sort()  # NaN comes last.
    n_nan = int(np.count_nonzero(np.isnan(numbers)))
    n = len(numbers) - n_nan
    numbers = numbers[:n]
    if n == 0:
        nan = math.nan
        return Summary(0, nan, nan, nan, nan, nan, nan, nan, n_nan)
    lowest, highest = float(numbers[0]), float(numbers[-1])
    below, above = float(numbers[(n - 1) // 2]), float(numbers[n // 2])
    median = (below + above) / 2
    if math.isinf(median):  # The sum was too large for a float, or one of them is infinite.
        median = below / 2 + above / 2
    mean, std = _mean_and_std(numbers)
    half_width = t_quantile(n - 1) * std / math.sqrt(n) if n > 1 else math.nan
    return Summary(
        n, mean, mean - half_width, mean + half_width, std, lowest, median, highest, n_nan
    )


def t_quantile(degrees_of_freedom: int) -> float:
    """Return the 0.975 quantile of Student's t distribution, to at least six digits.

    Beyond the table by the expansion around the normal quantile x,
    t = x + g1(x) / v + g2(x) / v^2 + g3(x) / v^3 + g4(x) / v^4.

    Source: Abramowitz & Stegun, Handbook of Mathematical Functions (1964), 26.7.5.
    """
    if degrees_of_freedom < 1:
        raise ValueError(f"degrees_of_freedom must be at least 1, got {degrees_of_freedom}")
    if degrees_of_freedom <= len(_T_QUANTILES):
        return _T_QUANTILES[degrees_of_freedom - 1]
    x = _NORMAL_QUANTILE
    coefficients = (
        x,
        (x**3 + x) / 4,
        (5 * x**5 + 16 * x**3 + 3 * x) / 96,
        (3 * x**7 + 19 * x**5 + 17 * x**3 - 15 * x) / 384,
        (79 * x**9 + 776 * x**7 + 1482 * x**5 - 1920 * x**3 - 945 * x) / 92160,
    )
    return math.fsum(g / degrees_of_freedom**power for power, g in enumerate(coefficients))


_NORMAL_QUANTILE = 1.959963984540054

# For 1, 2, ... degrees of freedom, where the expansion is not that exact.
_T_QUANTILES = (
    12.7062047362,
    4.3026527297,
    3.1824463053,
    2.7764451052,
    2.5705818356,
    2.4469118511,
    2.3646242516,
    2.3060041352,
    2.2621571628,
    2.2281388520,
    2.2009851601,
    2.1788128297,
)


def _mean_and_std(numbers: NDArray[np.float64]) -> tuple[float, float]:
    """Return mean and standard deviation of at least one sorted number, and overwrite them."""
    lowest, highest = float(numbers[0]), float(numbers[-1])
    if math.isinf(lowest) or math.isinf(highest):
        return (lowest + highest if lowest != -highest else math.nan), math.nan
    n = len(numbers)
    # Scaled by a power of two, which is exact, so that no sum or square overflows.
    scale = 2.0 ** (math.frexp(max(-lowest, highest, 1e-300))[1] - 1)
    # In place from here on, as there may be millions.
    scaled = numbers
    scaled /= scale
    # Rounding could put the mean of equal numbers beside them.
    mean = min(max(math.fsum(scaled) / n * scale, lowest), highest)
    if n == 1:
        return mean, math.nan
    scaled -= mean / scale
    scaled *= scaled
    return mean, math.sqrt(math.fsum(scaled) / (n - 1)) * scale
