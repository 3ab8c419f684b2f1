"""Published data sets in small: their layouts, lists and names as they are distributed, with pictures made here.

The two pictures of a pair share a colour of their own, so that something can be learnt from them.
"""

import math

import numpy as np
from PIL import Image
from scipy.io import savemat

CITIES = {
    "Chicago": (41.852, -87.691),
    "NewYork": (40.701, -74.019),
    "SanFrancisco": (37.736, -122.450),
    "Seattle": (47.601, -122.340),
}
# Neighbouring tiles of 640 px overlap by half.
TILE_PX, STEP_PX = 640, 320
ZOOM_20_M = 156_543.03392804097 / 2**20
METRES_A_DEG = 111_319.49


def picture(path, place, size_px, seed=0):
    """Writes a picture in the colours of a place."""
    colours = np.random.default_rng(place).integers(20, 236, (2, 3))
    noise = np.random.default_rng([place, seed]).integers(-15, 16, (size_px[1], size_px[0], 3))
    lower = np.arange(size_px[1])[:, None, None] >= size_px[1] / 2
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.where(lower, *colours) + noise).astype(np.uint8)).save(path)


def write_cvusa(root, n_train, n_test, *, locations="split_locations/all.csv", listed="bingmap/19", on_disk=None):
    """Writes CVUSA; ids of the two lists alternate. `locations` may be None; `listed` and `on_disk` may differ."""
    on_disk = on_disk or listed
    lists, lines = {"train": [], "val": []}, []
    for i in range(1, n_train + n_test + 1):
        test = (i % 2 == 0 and len(lists["val"]) < n_test) or len(lists["train"]) == n_train
        satellite, panorama = f"{i:07d}.jpg", f"streetview/panos/{i:07d}.jpg"
        annotation = f"streetview/annotations/{i:07d}.png"
        lists["val" if test else "train"].append(f"{listed}/{satellite},{panorama},{annotation}")
        picture(root / on_disk / satellite, i, (40, 40))
        picture(root / panorama, i, (88, 16), 1)
        lines.append(f"{30 + i / 100:.6f},{-100 + i / 50:.6f},{30.0001 + i / 100:.6f},{-100.0001 + i / 50:.6f},0")
    (root / "splits").mkdir(parents=True)
    for name, rows in lists.items():
        (root / f"splits/{name}-19zl.csv").write_text("".join(f"{row}\n" for row in rows))
    if locations:
        (root / locations).parent.mkdir(exist_ok=True)
        (root / locations).write_text("".join(f"{line}\n" for line in lines))


def write_cvact(root, n_train, n_val, n_test, *, mat="ACT_data.mat"):
    """Writes CVACT; validation pairs are test pairs too, as in the original. `mat` may be None."""
    names = [f"{i:03d}-abc_DEF{i:012d}" for i in range(n_train + n_test)]
    train, test = np.arange(n_train), n_train + np.arange(n_test)
    val = test[:n_val]
    for folder, rows in (("ANU_data_small", [*train, *val]), ("ANU_data_test", test)):
        for i in rows:
            picture(root / folder / f"streetview/{names[i]}_grdView.jpg", int(i), (64, 32), 1)
            picture(root / folder / f"satview_polish/{names[i]}_satView_polish.jpg", int(i), (40, 40))
    if mat:
        n = np.arange(len(names))
        content = {
            "panoIds": np.array(names),
            "utm": np.stack([693_000.0 + 50 * n, 6_090_000.0 - 70 * n], axis=-1),
            "trainSet": {"trainInd": train[::-1, None] + 1, "other": 1.0},
            "valSet": {"other": 1.0, "valInd": val[:, None] + 1},
            "valSetAll": {"valInd": (test[:, None] + 1).astype(np.float64), "other": 1.0},
        }
        (root / mat).parent.mkdir(parents=True, exist_ok=True)
        savemat(root / mat, content)
    return names


def write_vigor(root, n_train=3, n_test=3, *, grid=4, layout="official", corrected=False, original=True):
    """Writes VIGOR: in each city `grid` x `grid` tiles and panoramas within them, in lists of both kinds of labels.

    Args:
        root: Folder.
        n_train: Panoramas a city for training on the same area.
        n_test: And for testing.
        grid: Tiles along each side.
        layout: "official" or "sample4geo".
        corrected: Write `splits__corrected`.
        original: Write `splits`; its offsets take 0.114 m a pixel for right.
    """
    for number, (city, (south_deg, west_deg)) in enumerate(CITIES.items()):
        rng = np.random.default_rng(number)
        gsd_m = ZOOM_20_M * math.cos(math.radians(south_deg))
        px_deg = gsd_m / METRES_A_DEG * np.array([1.0, 1 / math.cos(math.radians(south_deg))])
        decimals = 10 if city == "NewYork" else 14
        rows, columns = (a.ravel() for a in np.mgrid[:grid, :grid])
        tiles_deg = np.array([south_deg, west_deg]) + STEP_PX * px_deg * np.stack([rows, columns], axis=-1)
        names = [f"satellite_{lat:.{decimals}f}_{lon:.{decimals}f}.png" for lat, lon in tiles_deg]
        panoramas, lines = [], {False: [], True: []}
        for i in range(n_train + n_test):
            at_deg = (np.array([south_deg, west_deg]) + STEP_PX * px_deg * rng.uniform(0.2, grid - 1.2, 2)).round(6)
            name = f"{'_-'[i % 2]}a{city}{i:06d}-_Q,{at_deg[0]:.6f},{at_deg[1]:.6f},.jpg"
            up_right_px = (at_deg - tiles_deg) / px_deg
            near = np.abs(up_right_px).max(axis=1).argsort(kind="stable")[:4]
            for true, scale in ((True, 1.0), (False, gsd_m / 0.114)):
                offsets = (-scale * up_right_px[near]).round()  # dy, dx
                fields = [f"{names[t]} {dy} {dx}" for t, (dy, dx) in zip(near, offsets, strict=True)]
                lines[true].append(" ".join([name, *fields]))
            panoramas.append((name, 1000 * number + int(near[0])))
        places = {
            "official": (f"{city}/panorama", f"{city}/satellite"),
            "sample4geo": (f"ground/{city}", f"satellite/{city}"),
        }[layout]
        for name, place in panoramas:
            picture(root / places[0] / name, place, (64, 32), 1)
        for i, name in enumerate(names):
            picture(root / places[1] / name, 1000 * number + i, (40, 40))
        for folder, ending, is_wanted in (("splits", "", original), ("splits__corrected", "__corrected", corrected)):
            if not is_wanted:
                continue
            labels = lines[folder == "splits__corrected"]
            # The real files lack the last newline: New York's list of tiles, and all corrected labels.
            end = "" if folder == "splits__corrected" else "\n"
            (root / folder / city).mkdir(parents=True)
            (root / folder / city / "satellite_list.txt").write_text(
                "\n".join(names) + ("" if city == "NewYork" else "\n")
            )
            for name, chosen in (
                ("same_area_balanced_train", labels[:n_train]),
                ("same_area_balanced_test", labels[n_train:]),
                ("pano_label_balanced", labels),
            ):
                (root / folder / city / f"{name}{ending}.txt").write_text("\n".join(chosen) + end)


def write_university1652(root, n_train, n_test, n_distractors=0, *, drones=3):
    """Writes University-1652: buildings of both sides, and in the galleries of the tests distractors."""
    for i in range(1, n_train + n_test + n_distractors + 1):
        if i <= n_train:
            folders = {"train/drone": drones, "train/satellite": 1}
        else:
            folders = {"test/gallery_drone": drones, "test/gallery_satellite": 1}
            if i <= n_train + n_test:
                folders |= {"test/query_drone": drones, "test/query_satellite": 1}
        for folder, count in folders.items():
            for n in range(1, count + 1):
                name = f"image-{n:02d}.jpeg" if folder.endswith("drone") else f"{i:04d}.jpg"
                picture(root / folder / f"{i:04d}" / name, i, (40, 40), n)
