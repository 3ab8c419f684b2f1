"""From photos to vectors: every way in which a photo may have been taken, and what cannot be read."""

import re

import numpy as np
import pytest
import torch

from geoview.config import InferenceConfig, PlanView
from geoview.data.queries import PhotoQuery
from geoview.embed import embed
from geoview.locate.embedding import PhotoView, embedded_photos, prepared_photo

STREET = PhotoView()
CONFIG = InferenceConfig(batch_size=6, device="cpu")


@pytest.fixture(scope="module")
def strips(kit):
    return kit.make_encoder().eval()


@pytest.fixture(scope="module")
def plans(kit):
    """An encoder that tries four headings from two heights."""
    return kit.make_encoder(ground=PlanView(size_px=32, gsd_m=4.8, headings=4, eye_heights_m=(2.0, 1.0))).eval()


def test_a_photo_is_a_strip_or_a_plan_a_heading_and_camera(tmp_path, strips, plans, kit):
    query = PhotoQuery(kit.write_photo(tmp_path / "round.jpg", (256, 128)))
    strip = prepared_photo(strips, query, STREET)
    assert (len(strip.pictures), strip.fov_deg) == (1, 360.0)
    assert np.isnan(strip.headings_deg).all()
    tried = prepared_photo(plans, query, STREET)
    assert sorted(tried.headings_deg) == sorted([0.0, 90.0, 180.0, 270.0] * 2)
    known = prepared_photo(plans, PhotoQuery(query.path, heading_deg=33.0), STREET)
    assert known.headings_deg == [33.0] * 2


def test_what_a_photo_tells_comes_before_what_is_said_of_all(tmp_path, strips, kit):
    query = PhotoQuery(kit.write_photo(tmp_path / "a.jpg"))
    assert prepared_photo(strips, query, STREET).fov_deg == 65.0, "nobody tells"
    assert prepared_photo(strips, query, PhotoView(fov_deg=80.0)).fov_deg == 80.0
    assert prepared_photo(strips, PhotoQuery(query.path, fov_deg=50.0), PhotoView(fov_deg=80.0)).fov_deg == 50.0


def test_a_heading_has_one_vector_the_mean_of_all_cameras(tmp_path, plans, kit):
    query = PhotoQuery(kit.write_photo(tmp_path / "round.jpg", (256, 128)))
    prepared = prepared_photo(plans, query, STREET)
    alone = np.array(list(embed(plans, prepared.pictures, CONFIG, seen="ground")))
    (found,) = embedded_photos(plans, [query], STREET, CONFIG)
    assert found.headings_deg.tolist() == [0.0, 90.0, 180.0, 270.0]
    for heading_deg, vector in zip(found.headings_deg, found.vectors, strict=True):
        mean = alone[np.array(prepared.headings_deg) == heading_deg].mean(axis=0)
        np.testing.assert_allclose(vector, mean / np.linalg.norm(mean), atol=1e-5)
    (known,) = embedded_photos(plans, [PhotoQuery(query.path, heading_deg=90.0)], STREET, CONFIG)
    np.testing.assert_allclose(known.vectors, found.vectors[1:2], atol=1e-5)


def test_a_photo_without_any_ground_is_told(tmp_path, kit):
    """Of a tele lens no more than the horizon is seen; that would be as like every place."""
    query = PhotoQuery(kit.write_photo(tmp_path / "tele.jpg"), latlon_deg=(1.0, 2.0), fov_deg=0.5)
    level = PlanView(size_px=32, gsd_m=4.8, headings=4, eye_heights_m=(2.0,), pitches_deg=(0.0,))
    (found,) = embedded_photos(kit.make_encoder(ground=level), [query], STREET, CONFIG)
    assert (len(found.vectors), len(found.headings_deg), found.latlon_deg) == (0, 0, (1.0, 2.0))
    assert re.search(r"tele\.jpg: shows nothing.*ground within 77 m", found.error)


def test_a_camera_that_sees_no_ground_has_no_say(tmp_path, kit):
    query = PhotoQuery(kit.write_photo(tmp_path / "tele.jpg"), fov_deg=5.0)

    def vectors(*pitches_deg):
        ground = PlanView(size_px=32, gsd_m=4.8, headings=4, eye_heights_m=(2.0,), pitches_deg=pitches_deg)
        encoder = kit.make_encoder(ground=ground)
        for parameter in encoder.parameters():
            if parameter.ndim == 1:  # with biases, an empty picture has a vector, too
                torch.nn.init.normal_(parameter)
        (found,) = embedded_photos(encoder, [query], STREET, CONFIG)
        return found.vectors

    np.testing.assert_allclose(vectors(0.0, -20.0), vectors(0.0), atol=1e-5)


def test_vectors_are_those_of_each_photo_alone_and_in_order(tmp_path, plans, kit):
    queries = [
        PhotoQuery(kit.write_photo(tmp_path / f"{i}.jpg", [(120, 90), (256, 128)][i % 2], seed=i)) for i in range(5)
    ]
    together = embedded_photos(plans, queries, STREET, CONFIG)
    for query, found in zip(queries, together, strict=True):
        (alone,) = embedded_photos(plans, [query], STREET, CONFIG)
        assert found.query is query
        assert found.headings_deg.tolist() == alone.headings_deg.tolist()
        np.testing.assert_allclose(found.vectors, alone.vectors, atol=1e-5)
        np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1.0, atol=1e-5)


def test_batches_are_filled_across_shapes(tmp_path, strips, monkeypatch, kit):
    """Photos of two shapes in turn: two batches, not one a photo."""
    queries = [
        PhotoQuery(kit.write_photo(tmp_path / f"{i}.jpg", [(120, 90), (256, 128)][i % 2], seed=i)) for i in range(6)
    ]
    sizes, forward = [], strips.forward
    monkeypatch.setattr(strips, "forward", lambda p, v, **seen: sizes.append(len(p)) or forward(p, v, **seen))
    assert not any(found.error for found in embedded_photos(strips, queries, STREET, CONFIG))
    assert sizes == [3, 3]


def test_a_photo_that_cannot_be_read_has_no_vectors_and_says_why(tmp_path, strips, kit):
    (tmp_path / "text.jpg").write_text("no image")
    queries = [
        PhotoQuery(str(tmp_path / "text.jpg"), latlon_deg=(1.0, 2.0)),
        PhotoQuery(kit.write_photo(tmp_path / "a.jpg")),
    ]
    broken, sound = embedded_photos(strips, queries, STREET, CONFIG)
    assert (len(broken.vectors), broken.latlon_deg) == (0, (1.0, 2.0))
    assert "text.jpg" in broken.error
    assert (len(sound.vectors), sound.error) == (1, "")
