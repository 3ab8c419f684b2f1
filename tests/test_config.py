import subprocess
import sys
from dataclasses import fields, is_dataclass

import pytest

from geoview import config
from geoview.config import (
    AerialView,
    AugmentConfig,
    BuildConfig,
    DataConfig,
    EncoderConfig,
    GroundView,
    InferenceConfig,
    LocateConfig,
    OptimiserConfig,
    PlanView,
    TrainConfig,
    differing_keys,
    from_mapping,
)
from geoview.errors import ConfigError

BUILD = {"encoder": "e", "imagery": ["o.tif"], "out": "x"}
TRAIN = {"out": "run", "data": DataConfig(pairs="pairs.csv")}

REFUSED = [
    (GroundView, {}, "width_px", [15, 0, -1]),
    (GroundView, {}, "height_px", [15, 0, -1]),
    (GroundView, {}, "fov_deg", [0, -1, 361, float("nan")]),
    (GroundView, {}, "vertical_fov_deg", [0, -1, 181, float("nan")]),
    (PlanView, {}, "size_px", [15, 0, -1]),
    (PlanView, {}, "gsd_m", [0, -0.4, float("nan")]),
    (PlanView, {}, "eye_heights_m", [(), (0,), (2, -2), (float("nan"),)]),
    (PlanView, {}, "pitches_deg", [(), (0, 90), (float("nan"),)]),
    (PlanView, {}, "headings", [0, -1]),
    (AerialView, {}, "size_px", [15, 0, -1]),
    (AerialView, {}, "gsd_m", [0, -0.4, float("nan")]),
    (DataConfig, {"pairs": "p.csv"}, "validation_share", [-0.1, 1, float("nan")]),
    (DataConfig, {"pairs": "p.csv"}, "max_missing_share", [-0.1, 1, float("nan")]),
    (DataConfig, {"pairs": "p.csv"}, "mine_every_epochs", [0, -1]),
    (DataConfig, {"pairs": "p.csv"}, "neighbours", [0]),
    (DataConfig, {"pairs": "p.csv"}, "neighbours_a_seed", [0]),
    (DataConfig, {"pairs": "p.csv", "blocks_per_batch": 2}, "mining", ["gps", "similarity"]),
    (AugmentConfig, {}, "scale_jitter", [-0.1, 1, float("nan")]),
    (AugmentConfig, {}, "rotation_jitter_deg", [-1, float("nan")]),
    *((AugmentConfig, {}, f"{name}_share", [-0.1, 1.1, float("nan")]) for name in ("greyscale", "blur", "erase")),
    *(
        (AugmentConfig, {}, name, [-0.1, float("nan")])
        for name in ("gamma", "channel_mix", "gain", "saturation", "contrast", "brightness", "noise")
    ),
    (OptimiserConfig, {}, "steps", [-1]),
    (OptimiserConfig, {}, "batch_size", [1, 0]),
    (OptimiserConfig, {}, "learning_rate", [0, -1, float("nan")]),
    (OptimiserConfig, {}, "weight_decay", [-0.1, float("nan")]),
    (OptimiserConfig, {}, "warmup_steps", [-1]),
    (OptimiserConfig, {}, "clip_norm", [-1, float("nan")]),
    (OptimiserConfig, {}, "temperature", [0, -1, float("nan")]),
    (OptimiserConfig, {}, "label_smoothing", [-0.1, 1, float("nan")]),
    (InferenceConfig, {}, "batch_size", [0, -1]),
    (InferenceConfig, {}, "num_workers", [0, -1]),
    (TrainConfig, TRAIN, "checkpoint_every_steps", [0, -1]),
    (TrainConfig, TRAIN, "num_workers", [-1]),
    (BuildConfig, BUILD, "batch_size", [0]),
    (BuildConfig, BUILD, "level", [7, 21]),
    (BuildConfig, BUILD, "min_coverage", [0, -0.1, 1.1, float("nan")]),
    (BuildConfig, BUILD, "scales", [[], [0], [2], [1, 3], [1, 1], [2, 1], [1, 2, 2], [1, 16], [-1, 1]]),
    (BuildConfig, BUILD, "imagery", [[]]),
    (LocateConfig, {"index": "i"}, "num_workers", [0]),
    (LocateConfig, {"index": "i"}, "top_k", [0]),
    (LocateConfig, {"index": "i"}, "fov_deg", [0, -1, 361, float("nan")]),
    (LocateConfig, {"index": "i"}, "gsd_m", [0, -1, float("nan")]),
    (LocateConfig, {"index": "i", "near": "1,2"}, "radius_m", [None, 0, -1, float("nan")]),
    (LocateConfig, {"index": "i", "radius_m": 5.0}, "near", [None]),
    (LocateConfig, {"index": "i", "sequence": True}, "max_speed_kmh", [0, -1, float("nan"), float("inf")]),
    (LocateConfig, {"index": "i", "sequence": True}, "step_s", [0, -1, float("nan"), float("inf")]),
]


@pytest.mark.parametrize(
    ("schema", "others", "key", "value"),
    [(schema, others, key, value) for schema, others, key, values in REFUSED for value in values],
)
def test_an_impossible_value_is_refused_by_the_name_of_its_key(schema, others, key, value):
    with pytest.raises(ConfigError, match=rf"\b{key}\b"):
        schema(**{**others, key: value})


@pytest.mark.parametrize(
    ("schema", "values"),
    [
        (GroundView, {"width_px": 16, "height_px": 16, "fov_deg": 360, "vertical_fov_deg": 180}),
        (PlanView, {"size_px": 16, "gsd_m": 0.01, "eye_heights_m": (0.1,), "headings": 1, "pitches_deg": (89.0,)}),
        (AerialView, {"size_px": 16, "gsd_m": 0.01}),
        (DataConfig, {"pairs": "p.csv", "validation_share": 0.0, "max_missing_share": 0.0}),
        (AugmentConfig, {"scale_jitter": 0, "rotation_jitter_deg": 0, "erase_share": 1, "blur_share": 0, "gamma": 0}),
        (OptimiserConfig, {"steps": 0, "batch_size": 2, "label_smoothing": 0, "weight_decay": 0, "warmup_steps": 0}),
        (InferenceConfig, {"batch_size": 1, "num_workers": 1}),
        (TrainConfig, {**TRAIN, "num_workers": 0, "checkpoint_every_steps": 1}),
        (BuildConfig, {**BUILD, "level": 8, "min_coverage": 1, "scales": [1, 2, 4, 8]}),
        (BuildConfig, {**BUILD, "scales": [1, 4]}),
        (LocateConfig, {"index": "i", "near": "1,2", "radius_m": 1, "fov_deg": 360, "top_k": 1}),
        (LocateConfig, {"index": "i"}),
    ],
)
def test_the_bounds_themselves_are_taken(schema, values):
    made = schema(**values)
    assert {name: getattr(made, name) for name in values} == values


def test_the_default_views_are_those_of_the_published_methods():
    assert AerialView().ground_size_m == pytest.approx(153.6)
    assert AerialView(size_px=100, gsd_m=0.5).ground_size_m == 50
    ground = EncoderConfig().ground
    assert ground.fov_deg / ground.width_px == pytest.approx(ground.vertical_fov_deg / ground.height_px, rel=0.01)


def test_plans_take_the_place_of_strips():
    assert EncoderConfig().street == GroundView()
    made = from_mapping(TrainConfig, {**TRAIN, "data": {"pairs": "p.csv"}, "encoder": {"plan": {"gsd_m": 0.5}}})
    assert made.encoder.street == PlanView(gsd_m=0.5)
    assert PlanView(size_px=100, gsd_m=0.5).reach_m == 25


@pytest.mark.parametrize("wrong", [{"size_px": 8}, {"headings": 0}])
def test_what_a_part_refuses_is_told_in_one_line(wrong):
    with pytest.raises(ConfigError, match=rf"^{next(iter(wrong))} of a plan view must be at least \d+$"):
        from_mapping(TrainConfig, {**TRAIN, "data": {"pairs": "p.csv"}, "encoder": {"plan": wrong}})


@pytest.mark.parametrize("schema", [c for c in vars(config).values() if isinstance(c, type) and is_dataclass(c)])
def test_every_field_has_its_help(schema):
    documented = "".join(base.__doc__ for base in schema.__mro__[:-1])
    assert [f.name for f in fields(schema) if f"    {f.name}: " not in documented] == []


def test_differing_keys():
    one = {"seed": 0, "data": {"pairs": "a", "views": {"width": 1, "height": 2}}, "list": [1, 2], "old": 1}
    other = {"seed": 0, "data": {"pairs": "b", "views": {"width": 1, "height": 3}}, "list": [1, 3], "new": 2}
    assert differing_keys(one, other) == ["data.pairs", "data.views.height", "list", "new", "old"]
    assert differing_keys(other, one) == differing_keys(one, other)
    assert differing_keys(one, one) == []
    assert differing_keys({"a": {"b": 1}}, {"a": None}) == ["a"]


def test_imports_nothing_heavy():
    heavy = ["torch", "rasterio", "faiss", "zarr", "lightning", "timm"]
    code = f"import sys, geoview.config; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
