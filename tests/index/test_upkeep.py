"""What keeps an index in shape, through the real command, while others read it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from geoview.cli import main
from geoview.errors import BusyError, IndexNotFoundError
from geoview.files import exclusive
from geoview.index import store
from geoview.index.cell_index import CellIndex
from geoview.index.upkeep import vacuum


@pytest.fixture
def index(tmp_path, index_folder):
    shutil.copytree(index_folder, tmp_path / "index")
    return tmp_path / "index"


def test_vacuum_leaves_what_is_read(index, capsys):
    queries = np.ones((1, 32), np.float32)
    with CellIndex.open(index) as reader:
        before = reader.search(queries, 3).row
        manifest = reader.manifest
        shard = store.open_shard(index, manifest.shards[0])
        rows = store.Rows(**{name: shard.read(name) for name in shard.rows})
        again = store.write_rows(index, manifest.shards[0].parent, rows)
        store.commit(index, replace(manifest, shards=[again, *manifest.shards[1:]]))
        late = CellIndex.open(index)
        assert vacuum(index) == (0, 0)
        fresh = CellIndex(index, reader._commit, checked=True)
        assert np.array_equal(fresh.search(queries, 3).row, before)
        assert np.array_equal(late.search(queries, 3).row, before)
    assert main(["index", "vacuum", str(index)]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["removed_folders"] == 1
    assert said["removed_bytes"] > len(rows) * 64
    assert not (index / manifest.shards[0].folder).exists()
    assert not (index / "build").exists()
    assert late.verify() == []


def test_vacuum_waits_for_no_builder(index, tmp_path):
    with exclusive(index / "build"), pytest.raises(BusyError, match="is writing there"):
        vacuum(index)
    with pytest.raises(IndexNotFoundError, match="not an index"):
        vacuum(tmp_path)
    assert not (tmp_path / "build").exists()
