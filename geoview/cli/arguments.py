"""The grammar of the command line: what each verb takes, and how that becomes its config."""

from __future__ import annotations

import argparse
import inspect
import sys
from dataclasses import MISSING, fields
from importlib.metadata import version
from itertools import takewhile
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

    demo = _verb("the whole story on a made-up region: render and index it, locate photos of it, count what is right")
    demo.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(demo, DemoConfig)
    verbs.add_subcommand("demo", demo, help=demo.description)

    train = _verb("train an encoder on pairs of pictures, or go on with a run that was cut off")
    train.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(train, TrainConfig)
    verbs.add_subcommand("train", train, help=train.description)

    index = ArgumentParser(description="make and check indexes")
    verbs.add_subcommand("index", index, help=index.description)
    steps = index.add_subcommands(required=True, dest="subcommand")
    build = _verb("cover a region with cells and give each a code, or go on with a build that was cut off")
    build.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(build, BuildConfig)
    steps.add_subcommand("build", build, help=build.description)
    add = _verb("add imagery of another date or ground, or ground photos, to an index")
    add.add_argument("index", type=str, help="index folder")
    add.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(add, AddConfig)
    steps.add_subcommand("add", add, help=add.description)
    remove = _verb("take cells or ground photos out of an index")
    remove.add_argument("index", type=str, help="index folder")
    _add(remove, RemoveConfig)
    steps.add_subcommand("remove", remove, help=remove.description)
    merge = _verb("make one index of two of the same encoder")
    merge.add_argument("first", type=str, help="index folder")
    merge.add_argument("second", type=str, help="index folder, whose codes count where both have one")
    merge.add_argument("--out", type=str, required=True, help="index folder to write")
    steps.add_subcommand("merge", merge, help=merge.description)
    tune = _verb("make an index fast to search, as far as wished, and measure what that costs")
    tune.add_argument("index", type=str, help="index folder")
    _add(tune, TuneConfig)
    steps.add_subcommand("tune", tune, help=tune.description)
    calibrate = _verb("make scores probabilities, and teach an index when a photo is of elsewhere")
    calibrate.add_argument("index", type=str, help="index folder")
    _add(calibrate, CalibrateConfig)
    steps.add_subcommand("calibrate", calibrate, help=calibrate.description)
    for name, help_ in (
        ("info", "tell what an index holds, as JSON"),
        ("verify", "read everything and compare it with what was written"),
        ("vacuum", "remove what has been replaced and nobody reads any more"),
    ):
        step = _verb(help_)
        step.add_argument("index", type=str, help=f"index folder{'' if name == 'vacuum' else ' or address'}")
        if name == "verify":
            step.add_argument(
                "--repair", action="store_true", help="make what can be made from the codes anew: short codes and lists"
            )
        steps.add_subcommand(name, step, help=help_)

    locate = _verb("tell where photos were taken")
    locate.add_argument(
        "photos", type=str, nargs="+", help="photos, folders of photos, or CSV tables with a column `path`"
    )
    locate.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(locate, LocateConfig)
    verbs.add_subcommand("locate", locate, help=locate.description)

    evaluate = _verb("score an encoder on a data set, or an index on photos of known position")
    evaluate.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(evaluate, EvaluateConfig)
    verbs.add_subcommand("evaluate", evaluate, help=evaluate.description)

    benchmark = _verb("train and score by a job file, unattended, beside what is published")
    benchmark.add_argument("job", type=str, help="job file, such as benchmarks/jobs/cvusa.yaml")
    _add(benchmark, BenchmarkConfig)
    verbs.add_subcommand("benchmark", benchmark, help=benchmark.description)

    serve = _verb("answer over HTTP, with a page to ask from")
    serve.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
    _add(serve, ServeConfig)
    verbs.add_subcommand("serve", serve, help=serve.description)

    rendering = ArgumentParser(description="make regions up, and take street photos of them or of real places")
    verbs.add_subcommand("render", rendering, help=rendering.description)
    steps = rendering.add_subcommands(required=True, dest="subcommand")
    for name, help_, kind in (
        (
            "region",
            "make a region up: orthophotos of two dates, heights, outlines and street photos",
            RenderRegionConfig,
        ),
        ("photos", "take street photos of real places", RenderPhotosConfig),
        ("dataset", "make up a benchmark set in a published layout", RenderDatasetConfig),
    ):
        step = _verb(help_)
        step.add_argument("--config", action=ActionConfigFile, help="YAML file; flags override it")
        _add(step, kind)
        steps.add_subcommand(name, step, help=help_)

    info = _verb("tell what an encoder, index, training run, photo or imagery source is, as JSON")
    info.add_argument(
        "path", type=str, nargs="?", help="file or folder, or the address of an index; without it, what geoview runs on"
    )
    verbs.add_subcommand("info", info, help=info.description)
    return parser


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


def _verb(description: str) -> ArgumentParser:
    return ArgumentParser(description=description)


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
