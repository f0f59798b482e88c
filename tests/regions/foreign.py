"""Small region files in the formats of others, written here by hand from their descriptions."""

import base64
import io
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

FEATURE_SIZE, CLASSES = 6, 9


@dataclass
class Image:
    name: str
    features: np.ndarray  # (R, 6)
    pixels: np.ndarray  # (R, 4)
    width: int
    height: int
    conf: np.ndarray  # (R,), highest first
    probs: np.ndarray  # (R, 9)
    classes: np.ndarray  # (R,), from 1

    @property
    def six(self) -> np.ndarray:
        scale = np.array([self.width, self.height] * 2)
        corners = self.pixels / scale
        return np.concatenate([corners, corners[:, 2:] - corners[:, :2]], 1)


def images(counts=(3, 14, 1, 7), stem="im_"):
    made = []
    for number, rows in enumerate(counts):
        rng = np.random.default_rng(number)
        left_top = rng.uniform(0, 50, (rows, 2))
        probs = rng.dirichlet(np.ones(CLASSES), rows)
        made.append(
            Image(
                name=f"{stem}{number:04}",
                features=rng.normal(size=(rows, FEATURE_SIZE)).astype(np.float32),
                pixels=np.concatenate([left_top, left_top + rng.uniform(1, 40, (rows, 2))], 1).astype(np.float32),
                width=100 + number,
                height=120,
                conf=np.sort(rng.uniform(size=rows))[::-1].astype(np.float32),
                probs=probs.astype(np.float32),
                classes=1 + probs[:, 1:].argmax(1),
            )
        )
    return made


def fields(image: Image) -> dict[str, np.ndarray]:
    """An official record: halves."""
    return {
        "norm_bb": image.six.astype(np.float16),
        "features": image.features.astype(np.float16),
        "conf": image.conf.astype(np.float16)[:, None],
        "soft_labels": image.probs.astype(np.float16),
    }


def packed(arrays) -> bytes:
    """msgpack with arrays as msgpack-numpy writes them."""
    import msgpack

    encode = lambda a: {b"nd": True, b"type": a.dtype.str, b"kind": b"", b"shape": a.shape, b"data": a.tobytes()}
    return msgpack.packb({name: encode(array) for name, array in arrays.items()}, use_bin_type=True)


def zipped(arrays, **more) -> bytes:
    data = io.BytesIO()
    np.savez_compressed(data, **arrays, **more)
    return data.getvalue()


def write_lmdb(folder: Path, records: dict[str, bytes], names=None) -> Path:
    import lmdb

    folder.mkdir(parents=True, exist_ok=True)
    opened = lmdb.open(str(folder), map_size=1 << 26, lock=False)
    with opened as environment, environment.begin(write=True) as transaction:
        for name, value in records.items():
            transaction.put(name.encode(), value)
        transaction.put(b"__keys__", json.dumps(list(names or records)).encode())
    return folder


def write_official(folder: Path, made, compressed=False, inner="feat_th0.2_max10_min2", counts=None) -> Path:
    encode = (lambda a: zipped(a, allow_pickle=np.array(True))) if compressed else packed
    records = {f"{image.name}.npz": encode(fields(image)) for image in made}
    if inner.startswith("feat_th"):
        numbers = counts or {
            f"{i.name}.npz": min(10, max(2, int((i.conf.astype(np.float16) > 0.2).sum()))) for i in made
        }
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"nbb_{inner.removeprefix('feat_')}.json").write_text(json.dumps(numbers))
    return write_lmdb(folder / (inner + "_compressed" * compressed), records)


def text(array, dtype) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype).tobytes()).decode()


def write_tsv(file: Path, made, lxmert=False, end="\r\n") -> Path:
    lines = []
    for i in made:
        arrays = [len(i.features), text(i.pixels, np.float32), text(i.features, np.float32)]
        if lxmert:
            ids, conf = text(i.classes - 1, np.int64), text(i.conf, np.float32)
            lines.append([i.name, i.height, i.width, ids, conf, ids, conf, *arrays])
        else:
            lines.append([i.name, i.width, i.height, *arrays])
    file.write_text("".join("\t".join(map(str, line)) + end for line in lines), newline="")
    return file


def write_npz_folder(folder: Path, made, official=False) -> Path:
    for i in made:
        file = folder / "deep" / f"{i.name}.npz"
        file.parent.mkdir(parents=True, exist_ok=True)
        if official:
            np.savez_compressed(file, **fields(i))
        else:
            info = np.array({"objects": 1}, dtype=object)  # as the public extractors do; never opened
            size = {"image_w": i.width, "image_h": i.height, "num_bbox": len(i.features)}
            np.savez_compressed(file, x=i.features, bbox=i.pixels, info=info, **size)
    return folder


def write_flat_npz(file: Path, made) -> Path:
    np.savez_compressed(
        file,
        files=np.array([i.name for i in made]),
        num_regions=np.array([len(i.features) for i in made]),
        features=np.concatenate([i.features for i in made]).astype(np.float16),
        boxes=np.concatenate([i.six[:, :4] for i in made]).astype(np.float32),
        class_probs=np.concatenate([i.probs for i in made]).astype(np.float16),
        detected=np.concatenate([np.ones(len(i.features), np.uint8) for i in made]),
    )
    return file


def write_flat_hdf5(file: Path, made, index="pos_boxes", drop=()) -> Path:
    import h5py

    counts = np.array([len(i.features) for i in made])
    ends = np.cumsum(counts)
    indices = {
        "pos_boxes": np.stack([ends - counts, ends], 1),
        "offsets": np.concatenate([[0], ends]),
        "num_regions": counts,
    }
    arrays = {
        "image_features": np.concatenate([i.features for i in made]),
        "image_bb": np.concatenate([i.pixels for i in made]),
        "spatial_features": np.concatenate([i.six for i in made]).astype(np.float32),
        index: indices[index],
    }
    with h5py.File(file, "w") as h5:
        for name, array in arrays.items():
            if name not in drop:
                h5[name] = array
        if "image_ids" not in drop:
            h5["image_ids"] = [i.name.encode() for i in made]
    return file


def write_group_hdf5(file: Path, made, separator="/") -> Path:
    import h5py

    with h5py.File(file, "w") as h5:
        for i in made:
            for name, value in {
                "features": i.features,
                "boxes": i.pixels,
                "img_w": i.width,
                "img_h": i.height,
                "obj_conf": i.conf,
            }.items():
                h5[f"{i.name}{separator}{name}"] = value
    return file


# Every format by a name: a writer of images into a folder, that gives what to open.
WRITERS = {
    "official": lambda folder, made: write_official(folder / "db", made),
    "official compressed": lambda folder, made: write_official(folder / "db", made, compressed=True),
    "official numbb": lambda folder, made: write_official(folder / "db", made, inner="feat_numbb100"),
    "official all": lambda folder, made: write_official(folder / "db", made, compressed=True, inner="all"),
    "bottom-up TSV": lambda folder, made: write_tsv(folder / "r.tsv", made),
    "LXMERT TSV": lambda folder, made: write_tsv(folder / "r.tsv", made, lxmert=True, end="\n"),
    "flat HDF5": lambda folder, made: write_flat_hdf5(folder / "r.h5", made),
    "HDF5 groups": lambda folder, made: write_group_hdf5(folder / "r.hdf5", made),
    "HDF5 sets": lambda folder, made: write_group_hdf5(folder / "r.hdf5", made, "_"),
    "npz folder": lambda folder, made: write_npz_folder(folder / "npz", made),
    "official npz folder": lambda folder, made: write_npz_folder(folder / "npz", made, official=True),
    "flat npz": lambda folder, made: write_flat_npz(folder / "r.npz", made),
}
