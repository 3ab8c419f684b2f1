"""Sums over ground photos: who speaks for which cell, and that photos can come in any order and number."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from geoview.config import InferenceConfig, PlanView
from geoview.data.queries import PhotoQuery
from geoview.geo import cells
from geoview.geo.sphere import destination_deg
from geoview.index import ground, store
from geoview.index.ground import held_back, photo_vectors, prototype_shards
from geoview.index.prototypes import Photo, Prototypes, Speech, embed_photos, known_photos

DIM = 6
# Around a corner where four level-7 cells meet, so that prototypes fall into four shards.
CORNER_DEG = cells.vertices_deg(cells.cell_ids([50.1, 8.7], 7))[0]


def photos_around(n, seed=0, radius_m=900.0):
    rng = np.random.default_rng(seed)
    places = destination_deg(CORNER_DEG, rng.uniform(0, 360, n), radius_m * np.sqrt(rng.random(n)))
    return [Photo(f"{i}.jpg", tuple(place), None, None, i + 1) for i, place in enumerate(places.tolist())]


def unit(n, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(n, DIM)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.mark.parametrize("border", [False, True])
@pytest.mark.parametrize("frustum", [False, True])
def test_each_photo_speaks_once_in_all(border, frustum):
    photos = photos_around(40)
    photos[3] = Photo("aimed.jpg", photos[3].latlon_deg, 80.0, 90.0, 99)
    rows, ids, weights = Speech(15, border, frustum).spoken(photos)
    np.testing.assert_allclose(np.bincount(rows, weights), 1.0)
    assert (weights > 0).all()
    assert (cells.levels(ids) == 15).all()
    own = cells.cell_ids([photo.latlon_deg for photo in photos], 15)
    if not border and not frustum:
        assert np.array_equal(ids[np.argsort(rows)], own)
    if border and not frustum:
        heaviest = [ids[rows == row][weights[rows == row].argmax()] for row in range(40)]
        assert np.array_equal(heaviest, own)


def test_a_photo_speaks_for_what_it_looks_at():
    cell = cells.cell_ids(CORNER_DEG - [0.01, 0.01], 15)
    _, west, north, east = cells.bounds_deg(cell)
    place = (north - 0.0001, (west + east) / 2)  # 11 m from the northern edge

    def north_of_it(heading_deg, frustum):
        photo = Photo("a.jpg", place, heading_deg, 60.0, 1)
        _, ids, weights = Speech(15, False, frustum).spoken([photo])
        return weights[cells.centers_deg(ids)[:, 0] > north - 0.0005].sum()

    assert north_of_it(0.0, False) == 0.0
    assert north_of_it(0.0, True) > 0.7
    assert north_of_it(180.0, True) == 0.0
    # A panorama looks everywhere, and a photo whose heading nobody knows anywhere.
    for heading_deg, fov_deg in ((0.0, 360.0), (None, 60.0), (0.0, None)):
        photo = Photo("a.jpg", place, heading_deg, fov_deg, 1)
        assert Speech(15, False, True).spoken([photo])[1].tolist() == [int(cell)]


@given(st.lists(st.integers(0, 11), max_size=3), st.booleans())
@settings(max_examples=40, deadline=None)
def test_sums_are_the_same_however_photos_are_parted(cuts, border):
    photos, vectors, speech = photos_around(12), unit(12), Speech(15, border)
    whole = Prototypes.of(photos, vectors, speech)
    edges = [0, *sorted(cuts), 12]
    parts = [Prototypes.of(photos[a:b], vectors[a:b], speech) for a, b in pairwise(edges)]
    joined = Prototypes.concatenate(parts)
    for name in ("cell", "photo_key"):
        assert np.array_equal(getattr(joined, name), getattr(whole, name))
    np.testing.assert_allclose(joined.sum, whole.sum, atol=1e-6)
    np.testing.assert_allclose(joined.weight, whole.weight, atol=1e-6)
    assert whole.weight.sum() == pytest.approx(12)
    assert (np.diff(whole.cell.astype(object)) > 0).all()


def test_a_prototype_is_the_direction_of_the_mean():
    place = tuple(CORNER_DEG + 0.004)
    photos = [Photo(f"{i}", place, None, None, i) for i in range(3)]
    vectors = unit(3)
    alone = Prototypes.of(photos, vectors, Speech(15, border=False))
    mean = vectors.mean(axis=0)
    np.testing.assert_allclose(alone.vectors, [mean / np.linalg.norm(mean)], atol=1e-6)
    opposite = Prototypes.of(photos[:2], np.stack([vectors[0], -vectors[0]]), Speech(15, border=False))
    assert not opposite.vectors.any(), "photos that cancel out say nothing"


@pytest.mark.parametrize("border", [False, True])
def test_shards_hold_what_all_photos_say_together(tmp_path, border):
    photos, vectors, speech = photos_around(60), unit(60), Speech(15, border)
    vectors[7] = 0  # could not be decoded
    first = prototype_shards(tmp_path, photos[:25], vectors[:25], speech)
    entries = prototype_shards(tmp_path, photos[25:], vectors[25:], speech, first)
    assert len(entries) == 4
    parents = cells.from_tokens([entry.parent for entry in entries])
    assert (cells.levels(parents) == 7).all()
    assert (np.diff(parents.astype(object)) > 0).all()
    heard = [photo for photo in photos if photo.key != 8]
    whole = Prototypes.of(heard, np.delete(vectors, 7, axis=0), speech)
    shards = [store.open_prototypes(tmp_path, entry) for entry in entries]
    assert np.array_equal(np.concatenate([shard.read("cell") for shard in shards]), whole.cell)
    np.testing.assert_allclose(np.concatenate([shard.read("sum") for shard in shards]), whole.sum, atol=1e-6)
    keys = np.concatenate([shard.read("photo_key") for shard in shards])
    assert sorted(keys.tolist()) == whole.photo_key.tolist()
    assert sum(entry.photos for entry in entries) == 59
    for entry, shard in zip(entries, shards, strict=True):
        assert (cells.parents(shard.read("cell"), 7) == cells.from_tokens([entry.parent])).all()


def test_a_tenth_of_the_ground_is_kept_back_in_blocks():
    rng = np.random.default_rng(0)
    places = np.column_stack([rng.uniform(48, 52, 4000), rng.uniform(6, 12, 4000)])
    photos = [Photo("", tuple(place), None, None, i) for i, place in enumerate(places.tolist())]
    back = held_back(photos)
    assert 0.07 < back.mean() < 0.13
    near = [Photo("", tuple(place), None, None, i) for i, place in enumerate((places + 1e-5).tolist())]
    assert (held_back(near) == back).mean() > 0.99, "photos beside one another go together"


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pictures(tmp_path):
    """Ten photos and a broken one."""
    rng = np.random.default_rng(0)
    queries = []
    for i in range(10):
        pixels = rng.integers(0, 255, (32, 64, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        queries.append(PhotoQuery(str(tmp_path / f"{i}.png"), (50.0 + i / 1000, 8.0), 10.0 * i))
    (tmp_path / "broken.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    return [*queries, PhotoQuery(str(tmp_path / "broken.png"), (50.0, 8.1), 0.0)]


def test_what_is_not_known_of_photos_is_named(tmp_path, pictures):
    (tmp_path / "again.png").write_bytes((tmp_path / "3.png").read_bytes())
    queries = [
        *pictures,
        PhotoQuery(str(tmp_path / "nowhere.png"), (50.0, 8.0)),
        PhotoQuery(str(tmp_path / "4.png")),
        PhotoQuery(str(tmp_path / "again.png"), (50.0, 8.0)),
    ]
    queries[4] = PhotoQuery(str(tmp_path / "4.png"))
    photos, left_out = known_photos(queries, needs_heading=False)
    assert sorted(photo.path for photo in photos) == sorted(q.path for q in pictures if not q.path.endswith("4.png"))
    assert "no such file" in left_out[str(tmp_path / "nowhere.png")]
    assert "no position" in left_out[str(tmp_path / "4.png")]
    assert "is the same file as" in left_out[str(tmp_path / "again.png")]
    assert all(path in why and "\n" not in why for path, why in left_out.items())
    leaves = cells.cell_ids([photo.latlon_deg for photo in photos], 30)
    assert (np.diff(leaves.astype(object)) >= 0).all(), "in S2 order"
    without = [PhotoQuery(query.path, query.latlon_deg) for query in pictures]
    assert known_photos(without, needs_heading=True)[0] == []


def test_photos_that_cannot_be_decoded_leave_their_row_empty(tmp_path, pictures, kit):
    photos, _ = known_photos(pictures, needs_heading=False)
    sound, vectors, failed = embed_photos(kit.make_encoder(), photos, InferenceConfig(device="cpu"))
    assert len(sound) == len(vectors) == 10
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert list(failed) == [str(tmp_path / "broken.png")]
    # Plans are laid out by the heading: another heading, another vector.
    encoder = kit.make_encoder(ground=PlanView(32, 1.0))
    one, turned = photos[2], [Photo(p.path, p.latlon_deg, 90.0, p.fov_deg, p.key) for p in photos[2:3]]
    vectors = [embed_photos(encoder, each, InferenceConfig(device="cpu"))[1] for each in ([one], turned)]
    assert np.abs(vectors[0] - vectors[1]).max() > 1e-3


def test_a_photo_without_any_ground_is_no_part_of_a_prototype(tmp_path, kit):
    paths = [kit.write_photo(tmp_path / f"{name}.jpg") for name in ("tele", "wide")]
    photos = [Photo(path, (1.0, 2.0), 90.0, fov_deg, 1) for path, fov_deg in zip(paths, (0.5, 60.0), strict=True)]
    encoder = kit.make_encoder(ground=PlanView(32, 4.8, eye_heights_m=(2.0,), pitches_deg=(0.0,)))
    sound, vectors, failed = embed_photos(encoder, photos, InferenceConfig(device="cpu"))
    assert sound == photos[1:]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1.0, atol=1e-5)
    assert "shows nothing of what this encoder looks at, the ground within 77 m" in failed[paths[0]]


def test_embedding_goes_on_where_it_was_cut_off(tmp_path, pictures, kit, monkeypatch):
    monkeypatch.setattr(ground, "_BLOCK_PHOTOS", 3)
    photos, _ = known_photos(pictures, needs_heading=False)
    encoder, config = kit.make_encoder(), InferenceConfig(device="cpu")
    whole, failed = photo_vectors(encoder, photos, config, tmp_path / "whole")
    assert list(failed) == [str(tmp_path / "broken.png")]
    calls, embed = [], ground.embed_photos

    def twice(*arguments):
        calls.append(len(arguments[1]))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return embed(*arguments)

    monkeypatch.setattr(ground, "embed_photos", twice)
    with pytest.raises(KeyboardInterrupt):
        photo_vectors(encoder, photos, config, tmp_path / "cut")
    again, told = photo_vectors(encoder, photos, config, tmp_path / "cut")
    assert calls == [3, 3, 3, 3, 2], "two blocks were finished, the third is made anew"
    np.testing.assert_array_equal(again, whole)
    assert told == failed
