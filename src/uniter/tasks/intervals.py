"""Bootstrap intervals of a benchmark's numbers."""

from collections.abc import Sequence

import numpy as np

from uniter import draws


def interval(
    values: Sequence[float] | np.ndarray,
    seed: int = 0,
    resamples: int = 1000,
    sizes: Sequence[int] | np.ndarray | None = None,
) -> tuple[float, float]:
    """The bootstrap 95% interval of the mean of `values`.

    Values are drawn by how often each occurs: the same distribution as one by one, and quick where few differ.

    Args:
        values: of what is drawn independently: single things, or sums over groups of things that belong together.
        seed: of the draws.
        resamples: how often all are drawn anew.
        sizes: how many things each group sums up; None: 1 each.
    """
    sums = np.asarray(values, dtype=np.float64)
    groups = np.stack([sums, np.ones_like(sums) if sizes is None else np.asarray(sizes, dtype=np.float64)], 1)
    distinct, counts = np.unique(groups, axis=0, return_counts=True)
    total = counts.sum()
    drawn = draws.generator(seed, "bootstrap").multinomial(total, counts / total, size=resamples)
    low, high = np.percentile(drawn @ distinct[:, 0] / (drawn @ distinct[:, 1]), [2.5, 97.5])
    return float(low), float(high)


def with_interval(
    name: str, values: Sequence[float] | np.ndarray, sizes: Sequence[int] | np.ndarray | None = None
) -> dict[str, float]:
    """Mean of `values` (in percent already) and its 95% interval, as `name`, `name_low`, `name_high`.

    Args:
        name: of the number.
        values: as in `interval`.
        sizes: as in `interval`.
    """
    if not len(values):
        return {name: float("nan")}
    low, high = interval(values, sizes=sizes)
    mean = np.mean(values) if sizes is None else np.sum(values) / np.sum(sizes)
    return {name: float(mean), f"{name}_low": low, f"{name}_high": high}
