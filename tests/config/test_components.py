"""Components that hold components: chosen, configured, printed, read and swept by one grammar at every depth."""

import dataclasses
from typing import Any

import pytest
import yaml

from s2s import registry
from s2s.config import command, compose, schema
from s2s.config.schema import components, group, option
from s2s.config.sweep import _divided
from s2s.errors import UserError

HERE = __name__


@dataclasses.dataclass
class SeedConfig:
    type: str = option("seed", "component")
    size: int = option(1, "in mm", at_least=1)


@dataclasses.dataclass
class StoneConfig:
    type: str = option("stone", "component")
    size: float = option(1.5, "in mm")
    hard: bool = option(True, "to bite")


@dataclasses.dataclass
class PeelConfig:
    inner: Any = group("core", "seed", "what sticks to it")


@dataclasses.dataclass
class FruitConfig:
    type: str = option("fruit", "component")
    core: Any = group("core", "seed", "what is inside")
    flesh: str = option("white", "its colour")
    peel: PeelConfig = option(PeelConfig, "what is around it")


@dataclasses.dataclass
class MixConfig:
    type: str = option("mix", "component")
    parts: dict[str, Any] = components("core", ["seed"], "what is in it")
    size: int = option(3, "spoons")


@dataclasses.dataclass
class Command:
    """Of a command."""

    dish: Any = group("dish", "fruit", "what is served")
    garnish: Any = group("core", None, "what lies beside it")
    plate: str = option("blue", "its colour")


class Seed:
    Config = SeedConfig


class Stone:
    Config = StoneConfig


class Fruit:
    Config = FruitConfig


class Mix:
    Config = MixConfig


@pytest.fixture(autouse=True)
def kinds(tmp_path, monkeypatch):
    """Two kinds of components, and presets of them."""
    monkeypatch.setitem(registry.COMPONENTS, "core", {"seed": f"{HERE}:Seed", "stone": f"{HERE}:Stone"})
    monkeypatch.setitem(registry.COMPONENTS, "dish", {"fruit": f"{HERE}:Fruit", "mix": f"{HERE}:Mix"})
    presets = {
        "dish/plum": {"base": "fruit", "core": {"type": "stone", "size": 9}, "flesh": "yellow"},
        "dish/muesli": {"base": "mix", "parts": ["seed", "stone"], "seed": {"size": 2}, "stone.size": 4},
        "core/pip": {"base": "seed", "size": 5},
        "dish/pear": {"base": "fruit", "core": "pip"},
        "dish/wrong": {"base": "fruit", "core": "pip", "core.hard": True},
    }
    for name, content in presets.items():
        path = tmp_path / f"{name}.yaml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(yaml.safe_dump(content))
    monkeypatch.setattr(compose, "preset_folders", lambda: [tmp_path])


def composed(*words: str) -> Command:
    return compose.compose(Command, [tuple(word.split("=", 1)) for word in words])


def test_one_component_in_another():
    assert composed().dish == FruitConfig()
    assert composed("dish.core.size=4").dish.core == SeedConfig(size=4)
    assert composed("dish.core=stone", "dish.core.hard=false").dish.core == StoneConfig(hard=False)
    assert composed("dish.peel.inner=pip", "dish.peel.inner.size=6").dish.peel == PeelConfig(SeedConfig(size=6))
    assert composed("garnish=stone", "garnish.size=2").garnish == StoneConfig(size=2.0)
    assert composed().garnish is None
    assert composed("garnish=seed", "garnish=null").garnish is None


def test_presets_at_every_depth():
    assert composed("dish.core=pip").dish.core == SeedConfig(size=5)
    assert composed("dish=pear").dish.core == SeedConfig(size=5)
    assert composed("dish=pear", "dish.core.size=6").dish.core == SeedConfig(size=6)
    assert composed("dish=plum").dish == FruitConfig(core=StoneConfig(size=9.0), flesh="yellow")
    # The preset's size is that of its own stone, and not of the seed that the user wants.
    assert composed("dish=plum", "dish.core=seed").dish == FruitConfig(flesh="yellow")
    assert composed("dish=plum", "dish.core=stone", "dish.core.hard=no").dish.core == StoneConfig(size=9.0, hard=False)


def test_several_components_in_one():
    assert composed("dish=mix").dish == MixConfig("mix", {"seed": SeedConfig()})
    dish = composed("dish=mix", "dish.parts=[stone,seed]", "dish.seed.size=7").dish
    assert list(dish.parts.items()) == [("stone", StoneConfig()), ("seed", SeedConfig(size=7))]
    assert composed("dish=mix", "dish.parts=[]").dish.parts == {}
    assert composed("dish=muesli").dish.parts == {"seed": SeedConfig(size=2), "stone": StoneConfig(size=4.0)}
    assert composed("dish=muesli", "dish.parts=[stone]").dish.parts == {"stone": StoneConfig(size=4.0)}
    two = composed("dish=mix", "dish.parts=[seed,other]", "dish.other.type=pip", "dish.other.size=8").dish.parts
    assert two == {"seed": SeedConfig(), "other": SeedConfig(size=8)}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["dish.core=sede"], "dish.core=sede: no such preset; did you mean 'seed'?"),
        (["dish.core.hard=true"], "unknown key 'dish.core.hard'; "),
        (["dish.core=null"], "dish.core=null: a preset is needed, such as seed"),
        (["dish.core.size=0"], "dish.core.size=0: must be at least 1"),
        (["dish=mix", "dish.parts=[seed,sten]"], "dish.parts=sten: no such preset; did you mean 'stone'?"),
        (["dish=mix", "dish.parts=[seed,seed]"], "dish.parts=seed is listed twice"),
        (["dish=mix", "dish.parts=[seed"], "the bracket ] is missing at the end"),
        (["dish=mix", "dish.stone.size=2"], "unknown key 'dish.stone.size'; "),
        (["dish=mix", "dish.seed.size=x"], "dish.seed.size: 'x' is not a whole number"),
        (["dish=wrong"], "wrong.yaml:3: unknown key 'dish.core.hard'"),
        (["dish=mix", "dish.parts=[a]", "dish.a.type=b"], "dish.a.type=b: no such preset; "),
        (["dish=mix", "dish.parts=[size]", "dish.size.type=seed"], "dish.parts=size is also the name of an option"),
    ],
)
def test_what_cannot_be_is_named(words, message):
    with pytest.raises(UserError) as error:
        composed(*words)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["dish=plum", "garnish=pip", "dish.peel.inner=stone"],
        ["dish=muesli", "dish.seed.size=6"],
        ["dish=mix", "dish.parts=[seed,other]", "dish.other.type=stone", "dish.other.hard=false"],
    ],
)
def test_what_is_printed_is_read_again(words, tmp_path):
    config = composed(*words)
    printed = compose.to_yaml(config)
    (tmp_path / "printed.yaml").write_text(printed)
    again = compose.compose(Command, compose.read_config(str(tmp_path / "printed.yaml")))
    assert again == config
    dish = yaml.safe_load(printed)["dish"]
    kind = registry.find("dish", dish["type"]).Config
    assert schema.load(kind, dish, "printed.yaml") == config.dish


def test_a_file_that_lacks_a_component_has_its_default():
    assert schema.load(FruitConfig, {"flesh": "red"}, "x") == FruitConfig(flesh="red")
    for values, message in [
        ({"core": {"type": "sede"}}, "x: core: no core is called 'sede'; did you mean 'seed'?"),
        ({"core": {"type": "seed", "hard": True}}, "x: core: unknown key 'hard'"),
        ({"core": 3}, "x: core: "),
        ({"core": None}, "x: core: "),
    ]:
        with pytest.raises(UserError) as error:
            schema.load(FruitConfig, values, "x")
        assert message in str(error.value)
    with pytest.raises(UserError, match="unknown key 'stone'"):
        schema.load(MixConfig, {"parts": ["seed"], "stone": {"type": "stone"}}, "x")


def test_help_shows_what_is_chosen(capsys, monkeypatch):
    monkeypatch.setattr("sys.argv", ["s2s-cook", "dish.core=stone", "--help", "all"])
    command.run("s2s-cook", Command, print, "Cooks.")
    told = capsys.readouterr().out
    assert "  dish.core={pip,seed,stone}\n      what is inside; default seed; now stone" in told
    assert "dish.core.hard: bool = true" in told
    assert "dish.core.type" not in told


def test_inner_components_are_swept():
    words = ["dish=fruit,plum", "dish.core=seed,stone", "dish.core.size=2,3", "plate=red"]
    fixed, swept = _divided(Command, [compose.Override(*word.split("=", 1)) for word in words])
    assert [word.key for word in fixed] == ["plate"]
    assert list(swept) == ["dish.type", "dish.core.type", "dish.core.size"]
    words = ["dish=mix", "dish.parts=[seed],[seed,stone]"]
    fixed, swept = _divided(Command, [compose.Override(*word.split("=", 1)) for word in words])
    assert list(swept) == ["dish.parts"]
