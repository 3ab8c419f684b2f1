"""An index at an address answers as it does on disk, reads no more than it must, and is never mixed up."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from geoview.cli import main
from geoview.config import TuneConfig
from geoview.errors import ConfigError, IndexCorruptError, IndexNotFoundError, IndexUnreachableError
from geoview.geo import cells
from geoview.geo.regions import Region
from geoview.index import remote, store, tuning
from geoview.index.cell_index import CellIndex
from geoview.index.ground import prototype_shards
from geoview.index.manifest import Point, PrototypeTable, content_of
from geoview.index.prototypes import Photo, Speech
from geoview.index.remote import Address, RemoteRows
from geoview.index.shards import write_shard
from geoview.index.upkeep import remove_region

pytestmark = pytest.mark.usefixtures("small_is_large")

DIM = 24
KINDS = ("plain", "tuned", "fused")
REGION_M = 400.0


class Server(ThreadingHTTPServer):
    """Serves a folder as S3 and GCS serve buckets, and as a web server with ranges does: GET and HEAD, no listing.

    Attributes:
        folder: What it serves; its folders are the buckets.
        served: (path, bytes) of each answer with content.
        denies: Whether all is forbidden.
        has_ranges: Whether it can serve parts of files.
    """

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder, self.served = Path(folder), []
        self.denies, self.has_ranges = False, True

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_port}"

    def served_bytes(self, part):
        return sum(n for path, n in self.served if part in path)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self):
        file = self.server.folder / unquote(self.path).lstrip("/")  # GCS is asked with all but letters quoted
        if self.server.denies:
            return self.answer(403, b"<Error><Code>AccessDenied</Code></Error>")
        if not file.is_file():
            there = (self.server.folder / self.path.split("/")[1]).is_dir()
            code = "NoSuchKey" if there else "NoSuchBucket"
            return self.answer(404, f"<Error><Code>{code}</Code></Error>".encode())
        content = file.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if wanted is None or not self.server.has_ranges:
            return self.answer(200, content)
        start, stop = int(wanted[1]), min(int(wanted[2] or len(content)) + 1, len(content))
        if start >= len(content):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(content)}"})
        return self.answer(206, content[start:stop], {"Content-Range": f"bytes {start}-{stop - 1}/{len(content)}"})

    do_HEAD = do_GET

    def answer(self, code, content, headers=()):
        if self.command == "GET":
            self.server.served.append((unquote(self.path), len(content)))
        self.send_response(code)
        told = {"Content-Length": len(content), "Last-Modified": "Mon, 01 Jan 2024 00:00:00 GMT", "ETag": '"a"'}
        told |= dict(headers)
        for name, value in told.items():
            self.send_header(name, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_):
        pass


def clustered(n, seed=0):
    rng = np.random.default_rng(seed)
    rows = np.random.default_rng(9).normal(size=(60, DIM))[rng.integers(0, 60, n)] + 0.5 * rng.normal(size=(n, DIM))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture(scope="module")
def bucket(tmp_path_factory, kit, index_folder, small_is_large):
    """`plain`, several shards of 4,000 rows in all; `tuned`, with lists; `fused`, with prototypes; `built`."""
    bucket = tmp_path_factory.mktemp("served") / "bucket"
    bucket.mkdir()
    ids = Region.disc(kit.CENTRE_DEG, 5000.0).cells(16)
    made = kit.write_index(bucket / "plain", ids, clustered(len(ids))).manifest
    assert made.n_rows > 4000
    assert len(made.shards) >= 3
    shutil.copytree(index_folder, bucket / "built")
    shutil.copytree(index_folder / "encoder", bucket / "plain/encoder")
    plain = store.commit(bucket / "plain", replace(made, encoder=store.read_manifest(index_folder).encoder))
    for name in ("tuned", "fused"):
        shutil.copytree(bucket / "plain", bucket / name)
    tuning.tune(bucket / "tuned", TuneConfig(recall=0.9))
    at_deg = cells.centers_deg(np.random.default_rng(0).choice(ids, 80)).tolist()
    photos = [Photo(str(i), tuple(place), None, None, i + 1) for i, place in enumerate(at_deg)]
    table = PrototypeTable(15, True, False, prototype_shards(bucket / "fused", photos, clustered(80), Speech()))
    fusion = {"kappa": 1.0, "offset": 0.25, "fitted_on_photos": 0}
    store.commit(bucket / "fused", replace(plain, prototypes=table, fusion=fusion))
    return bucket


@pytest.fixture
def server(tmp_path, bucket, monkeypatch):
    """A server with copies of all indexes, which may be changed, and a cache of its own."""
    shutil.copytree(bucket, tmp_path / "served" / "bucket")
    with Server(tmp_path / "served") as server:
        account = {"gcs_base_url": server.url, "disable_oauth": True}  # as GCS's emulators are reached
        account |= dict.fromkeys(("client_email", "private_key", "private_key_id"), "")
        (tmp_path / "account.json").write_text(json.dumps(account))
        for name, value in {
            "GOOGLE_SERVICE_ACCOUNT": str(tmp_path / "account.json"),
            "AWS_ENDPOINT_URL": server.url,
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "XDG_CACHE_HOME": str(tmp_path / "cache"),
        }.items():
            monkeypatch.setenv(name, value)
        threading.Thread(target=server.serve_forever, args=[0.01], daemon=True).start()
        yield server
        server.shutdown()


def cached(tmp_path):
    """Files in the cache, by their names in the index."""
    return {"/".join(p.relative_to(tmp_path / "cache/geoview/indexes").parts[1:]): p for p in files(tmp_path / "cache")}


def files(folder):
    return [path for path in folder.rglob("*") if path.is_file()]


def small_region(index):
    return Region.disc(cells.centers_deg(index.cell_ids()[len(index) // 3]), REGION_M)


def searches(index, region):
    queries = clustered(20, seed=1)
    yield index.search(queries, 10)
    yield index.search(queries[:1], 10, exact=True)
    yield index.search(queries, 300)
    yield index.search(queries, 5, region=region)


def assert_answers_alike(one, other, region):
    for here, there in zip(searches(one, region), searches(other, region), strict=True):
        assert np.array_equal(here.cell_id, there.cell_id)
        assert np.array_equal(here.row, there.row)
        np.testing.assert_allclose(here.score, there.score, atol=1e-6)


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
@pytest.mark.parametrize("kind", KINDS)
def test_answers_are_those_of_the_index_on_disk(server, bucket, kind, scheme):
    address = f"{server.url}/bucket/{kind}/" if scheme == "http" else f"{scheme}://bucket/{kind}"
    with CellIndex.open(bucket / kind) as disk, CellIndex.open(address, checked=kind == "plain") as index:
        assert index.manifest == disk.manifest
        assert_answers_alike(disk, index, small_region(disk))
        assert np.array_equal(index.skipped_cell_ids(), disk.skipped_cell_ids())
        if kind == "fused":
            assert np.array_equal(index.prototypes().sum, disk.prototypes().sum)
        rows = np.array([7, 3, 3, len(disk) - 1])
        assert np.array_equal(index.codes_of(rows), disk.codes_of(rows))


def test_codes_that_are_not_plain_are_fetched_whole(server, bucket, kit, monkeypatch):
    monkeypatch.setattr(store, "write_shard", lambda folder, columns: write_shard(folder, columns, compressed=True))
    ids = CellIndex.open(bucket / "plain").cell_ids()[::20]
    disk = kit.write_index(server.folder / "bucket/compressed", ids, clustered(len(ids)))
    assert_answers_alike(disk, CellIndex.open("s3://bucket/compressed"), small_region(disk))


def test_a_region_and_tuned_candidates_read_little_of_the_codes(server, bucket, monkeypatch):
    monkeypatch.setattr(remote, "_JOINED_BYTES", 0)
    all_bytes = 2 * DIM * len(CellIndex.open(bucket / "plain"))
    region = small_region(CellIndex.open(bucket / "plain"))
    index = CellIndex.open("s3://bucket/plain")
    n = index.count(region)
    assert server.served_bytes("/aerial/c/") == 0
    index.search(clustered(3), 10, region=region)
    assert server.served_bytes("/aerial/c/") == 2 * DIM * n < all_bytes / 10
    server.served.clear()
    CellIndex.open("s3://bucket/tuned").search_at(Point(8, 4, 0.0, 0.0), clustered(1), 10)
    assert 0 < server.served_bytes("/aerial/c/") <= 2 * DIM * 40 < all_bytes / 50
    server.served.clear()
    index.search(clustered(3), 10)
    assert server.served_bytes("/aerial/c/") == all_bytes


def test_rows_near_one_another_come_in_one_request(server, tmp_path):
    values = np.random.default_rng(0).normal(size=(4000, 64)).astype(np.float16)
    (server.folder / "bucket/rows").write_bytes(values.tobytes())
    rows = RemoteRows.open(Address.of("s3://bucket") / "rows", values.dtype, values.shape, values.nbytes)
    gap = remote._JOINED_BYTES // 128 + 1
    for chosen, n_requests in (([5, 5 + gap], 1), ([5, 6 + gap], 2), ([9, 8, 7, 2000, 3999, 0], 3), ([], 0)):
        server.served.clear()
        assert np.array_equal(rows[np.array(chosen, np.int64)], values[chosen])
        assert len(server.served) == n_requests
    assert np.array_equal(rows[100:3000], values[100:3000])
    with pytest.raises(IndexCorruptError, match="s3://bucket/rows: is truncated or changed"):
        RemoteRows.open(rows.address, values.dtype, values.shape, values.nbytes + 1)
    (server.folder / "bucket/rows").write_bytes(values.tobytes()[:-5])
    with pytest.raises(IndexCorruptError, match="s3://bucket/rows: is truncated"):
        rows[np.array([3, 3999])]


class InMemory:
    """Stands for the address of a matrix."""

    def __init__(self, values):
        self.content = values.tobytes()

    def read_parts(self, starts, stops):
        assert (starts[1:] > stops[:-1]).all()
        return [memoryview(self.content)[a:b] for a, b in zip(starts.tolist(), stops.tolist(), strict=True)]


@given(st.lists(st.integers(0, 99)), st.sampled_from([0, 4, 12, 2**15]))
def test_any_rows_in_any_order_are_those_that_were_asked_for(chosen, joined_bytes):
    values = np.random.default_rng(0).integers(0, 9, (100, 2), dtype=np.int16)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(remote, "_JOINED_BYTES", joined_bytes)
        taken = RemoteRows(InMemory(values), values.dtype, values.shape)[np.array(chosen, np.int64)]
    assert np.array_equal(taken, values[chosen])


SEARCHING = """
import sys, numpy as np
from geoview.index import cell_index
cell_index.ALWAYS_EXACT = 100
with cell_index.CellIndex.open(sys.argv[1]) as index:
    index.encoder() if len(sys.argv) > 2 else None
    print(index.search(np.ones((1, index.manifest.dim), np.float32), 5).row.tolist())
"""


def searching(*words):
    return subprocess.Popen(
        [sys.executable, "-c", SEARCHING, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def test_two_processes_fill_the_cache_at_once_and_the_next_fetches_no_file_again(server):
    at_once = [process.communicate() for process in [searching("s3://bucket/built", "encoder") for _ in range(2)]]
    assert any(path.endswith("model.safetensors") for path, _ in server.served)
    server.served.clear()
    after, talk = searching("s3://bucket/built", "encoder").communicate()
    assert [told for told, _ in at_once] == [after, after] != ["", ""], (at_once, talk)
    assert {path for path, _ in server.served if "/aerial/c/" not in path} == {"/bucket/built/manifest.json"}


def test_many_threads_fill_the_cache_at_once(server, bucket, tmp_path):
    disk = CellIndex.open(bucket / "tuned")
    region = small_region(disk)

    def search(_):
        with CellIndex.open("s3://bucket/tuned") as index:
            assert_answers_alike(disk, index, region)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(search, range(8)))
    there = cached(tmp_path)
    assert not any(path.name.startswith(".") for path in there.values())
    assert all(path.read_bytes() == (bucket / "tuned" / name).read_bytes() for name, path in there.items())
    assert not any("aerial/c" in name for name in there)


def test_opening_reads_the_manifest_and_nothing_else(server, tmp_path):
    CellIndex.open("s3://bucket/plain")
    assert [path for path, _ in server.served] == ["/bucket/plain/manifest.json"]
    assert not (tmp_path / "cache").exists()


def test_a_newer_commit_is_seen_by_who_opens_again(server):
    folder = server.folder / "bucket/tuned"
    before = CellIndex.open("s3://bucket/tuned")
    region, cell_ids = small_region(before), before.cell_ids()
    rows, removed = len(before), remove_region(folder, region)
    after = CellIndex.open("s3://bucket/tuned")
    assert len(after) == rows - removed < rows
    assert_answers_alike(CellIndex.open(folder), after, Region.disc(region.geometry.centroid.coords[0][::-1], 2000.0))
    # Nobody holds the old commit for who has opened it: its cells are kept here, and codes that have gone are told.
    assert np.array_equal(before.cell_ids(), cell_ids)
    with pytest.raises(IndexCorruptError, match="is missing; if the index was changed there just now, ask again"):
        before.search(clustered(5), 10, exact=True)


def test_copies_of_what_is_gone_are_removed_after_a_day(server, tmp_path):
    index = CellIndex.open("s3://bucket/tuned")
    region = small_region(index)
    wider = Region.disc(region.geometry.centroid.coords[0][::-1], 2000.0)
    list(searches(index, wider))
    index.encoder()
    before = set(cached(tmp_path))
    remove_region(server.folder / "bucket/tuned", region)
    after = CellIndex.open("s3://bucket/tuned")
    list(searches(after, wider))
    both = set(cached(tmp_path))
    assert before < both, "somebody may still be reading the one before"
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_dir():
            os.utime(path, (0, 0))
    again = CellIndex.open("s3://bucket/tuned")
    kept = set(cached(tmp_path))
    gone = both - kept
    assert gone and gone < before
    replaced, named = ({str(shard.folder) for shard in each.manifest.shards} for each in (index, after))
    shards_gone = [name for name in gone if name.startswith("shards/")]
    assert shards_gone
    assert all(any(name.startswith(folder) for folder in replaced - named) for name in shards_gone)
    assert any(name.startswith("encoder/") for name in kept)
    served = len(server.served)
    for one, other in zip(searches(after, wider), searches(again, wider), strict=True):
        assert np.array_equal(one.row, other.row)
    assert all("/aerial/" in path for path, _ in server.served[served:]), "what is named is not fetched again"


def changed(path, at=-3):
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 16
    path.write_bytes(content)


DAMAGED = {
    "cell/c/0": "plain",
    "cell/zarr.json": "plain",
    "shards/*/*/zarr.json": "plain",
    "manifest.json": "plain",
    "lists.bin": "tuned",
    "prototypes/*/*/sum/c/0/0": "fused",
    "model.safetensors": "built",
    "geoview.json": "built",
}


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_and_not_kept(server, tmp_path, name, damage):
    folder = server.folder / "bucket" / DAMAGED[name]
    path = sorted(folder.glob(f"**/{name}"))[0]
    address = f"s3://bucket/{path.relative_to(server.folder / 'bucket')}"
    sound = path.read_bytes()
    match damage:
        case "flipped":
            changed(path)
        case "truncated":
            path.write_bytes(sound[: len(sound) // 2])
        case "missing":
            path.unlink()

    def ask():
        with CellIndex.open(f"s3://bucket/{DAMAGED[name]}") as index:
            index.encoder() if DAMAGED[name] == "built" else index.search(clustered(3), 5)

    wanted = IndexNotFoundError if (name, damage) == ("manifest.json", "missing") else IndexCorruptError
    with pytest.raises(wanted) as caught:
        ask()
    told = str(caught.value)
    assert "\n" not in told
    if wanted is IndexNotFoundError:
        assert told.startswith("s3://bucket/plain: no index at this address")
    else:  # files of the encoder are compared together
        is_together = DAMAGED[name] == "built" and damage != "missing"
        assert told.startswith(f"{address.rpartition('/')[0] if is_together else address}: "), told
    kept = cached(tmp_path) if (tmp_path / "cache").exists() else {}
    assert not [file for file in kept if Path(file).name.startswith(".") or file == str(path.relative_to(folder))]
    path.write_bytes(sound)
    ask()


@pytest.mark.parametrize("damage", ["flipped", "truncated", "missing"])
def test_damaged_codes_are_told(server, bucket, damage):
    path = sorted((server.folder / "bucket/plain").glob("shards/*/*/aerial/c/0/0"))[0]
    match damage:
        case "flipped":
            changed(path)
        case "truncated":
            path.write_bytes(path.read_bytes()[:-30])
        case "missing":
            path.unlink()
    address = f"s3://bucket/{path.relative_to(server.folder / 'bucket').parents[2]}"
    index = CellIndex.open("s3://bucket/plain", checked=damage == "flipped")
    with pytest.raises(IndexCorruptError, match=f"^{address}.*; .*restore it"):
        index.search(clustered(3), 5)
    (told,) = index.verify()
    assert told.startswith(address)


def test_a_copy_that_is_damaged_is_told_with_the_way_out(server, tmp_path):
    CellIndex.open("s3://bucket/plain").cell_ids()
    copy = next(path for name, path in cached(tmp_path).items() if name.endswith("/cell/c/0"))
    changed(copy)
    with pytest.raises(IndexCorruptError, match=rf"^{copy.parents[1]}: rows .* remove it, and it is fetched again"):
        CellIndex.open("s3://bucket/plain").cell_ids()
    assert CellIndex.open("s3://bucket/plain").verify() == [], "what lies at the address is sound"
    copy.unlink()
    CellIndex.open("s3://bucket/plain").cell_ids()


def test_verify_reads_what_lies_there_now(server, capsys, tmp_path):
    assert main(["index", "verify", "s3://bucket/tuned"]) == 0
    assert "sound" in capsys.readouterr().out
    assert not (tmp_path / "cache").exists()
    CellIndex.open("s3://bucket/tuned").cell_ids()
    paths = sorted((server.folder / "bucket/tuned").glob("**/cell/c/0")) + list(
        (server.folder / "bucket/tuned").glob("ann/**/codec.faiss")
    )
    for path in paths:
        changed(path)
    assert main(["index", "verify", "s3://bucket/tuned"]) == 1
    told = capsys.readouterr().out.splitlines()
    assert {line.split(": ")[0] for line in told} == {
        f"s3://bucket/{path.relative_to(server.folder / 'bucket')}" for path in paths
    }


def test_commands_answer_alike(server, bucket, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    disk, address = str(bucket / "built"), "s3://bucket/built"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (40, 160, 3), dtype=np.uint8)).save("a.jpg")
    lat, lon = cells.centers_deg(CellIndex.open(disk).cell_ids()[0])
    Path("photos.csv").write_text(f"path,lat,lon\na.jpg,{lat},{lon}\n")
    said = {}
    for index in (disk, address):
        evaluate = ["evaluate", "--index", index, "--photos", "photos.csv", "--out", "out.json", "--overwrite"]
        for words in (["locate", "a.jpg", "--index", index], evaluate, ["info", index], ["index", "info", index]):
            words += ["--device", "cpu"] if words[0] in ("locate", "evaluate") else []
            assert main(words) == 0, capsys.readouterr().err
            out = capsys.readouterr().out
            if "info" in words:
                told = json.loads(out)
                assert (told.pop("size_bytes") is None) == (index == address)
                out = json.dumps(told)
            said.setdefault(index, []).append(out)
    assert said[address] == said[disk]


@pytest.mark.parametrize(
    "words",
    [
        ["build", "--encoder", "demo", "--imagery", "ORTHO", "--out", "INDEX"],
        ["add", "INDEX", "--imagery", "ORTHO"],
        ["remove", "INDEX", "--photos", "a.jpg"],
        ["merge", "INDEX", "BUILT", "--out", "c"],
        ["merge", "BUILT", "BUILT", "--out", "INDEX"],
        ["tune", "INDEX"],
        ["vacuum", "INDEX"],
        ["verify", "INDEX", "--repair"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_writers_are_sent_away(server, bucket, ortho, tmp_path, capsys, monkeypatch, words):
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    Image.fromarray(np.zeros((40, 60, 3), np.uint8)).save("a.jpg")
    names = {"INDEX": "s3://bucket/plain", "ORTHO": str(ortho), "BUILT": str(bucket / "built")}
    assert main(["index", *(names.get(word, word) for word in words)]) == 2
    told = capsys.readouterr().err.strip()
    assert told.splitlines()[-1] == (
        "geoview: s3://bucket/plain: an index at an address can only be searched; copy it here first"
    )
    assert [path.name for path in Path().iterdir()] == ["a.jpg"]
    assert server.served == []


def test_weights_of_prototypes_are_not_committed_to_an_address(server):
    index = CellIndex.open("s3://bucket/fused")
    with pytest.raises(ConfigError, match=r"s3://bucket/fused: .* copy it here first"):
        index.set_fusion(index.fusion, {})


@pytest.mark.parametrize("generation", ["../../../../mine", "/mine"])
def test_a_manifest_that_names_files_elsewhere_is_refused(server, tmp_path, generation):
    folder = server.folder / "bucket/plain"
    manifest = store.read_manifest(folder)
    shards = [replace(manifest.shards[0], generation=generation), *manifest.shards[1:]]
    (folder / "manifest.json").write_text(json.dumps(content_of(replace(manifest, shards=shards))))
    with pytest.raises(IndexCorruptError, match=r"^s3://bucket/plain: names a file outside of the index"):
        CellIndex.open("s3://bucket/plain").search(clustered(1), 3)
    assert not (tmp_path / "cache/geoview/mine").exists()


@pytest.mark.parametrize(
    "address", ["s3://bucket/nothing", "s3://nowhere/index", "gs://bucket/nothing", "HTTP/bucket/nothing"]
)
def test_where_no_index_is(server, address):
    address = address.replace("HTTP", server.url)
    with pytest.raises(IndexNotFoundError, match=f"^{address}: no index at this address"):
        CellIndex.open(address)


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_a_server_that_denies_is_told(server, capsys, scheme):
    server.denies = True
    assert main(["index", "info", f"{scheme}://bucket/plain"]) == 2
    told = capsys.readouterr().err.strip()
    assert told.startswith(f"geoview: {scheme}://bucket/plain/manifest.json: cannot be read (")
    assert "AccessDenied" in told
    assert "; credentials come from the environment" in told
    assert "\n" not in told


def test_a_server_that_is_down_is_told(server):
    server.shutdown()
    server.server_close()
    with pytest.raises(IndexUnreachableError, match=f"^{server.url}/bucket/plain/.*: cannot be read") as caught:
        CellIndex.open(f"{server.url}/bucket/plain")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scheme", ["s3", "gs", "http"])
def test_a_server_without_ranges_is_told(server, scheme):
    server.has_ranges = False
    address = f"{server.url}/bucket/plain" if scheme == "http" else f"{scheme}://bucket/plain"
    index = CellIndex.open(address)
    region = small_region(index)
    with pytest.raises(IndexUnreachableError, match=rf"^{address}/shards/.*/aerial/c/0/0: cannot be read .*[Rr]ange"):
        index.search(clustered(1), 3, region=region)


def test_an_address_that_nobody_knows_is_told():
    with pytest.raises(IndexUnreachableError, match=r"^ftp://host/index: cannot be read"):
        CellIndex.open("ftp://host/index")


def test_without_obstore_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore.store", None)
    with pytest.raises(ConfigError, match=r"^s3://bucket/plain: .* pip install 'geoview\[remote\]'"):
        CellIndex.open("s3://bucket/plain")


def test_a_cache_that_cannot_be_written_is_told(server, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(ConfigError, match=r"cannot be written .* XDG_CACHE_HOME"):
        CellIndex.open("s3://bucket/plain").cell_ids()
