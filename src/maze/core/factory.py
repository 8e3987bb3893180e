"""The Maze Factory: builds an object from a config, or passes an object through.

A config is a mapping with ``_target_``, the dotted path of a class or function (or the class or
function itself), and its arguments. Whatever takes a component takes a config in its place, so
that the same runner serves the command line and plain Python.

    Factory(StructuredPolicy, where="policy").build(
        {"_target_": "my_project.policies.Threshold", "threshold": 0.1}, seed=7
    )

Arguments are checked against the signature before anything is called, since the answer to a
misspelt option should name the right one. A mapping with ``_target_`` among the arguments is
passed as it is: the component knows what it expects there and builds it with a factory of its own.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, Generic, TypeVar, cast

from maze.core.errors import ConfigError, MazeError, did_you_mean

T = TypeVar("T")

TARGET = "_target_"

_MISSING = object()


class Factory(Generic[T]):
    """Builds objects of one type.

    Args:
        base_type: what every built object has to be an instance of.
        where: the place of the config in the whole, for messages: ``env``, ``runner``.
    """

    # Annotated as a callable, since type checkers refuse an abstract class for type[T].
    def __init__(self, base_type: Callable[..., T], where: str = "") -> None:
        self._base_type = cast(type[T], base_type)
        self._where = where

    def build(self, config_or_object: object, **offers: object) -> T:
        """Return the object, or build it if it is a config.

        Args:
            config_or_object: an instance of the base type, or a mapping with ``_target_``.
            offers: arguments that the target gets if it takes them by name and the config does
                not give them.

        Raises:
            ConfigError: If it is neither, if the target does not exist, does not take these
                arguments, or makes something else than the base type.
        """
        what = f"'{self._where}'" if self._where else "this"
        expected = self._base_type.__name__
        is_config = isinstance(config_or_object, Mapping) and TARGET in config_or_object
        if isinstance(config_or_object, self._base_type) and not is_config:
            return config_or_object
        if not isinstance(config_or_object, Mapping):
            raise ConfigError(
                f"{what} has to be {_a(expected)} or a mapping with '{TARGET}', got"
                f" {_describe(config_or_object)}."
            )
        target = config_or_object.get(TARGET)
        if target is None:
            raise ConfigError(
                f"{what} has no '{TARGET}', the dotted path of the class to build"
                f" ({_a(expected)}).{_near_target(config_or_object)}"
                f" Its keys: {', '.join(map(str, config_or_object)) or 'none'}."
            )
        called = resolve(target, self._where) if isinstance(target, str) else target
        arguments = {key: value for key, value in config_or_object.items() if key != TARGET}
        built = call(called, arguments, offers, self._where)
        if not isinstance(built, self._base_type):
            raise ConfigError(
                f"{what} has to be {_a(expected)}, but {_dotted_name(called)} makes"
                f" {_describe(built)}."
            )
        return built


def call(
    target: Any,
    arguments: Mapping[str, object],
    offers: Mapping[str, object] | None = None,
    where: str = "",
) -> Any:
    """Call a class or function by keywords, after checking them against its signature.

    Args:
        target: the class or function.
        arguments: keywords to pass.
        offers: passed too, where the signature has a parameter of that name which ``arguments``
            does not give.
        where: the place of ``arguments`` in the config, for messages.

    Raises:
        ConfigError: If an argument is unknown or a required one is missing, or if the target
            cannot be called. Errors inside of the target escape with a note.
    """
    prefix = f"{where}." if where else ""
    name = getattr(target, "__name__", type(target).__name__)
    if not callable(target):
        raise ConfigError(f"'{prefix}{TARGET}' has to be a class or function, got {target!r}.")
    passed = dict(arguments)
    try:
        parameters = inspect.signature(target).parameters
    except ValueError:  # some builtins do not tell their signature
        return target(**passed)
    takes = {
        parameter.name: parameter
        for parameter in parameters.values()
        if parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    }
    takes_anything = any(p.kind == p.VAR_KEYWORD for p in parameters.values())
    if not takes_anything:
        for key in passed:
            if key not in takes:
                raise ConfigError(unknown_option(key, takes, of=name, where=where))
    passed.update(
        (key, value) for key, value in (offers or {}).items() if key in takes and key not in passed
    )
    missing = [
        key
        for key, p in takes.items()
        if p.default is inspect.Parameter.empty and key not in passed
    ]
    if missing:
        quoted = ", ".join(f"'{prefix}{key}'" for key in missing)
        raise ConfigError(
            f"{name} needs {quoted}, which {'is' if len(missing) == 1 else 'are'} not given."
        )
    try:
        return target(**passed)
    except MazeError:  # says what the user needs to know
        raise
    except Exception as error:
        error.add_note(
            f"while building {_dotted_name(target)}" + (f" for '{where}'" if where else "")
        )
        raise


def unknown_option(key: str, options: Iterable[str], of: str, where: str = "") -> str:
    """Return the message about an option that does not exist, with the nearest that does.

    Args:
        key: the last part of the option's name.
        options: those that exist in its place.
        of: whose options they are.
        where: the place, in front of the key.
    """
    prefix = f"{where}." if where else ""
    known = [f"{prefix}{option}" for option in options]
    takes = ", ".join(option.removeprefix(prefix) for option in known)
    return (
        f"'{prefix}{key}' is not an option of {of}.{did_you_mean(f'{prefix}{key}', known)}"
        f" It takes: {takes or 'none'}."
    )


def resolve(path: str, where: str = "") -> Any:
    """Import what a dotted path names.

    Args:
        path: as in ``package.module.Class`` or ``package.module.Class.method``.
        where: the place of the path in the config, for messages.

    Raises:
        ConfigError: If a part of the path does not exist, or a module cannot be imported; the
            module's own error is the cause.
    """
    at = f" (for '{where}')" if where else ""
    parts = path.split(".")
    if not all(part.isidentifier() for part in parts):
        raise ConfigError(f"'{path}'{at} is not a dotted path like 'package.module.Class'.")
    found: Any = _import(parts[0], path, at)
    if found is _MISSING:
        hint = did_you_mean(parts[0], (module.name for module in pkgutil.iter_modules()))
        raise ConfigError(f"there is no module '{parts[0]}', named by '{path}'{at}.{hint}")
    for depth, part in enumerate(parts[1:], start=1):
        owner, so_far = found, ".".join(parts[:depth])
        try:
            found = getattr(owner, part, _MISSING)
        except Exception as error:  # a module that imports its parts when they are asked for
            raise ConfigError(_import_failure(f"{so_far}.{part}", path, at, error)) from error
        if found is _MISSING and isinstance(owner, ModuleType):
            found = _import(f"{so_far}.{part}", path, at)
        if found is _MISSING:
            kind = "class" if isinstance(owner, type) else type(owner).__name__
            raise ConfigError(
                f"{kind} '{so_far}' has no '{part}', named by '{path}'{at}."
                f"{did_you_mean(part, _names_in(owner))}"
            )
    return found


def _import(module: str, path: str, at: str) -> Any:
    """Return the module, or ``_MISSING`` if there is none of that name."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name == module:
            return _MISSING
        raise ConfigError(_import_failure(module, path, at, error)) from error
    except MazeError:
        raise
    except Exception as error:
        raise ConfigError(_import_failure(module, path, at, error)) from error


def _import_failure(module: str, path: str, at: str, error: Exception) -> str:
    return (
        f"module '{module}', named by '{path}'{at}, cannot be imported:"
        f" {type(error).__name__}: {error}"
    )


def _names_in(owner: Any) -> list[str]:
    names = [name for name in dir(owner) if not name.startswith("_")]
    if isinstance(owner, ModuleType) and hasattr(owner, "__path__"):
        names += [module.name for module in pkgutil.iter_modules(owner.__path__)]
    return names


def _near_target(config: Mapping[Any, Any]) -> str:
    near = [key for key in config if str(key).strip("_") in ("target", "class", "type")]
    return f" Is '{near[0]}' meant to be '{TARGET}'?" if near else ""


def _describe(value: object) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__} itself"
    if value is None or isinstance(value, str | int | float | bool):
        return repr(value)
    return _a(type(value).__name__)


def _dotted_name(target: Any) -> str:
    module, name = (
        getattr(target, "__module__", None),
        getattr(target, "__qualname__", repr(target)),
    )
    return f"{module}.{name}" if module else name


def _a(noun: str) -> str:
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"
