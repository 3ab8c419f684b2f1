"""Writes the tables of RESULTS.md and of the model card anew, from the files in results/.

    python benchmarks/tables.py [--check]

With --check nothing is written, and the status is 1 where a table tells otherwise than the results.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

HERE = Path(__file__).parent
RESULTS, CARD = HERE / "RESULTS.md", HERE.parent / "geoview" / "encoders" / "demo" / "README.md"
METHODS = ("encoder", "untrained", "colour histogram", "above 30 deg", "shuffled pairs", "by lot")
PHOTOS = ("panoramas", "perspective")
Rows = list[list[str]]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true")
    arguments = parser.parse_args()
    differing = []
    for path, tables in DOCUMENTS.items():
        before = path.read_text(encoding="utf-8")
        after = written(before, tables)
        if after != before:
            differing.append(path)
            if not arguments.check:
                path.write_text(after, encoding="utf-8")
    print("\n".join(f"{path.name}: {'differs' if arguments.check else 'written'}" for path in differing) or "all agree")
    return int(arguments.check and bool(differing))


@dataclass(frozen=True)
class Table:
    """A table of a document.

    Attributes:
        columns: How its first line begins.
        rows: Makes its rows.
    """

    columns: str
    rows: Callable[[], Rows]


def written(text: str, tables: Sequence[Table]) -> str:
    """Returns a document with other rows in some of its tables, which stand in the order in which they are given.

    Raises:
        ValueError: A table is not there.
    """
    lines, at = text.split("\n"), 0
    for table in tables:
        at = next((i for i in range(at, len(lines)) if lines[i].startswith(f"| {table.columns} |")), -1)
        if at < 0:
            raise ValueError(f"no table begins with {table.columns!r}, in the order of DOCUMENTS")
        first = at + 2
        end = next(i for i in range(first, len(lines)) if not lines[i].startswith("|"))
        lines[first:end] = [f"| {' | '.join(row)} |" for row in table.rows()]
        at = first
    return "\n".join(lines)


def result(name: str) -> Any:
    """Returns the content of a file of results."""
    return json.loads((HERE / "results" / f"{name}.json").read_text(encoding="utf-8"))


def percent(*shares: float) -> str:
    return " / ".join(f"{100 * share:.1f}" for share in shares)


def whole(*shares: float) -> str:
    return " / ".join(f"{100 * share:.0f}" for share in shares)


def interval(value: float, ends: Sequence[float], scale: float = 1.0, digits: int = 1) -> str:
    shown, low, high = (f"{scale * each:.{digits}f}" for each in (value, *ends))
    return f"{shown} ({low} to {high})"


def spread(of: dict[str, Any]) -> str:
    return f"{100 * of['mean']:.1f} ± {100 * of['spread']:.1f}"


def told_and_true(row: dict[str, Any]) -> str:
    return f"{whole(row['mean_probability'], row['recall_at_1_within_100_m']['share'])} %"


def recalls(row: dict[str, Any]) -> str:
    return percent(*(row[f"recall_at_{k}_within_100_m"] for k in (1, 5, 10)))


# -- tables ------------------------------------------------------------------------------------------------------------


def rendered() -> Rows:
    """A style a row, and beside the encoder what must not find anything."""
    rows = result("rendered")["rows"]
    unseen = {row["style"] for row in rows if not row["seen_in_training"]}
    return _guarded(rows, "style", lambda style: f"{style} (unseen)" if style in unseen else style)


def naip() -> Rows:
    """The same over real imagery."""
    roles = {"riverside": "trained on", "santa_monica": "tested only"}
    return _guarded(result("rendered_naip")["rows"], "city", lambda city: f"{city} ({roles[city]})")


def _guarded(rows: list[dict[str, Any]], place: str, named: Callable[[str], str]) -> Rows:
    found = {(row[place], row["photos"], row["method"]): row for row in rows}
    return [
        [
            named(where).replace("_", " "),
            f"{found[where, photos, 'encoder']['n_photos']} {photos}",
            *(recalls(found[where, photos, method]) for method in METHODS),
        ]
        for where in dict.fromkeys(row[place] for row in rows)
        for photos in PHOTOS
    ]


def fields_of_view() -> Rows:
    """The encoder's recall by how wide photos look."""
    pooled = {
        (row["photos"], row["seen_in_training"]): row
        for row in result("rendered")["pooled"]
        if row["method"] == "encoder"
    }
    ranges = ("60 to 75", "75 to 90", "90 to 110")
    names = {f"perspective {each} deg": f"{each} degrees" for each in ranges}
    asked = [(photos, seen) for seen in (True, False) for photos in names]
    asked += [(photos, seen) for photos in ("perspective", "panoramas") for seen in (True, False)]
    names |= {"perspective": "all perspective", "panoramas": "panoramas"}
    return [
        [
            names[photos],
            "seen" if seen else "unseen",
            str(pooled[photos, seen]["n_photos"]),
            recalls(pooled[photos, seen]),
            percent(pooled[photos, seen]["chance_recall_at_10_within_100_m"]),
        ]
        for photos, seen in asked
    ]


def levels() -> Rows:
    """Levels of cells, of the same ground and of as many bytes, the mean of two regions."""
    rows = result("rendered_levels")["rows"]

    def at(comparison: str, level: int, key: str, photos: str = "panoramas", method: str = "encoder") -> float:
        asked = {"comparison": comparison, "level": level, "photos": photos, "method": method}
        return mean(float(row[key]) for row in rows if asked.items() <= row.items())

    said = []
    for comparison in ("same ground", "same bytes"):
        for level in (16, 17, 18, 19):
            of = partial(at, comparison, level)
            first, tenth = (f"recall_at_{k}_within_100_m" for k in (1, 10))
            said.append(
                [
                    f"{level}, {comparison}",
                    f"{of('codes'):,.0f}, {of('bytes_of_codes') / 1e6:.2f} MB",
                    percent(of(first, method="by lot"), of(tenth, method="by lot")),
                    *(percent(of(first, photos), of(tenth, photos)) for photos in PHOTOS),
                    percent(of("ceiling_recall_within_50_m")),
                ]
            )
    return said


def places(name: str, cells: Sequence[int], kinds: Sequence[str]) -> Rows:
    """Where photos are put, how sure, and what is refused, by level of the cells and style."""
    by_level = result(name)["levels"]
    rows = []
    for level in cells:
        for style, of_style in by_level[str(level)].items():
            for kind in kinds if style != "calibration" else ():
                of = of_style[kind]
                told, position, refused = of["calibration"]["all"], of["position"], of["refused"]
                within = [position[f"within_{m}_m"] for m in (25, 50, 100)]
                off_m = position["median_error_of_right_m"]
                others = ("same style", "other style", "shows nothing")
                rows.append(
                    [
                        str(level),
                        style.replace("_", " "),
                        f"{of['photos']:,} {kind}",
                        percent(*(each["middle of the best cell"]["share"] for each in within)),
                        percent(*(each["place"]["share"] for each in within)),
                        f"{off_m[0]:.1f}, {off_m[1]:.1f}",
                        f"{whole(told['mean_probability'], told['right']['share'])} %",
                        f"{told['brier']:.3f} / {told['brier_of_base_rate']:.3f}",
                        f"{told['calibration_error']:.3f} / {told['calibration_error_by_chance']:.3f}",
                        f"{whole(told['radius_covers']['share'])} %, {told['median_radius_m']:.0f} m",
                        f"{whole(told['wrong'], told['wrong_among_the_surer_half'])} %",
                        f"{whole(of['kept']['share'])} %",
                        f"{whole(*(refused[other]['share'] for other in others))} %",
                    ]
                )
    return rows


def second_looks() -> Rows:
    """What a second look finds, and its parts."""
    found = result("rerank")
    ways = {
        ("product", "codes"): "codes",
        ("product", "first 10 again"): "first 10 cells again",
        ("product", "first 30 again"): "first 30 again",
        ("product", "first 100 again"): "first 100 again",
        ("product", "codes, one level finer"): "codes of level 20, four times the bytes",
        ("ingredients", "quarters"): "of 100: quarters of the cell alone",
        ("ingredients", "8 turns"): "of 100: eight turns alone",
    }
    rows = []
    for (part, variant), name in ways.items():
        said = [name]
        for photos in PHOTOS:
            (row,) = (row for row in found[part] if (row["photos"], row["variant"]) == (photos, variant))
            gain = interval(row["gain_within_25_m"], row["gain_within_25_m_interval"], 100)
            said.append(percent(*(row[f"recall_at_1_within_{m}_m"] for m in (25, 50, 100))))
            said.append("" if variant == "codes" else gain)
        rows.append(said)
    return rows


def vigor_positions() -> Rows:
    """Metres and degrees of both cities."""
    found = {(row["protocol"], row["way"]): row for row in result("vigor_positions")["rows"] if row["city"] == "both"}
    tile, city = "known tile", "whole city"
    ways = {
        (tile, "random place of the tile"): "guess: a random place",
        (tile, "middle of the tile"): "guess: its middle",
        (tile, "middle of the best cell"): "middle of the best cell",
        (tile, "place"): "place",
        (tile, "place, first 30 cells again"): "place, second look at 30 cells",
        (tile, "nearest middle of a cell"): "at best: nearest middle of a cell",
        (tile, "nearest middle of a quarter of a cell"): "at best: of a quarter of a cell",
        (city, "random cell"): "guess: a random cell",
        (city, "middle of the best cell"): "middle of the best cell",
        (city, "place"): "place",
        (city, "place, first 30 cells again"): "place, second look at 30 cells",
    }
    return [[asked.split()[1], name, *_errors(found[asked, way])] for (asked, way), name in ways.items()]


def _errors(row: dict[str, Any]) -> list[str]:
    def shown(of: dict[str, Any], unit: str, within: Sequence[int]) -> list[str]:
        errors = [of[f"{which}_error_{unit}"] for which in ("mean", "median")]
        shares = percent(*(of[f"within_{each}_{unit}"]["share"] for each in within))
        return [*(interval(error["value"], error["interval"]) for error in errors), shares]

    return [*shown(row, "m", (1, 3, 5, 10)), *shown(row["heading"], "deg", (1, 5, 10, 30))]


def walks() -> Rows:
    """Several photos together, and how sure they are."""
    rows = []
    for row in result("walks")["pooled"]:
        more = row["more_than_alone_within_100_m"]
        rows.append(
            [
                f"{row['photos'].replace('panorama', 'panoramas')}, {row['way']}",
                percent(*(row[f"recall_at_1_within_{m}_m"]["share"] for m in (25, 50, 100))),
                "" if "alone" in row["way"] else interval(more["share"], more["interval"], 100),
                told_and_true(row),
                f"{row['brier']:.3f} / {row['brier_of_base_rate']:.3f}",
                f"{row['calibration_error']:.3f}",
                f"{whole(row['strays_rejected'])} %" if "strays_rejected" in row else "",
            ]
        )
    return rows


def walks_by_style() -> Rows:
    """How sure the same photos are in each region, and how often they are right."""
    rows = {(row["photos"], row["way"], row["style"]): row for row in result("walks")["rows"]}
    ways = ("one alone, of a spot", "five together", "one alone, of a walk", "ten of a walk")
    styles = list(dict.fromkeys(style for _, _, style in rows))
    return [
        [photos.replace("panorama", "panoramas"), way, *(told_and_true(rows[photos, way, style]) for style in styles)]
        for photos in ("panorama", "perspective")
        for way in ways
    ]


def hybrid() -> Rows:
    """What ground photos add, by how densely the ground is photographed."""
    (style,) = result("hybrid")["styles"].values()
    arms = style["arms"]
    averaged = {
        f"{how}, averaged, level {level}": f"{how}; averaged, level {level}, border on, frustum on"
        for how in ("prototypes alone", "both, kappa 1")
        for level in (15, 17, 18, 19)
    }
    learnt = {
        f"{how}, learnt, level {level}": f"{how}; learnt, level {level}"
        for level in (15, 18)
        for how in ("prototypes alone", "both, kappa 1")
    }
    names = {"imagery": "imagery", **averaged, **learnt}
    names |= {each: each for each in ("all photos alone", "all photos, fused late")}
    groups = [f"{photos}, {where}" for photos in ("panorama", "perspective") for where in ("all", "dense", "sparse")]
    rows = []
    for name, key in names.items():
        arm = arms[key]
        n_bytes = arm.get("bytes_of_prototypes", arm.get("bytes_of_photos", 0))
        found = [arm[group]["recall_at_1_within_100_m"] for group in groups]
        shares = (interval(each["share"], each["interval"], 100) for each in found)
        rows.append([name, f"{n_bytes / 1e6:.1f}" if n_bytes else "", *shares])
    return rows


def over_time() -> Rows:
    """Places of two cities found again from above."""
    rows = result("naip")["rows"]
    trained_on = {row["test_city"]: row["trained_on"] for row in rows if row["method"] == "trained"}
    said = []
    for city, level in sorted({(row["test_city"], row["level"]) for row in rows}):
        here = [row for row in rows if (row["test_city"], row["level"]) == (city, level)]
        of = {
            method: [f"{percent(row['recall_at_1'], row['recall_at_5'])} %" for row in here if row["method"] == method]
            for method in ("trained", "untrained", "colour histogram")
        }
        names = [name.replace("_", " ").title() for name in (city, trained_on[city])]
        said.append(
            [
                f"{names[0]} ({names[1]}), {here[0]['queries']} places",
                str(level),
                f"{percent(here[0]['ceiling'])} %",
                ", ".join(of["trained"]),
                of["untrained"][0],
                of["colour histogram"][0],
            ]
        )
    return said


ARMS = {
    "random": "random batches",
    "gps_as_published": "neighbours on the ground as published: degrees for radians, hardness decays",
    "gps": "neighbours on the ground, hardness decays",
    "similarity": "likeness from the start, hardness decays",
    "both": "ground, then likeness, hardness decays",
    "both_kept": "ground, then likeness, hardness kept (geoview)",
    "fervers": "decoupled loss and clusters of Fervers et al.",
    "attention": "as geoview, with an attention head",
    "own_weights": "as geoview, with weights of their own for street photos",
    "shipped": "that encoder, not trained",
    "untrained": "an untrained network",
}


def mining() -> Rows:
    """Batches at equal time, at one rate and each at its own best one."""
    rows = []
    for arm, of in result("ablation")["arms"].items():
        areas = ("same_area_at_0.001", "cross_area_at_0.001", "same_area", "cross_area")
        found = [spread(of[area]["recall_at_1"]) for area in areas]
        steps = of[areas[0]]["steps"]
        rate = f"{of['learning_rate']:g}" if steps else "-"
        rows.append([ARMS[arm], str(steps), *found[:2], rate, *found[2:]])
    return rows


def mining_at_scale() -> Rows:
    """The same with more places and time."""
    return [
        [ARMS[arm], f"{of['steps']:,}", *(spread(of[name]) for name in ("recall_at_1", "recall_at_10", "hit_rate"))]
        for arm, of in ((arm, each["same_area_at_0.001"]) for arm, each in result("ablation_large")["arms"].items())
    ]


PLACES = "level | region | photos"
GUARDED = "photos | encoder | untrained"
DOCUMENTS = {
    RESULTS: (
        Table(f"style | {GUARDED}", rendered),
        Table("level | cells, bytes of codes", levels),
        Table(f"city | {GUARDED}", naip),
        Table("arm | MB", hybrid),
        Table("tested on (trained on)", over_time),
        Table(PLACES, partial(places, "places", (19,), PHOTOS)),
        Table(PLACES, partial(places, "places_reranked", (19, 18), PHOTOS[:1])),
        Table("photos | within 25 / 50 / 100 m", walks),
        Table("photos | way | seen", walks_by_style),
        Table("way | 300 panoramas", second_looks),
        Table("asked in | way", vigor_positions),
        Table("batches | steps | same area, rate 0.001", mining),
        Table("batches | steps | R@1", mining_at_scale),
    ),
    CARD: (
        Table("photos | styles | how many", fields_of_view),
        Table(f"style | {GUARDED}", rendered),
        Table(f"city | {GUARDED}", naip),
    ),
}


if __name__ == "__main__":
    sys.exit(main())
