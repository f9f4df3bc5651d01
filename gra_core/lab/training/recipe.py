"""Recipes: how weights are made, as one TOML file. The folder `recipes` beside this file has those that are used.

`[[stages]]` are the trainings, in order; `[directions]` says how the edits are calibrated at the end, and
`[evaluation]` what is measured. Sizes are in steps, never in minutes, and do not depend on the number of processes.
"""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args, get_origin

from gra_core.errors import SettingsError
from gra_core.models.streams import DESIGNS

COMPILERS = ("inductor", "eager", "none")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One training. Names of other stages are those of earlier ones.

    Attributes:
        name: of the stage and its folder.
        part: what is trained.
        steps: of the optimiser.
        batch: pictures, or pairs of pictures, in a part.
        parts: of a step; their gradients are averaged. The processes share them, so it is a multiple of their number.
        rate: highest learning rate.
        average: decay of the moving average of the weights, which is what the stage makes.
        seeds: of random numbers. Streams of several are averaged; they must start from one earlier stage.
        init: the stage whose weights this one goes on from; empty: from scratch.
        editor: the stage of streams that edits the photos; empty: none.
        variants: random edits of each photo, made once by `editor`, to train on besides it.
        motion: whether pairs of frames of clips are trained on.
    """

    name: str
    part: Literal["encoder", "streams"]
    steps: int
    batch: int
    parts: int = 1
    rate: float = 4e-4
    average: float = 0.999
    seeds: tuple[int, ...] = (0,)
    init: str = ""
    editor: str = ""
    variants: int = 0
    motion: bool = False


@dataclass(frozen=True, kw_only=True)
class EncoderStage(Stage):
    """A training of the encoder.

    Attributes:
        regression_steps: first steps, on generated faces with known codes only.
        second_perceptual: whether pictures are compared by ST-LPIPS on AlexNet, too.
    """

    regression_steps: int = 0
    second_perceptual: bool = False


@dataclass(frozen=True, kw_only=True)
class StreamsStage(Stage):
    """A training of both streams, for the codes of the last stage that trained an encoder.

    Attributes:
        design: a name of `gra_core.models.streams.DESIGNS`; `init` may be of a design without alignment.
        adversary: whether edits must pass for photos.
        recompute: whether the run without an edit is repeated for the gradient: less memory, more time.
    """

    design: str = "gra"
    adversary: bool = False
    recompute: bool = False


@dataclass(frozen=True, kw_only=True)
class Directions:
    """How the edits are calibrated: on so many generated faces; 0: they stay as they are."""

    faces: int = 12


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """What is measured on the photos of the split "val"; as the options of `evaluate`.

    Attributes:
        attributes: whether the scoring nets measure attribute change and background.
        others: as those of `gra_core.lab.evaluation.evaluate.run`.
    """

    edits: tuple[str, ...] = ("smile", "age", "yaw")
    strength: float = 60.0
    limit: int = 0
    edits_exact: int = 0
    groups: int = 0
    optimize: int = 0
    kid: bool = False
    attributes: bool = False
    processes: int = 1


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A recipe.

    Attributes:
        compiler: of the nets on GPUs; "eager" traces them as the first does and runs them as they are, also on a CPU.
        save_every: steps between two saves, from which a stage goes on.
        log_every: steps between two lines of the log.
    """

    stages: tuple[EncoderStage | StreamsStage, ...]
    directions: Directions
    evaluation: Evaluation
    compiler: Literal["inductor", "eager", "none"] = "inductor"
    save_every: int = 500
    log_every: int = 100

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read and check a recipe.

        Raises:
            SettingsError: it is no TOML file, or an option is unknown, missing, or cannot be right.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingsError(f"{path} is no TOML file: {error}.") from error
        tables = content.pop("stages", None)
        if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables) or not tables:
            raise SettingsError(f"{path} has no stages: give [[stages]].")
        stages = []
        for number, table in enumerate(tables, 1):
            kind = {"encoder": EncoderStage, "streams": StreamsStage}.get(table.get("part"))
            where = f"stage {table.get('name', number)}"
            if kind is None:
                raise SettingsError(f"The part of {where} must be encoder or streams.")
            stages.append(_build(kind, table, where))
            _check(stages, where)
        if stages[-1].part != "streams":
            raise SettingsError("The last stage must train streams, which need the codes of the encoder as it will be.")
        parts = {"stages": tuple(stages)}
        for name, kind in (("directions", Directions), ("evaluation", Evaluation)):
            parts[name] = _build(kind, content.pop(name, {}), f"[{name}]")
        return _build(cls, content | parts, "the recipe")

    def encoder_of(self, stage: StreamsStage) -> EncoderStage:
        """The stage that makes the encoder for a stage of streams: the last one before it."""
        before = self.stages[: self.stages.index(stage)]
        return next(earlier for earlier in reversed(before) if earlier.part == "encoder")


def _build(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """An object of a dataclass from a table of the recipe."""
    known = {field.name: field for field in fields(kind)}
    for name in values:
        if name not in known:
            raise SettingsError(f"There is no option {name} in {where}; there are: {', '.join(known)}.")
    found = {}
    for name, field in known.items():
        if name not in values:
            if field.default is MISSING:
                raise SettingsError(f"The option {name} is missing in {where}.")
            continue
        found[name] = _value(values[name], field.type, f"{name} of {where}")
    return kind(**found)


def _value(value: Any, kind: Any, what: str) -> Any:
    """A value of a recipe, checked. Raises SettingsError."""
    if get_origin(kind) is Literal:
        return _one_of(value, get_args(kind), what)
    if get_origin(kind) is tuple and get_args(kind)[0] in (int, str):
        if not isinstance(value, list) or not value:
            raise SettingsError(f"The option {what} must be a list, which is not empty.")
        return tuple(_value(x, get_args(kind)[0], what) for x in value)
    names = {bool: "true or false", int: "a whole number from 0", float: "a number above 0", str: "text"}
    if kind not in names:
        return value
    accepted = (int, float) if kind is float else kind
    fits = isinstance(value, accepted) and (kind is bool or not isinstance(value, bool))
    if not fits or (kind is int and value < 0) or (kind is float and not value > 0):
        raise SettingsError(f"The option {what} must be {names[kind]}, not {value!r}.")
    return kind(value)


def _one_of(value: Any, allowed: Iterable[str], what: str) -> Any:
    if value not in allowed:
        raise SettingsError(f"The option {what} must be one of {', '.join(allowed)}, not {value!r}.")
    return value


def _check(stages: list[EncoderStage | StreamsStage], where: str) -> None:
    """What the last stage says of itself and of earlier ones. Raises SettingsError."""
    *before, stage = stages
    earlier = {other.name: other for other in before}
    if not stage.name.isidentifier() or stage.name in earlier:
        raise SettingsError(f"The name of {where} must be a word of letters, digits and _ that no other stage has.")
    for option in ("steps", "batch", "parts"):
        if not getattr(stage, option):
            raise SettingsError(f"The option {option} of {where} must be 1 or more.")
    if stage.average >= 1:
        raise SettingsError(f"The option average of {where} must lie below 1.")
    for option, part in (("init", stage.part), ("editor", "streams")):
        name = getattr(stage, option)
        if name and (name not in earlier or earlier[name].part != part):
            raise SettingsError(f"The option {option} of {where} must name an earlier stage of the part {part}.")
    if stage.variants and not stage.editor:
        raise SettingsError(f"The variants of {where} need an editor: name an earlier stage of streams.")
    if len(stage.seeds) > 1 and (stage.part != "streams" or not stage.init):
        raise SettingsError(f"The seeds of {where} need streams with an init: runs from scratch cannot be averaged.")
    if len(set(stage.seeds)) < len(stage.seeds):
        raise SettingsError(f"The seeds of {where} must differ.")
    if stage.part == "streams":
        _one_of(stage.design, DESIGNS, f"design of {where}")
        if not any(other.part == "encoder" for other in before):
            raise SettingsError(f"There is no encoder for {where}: put a stage of the part encoder before it.")
