"""Fixed transformations of single observations: what ``PreProcessingWrapper`` is made of.

Each knows the space that it makes of the space it is given, exactly: where it keeps the order of
values, bounds go the way of what they bound.

    tag           class                    makes of a space
    flatten       FlattenPreProcessor      Box (50, 2)               Box (100,)
    one_hot       OneHotPreProcessor       Discrete(4)               Box (4,) of 0 and 1
    resize_img    ResizeImgPreProcessor    Box (210, 160, 3) uint8   Box (84, 84, 3) uint8
    rgb2gray      Rgb2GrayPreProcessor     Box (84, 84, 3)           Box (84, 84)
    transpose     TransposePreProcessor    Box (84, 84, 3)           Box (3, 84, 84)
    unsqueeze     UnSqueezePreProcessor    Box (84, 84)              Box (1, 84, 84)
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from numbers import Integral
from typing import Any, ClassVar, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from maze.core.errors import ConfigError, MissingExtraError, SpaceError
from maze.core.wrappers.checks import positive_count

Array: TypeAlias = NDArray[Any]


class PreProcessor(ABC):
    """Transforms one observation.

    Args:
        observation_space: of the observation.

    Raises:
        ConfigError: From constructors of subclasses, if the space is of another kind than they
            can transform.
    """

    tag: ClassVar[str]
    """The transformed observation is called ``<observation>-<tag>``."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        self.observation_space = observation_space

    @abstractmethod
    def processed_space(self) -> spaces.Space[Any]:
        """Return the space of what is made."""

    @abstractmethod
    def process(self, observation: Any) -> Any:
        """Return the transformed observation.

        Args:
            observation: belongs to the environment and is left as it is. What is returned may
                share its memory.
        """


class _BoxPreProcessor(PreProcessor):
    """Transforms a ``Box``, keeping the order of values."""

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        if not isinstance(observation_space, spaces.Box):
            raise ConfigError(
                f"{type(self).__name__} transforms a Box, got {observation_space}. For one of"
                " integers, use OneHotPreProcessor first."
            )
        super().__init__(observation_space)
        self.box: spaces.Box = observation_space

    def processed_space(self) -> spaces.Box:
        """Return the space of what is made, whose bounds are the transformed bounds."""
        low, high = self.process(self.box.low), self.process(self.box.high)
        return spaces.Box(low, high, dtype=low.dtype.type)


class FlattenPreProcessor(_BoxPreProcessor):
    """Makes one axis of the last few, in C order: of (a, b, c), the last 2 give (a, b * c).

    Args:
        observation_space: a ``Box``.
        num_flatten_dims: how many axes, counted from the last; ``None`` for all.
    """

    tag = "flatten"

    def __init__(
        self, observation_space: spaces.Space[Any], num_flatten_dims: int | None = None
    ) -> None:
        super().__init__(observation_space)
        shape = self.box.shape
        n = len(shape)
        if num_flatten_dims is not None:
            n = positive_count(num_flatten_dims, "num_flatten_dims", of=self)
        if n > len(shape):
            raise ConfigError(
                f"'num_flatten_dims' of {type(self).__name__} is {n}, but an observation of shape"
                f" {shape} has {len(shape)} axes."
            )
        kept = shape[: len(shape) - n]
        self._shape = (*kept, int(np.prod(shape[len(kept) :], dtype=np.int64)))

    def process(self, observation: Array) -> Array:
        """Return the observation with fewer axes."""
        return np.reshape(observation, self._shape)


class TransposePreProcessor(_BoxPreProcessor):
    """Reorders the axes, as ``numpy.transpose``: axis i of what is made is ``axes[i]``.

    Args:
        observation_space: a ``Box``.
        axes: each axis of the observation once, counted from 0 or, if negative, from the end.
    """

    tag = "transpose"

    def __init__(self, observation_space: spaces.Space[Any], axes: Sequence[int]) -> None:
        super().__init__(observation_space)
        n = len(self.box.shape)
        is_list = isinstance(axes, Sequence) and not isinstance(axes, str)
        if not is_list or not all(_is_whole(axis) and -n <= axis < n for axis in axes):
            found: list[int] = []
        else:
            found = [axis % n for axis in axes]
        if sorted(found) != list(range(n)):
            raise ConfigError(
                f"'axes' of {type(self).__name__} has to name each of the {n} axes of an"
                f" observation of shape {self.box.shape} once, got {axes!r}."
            )
        self._axes = tuple(found)

    def process(self, observation: Array) -> Array:
        """Return the observation with its axes in another order."""
        return np.transpose(observation, self._axes)


class UnSqueezePreProcessor(_BoxPreProcessor):
    """Inserts an axis of length 1.

    Args:
        observation_space: a ``Box``.
        dim: the place of the new axis in what is made; a negative one counts from the end. For an
            image of shape (96, 96), -3 and 0 give (1, 96, 96), and -1 gives (96, 96, 1).
    """

    tag = "unsqueeze"

    def __init__(self, observation_space: spaces.Space[Any], dim: int) -> None:
        super().__init__(observation_space)
        shape = self.box.shape
        n = len(shape) + 1
        if not _is_whole(dim) or not -n <= dim < n:
            raise ConfigError(
                f"'dim' of {type(self).__name__} has to be a whole number from {-n} to {n - 1} for"
                f" an observation of shape {shape}, got {dim!r}."
            )
        place = dim % n
        self._shape = (*shape[:place], 1, *shape[place:])

    def process(self, observation: Array) -> Array:
        """Return the observation with one more axis."""
        return np.reshape(observation, self._shape)


class OneHotPreProcessor(PreProcessor):
    """Makes a 1 at the place of each integer, among zeros, in float32.

        space                                        makes shape
        Discrete(n, start)                           (n,)
        MultiDiscrete(nvec), of one axis             (sum of nvec,), one after the other
        Box of shape S, from 0 to n - 1 at most      (*S, n)

    A ``Box`` may be of floats that are whole numbers.

    Args:
        observation_space: one of these.
    """

    tag = "one_hot"

    def __init__(self, observation_space: spaces.Space[Any]) -> None:
        super().__init__(observation_space)
        space = observation_space
        if isinstance(space, spaces.Discrete):
            n_values, start = np.array([space.n], np.int64), np.array([space.start], np.int64)
            self._shape: tuple[int, ...] = (int(space.n),)
        elif isinstance(space, spaces.MultiDiscrete) and space.nvec.ndim == 1:
            n_values, start = space.nvec.astype(np.int64), space.start.astype(np.int64)
            self._shape = (int(n_values.sum()),)
        elif isinstance(space, spaces.Box):
            n = self._highest(space) + 1
            n_values = np.full(int(np.prod(space.shape, dtype=np.int64)), n, np.int64)
            start = np.zeros_like(n_values)
            self._shape = (*space.shape, n)
        else:
            raise ConfigError(
                f"{type(self).__name__} takes a Discrete, a MultiDiscrete of one axis or a Box of"
                f" whole numbers from 0, got {space}."
            )
        self._n_values, self._start = n_values, start
        # Where the entries of each number begin, if those of all stand in a row.
        self._begins = np.cumsum(n_values) - n_values

    def processed_space(self) -> spaces.Box:
        """Return a ``Box`` of zeros and ones."""
        return spaces.Box(0.0, 1.0, self._shape, np.float32)

    def process(self, observation: Any) -> Array:
        """Return the zeros and ones.

        Raises:
            SpaceError: If a number is none of those that have a place.
        """
        numbers = np.asarray(observation).ravel() - self._start
        places = numbers.astype(np.int64) if numbers.dtype.kind in "iu" else _whole(numbers)
        if not ((places >= 0) & (places < self._n_values)).all():
            raise SpaceError(
                f"{observation!r} has no one-hot form: it is not a value of"
                f" {self.observation_space}, or no whole number"
            )
        one_hot = np.zeros(self._shape, np.float32)
        one_hot.reshape(-1)[places + self._begins] = 1.0
        return one_hot

    def _highest(self, space: spaces.Box) -> int:
        highest = space.high.max() if space.high.size else 0
        if space.low.size and space.low.min() < 0:
            raise ConfigError(
                f"{type(self).__name__} takes a Box of whole numbers from 0, got {space}, which"
                " goes below."
            )
        if not highest <= _MOST_VALUES:
            raise ConfigError(
                f"{type(self).__name__} makes an entry for each number from 0 to the upper bound,"
                f" which is {highest} in {space}: give the observation a lower one."
            )
        return int(highest)


_MOST_VALUES = 2**20
"""Entries that a single number can be spread over; more are taken for a missing bound."""


class Rgb2GrayPreProcessor(_BoxPreProcessor):
    """Makes one brightness of three colours, without the axis of the colours.

    Floats keep their dtype: ``0.299 R + 0.587 G + 0.114 B``. Integers keep theirs too, rounded as
    ``(19595 R + 38470 G + 7471 B + 32768) // 65536``, which is what Pillow computes.

    Args:
        observation_space: a ``Box`` of floats, or of integers of 32 bits at most.
        rgb_dim: the axis of the colours, of length 3; the last by default.

    Source: ITU-R BT.601, section 2.5.1, for the weights.
    """

    tag = "rgb2gray"

    def __init__(self, observation_space: spaces.Space[Any], rgb_dim: int = -1) -> None:
        super().__init__(observation_space)
        shape, dtype = self.box.shape, self.box.dtype
        if not _is_whole(rgb_dim) or not -len(shape) <= rgb_dim < len(shape):
            raise ConfigError(
                f"'rgb_dim' of {type(self).__name__} has to be an axis of an observation of shape"
                f" {shape}, got {rgb_dim!r}."
            )
        if shape[rgb_dim] != 3:
            raise ConfigError(
                f"{type(self).__name__} needs three colours along axis {rgb_dim}, but the shape of"
                f" the observation is {shape}. Say with 'rgb_dim' which axis has the colours."
            )
        if dtype.kind not in "fiu" or (dtype.kind != "f" and dtype.itemsize > 4):
            raise ConfigError(
                f"{type(self).__name__} takes floats, or integers of 32 bits at most, got {dtype}."
            )
        self._axis = rgb_dim % len(shape)
        self._dtype = dtype
        self._wide = np.uint32 if dtype == np.uint8 else np.int64

    def process(self, observation: Array) -> Array:
        """Return the brightness."""
        red, green, blue = np.moveaxis(observation, self._axis, 0)
        if self._dtype.kind == "f":
            return np.asarray(red * 0.299 + green * 0.587 + blue * 0.114, self._dtype)
        gray = np.multiply(red, 19595, dtype=self._wide)
        gray += np.multiply(green, 38470, dtype=self._wide)
        gray += np.multiply(blue, 7471, dtype=self._wide)
        gray += 32768
        return np.asarray(gray >> 16).astype(self._dtype)


class ResizeImgPreProcessor(_BoxPreProcessor):
    """Makes an image of another size, each channel by itself.

    It is done by Pillow, with integers for uint8, so that the same image always gives the same
    bytes. Images of uint8 stay so; all others become float32.

    Args:
        observation_space: a ``Box`` of shape (height, width) or (height, width, channels).
        target_size: [height, width] in pixels.
        transpose: whether the image is (channels, height, width), and stays so.
        resample: how pixels are made of pixels: ``box`` (the mean of the area that a pixel
            covers), ``bilinear``, ``hamming``, or ``nearest`` (which makes no new values).

    Raises:
        MissingExtraError: If Pillow is not installed.
    """

    tag = "resize_img"

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        target_size: Sequence[int],
        transpose: bool = False,
        resample: str = "box",
    ) -> None:
        super().__init__(observation_space)
        try:
            from PIL import Image
        except ImportError:
            raise MissingExtraError("Pillow, which resizes images,", "images") from None
        shape, dtype = self.box.shape, self.box.dtype
        if not isinstance(target_size, Sequence) or len(target_size) != 2:
            raise ConfigError(
                f"'target_size' of {type(self).__name__} has to be [height, width], got"
                f" {target_size!r}."
            )
        self._height, self._width = (
            positive_count(size, "target_size", of=self) for size in target_size
        )
        if resample not in _FILTERS:
            raise ConfigError(
                f"'resample' of {type(self).__name__} has to be one of {', '.join(_FILTERS)}, got"
                f" {resample!r}."
            )
        if len(shape) not in (2, 3) or 0 in shape or dtype.kind not in "fiu":
            raise ConfigError(
                f"{type(self).__name__} takes images of numbers, of shape (height, width) or"
                f" (height, width, channels), got {self.box}."
            )
        self._is_channels_first = bool(transpose) and len(shape) == 3
        self._filter = Image.Resampling[resample.upper()]
        self._dtype = np.dtype(np.uint8 if dtype == np.uint8 else np.float32)

    def process(self, observation: Array) -> Array:
        """Return the resized image."""
        image = np.asarray(observation, self._dtype)
        if image.ndim == 2:
            return self._resized(image)
        if self._is_channels_first:
            return np.stack([self._resized(channel) for channel in image])
        if image.shape[2] == 3 and self._dtype == np.uint8:
            return self._resized(image)
        # Not four channels at once: Pillow would take one of them for the opacity of the others.
        channels = [self._resized(image[:, :, index]) for index in range(image.shape[2])]
        return np.stack(channels, axis=2)

    def processed_space(self) -> spaces.Box:
        """Return the space of what is made.

        A pixel is a mean with weights that are not negative, so its bounds are those means of
        bounds. Where some pixels are bounded and others not, none of the resized ones is.
        """
        low, high = (bound.astype(self._dtype) for bound in (self.box.low, self.box.high))
        if not np.isfinite(low).all():
            low = np.full_like(low, -np.inf)
        if not np.isfinite(high).all():
            high = np.full_like(high, np.inf)
        return spaces.Box(self.process(low), self.process(high), dtype=self._dtype.type)

    def _resized(self, image: Array) -> Array:
        from PIL import Image

        # What it makes of bounds that are not finite is not a number, where a weight is zero.
        if self._dtype.kind == "f" and np.isinf(image.flat[0]) and (image == image.flat[0]).all():
            return np.full((self._height, self._width), image.flat[0], self._dtype)
        pillow = Image.fromarray(np.ascontiguousarray(image))
        return np.array(pillow.resize((self._width, self._height), self._filter))


_FILTERS = ("box", "bilinear", "hamming", "nearest")


def _is_whole(value: object) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool)


def _whole(numbers: Array) -> NDArray[np.int64]:
    """Return the numbers as integers, with -1 for those that are none."""
    with np.errstate(invalid="ignore"):
        whole = numbers.astype(np.int64)
    return np.where(whole == numbers, whole, -1)
