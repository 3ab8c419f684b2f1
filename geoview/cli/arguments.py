"""The grammar of the command line: what each verb takes, and how that becomes its config."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Mapping
from dataclasses import MISSING, fields
from importlib.metadata import version
from itertools import takewhile
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NoReturn

import jsonargparse
from jsonargparse import ActionConfigFile, Namespace  # type: ignore[attr-defined]

from geoview.config import (
    AddConfig,
    BenchmarkConfig,
    BuildConfig,
    CalibrateConfig,
    DemoConfig,
    EvaluateConfig,
    LocateConfig,
    RemoveConfig,
    RenderDatasetConfig,
    RenderPhotosConfig,
    RenderRegionConfig,
    ServeConfig,
    TrainConfig,
    TuneConfig,
    from_mapping,
)

if TYPE_CHECKING:
    from geoview.geo.regions import Region

__all__ = ["BAD_USAGE", "OK", "SOME_FAILED", "Namespace", "config_of", "make_parser", "region_of"]

#: Exit codes.
OK, SOME_FAILED, BAD_USAGE = 0, 1, 2
_SWITCHES = ("as_published", "checked", "exact", "json", "overwrite", "sequence", "together", "train", "turned")
_METAVARS = {"at": "LAT,LON", "fov_deg": "DEG", "scales": "SCALE"}  # of lists that are not of paths
_NUMBERS = {"list[int]": int, "list[float]": float}


def make_parser() -> ArgumentParser:
    """Returns the parser of all commands."""
    parser = ArgumentParser(
        prog="geoview", description="Tells where a photo was taken by matching it against imagery seen from above."
    )
    parser.add_argument("--version", action="version", version=f"geoview {version('geoview')}")
    parser.add_argument("--verbose", action="store_true", help="show where in the code an error arose")
    verbs = parser.add_subcommands(required=True, dest="subcommand")

    _add_verb(
        verbs,
        "demo",
        "the whole story on a made-up region: render and index it, locate photos of it, count what is right",
        DemoConfig,
        file=True,
    )
    said = "train an encoder on pairs of pictures, or go on with a run that was cut off"
    _add_verb(verbs, "train", said, TrainConfig, file=True)
    _add_verbs_of_indexes(_add_group(verbs, "index", "make and check indexes"))
    photos = {"nargs": "+", "help": "photos, folders of photos, or CSV tables with a column `path`"}
    _add_verb(verbs, "locate", "tell where photos were taken", LocateConfig, file=True, given={"photos": photos})
    said = "score an encoder on a data set, or an index on photos of known position"
    _add_verb(verbs, "evaluate", said, EvaluateConfig, file=True)
    said, job = "train and score by a job file, unattended, beside what is published", "benchmarks/jobs/cvusa.yaml"
    _add_verb(verbs, "benchmark", said, BenchmarkConfig, given={"job": {"help": f"job file, such as {job}"}})
    _add_verb(verbs, "serve", "answer over HTTP, with a page to ask from", ServeConfig, file=True)
    made = _add_group(verbs, "render", "make regions up, and take street photos of them or of real places")
    said = "make a region up: orthophotos of two dates, heights, outlines and street photos"
    _add_verb(made, "region", said, RenderRegionConfig, file=True)
    _add_verb(made, "photos", "take street photos of real places", RenderPhotosConfig, file=True)
    _add_verb(made, "dataset", "make up a benchmark set in a published layout", RenderDatasetConfig, file=True)
    said = "tell what an encoder, index, training run, photo or imagery source is, as JSON"
    path = "file or folder, or the address of an index; without it, what geoview runs on"
    _add_verb(verbs, "info", said, given={"path": {"nargs": "?", "help": path}})
    return parser


def _add_verbs_of_indexes(verbs: Any) -> None:
    folder, place = {"index": {"help": "index folder"}}, {"index": {"help": "index folder or address"}}
    said = "cover a region with cells and give each a code, or go on with a build that was cut off"
    _add_verb(verbs, "build", said, BuildConfig, file=True)
    said = "add imagery of another date or ground, or ground photos, to an index"
    _add_verb(verbs, "add", said, AddConfig, file=True, given=folder)
    _add_verb(verbs, "remove", "take cells or ground photos out of an index", RemoveConfig, given=folder)
    both: dict[str, dict[str, Any]] = {
        "first": {"help": "index folder"},
        "second": {"help": "index folder, whose codes count where both have one"},
        "--out": {"required": True, "help": "index folder to write"},
    }
    _add_verb(verbs, "merge", "make one index of two of the same encoder", given=both)
    said = "make an index fast to search, as far as wished, and measure what that costs"
    _add_verb(verbs, "tune", said, TuneConfig, given=folder)
    said = "make scores probabilities, and teach an index when a photo is of elsewhere"
    _add_verb(verbs, "calibrate", said, CalibrateConfig, given=folder)
    _add_verb(verbs, "info", "tell what an index holds, as JSON", given=place)
    said = "make what can be made from the codes anew: short codes and lists"
    repair: dict[str, Any] = {"--repair": {"action": "store_true", "help": said}}
    _add_verb(verbs, "verify", "read everything and compare it with what was written", given=place | repair)
    _add_verb(verbs, "vacuum", "remove what has been replaced and nobody reads any more", given=folder)


def config_of(kind: type[Any], arguments: Namespace) -> Any:
    """Makes the config of a verb; its own checks raise ConfigError."""
    names = {field.name for field in fields(kind)}
    values = {k: v for k, v in arguments.as_dict().items() if k in names}
    return from_mapping(kind, values)


def region_of(path: str | None) -> Region | None:
    """Returns the region in a GeoJSON file; None for none.

    Raises:
        RegionError: It cannot be read, or is no region.
    """
    from geoview.geo.regions import Region

    return None if path is None else Region.from_geojson(path)


class ArgumentParser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what --help is for."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message and exits with 2."""
        print(f"geoview: {' '.join(str(message).split())}; --help lists what there is", file=sys.stderr)
        raise SystemExit(BAD_USAGE)


class _Several(argparse.Action):
    """Takes several values, after one flag or after several: a position with a sign needs a flag and = before it."""

    _given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keeps the values: the first take the place of what a config file says, others come after them."""
        before = getattr(namespace, self.dest) if self._given else []
        setattr(namespace, self.dest, [*before, *values])
        self._given = True


def _add_group(verbs: Any, name: str, description: str) -> Any:
    """Adds a verb that is followed by another; returns where to add those."""
    parser = ArgumentParser(description=description)
    verbs.add_subcommand(name, parser, help=description)
    return parser.add_subcommands(required=True, dest="subcommand")


def _add_verb(
    verbs: Any,
    name: str,
    description: str,
    kind: type[Any] | None = None,
    *,
    file: bool = False,
    given: Mapping[str, Mapping[str, Any]] = MappingProxyType({}),
) -> None:
    """Adds a verb with the flags of its config, which a file may set, too, after what else it is given."""
    parser = ArgumentParser(description=description)
    for argument, how in given.items():
        parser.add_argument(argument, **how if "action" in how else {"type": str, **how})
    if file:
        parser.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    if kind is not None:
        _add(parser, kind)
    verbs.add_subcommand(name, parser, help=description)


def _add(parser: ArgumentParser, kind: type[Any]) -> None:
    """Adds a flag for each field; switches take no value, and lists several, as shells expand them."""
    lists = [field for field in fields(kind) if str(field.type).startswith("list[")]
    switches = [field for field in fields(kind) if field.name in _SWITCHES]
    parser.add_class_arguments(kind, skip={field.name for field in lists + switches})
    for field in lists:
        required = field.default is MISSING and field.default_factory is MISSING
        parser.add_argument(
            f"--{field.name}",
            type=_NUMBERS.get(str(field.type).removesuffix(" | None"), str),
            nargs="+",
            action=_Several,
            required=required,
            default=None if field.default_factory is MISSING else field.default_factory(),
            metavar=_METAVARS.get(field.name, "PATH"),
            help=_field_help(kind, field.name),
        )
    for field in switches:
        parser.add_argument(f"--{field.name}", action="store_true", help=_field_help(kind, field.name))


def _field_help(kind: type[Any], name: str) -> str:
    """Returns what the docstring of a config says of a field, on one line."""
    paragraphs = inspect.cleandoc(kind.__doc__ or "").split("\n    ")
    at = next(i for i, line in enumerate(paragraphs) if line.startswith(f"{name}:"))
    # What goes on is set in further than the names of fields are.
    further = takewhile(lambda line: line.startswith(" "), paragraphs[at + 1 :])
    return " ".join(line.strip() for line in (paragraphs[at].split(":", 1)[1], *further))
