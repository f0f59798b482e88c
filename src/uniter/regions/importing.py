"""Foreign region files into a store: checked, packed, resumable."""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from uniter.regions.formats import open_regions
from uniter.regions.formats.foreign import ForeignRegions
from uniter.regions.store import StoreWriter


@dataclass(frozen=True)
class Report:
    """What an import did.

    Args:
        store: the folder of the store.
        images: images in the store now.
        added: of these, the ones that this run added.
        seconds: how long it took.
    """

    store: Path
    images: int
    added: int
    seconds: float

    def __str__(self) -> str:
        return f"{self.store}: {self.images} images, {self.added} added in {self.seconds:.1f} s"


def import_regions(
    source: str | os.PathLike,
    out: str | os.PathLike,
    detector: str | None = None,
    conf_threshold: float | None = None,
    max_regions: int | None = None,
    min_regions: int | None = None,
    full: bool = False,
    progress: bool = True,
    shard_images: int = 512,
    compact: bool = False,
) -> Report:
    """Copy the regions of a foreign file or folder into a store.

    Run again after a kill, it does what is missing, and the store comes out as if it had not been killed. Further
    sources can be imported into the same store. Features become float16, as the store keeps them,
    or bytes.

    Args:
        source: what `open_regions` reads.
        out: the folder of the store, new or to be continued.
        detector: name of what made the regions, to be compared with what a model was trained on. None: not known.
        conf_threshold: take regions with a confidence above it, see `uniter.regions.formats.foreign.Choice`.
        max_regions: take at most so many of an image.
        min_regions: take at least so many of an image, if it has them.
        full: keep whole class distributions (float16), not the 32 largest and the rest's mass.
        progress: show a progress bar.
        shard_images: images a shard of the store.
        compact: keep features as bytes, not as float16, see `uniter.regions.regions.ByteFeatures`.

    Raises:
        ValueError: the source is damaged, or `out` is something else; nothing of this run is left in `out` then.
    """
    started = time.time()
    out = Path(out)
    choice = {"conf_threshold": conf_threshold, "max_regions": max_regions, "min_regions": min_regions}
    regions = open_regions(source, detector=detector, progress=progress, **choice)
    if not isinstance(regions, ForeignRegions):
        raise ValueError(f"{source} is a store already: read it as it is")
    if regions.path.is_dir() and out.resolve().is_relative_to(regions.path.resolve()):
        raise ValueError(f"{out} lies in {source}: give a folder outside what is imported")
    told: dict[str, Any] = {"path": str(regions.path.resolve()), "format": regions.format, **choice, "full": full}
    regions[regions.names[0]]  # a mistaken file leaves no store behind
    writer = StoreWriter(out, detector, None, None, shard_images, full, compact, told)
    before = len(writer)
    todo = [name for name in regions.names if not writer.has(name)]
    try:
        with tqdm(total=len(regions), initial=len(regions) - len(todo), unit="image", disable=not progress) as bar:
            for name in todo:
                writer.add(name, regions[name])
                bar.update()
        writer.close()
    except ValueError:
        writer.abandon()
        raise
    finally:
        regions.close()
    return Report(out, len(writer), len(writer) - before, time.time() - started)
