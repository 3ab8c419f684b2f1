"""The verbs of the command line. Nothing heavy is imported before a verb runs."""

from __future__ import annotations

import argparse
import inspect
import json
import logging
import sys
import traceback
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import MISSING, asdict, fields
from functools import partial
from importlib.metadata import version
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO

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
from geoview.errors import ConfigError, GeoviewError
from geoview.files import full_disk_told, write_json

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    import tiles
    from geoview.data.queries import PhotoQuery
    from geoview.geo.regions import Region
    from geoview.index.cell_index import CellIndex
    from geoview.index.manifest import Manifest
    from geoview.locate.localizer import Localization, Localizer, PhotoView

__all__ = ["main"]

_OK, _SOME_FAILED, _BAD_USAGE = 0, 1, 2
_SWITCHES = ("as_published", "checked", "exact", "json", "overwrite", "sequence", "together", "train", "turned")
_METAVARS = {"at": "LAT,LON", "fov_deg": "DEG", "scales": "SCALE"}  # of lists that are not of paths
_NUMBERS = {"list[int]": int, "list[float]": float}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
        argv: Arguments; None takes the process's own.

    Returns:
        Exit code: 0 all well, 1 some inputs failed (each is named), 2 nothing could be done.
    """
    parser = _parser()
    arguments = parser.parse_args(argv)
    verb = arguments[arguments.subcommand]
    action = arguments.subcommand
    if action in ("index", "render"):
        action, verb = f"{action} {verb.subcommand}", verb[verb.subcommand]
    talk = logging.StreamHandler(sys.stderr)
    talk.setFormatter(logging.Formatter("geoview: %(message)s"))
    logging.getLogger("geoview").addHandler(talk)
    logging.getLogger("geoview").setLevel(logging.INFO)
    warnings.showwarning = _show_warning
    # rasterio's; `tiles` says the same as an error, with the way out.
    warnings.filterwarnings("ignore", message="Dataset has no geotransform")
    try:
        return _VERBS[action](verb)
    except KeyboardInterrupt:
        print("geoview: interrupted; the same command goes on where it can", file=sys.stderr)
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return _SOME_FAILED
    except Exception as error:
        if arguments.verbose:
            traceback.print_exc()
        elif not _is_users(error):
            raise
        print(f"geoview: {' '.join(str(error).split())}", file=sys.stderr)
        return _BAD_USAGE
    finally:
        logging.getLogger("geoview").removeHandler(talk)


class ArgumentParser(jsonargparse.ArgumentParser):
    """Says what is wrong in one line; the whole usage is what --help is for."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Prints the message and exits with 2."""
        print(f"geoview: {' '.join(str(message).split())}; --help lists what there is", file=sys.stderr)
        raise SystemExit(_BAD_USAGE)


class _Several(argparse.Action):
    """Takes several values, after one flag or after several: a position with a sign needs a flag and = before it."""

    _given = False

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        """Keeps the values: the first take the place of what a config file says, others come after them."""
        before = getattr(namespace, self.dest) if self._given else []
        setattr(namespace, self.dest, [*before, *values])
        self._given = True


def _is_users(error: Exception) -> bool:
    # `tiles` is only in memory when something can have raised its errors.
    tiles = sys.modules.get("tiles")
    return isinstance(error, GeoviewError) or (tiles is not None and isinstance(error, tiles.TilesError))


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"geoview: warning: {message}", file=sys.stderr)


def _parser() -> ArgumentParser:
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


def _config(kind: type[Any], arguments: Namespace) -> Any:
    """Makes the config of a verb; its own checks raise ConfigError."""
    names = {field.name for field in fields(kind)}
    values = {k: v for k, v in arguments.as_dict().items() if k in names}
    return from_mapping(kind, values)


def _demo(arguments: Namespace) -> int:
    config: DemoConfig = _config(DemoConfig, arguments)
    from geoview.demo import demo, summary

    report = demo(config)
    print(summary(report))
    for name, what in (
        ("sheet.jpg", "some photos, their first places, and the truth"),
        ("map.html", "answers on a map; opens in any browser"),
        ("candidates.geojson", "all answers"),
        ("report.json", "the figures above, and more"),
    ):
        print(f"geoview: {Path(config.out, name)}: {what}", file=sys.stderr)
    return _SOME_FAILED if any(report[kind]["n_failed"] for kind in ("panoramas", "perspective")) else _OK


def _train(arguments: Namespace) -> int:
    config = _config(TrainConfig, arguments)
    from geoview.training.fit import fit, is_first_process

    encoder = fit(config)
    if is_first_process():
        print(json.dumps({"encoder": str(Path(config.out, "encoder")), **encoder.notes}, indent=1))
    return _OK


def _build(arguments: Namespace) -> int:
    config = _config(BuildConfig, arguments)
    import tiles
    from geoview.data.queries import find_queries
    from geoview.evaluate.fusion import fit_fusion
    from geoview.index.build import build_index
    from geoview.models.encoder import CrossViewEncoder
    from geoview.models.prototypes import LearntPrototypes

    source = tiles.open_source(config.imagery)
    region = _region(config.region)
    index = build_index(
        CrossViewEncoder.load(config.encoder),
        source,
        region,
        config.out,
        config,
        photos=find_queries(config.photos),
        prototypes=None if config.prototypes is None else LearntPrototypes.open(config.prototypes),
        fit=partial(fit_fusion, config=config),
    )
    return _told(config.out, index.manifest, index.manifest.skipped_sources, index.manifest.skipped_photos)


def _add_to_index(arguments: Namespace) -> int:
    config = _config(AddConfig, arguments)
    import tiles
    from geoview.data.queries import find_queries
    from geoview.index.build import add_to_index
    from geoview.index.remote import local_folder
    from geoview.index.store import read_manifest

    before = read_manifest(local_folder(arguments.index))
    source = tiles.open_source(config.imagery) if config.imagery else None
    photos = find_queries(config.photos)
    after = add_to_index(arguments.index, source, _region(config.region), config, photos=photos).manifest
    rasters = [entry for entry in after.skipped_sources if entry not in before.skipped_sources]
    return _told(
        arguments.index, after, rasters, [entry for entry in after.skipped_photos if entry not in before.skipped_photos]
    )


def _told(
    index: str, manifest: Manifest, skipped_sources: list[dict[str, str]], skipped_photos: list[dict[str, str]]
) -> int:
    """Tells what an index has become, and what it lacks."""
    told: dict[str, Any] = {"index": index, "codes": manifest.n_rows, "cells_without_code": manifest.n_skipped}
    if manifest.prototypes is not None:
        told |= {"prototypes": manifest.prototypes.n_rows, "photos": manifest.prototypes.n_photos}
        told |= {"fusion": manifest.fusion}
    print(json.dumps(told))
    for what, skipped in (("rasters", skipped_sources), ("photos", skipped_photos)):
        if skipped:
            print(f"geoview: the index lacks {len(skipped)} {what}:", file=sys.stderr)
        for entry in skipped:
            print(f"geoview: {entry['reason']}", file=sys.stderr)
    return _SOME_FAILED if skipped_sources or skipped_photos else _OK


def _info_index(arguments: Namespace) -> int:
    from geoview.describe import describe_index

    print(json.dumps(describe_index(arguments.index), indent=1))
    return _OK


def _verify(arguments: Namespace) -> int:
    from geoview.index.cell_index import CellIndex
    from geoview.index.tuning import repair

    if arguments.repair:
        for line in repair(arguments.index):
            print(f"geoview: {line}; made anew", file=sys.stderr)
    index = CellIndex.open(arguments.index)
    problems = index.verify()
    for problem in problems:
        print(problem)
    if problems:
        print(f"geoview: {arguments.index}: {len(problems)} problems", file=sys.stderr)
        return _SOME_FAILED
    print(f"sound: {len(index)} codes in {len(index.manifest.shards)} shards")
    return _OK


def _tune(arguments: Namespace) -> int:
    config: TuneConfig = _config(TuneConfig, arguments)
    from geoview.index.tuning import tune

    chosen, points = tune(arguments.index, config, _embedded(arguments.index, config))
    print(json.dumps({"index": arguments.index, "chosen": asdict(chosen), "measured": list(map(asdict, points))}))
    return _OK


def _calibrate(arguments: Namespace) -> int:
    config: CalibrateConfig = _config(CalibrateConfig, arguments)
    from geoview.evaluate.calibration import calibrate
    from geoview.index.cell_index import CellIndex

    with CellIndex.open(arguments.index) as index:
        told = calibrate(index, config)
    print(json.dumps({"index": arguments.index, "calibration": told}))
    return _SOME_FAILED if told.get("unusable_photos") else _OK


def _embedded(index: str, config: TuneConfig) -> NDArray[np.floating] | None:
    """Returns the embeddings of the photos to measure with."""
    if not config.photos:
        return None
    import numpy as np

    from geoview.data.queries import find_queries
    from geoview.index.cell_index import CellIndex
    from geoview.locate.localizer import Localizer

    with CellIndex.open(index) as opened:
        embedded = Localizer(opened, config).embed(find_queries(config.photos))
    for photo in embedded:
        if photo.error:
            raise ConfigError(photo.error)
    return np.concatenate([photo.vectors for photo in embedded])


def _remove(arguments: Namespace) -> int:
    config = _config(RemoveConfig, arguments)
    from geoview.data.queries import find_queries
    from geoview.index.upkeep import remove_photos, remove_region

    region = _region(config.region)
    if region is not None:
        told = {"removed_codes": remove_region(arguments.index, region)}
    else:
        told = {"removed_photos": remove_photos(arguments.index, find_queries(config.photos), config)}
    print(json.dumps({"index": arguments.index, **told}))
    return _OK


def _merge(arguments: Namespace) -> int:
    from geoview.index.upkeep import merge

    manifest = merge(arguments.first, arguments.second, arguments.out).manifest
    return _told(arguments.out, manifest, [], [])


def _vacuum(arguments: Namespace) -> int:
    from geoview.index.upkeep import vacuum

    folders, size_bytes = vacuum(arguments.index)
    print(json.dumps({"index": arguments.index, "removed_folders": folders, "removed_bytes": size_bytes}))
    return _OK


def _locate(arguments: Namespace) -> int:
    config: LocateConfig = _config(LocateConfig, arguments)
    from geoview.data.queries import find_queries
    from geoview.index.cell_index import CellIndex
    from geoview.locate import formats
    from geoview.locate.localizer import Localizer, PhotoView
    from geoview.locate.page import open_imagery, write_html

    out = None if config.out is None else Path(config.out)
    if out is not None:
        formats.check_output(out, formats.SUFFIXES, overwrite=config.overwrite)
    queries = find_queries(arguments.photos)
    index = CellIndex.open(config.index, checked=config.checked)
    region = _search_region(config)
    pictures = None if config.heatmap is None else _heat_maps(config, index, [q.path for q in queries], region)
    again = _looks_again(config, index)
    looks = again or config.why is not None or (out is not None and out.suffix.lower() == ".html")
    imagery = open_imagery(index, config.imagery) if looks else None
    view = PhotoView(config.view, config.fov_deg, config.gsd_m)
    localizer = Localizer(index, config, imagery=imagery if again else None)
    explained = None if config.why is None or imagery is None else _explained(config, localizer, imagery, view, queries)
    answers = _answers(config, localizer, queries, region, view)
    failed = 0

    def counted() -> Iterator[Localization]:
        nonlocal failed
        from tqdm import tqdm

        for answer in tqdm(answers, total=len(queries), desc="locate", unit="photo", disable=None, dynamic_ncols=True):
            if answer.status == "failed":
                failed += 1
                print(f"geoview: {answer.error}", file=sys.stderr)
            yield answer

    def page(answers: Iterable[Localization], file: TextIO) -> None:
        write_html(answers, file, index=index, imagery=imagery)

    told = counted() if pictures is None else pictures(counted())
    told = told if explained is None else explained(told)
    if config.json:
        told = formats.json_lines(told, sys.stdout)
    if out is not None:
        formats.write_answers(told, out, page)
    elif config.json:
        deque(told, maxlen=0)
    else:
        formats.write_csv(told, sys.stdout)
    return _SOME_FAILED if failed else _OK


def _looks_again(config: LocateConfig, index: CellIndex) -> bool:
    """Tells whether first cells are looked at again, because that is asked for or calibrated."""
    from geoview.locate.calibration import Calibration

    if config.together or config.sequence:
        return False
    if config.rerank is not None:
        return config.rerank > 0
    calibration = Calibration.of(index)
    return calibration is not None and calibration.rerank > 0


def _answers(
    config: LocateConfig,
    localizer: Localizer,
    queries: Sequence[PhotoQuery],
    region: Region | None,
    view: PhotoView,
) -> Iterable[Localization]:
    """Answers photos one by one or, where they are of one spot or one way, all at once."""
    from geoview.locate.localizer import Search
    from geoview.locate.prior import learn_prior
    from geoview.locate.sequence import locate_sequence
    from geoview.locate.together import locate_together

    prior = learn_prior(config.prior, localizer.index) if config.prior else None
    search = Search(config.top_k, region, config.kappa, config.dates, config.exact, prior=prior)
    if config.together:
        return locate_together(localizer, queries, search, view=view)
    if config.sequence:
        speed_kmh, step_s = config.max_speed_kmh, config.step_s
        return locate_sequence(localizer, queries, search, max_speed_kmh=speed_kmh, step_s=step_s, view=view)
    return localizer.locate(
        queries,
        top_k=config.top_k,
        region=region,
        around_own_position_m=config.radius_m if config.near == "exif" else None,
        kappa=config.kappa,
        dates=config.dates,
        exact=config.exact,
        view=view,
        rerank=config.rerank,
        prior=prior,
    )


def _explained(
    config: LocateConfig,
    localizer: Localizer,
    imagery: tiles.ImagerySource,
    view: PhotoView,
    queries: Sequence[PhotoQuery],
) -> Callable[[Iterable[Localization]], Iterator[Localization]]:
    """Returns what draws why answers were given as they pass; refuses what cannot be drawn."""
    from geoview.locate.why import Explainer, check_folder

    assert config.why is not None
    explainer, folder = Explainer(localizer, imagery), Path(config.why)
    check_folder(folder, overwrite=config.overwrite)

    def passed(answers: Iterable[Localization]) -> Iterator[Localization]:
        for number, (query, answer) in enumerate(zip(queries, answers, strict=True), start=1):
            explainer.write(folder, number, query, answer, view)
            yield answer

    return passed


def _heat_maps(
    config: LocateConfig, index: CellIndex, photos: Sequence[str], region: Region | None
) -> Callable[[Iterable[Localization]], Iterator[Localization]]:
    """Returns what draws answers as they pass; refuses what cannot be drawn."""
    from geoview.heatmap import heat_map_files, heat_maps

    def searched(answer: Localization) -> Region | None:
        if config.near != "exif":
            return region
        assert answer.latlon_deg is not None, "without its own position, a photo fails"
        return _around(answer.latlon_deg, config, region)

    assert config.heatmap is not None
    files = heat_map_files(Path(config.heatmap), index, photos, overwrite=config.overwrite)
    return partial(heat_maps, files=files, index=index, searched=searched)


def _evaluate(arguments: Namespace) -> int:
    config: EvaluateConfig = _config(EvaluateConfig, arguments)
    from geoview.evaluate import report

    out = Path(config.out)
    report.check_output(out, overwrite=config.overwrite)
    if config.index is None:
        from geoview.evaluate.dataset import evaluate_dataset
        from geoview.evaluate.protocols import open_table
        from geoview.models.encoder import CrossViewEncoder

        assert config.encoder is not None, "EvaluateConfig checks this"
        results = evaluate_dataset(CrossViewEncoder.load(config.encoder), open_table(config), config)
    else:
        from geoview.evaluate.photos import evaluate_photos
        from geoview.index.cell_index import CellIndex

        results = evaluate_photos(CellIndex.open(config.index), config)
    with full_disk_told(out):
        write_json(out, results)
    print(report.markdown(results))
    return _SOME_FAILED if results["n_unreadable"] or results.get("n_without_position") else _OK


def _benchmark(arguments: Namespace) -> int:
    config: BenchmarkConfig = _config(BenchmarkConfig, arguments)
    from geoview.benchmark import read_job, run_job, table

    job = Path(arguments.job)
    results = run_job(job, config)
    if results:
        print(table(read_job(job), results), end="")
    return _SOME_FAILED if any(test["n_unreadable"] for test in results.get("tests", {}).values()) else _OK


def _serve(arguments: Namespace) -> int:
    config: ServeConfig = _config(ServeConfig, arguments)
    try:
        from geoview.serve.server import serve
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("geoview", "tiles"):
            raise
        raise ConfigError(f"the service needs {error.name}: pip install 'geoview[serve]'") from error
    serve(config)
    return _OK


def _search_region(config: LocateConfig) -> Region | None:
    region = _region(config.region)
    if config.near is None or config.near == "exif":
        return region
    try:
        lat, lon = (float(part) for part in config.near.split(","))
    except ValueError as error:
        raise ConfigError(
            f"near is {config.near!r}; write LAT,LON in degrees, as in --near=-33.9,-70.6, or exif"
        ) from error
    return _around((lat, lon), config, region)


def _around(latlon_deg: tuple[float, float], config: LocateConfig, region: Region | None) -> Region:
    from geoview.geo.regions import Region

    assert config.radius_m is not None, "LocateConfig checks this"
    disc = Region.disc(latlon_deg, config.radius_m)
    return disc if region is None else disc.intersection(region)


def _region(path: str | None) -> Region | None:
    from geoview.geo.regions import Region

    return None if path is None else Region.from_geojson(path)


def _render_region(arguments: Namespace) -> int:
    config: RenderRegionConfig = _config(RenderRegionConfig, arguments)
    from geoview.render.region import write_region
    from geoview.render.world import make_world

    world = make_world(config.style, config.seed, size_m=(config.width_m, config.height_m), gsd_m=config.gsd_m)
    plan = write_region(
        world,
        Path(config.out),
        n_panoramas=config.n_panoramas,
        n_perspective=config.n_perspective,
        seed=config.seed,
        range_m=config.range_m,
        overwrite=config.overwrite,
        num_workers=config.num_workers,
    )
    photos = config.n_panoramas + config.n_perspective
    print(json.dumps({"region": config.out, "reference": plan["reference"], "photos": photos}))
    return _OK


def _render_photos(arguments: Namespace) -> int:
    config: RenderPhotosConfig = _config(RenderPhotosConfig, arguments)
    from geoview.render.tour import photograph

    n_photos, failures = photograph(config)
    for failure in failures:
        print(f"geoview: {' '.join(failure.split())}", file=sys.stderr)
    print(json.dumps({"out": config.out, "photos": n_photos, "failed": len(failures)}))
    return _SOME_FAILED if failures else _OK


def _render_dataset(arguments: Namespace) -> int:
    config: RenderDatasetConfig = _config(RenderDatasetConfig, arguments)
    from geoview.render.datasets import write_dataset

    print(json.dumps(write_dataset(config)))
    return _OK


def _info(arguments: Namespace) -> int:
    from geoview.describe import describe, environment

    print(json.dumps(environment() if arguments.path is None else describe(arguments.path), indent=1))
    return _OK


_VERBS: dict[str, Callable[[Namespace], int]] = {
    "demo": _demo,
    "train": _train,
    "index build": _build,
    "index add": _add_to_index,
    "index info": _info_index,
    "index remove": _remove,
    "index merge": _merge,
    "index calibrate": _calibrate,
    "index tune": _tune,
    "index verify": _verify,
    "index vacuum": _vacuum,
    "locate": _locate,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "serve": _serve,
    "render region": _render_region,
    "render photos": _render_photos,
    "render dataset": _render_dataset,
    "info": _info,
}
