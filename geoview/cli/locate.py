"""The verb that tells where photos were taken."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from geoview.cli.arguments import OK, SOME_FAILED, Namespace, config_of, region_of
from geoview.config import LocateConfig
from geoview.errors import ConfigError

if TYPE_CHECKING:
    import tiles
    from geoview.data.queries import PhotoQuery
    from geoview.geo.regions import Region
    from geoview.index.cell_index import CellIndex
    from geoview.locate.embedding import PhotoView
    from geoview.locate.localizer import Localization, Localizer

__all__ = ["locate"]


def locate(arguments: Namespace) -> int:
    """Tells where photos were taken: on standard output, or in a file of a kind that its suffix tells."""
    config: LocateConfig = config_of(LocateConfig, arguments)
    from geoview.data.queries import find_queries
    from geoview.index.cell_index import CellIndex
    from geoview.locate import formats
    from geoview.locate.embedding import PhotoView
    from geoview.locate.localizer import Localizer
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
    return SOME_FAILED if failed else OK


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


def _search_region(config: LocateConfig) -> Region | None:
    region = region_of(config.region)
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
    disc = Region.disc(latlon_deg, config.radius_m, "near")
    return disc if region is None else disc.intersection(region)
