"""The Maze Factory: configs become objects, and mistakes in configs become answers."""

import subprocess
import sys
from abc import ABC, abstractmethod

import pytest

from maze.core.errors import ConfigError
from maze.core.factory import Factory, call, resolve


class Shape(ABC):
    @abstractmethod
    def area(self) -> float: ...


class Square(Shape):
    def __init__(self, side: float, colour: object = "red") -> None:
        self.side = side
        self.colour = colour

    def area(self) -> float:
        return self.side**2


def unit_square() -> Square:
    return Square(1.0)


SQUARE = f"{__name__}.Square"


def test_an_instance_passes_through():
    square = Square(2.0)
    assert Factory(Shape).build(square) is square


@pytest.mark.parametrize("target", [SQUARE, Square, lambda side: Square(side)])
def test_a_target_is_a_path_a_class_or_a_function(target):
    assert Factory(Shape).build({"_target_": target, "side": 3.0}).area() == 9.0


@pytest.mark.parametrize("base_type", [object, dict])
def test_a_config_is_built_even_where_a_mapping_would_do(base_type):
    assert Factory(base_type).build({"_target_": "builtins.dict", "a": 1}) == {"a": 1}


def test_the_config_is_left_as_it_was():
    config = {"_target_": SQUARE, "side": 3.0}
    Factory(Shape).build(config)
    assert config == {"_target_": SQUARE, "side": 3.0}


def test_a_nested_config_reaches_the_component_unbuilt():
    colour = {"_target_": "no.such.thing"}
    built = Factory(Square).build({"_target_": SQUARE, "side": 1, "colour": colour})
    assert built.colour is colour


def test_an_offer_is_passed_to_a_target_that_takes_it():
    assert Factory(Square).build({"_target_": SQUARE}, side=4.0, unheard_of=1).area() == 16.0


def test_the_config_wins_over_an_offer():
    assert Factory(Square).build({"_target_": SQUARE, "side": 5.0}, side=4.0).area() == 25.0


def test_an_unknown_option_is_answered_with_the_nearest():
    with pytest.raises(ConfigError) as caught:
        Factory(Shape, where="shape").build({"_target_": SQUARE, "side": 1, "color": "blue"})
    assert str(caught.value) == (
        "'shape.color' is not an option of Square. Did you mean 'shape.colour'?"
        " It takes: side, colour."
    )


def test_a_missing_argument_is_named():
    with pytest.raises(ConfigError, match=r"^Square needs 'shape.side', which is not given\.$"):
        Factory(Shape, where="shape").build({"_target_": SQUARE})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"side": 1}, "'shape' has no '_target_'"),
        ({"target": SQUARE}, "Is 'target' meant to be '_target_'?"),
        (None, "'shape' has to be a Shape or a mapping with '_target_', got None"),
        ("circle", "got 'circle'"),
        (Square, "got the class Square itself"),
        (1.5, "got 1.5"),
        ({"_target_": "fractions.Fraction"}, "fractions.Fraction makes a Fraction"),
        ({"_target_": 3}, "'shape._target_' has to be a class or function, got 3"),
        ({"_target_": "math.pi"}, "has to be a class or function"),
    ],
)
def test_what_is_no_config_of_the_expected_type_is_explained(config, message):
    with pytest.raises(ConfigError) as caught:
        Factory(Shape, where="shape").build(config)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("fractoins.Fraction", "there is no module 'fractoins'"),
        ("fractions.Fractoin", "module 'fractions' has no 'Fractoin'"),
        ("fractions.Fractoin", "Did you mean 'Fraction'?"),
        ("collections.abcd.Mapping", "Did you mean 'abc'?"),
        ("fractions.Fraction.limit", "class 'fractions.Fraction' has no 'limit'"),
        ("fractions Fraction", "is not a dotted path"),
        ("", "is not a dotted path"),
    ],
)
def test_the_part_of_a_path_that_does_not_exist_is_named(path, message):
    with pytest.raises(ConfigError) as caught:
        resolve(path)
    assert message in str(caught.value)


def test_a_submodule_is_imported_on_the_way():
    assert resolve("xml.dom.minidom.parseString").__name__ == "parseString"


def test_an_error_inside_a_module_is_the_cause(tmp_path, monkeypatch):
    (tmp_path / "broken_module.py").write_text("import not_installed_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="No module named 'not_installed_anywhere'") as caught:
        resolve("broken_module.Thing")
    assert isinstance(caught.value.__cause__, ModuleNotFoundError)


def test_an_error_inside_the_target_escapes_with_a_note():
    def broken() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        call(broken, {}, where="shape")
    assert caught.value.__notes__[0].endswith("broken for 'shape'")


def test_a_target_with_open_keywords_takes_any_argument_but_no_unasked_offer():
    assert call(lambda **options: options, {"a": 1}, offers={"b": 2}) == {"a": 1}


def test_the_factory_does_not_load_hydra():
    code = "import sys, maze.core.factory; sys.exit('hydra' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
