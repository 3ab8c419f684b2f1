"""What a camera sees against what geometry says: by formula for plain scenes, by brute force for random ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyproj import Geod

from geoview.errors import ConfigError, RenderError
from geoview.render.camera import Camera, Panorama, Perspective, cast
from geoview.render.scene import Cover, Grid, Scene
from geoview.render.shading import render
from geoview.render.sky import Light

GSD_M, SIDE_PX, RANGE_M = 0.5, 240, 50.0
MIDDLE_M = SIDE_PX * GSD_M / 2
HEADINGS = st.floats(0, 360, exclude_max=True)
PANORAMA = Panorama(256, 64)
# Two samples of a profile at the range, and a pixel of the map.
STEP_M = 2 * 0.02 * RANGE_M + GSD_M


def place(*boxes, crs="EPSG:32633", left_m=500_000 - MIDDLE_M, kind=Cover.BUILDING):
    """A level place 120 m square on the central meridian, with boxes (west, east, north, south, height) in metres
    from its middle."""
    grid = Grid(crs, left_m, 5_300_000, GSD_M, (SIDE_PX, SIDE_PX))
    surface = np.zeros(grid.shape, np.float32)
    cover = np.zeros(grid.shape, np.uint8)
    for west, east, north, south, height in boxes:
        rows = slice(round((MIDDLE_M - north) / GSD_M), round((MIDDLE_M - south) / GSD_M))
        columns = slice(round((MIDDLE_M + west) / GSD_M), round((MIDDLE_M + east) / GSD_M))
        surface[rows, columns], cover[rows, columns] = height, kind
    texture = np.random.default_rng(0).integers(0, 256, (*grid.shape, 3), np.uint8)
    return Scene(grid, texture, surface, np.zeros_like(surface), cover, cover == 0)


def camera(projection=PANORAMA, **where):
    return Camera(
        **({"xy_m": (MIDDLE_M, MIDDLE_M), "heading_deg": 0, "range_m": RANGE_M} | where), projection=projection
    )


def angles_deg(hits):
    """Azimuth from grid north in [-180, 180), and elevation."""
    return (np.degrees(hits.azimuth_rad) + 180) % 360 - 180, np.degrees(np.arctan(hits.rise))


# -- level ground ------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(HEADINGS, st.floats(1.2, 3))
def test_level_ground_is_met_at_eye_height_over_the_tangent_of_the_depression(heading_deg, eye_m):
    hits = cast(place(), camera(heading_deg=heading_deg, eye_m=eye_m))
    row = np.arange(64)
    depression = np.radians((row + 0.5 - 32) * 90 / 64)
    expected = eye_m / np.tan(depression[32:])
    within = expected < RANGE_M - 1
    assert np.allclose(hits.distance_m[32:][within], expected[within, None], rtol=1e-3)
    assert np.isinf(hits.distance_m[:32]).all()
    assert np.isinf(hits.distance_m[32:][expected > RANGE_M]).all()


@settings(deadline=None, max_examples=50)
@given(HEADINGS, st.floats(-8, 8), st.floats(-8, 8), st.sampled_from([PANORAMA, Perspective(96, 72, 70)]))
def test_a_tilted_camera_meets_level_ground_within_half_a_pixel(heading_deg, pitch_deg, roll_deg, projection):
    hits = cast(place(), camera(projection, heading_deg=heading_deg, pitch_deg=pitch_deg, roll_deg=roll_deg))
    _, elevation = angles_deg(hits)
    low, high = (elevation + side * 0.51 * projection.deg_per_px for side in (-1, 1))
    nearest = 1.7 / np.tan(np.radians(np.clip(-low, 0.1, 89)))
    farthest = np.where(high < -0.1, 1.7 / np.tan(np.radians(np.maximum(-high, 0.1))), np.inf)
    seen = np.isfinite(hits.distance_m)
    assert (hits.distance_m >= nearest - 0.5 - 0.02 * nearest)[seen].all()
    assert (hits.distance_m <= farthest + 0.5 + 0.02 * farthest)[seen].all()
    assert seen[farthest < RANGE_M - 1].all() and not seen[high > 0][low[high > 0] > 0].any()


@settings(deadline=None, max_examples=50)
@given(HEADINGS, st.floats(-12, 12))
def test_pitch_moves_the_horizon_down_the_picture_and_roll_tilts_it(heading_deg, tilt_deg):
    lens = Perspective(161, 121, 80)
    focal_px = lens.width_px / 2 / np.tan(np.radians(40))
    row, column = np.mgrid[:121, :161]
    for tilt in ({"pitch_deg": tilt_deg}, {"roll_deg": tilt_deg}):
        hits = cast(place(), camera(lens, heading_deg=heading_deg, **tilt))
        if "pitch_deg" in tilt:
            under = row - 60 - focal_px * np.tan(np.radians(tilt_deg))
        else:
            # The right side of a camera that is rolled clockwise looks down: there the horizon is high.
            under = (row - 60) + (column - 80) * np.tan(np.radians(tilt_deg))
        # Level ground within 50 m begins 2 degrees under the horizon.
        assert np.isinf(hits.distance_m[under < -1]).all()
        assert np.isfinite(hits.distance_m[under > 1.5 * focal_px * np.tan(np.radians(2)) + 2]).all()


# -- walls -------------------------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(
    HEADINGS,
    st.integers(10, 40),
    st.integers(-30, 20),
    st.integers(10, 20),
    st.integers(6, 12),
    st.sampled_from([PANORAMA, Perspective(128, 96, 75)]),
    st.floats(-5, 5),
)
def test_a_wall_stands_in_the_columns_and_rows_of_its_bearing_and_height(
    heading_deg, north_m, west_m, width_m, height_m, projection, tilt_deg
):
    tilt = {} if projection is PANORAMA else {"pitch_deg": tilt_deg, "roll_deg": -tilt_deg}
    scene = place((west_m, west_m + width_m, north_m + 8, north_m, height_m))
    hits = cast(scene, camera(projection, heading_deg=heading_deg, **tilt))
    azimuth, elevation = angles_deg(hits)
    left, right = np.degrees(np.arctan2([west_m, west_m + width_m], north_m))
    distance = north_m / np.cos(np.radians(azimuth))
    margin = projection.deg_per_px + np.degrees(GSD_M / north_m)
    facing = (azimuth > left + margin) & (azimuth < right - margin) & (distance < RANGE_M - 2)
    foot = np.degrees(np.arctan2(-1.7, distance))
    crest = np.degrees(np.arctan2(height_m - 1.7, distance + STEP_M))
    front = facing & (elevation > foot + 1.5 * projection.deg_per_px) & (elevation < crest - projection.deg_per_px)
    assert hits.wall[front].all()
    assert (np.abs(hits.distance_m - distance)[front] <= 0.5 + 0.02 * distance[front] + GSD_M).all()
    above = facing & (elevation > np.degrees(np.arctan2(height_m - 1.7, north_m)) + projection.deg_per_px)
    assert np.isinf(hits.distance_m[above]).all()
    beside = (azimuth < left - margin - 25) | (azimuth > right + margin + 25)
    near = beside & (np.abs(azimuth) > 90)
    assert not hits.wall[near].any()


@pytest.mark.parametrize("heading_deg", [0, 90, 180, 270])
def test_the_middle_column_looks_where_the_heading_says(heading_deg):
    towers = {0: (-2, 2, 22, 18, 15), 90: (18, 22, 2, -2, 15), 180: (-2, 2, -18, -22, 15), 270: (-22, -18, 2, -2, 15)}
    for projection in (PANORAMA, Perspective(128, 96, 75)):
        hits = cast(place(towers[heading_deg]), camera(projection, heading_deg=heading_deg))
        columns = np.flatnonzero(hits.wall.any(axis=0))
        assert (columns.min() + columns.max()) / 2 == pytest.approx(projection.width_px / 2 - 0.5, abs=1)
        assert hits.distance_m[hits.wall] == pytest.approx(18, abs=1.6)


@settings(deadline=None, max_examples=50)
@given(st.integers(35, 110), st.integers(8, 30))
def test_a_lens_ends_at_half_its_field_of_view_on_either_side(fov_deg, half_m):
    lens = Perspective(128, 96, fov_deg)
    hits = cast(place((-half_m, half_m, 24, 20, 12)), camera(lens))
    # A picture that is 2 tan(fov / 2) wide at a distance of 1 holds a wall that is 2 half_m / 20 wide there.
    edge_px = 64 * half_m / 20 / np.tan(np.radians(fov_deg) / 2)
    from_middle_px = np.abs(np.arange(128) + 0.5 - 64)
    on_horizon = hits.wall[47]
    assert on_horizon[from_middle_px < edge_px - 2.5].all()
    assert not on_horizon[from_middle_px > edge_px + 2.5].any()


def test_what_stands_behind_a_box_is_hidden_but_for_what_is_higher():
    low, tower = (-6, 6, 14, 10, 5), (-3, 3, 34, 30, 25)
    hits = cast(place(low, tower), camera())
    azimuth, elevation = angles_deg(hits)
    ahead = np.abs(azimuth) < 4
    over_low = np.degrees(np.arctan2(5 - 1.7, 10))
    first = ahead & (elevation > -8) & (elevation < over_low - 4)
    second = ahead & (elevation > over_low + 1.5) & (elevation < 32)
    assert first.any() and (np.abs(hits.distance_m[first] - 10) < 1).all()
    assert second.any() and (np.abs(hits.distance_m[second] - 30) < 2).all()


# -- trees -------------------------------------------------------------------------------------------------------------


def tree(height_m=12.0, radius_m=5.0, north_m=0.0):
    """A dome around a point, and the camera's place 3 m to the south of its trunk."""
    y, x = ((np.indices((SIDE_PX, SIDE_PX)) + 0.5) * GSD_M - MIDDLE_M) + np.array([north_m - GSD_M / 2, -GSD_M / 2])[
        :, None, None
    ]
    crown = 1 - (x**2 + y**2) / radius_m**2
    surface = np.where(crown > 0, height_m * (0.6 + 0.4 * crown), 0).astype(np.float32)
    bare = place()
    return replace(bare, surface_m=surface, cover=np.where(crown > 0, Cover.CANOPY, 0).astype(np.uint8))


def test_under_a_crown_one_sees_the_ground_the_trunk_and_leaves_above():
    scene = tree(north_m=3)
    assert scene.trunks.sum() == 1
    hits = cast(scene, camera())
    azimuth, elevation = angles_deg(hits)
    down = elevation < -35
    assert not (hits.wall | hits.canopy | hits.trunk)[down].any()
    assert hits.distance_m[down] == pytest.approx(1.7 / np.tan(np.radians(-elevation[down])), rel=1e-3)
    assert hits.canopy[elevation > 35].all()
    (row, column), *_ = np.argwhere(scene.trunks)
    east_m, north_m = (column + 0.5) * GSD_M - MIDDLE_M, MIDDLE_M - (row + 0.5) * GSD_M
    from_trunk = np.abs(azimuth - np.degrees(np.arctan2(east_m, north_m)))
    assert hits.trunk[(from_trunk < 3) & (np.abs(elevation) < 20)].all()
    assert (from_trunk[hits.trunk] < 12).all()
    assert (np.abs(hits.distance_m[hits.trunk] - np.hypot(east_m, north_m)) < 0.8).all()
    # Away from the trunk, at eye height, one looks out below the leaves.
    out = (np.abs(azimuth) > 30) & (elevation > -1) & (elevation < 0)
    assert np.isinf(hits.distance_m[out]).all()


def test_a_crown_hides_the_house_behind_it_and_not_what_its_trunk_leaves_free():
    house = (-10, 10, 44, 36, 10)
    both = place(house)
    crown = tree(radius_m=4, north_m=20)
    leaves = crown.cover == Cover.CANOPY
    scene = replace(
        both, surface_m=np.where(leaves, crown.surface_m, both.surface_m), cover=np.where(leaves, 2, both.cover)
    )
    hits = cast(scene, camera())
    azimuth, elevation = angles_deg(hits)
    through = (np.abs(azimuth) > 5) & (np.abs(azimuth) < 9) & (np.abs(elevation) < 1)
    behind_leaves = (np.abs(azimuth) < 6) & (elevation > 8) & (elevation < 12)
    assert through.any() and hits.wall[through].all() and (np.abs(hits.distance_m[through] - 36) < 2).all()
    assert behind_leaves.any() and hits.canopy[behind_leaves].all() and (hits.distance_m[behind_leaves] < 25).all()


# -- brute force -------------------------------------------------------------------------------------------------------


def random_place(seed):
    """Boxes, domes of leaves, hedges and gentle slopes, free within 5 m of the middle."""
    rng = np.random.default_rng(seed)
    y, x = (np.indices((SIDE_PX, SIDE_PX)) + 0.5) * GSD_M
    scene = place()
    terrain = (2 * np.sin(x / rng.uniform(15, 40) + rng.uniform(0, 6)) * np.cos(y / rng.uniform(15, 40))).astype(
        np.float32
    )
    surface, cover = terrain.copy(), np.zeros(terrain.shape, np.uint8)
    clear = np.hypot(x - MIDDLE_M, y - MIDDLE_M) < 5
    for _ in range(25):
        cx, cy, w, h = *rng.uniform(5, 115, 2), *rng.uniform(3, 12, 2)
        house = (np.abs(x - cx) < w / 2) & (np.abs(y - cy) < h / 2) & ~clear
        surface[house], cover[house] = terrain[house].max(initial=0) + rng.uniform(3, 14), Cover.BUILDING
    for _ in range(25):
        cx, cy, radius, height = *rng.uniform(5, 115, 2), rng.uniform(1.5, 4), rng.uniform(1.5, 10)
        crown = 1 - np.hypot(x - cx, y - cy) / radius
        leaves = (crown > 0) & (cover == Cover.GROUND) & ~clear
        surface[leaves] = (terrain + height * (0.6 + 0.4 * np.maximum(crown, 0)))[leaves]
        cover[leaves] = Cover.CANOPY
    return replace(scene, surface_m=surface, terrain_m=terrain, cover=cover)


def march(scene, eye_m, azimuth_rad, rise, range_m):
    """Walks along rays, (n,), in steps of 0.1 m; returns distance and kind of what they meet first, or "none"."""
    distance, kind = np.full(len(azimuth_rad), np.inf), np.full(len(azimuth_rad), "none", "<U6")
    previous = np.full(len(azimuth_rad), np.nan)
    for reach in np.arange(0.5, range_m, 0.1):
        column = ((MIDDLE_M + reach * np.sin(azimuth_rad)) / GSD_M).astype(int)
        row = ((MIDDLE_M - reach * np.cos(azimuth_rad)) / GSD_M).astype(int)
        z = eye_m + rise * reach
        top, ground = scene.surface_m[row, column], scene.terrain_m[row, column]
        leaves = scene.cover[row, column] == Cover.CANOPY
        # The crown begins at three tenths of the height; what is lower than 3 m is a hedge down to the ground.
        crown = np.where(top - ground > 3, ground + 0.3 * (top - ground), -np.inf)
        for met, name in (
            ((z < top) & leaves & (z >= crown), "leaves"),
            ((z < crown) & leaves & scene.trunks[row, column], "trunk"),
            ((z < ground) & leaves, "ground"),
            ((z < top) & ~leaves, "solid"),
        ):
            first = met & (kind == "none")
            distance[first] = reach
            # Whoever has been above the surface a step ago and is far under it now came through a wall.
            floor = np.where(leaves, ground, top)
            wall = first & (name == "solid") & (floor - np.where(np.isnan(previous), floor, previous) > 0.8)
            kind[first] = "ground" if name == "solid" else name
            kind[wall] = "wall"
        previous = np.where(leaves, ground, top)
    return distance, kind


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 10**6), HEADINGS, st.sampled_from([Panorama(96, 24), Perspective(64, 48, 75)]), st.floats(-3, 3))
def test_random_places_look_as_brute_force_finds_them(seed, heading_deg, projection, tilt_deg):
    scene = random_place(seed)
    hits = cast(scene, camera(projection, heading_deg=heading_deg, pitch_deg=tilt_deg, roll_deg=-tilt_deg))
    eye_m = float(scene.terrain_m[SIDE_PX // 2, SIDE_PX // 2]) + 1.7
    kind = np.select(
        [hits.wall, hits.canopy, hits.trunk, np.isfinite(hits.distance_m)],
        ["wall", "leaves", "trunk", "ground"],
        "none",
    )
    # A hit is right if a ray within half a pixel of its own meets the same thing there.
    half = np.radians(projection.deg_per_px) / 2
    elevation = np.arctan(hits.rise)
    nearest, farthest = np.full(kind.shape, np.inf), np.full(kind.shape, -np.inf)
    for right in (-half, 0, half):
        for up in (-half, -half / 2, 0, half / 2, half):
            reach, met = (
                found.reshape(kind.shape)
                for found in march(
                    scene, eye_m, (hits.azimuth_rad + right).ravel(), np.tan(elevation + up).ravel(), RANGE_M
                )
            )
            same = met == kind
            nearest = np.where(same, np.minimum(nearest, reach), nearest)
            farthest = np.where(same, np.maximum(farthest, reach), farthest)
    step = 0.5 + 0.02 * np.minimum(hits.distance_m, RANGE_M) + GSD_M
    met_nothing = (kind == "none") & (farthest == np.inf)
    met_there = (hits.distance_m >= nearest - step) & (hits.distance_m <= farthest + step)
    # A ray may slip through the corner of a map pixel, between two samples; nothing else may go wrong.
    assert np.mean(met_nothing | met_there) > 0.95


# -- direction and reach -----------------------------------------------------------------------------------------------


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 50), st.integers(1, 255))
def test_turning_the_camera_rolls_a_panorama(seed, columns):
    scene = random_place(seed)
    straight = cast(scene, camera())
    turned = cast(scene, camera(heading_deg=columns * 360 / 256))
    for name in ("distance_m", "wall", "canopy"):
        one, other = np.roll(getattr(straight, name), -columns, axis=1), getattr(turned, name)
        # Rounding may send a sample to the pixel beside its own.
        assert np.mean(np.isclose(one, other, rtol=1e-3)) > 0.99


@pytest.mark.parametrize(("crs", "left_m"), [("EPSG:32633", 740_000), ("EPSG:32633", 230_000), ("EPSG:32733", 740_000)])
def test_headings_count_from_true_north_away_from_the_central_meridian(crs, left_m):
    scene = place((-1, 1, 41, 39, 12), crs=crs, left_m=left_m)
    camera_deg, tower_deg = scene.grid.latlon_deg(np.array([[MIDDLE_M, MIDDLE_M], [MIDDLE_M, MIDDLE_M - 40]]))
    bearing_deg, _, _ = Geod(ellps="WGS84").inv(camera_deg[1], camera_deg[0], tower_deg[1], tower_deg[0])
    assert abs(bearing_deg) > 1
    hits = cast(scene, camera(Panorama(2048, 64), heading_deg=bearing_deg))
    columns = np.flatnonzero(hits.wall.any(axis=0))
    assert (columns.min() + columns.max()) / 2 == pytest.approx(1023.5, abs=1)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 10**6), st.floats(10, 50))
def test_nothing_is_met_beyond_the_range(seed, range_m):
    hits = cast(random_place(seed), camera(range_m=range_m, pitch_deg=1))
    seen = np.isfinite(hits.distance_m)
    assert seen.any() and hits.distance_m[seen].max() <= range_m
    reach = np.hypot(*np.moveaxis(hits.xy_m - np.float32(MIDDLE_M), -1, 0))
    assert np.allclose(reach[seen], hits.distance_m[seen], atol=1e-3)


def test_a_camera_that_could_see_the_edge_of_the_map_is_refused():
    for xy_m, distance in (((49, 60), 49), ((60, 49), 49), ((71, 60), 49), ((60, 119), 1)):
        with pytest.raises(RenderError, match=f"the map ends {distance} m from a camera that sees 50 m"):
            cast(place(), camera(xy_m=xy_m))
    assert np.isfinite(cast(place(), camera(xy_m=(50, 70))).distance_m).any()


@pytest.mark.parametrize("fov_deg", [0, 0.5, -90, 151, 360, 400, float("nan")])
def test_lenses_that_cannot_be_are_refused(fov_deg):
    with pytest.raises(ConfigError, match="fov_deg"):
        Perspective(64, 48, fov_deg)


@pytest.mark.parametrize("fov_deg", [0, -1, 171, 400, float("nan")])
def test_panoramas_that_cannot_be_are_refused(fov_deg):
    with pytest.raises(ConfigError, match="vertical_fov_deg"):
        Panorama(64, 32, fov_deg)


@settings(deadline=None, max_examples=50)
@given(
    st.sampled_from([Panorama(64, 32, 90), Panorama(64, 32, 170), Perspective(64, 48, 150), Perspective(48, 64, 20)])
)
def test_rays_are_unit_vectors_and_the_middle_ones_look_ahead(projection):
    right, up, ahead = projection.rays()
    assert np.allclose(right**2 + up**2 + ahead**2, 1, atol=1e-5)
    middle = (
        slice(projection.height_px // 2 - 1, projection.height_px // 2 + 1),
        slice(projection.width_px // 2 - 1, projection.width_px // 2 + 1),
    )
    assert np.allclose([np.mean(v[middle]) for v in (right, up)], 0, atol=1e-6) and (ahead[middle] > 0.99).all()


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_the_same_camera_takes_the_same_picture():
    light = Light(sky_seed=3)
    view = camera(heading_deg=33, pitch_deg=2)
    one, again = (render(random_place(1), view, light) for _ in range(2))
    assert one.shape == (64, 256, 3) and one.dtype == np.uint8
    assert np.array_equal(one, again)
    assert not np.array_equal(one, render(random_place(1), view, Light(sky_seed=4)))
    assert not np.array_equal(one, render(random_place(2), view, light))


def test_the_sky_does_not_depend_on_the_place():
    for seed in range(5):
        light = Light(sky_seed=seed, overcast=seed / 5)
        here, there = random_place(seed), random_place(seed + 100)
        there = replace(there, grid=replace(there.grid, top_m=1_000_000.0), seed=9)
        view = camera(heading_deg=120)
        free = np.isinf(cast(here, view).distance_m) & np.isinf(cast(there, view).distance_m)
        assert free.mean() > 0.02
        assert np.array_equal(render(here, view, light)[free], render(there, view, light)[free])


def test_what_is_seen_of_the_ground_has_the_colour_that_the_map_has_there():
    scene = place()
    texture = np.zeros_like(scene.texture)
    texture[:, : SIDE_PX // 2], texture[:, SIDE_PX // 2 :] = (200, 40, 40), (40, 40, 200)
    scene = replace(scene, texture=texture)
    picture = render(scene, camera(), Light(overcast=1.0, haze_m=1e6)).astype(int)
    hits = cast(scene, camera())
    near = (hits.distance_m < 20) & (np.abs(hits.xy_m[..., 0] - MIDDLE_M) > 1)
    west = hits.xy_m[..., 0] < MIDDLE_M
    assert (picture[near & west] @ [1, 0, -1] > 50).all() and (picture[near & ~west] @ [1, 0, -1] < -50).all()


def test_a_house_throws_its_shadow_away_from_the_sun():
    scene = place((-10, 10, 24, 20, 8))
    scene = replace(scene, texture=np.full_like(scene.texture, 128))
    hits = cast(scene, camera())
    x, y = np.moveaxis(hits.xy_m - np.float32(MIDDLE_M), -1, 0)
    ground = np.isfinite(hits.distance_m) & ~hits.wall & (np.abs(x) < 5)
    shaded = ground & (y < -14) & (y > -19)
    free = ground & (y < -4) & (y > -10)
    north, south = (
        render(scene, camera(), Light(sun_azimuth_deg=a, sun_elevation_deg=45, overcast=0, haze_m=1e6))
        for a in (0, 180)
    )
    assert north[shaded].mean() < 0.7 * north[free].mean()
    assert south[shaded].mean() > 0.85 * south[free].mean()


def test_haze_fades_what_is_far_and_leaves_what_is_near():
    scene = place()
    clear, hazy = (render(scene, camera(), Light(haze_m=h)).astype(float) for h in (1e6, 20.0))
    distance = cast(scene, camera()).distance_m
    contrast = {
        name: (hazy[where].std() / clear[where].std())
        for name, where in (("near", distance < 3), ("far", (distance > 15) & (distance < 35)))
    }
    assert contrast["near"] > 0.8 and contrast["far"] < 0.6
