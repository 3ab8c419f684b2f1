from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geoview.errors import RenderError
from geoview.render.scene import Cover, Scene
from geoview.render.world import STYLES, TRAINING_STYLES, UNSEEN_STYLE, State, World, make_world
from geoview.render.world.fabric import Plan
from geoview.render.world.open_land import USES
from geoview.render.world.styles import STYLE

SIZE_M = (320.0, 300.0)


@cache
def world_of(style: str, seed: int = 4) -> World:
    return make_world(style, seed, size_m=SIZE_M, gsd_m=1.0)


@cache
def state_of(style: str, epoch: int = 0, seed: int = 4) -> State:
    return world_of(style, seed).state(epoch)


def test_one_style_is_kept_from_training() -> None:
    assert set(STYLES) == {*TRAINING_STYLES, UNSEEN_STYLE}
    assert UNSEEN_STYLE not in TRAINING_STYLES


@pytest.mark.parametrize("style", STYLES)
def test_the_same_seed_makes_the_same_region(style: str) -> None:
    again = make_world(style, 4, size_m=SIZE_M, gsd_m=1.0)
    for epoch in (1, 0):  # in another order than the first time
        one, other = state_of(style, epoch), again.state(epoch)
        for name in ("albedo", "surface_m", "terrain_m", "cover", "standing", "roads"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert one.date == other.date
        assert [o.kind for o in one.objects] == [o.kind for o in other.objects]


@pytest.mark.parametrize("style", STYLES)
def test_another_seed_makes_another_region(style: str) -> None:
    one, other = state_of(style), state_of(style, 0, 5)
    assert (one.grid.crs, one.grid.left_m, one.grid.top_m) != (other.grid.crs, other.grid.left_m, other.grid.top_m)
    differing = np.abs(one.albedo.astype(int) - other.albedo).max(axis=-1) > 12
    assert differing.mean() > 0.4


@pytest.mark.parametrize("style", STYLES)
def test_arrays_agree_with_the_grid_and_with_each_other(style: str) -> None:
    for epoch in (0, 1, 3):
        state = state_of(style, epoch)
        shape = state.grid.shape
        assert shape == (300, 320)
        assert state.albedo.shape == (*shape, 3) and state.albedo.dtype == np.uint8
        for name, dtype in (
            ("surface_m", np.float32),
            ("terrain_m", np.float32),
            ("cover", np.uint8),
            ("standing", bool),
            ("roads", bool),
        ):
            array = getattr(state, name)
            assert array.shape == shape and array.dtype == dtype, name
        above_m = state.surface_m - state.terrain_m
        assert np.isfinite(above_m).all()
        assert above_m.min() >= 0.0
        assert above_m[state.cover == Cover.BUILDING].min() >= 2.0
        assert above_m[state.cover == Cover.CANOPY].min() > 0.5
        assert above_m.max() < 80.0
        assert not above_m[state.cover == Cover.WATER].max(initial=0.0) > 5.0  # nothing but boats
        assert not (state.standing & (state.cover != Cover.GROUND)).any()
        assert above_m[state.standing].max() < 0.5
        assert not (state.roads & ~state.standing).any()
        assert state.standing.mean() > 0.15
        assert state.roads.mean() > 0.01


@pytest.mark.parametrize("style", STYLES)
def test_the_scene_shows_the_same_ground(style: str) -> None:
    state = state_of(style)
    scene = state.scene()
    assert isinstance(scene, Scene)
    assert scene.texture is state.albedo and scene.surface_m is state.surface_m and scene.standing is state.standing


@pytest.mark.parametrize("style", STYLES)
def test_between_epochs_streets_stay_and_a_share_of_buildings_changes(style: str) -> None:
    before = state_of(style, 0)
    after = state_of(style, 1)
    np.testing.assert_array_equal(before.terrain_m, after.terrain_m)
    both = before.roads & after.roads
    assert both.sum() > 0.8 * before.roads.sum()  # cars and crowns cover some of it
    changed = np.abs(before.albedo.astype(int) - after.albedo).max(axis=-1) > 3
    assert changed.mean() > 0.3
    assert 90 < (after.date - before.date).days < 900


def test_the_share_of_rebuilt_buildings_is_moderate() -> None:
    world = make_world("european_town", 2, size_m=(600.0, 600.0), gsd_m=1.0)
    outlines = [{o.geometry.wkb for o in world.state(epoch).objects if o.kind == "building"} for epoch in (0, 1)]
    heights = [
        {(o.geometry.wkb, o.properties["height_m"]) for o in world.state(epoch).objects if o.kind == "building"}
        for epoch in (0, 1)
    ]
    assert len(outlines[0]) > 150
    kept = len(heights[0] & heights[1]) / len(heights[0])
    assert 0.85 < kept < 0.97
    assert len(outlines[0] & outlines[1]) / len(outlines[0]) >= kept


def test_seasons_differ_between_epochs() -> None:
    summer, autumn = state_of("rural", 0), state_of("rural", 1)
    crowns = (summer.cover == Cover.CANOPY) & (autumn.cover == Cover.CANOPY)
    greenness = [float((s.albedo[crowns][:, 1].astype(int) - s.albedo[crowns][:, 0]).mean()) for s in (summer, autumn)]
    assert summer.date.timetuple().tm_yday != autumn.date.timetuple().tm_yday
    assert abs(greenness[0] - greenness[1]) > 0.5


@pytest.mark.parametrize("style", STYLES)
def test_vehicles_are_others_at_every_epoch(style: str) -> None:
    def lifted(epoch: int) -> np.ndarray:
        state = state_of(style, epoch)
        above_m = state.surface_m - state.terrain_m
        return (state.cover == Cover.GROUND) & (np.abs(above_m - 1.5) < 1e-3)  # a car's height

    before, after = lifted(0), lifted(1)
    assert before.sum() > 20 and after.sum() > 20
    assert (before & after).sum() < 0.9 * before.sum()


@pytest.mark.parametrize("style", STYLES)
def test_objects_are_valid_and_lie_inside(style: str) -> None:
    state = state_of(style)
    inside = shapely.box(-1e-6, -1e-6, *(np.array(state.grid.size_m) + 1e-6))
    kinds = {o.kind for o in state.objects}
    assert {"building", "road"} <= kinds
    for thing in state.objects:
        assert thing.geometry.is_valid and not thing.geometry.is_empty, thing
        assert inside.covers(thing.geometry), thing
    buildings = [o for o in state.objects if o.kind == "building"]
    assert {o.properties["roof"] for o in buildings} <= {"flat", "gable", "hip"}
    assert min(o.properties["height_m"] for o in buildings) >= 2.0


@pytest.mark.parametrize("style", STYLES)
def test_named_buildings_stand_where_the_heights_say(style: str) -> None:
    state = state_of(style)
    for thing in state.objects:
        core = thing.geometry.buffer(-2.0)
        if thing.kind == "building" and core.area > 20.0:
            x, y = core.representative_point().coords[0]
            assert state.cover[int(y), int(x)] in (Cover.BUILDING, Cover.CANOPY), thing


@pytest.mark.parametrize("style", STYLES)
def test_districts_cover_the_region(style: str) -> None:
    world = world_of(style)
    names = [name for name, _ in world.districts]
    assert names and len(set(names)) == len(names)
    total = shapely.union_all([shape for _, shape in world.districts])
    assert total.area == pytest.approx(SIZE_M[0] * SIZE_M[1], rel=1e-6)
    assert sum(shape.area for _, shape in world.districts) == pytest.approx(total.area, rel=1e-6)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(style=st.sampled_from(STYLES), seeds=st.lists(st.integers(0, 7000), min_size=2, max_size=2, unique=True))
def test_places_are_plausible_and_never_overlap(style: str, seeds: list[int]) -> None:
    grids = [make_world(style, seed, size_m=(100.0, 100.0), gsd_m=5.0).grid for seed in seeds]
    for grid in grids:
        lat_deg, lon_deg = grid.latlon_deg(np.array([50.0, 50.0]))
        assert -56.0 < lat_deg < 66.0
        code = int(grid.crs.removeprefix("EPSG:"))
        assert code // 100 == (326 if lat_deg > 0 else 327)
        middle_deg = (code % 100 - 1) * 6.0 - 177.0
        assert abs(lon_deg - middle_deg) < 4.5
        assert grid.left_m == round(grid.left_m) and grid.top_m == round(grid.top_m)
    if grids[0].crs == grids[1].crs:
        away = math.hypot(grids[0].left_m - grids[1].left_m, grids[0].top_m - grids[1].top_m)
        assert away >= 3990.0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("size_m", [(100.0, 100.0), (400.0, 110.0), (130.0, 517.0)])
def test_small_and_oblong_regions(style: str, size_m: tuple[float, float]) -> None:
    for seed in range(3):
        world = make_world(style, seed, size_m=size_m, gsd_m=1.0)
        state = world.state(1)
        assert world.grid.shape == (size_m[1], size_m[0])
        assert (state.surface_m >= state.terrain_m).all()
        assert state.standing.any()
        assert state.objects


def test_other_pixel_sizes_show_the_same_place() -> None:
    fine = make_world("american_grid", 3, size_m=(200.0, 200.0), gsd_m=0.5).state(0)
    coarse = make_world("american_grid", 3, size_m=(200.0, 200.0), gsd_m=2.0).state(0)
    small = (fine.cover == Cover.BUILDING).reshape(100, 4, 100, 4).mean(axis=(1, 3)) > 0.5
    built = coarse.cover == Cover.BUILDING
    assert (small & built).sum() > 0.7 * (small | built).sum()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size_m": (99.0, 300.0)}, "99 x 300 m cannot be made"),
        ({"size_m": (300.0, math.nan)}, "cannot be made"),
        ({"style": "gothic"}, "'gothic' is unknown"),
        ({"seed": -1}, "seed -1"),
        ({"gsd_m": 0.0}, "gsd_m 0"),
    ],
)
def test_what_cannot_be_made_is_refused_in_one_line(arguments: dict[str, object], message: str) -> None:
    wanted = {"style": "rural", "seed": 0, "size_m": (300.0, 300.0), "gsd_m": 1.0} | arguments
    with pytest.raises(RenderError, match=message) as caught:
        make_world(wanted.pop("style"), wanted.pop("seed"), **wanted)
    assert "\n" not in str(caught.value)


def test_epochs_count_from_zero() -> None:
    with pytest.raises(RenderError, match="epoch -1"):
        world_of("rural").state(-1)


@pytest.mark.parametrize("use", ["field", "meadow"])
def test_a_sliver_of_land_that_simplifying_leaves_nothing_of_is_laid_out(use):
    upper = [(13.9, 2.9), (33.2, 0.8), (35.3, 0.4), (37.2, 1.3), (43.9, 0.5), (52.6, -0.3)]
    lower = [(52.6, -0.5), (43.9, -0.1), (37.2, -0.6), (35.3, -0.4), (33.2, 0.4), (13.9, 1.4)]
    sliver = shapely.Polygon([*upper, *lower])
    assert sliver.area > 30 > 1 > sliver.simplify(4.0).area
    for seed in range(10):
        plan = Plan(STYLE["rural"], (100.0, 100.0))
        USES[use].fill(plan, sliver, np.random.default_rng(seed))
        assert plan.patches
