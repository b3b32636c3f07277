"""Hit@k, and what is kept of Hit@10 where something is hidden, with intervals over resampled users.

Giving everybody the popular items hides everything and has its Hit@10 all the same. So a recommender hardly
better than that may forget all that it knows of people and keep nearly all of its Hit@10. What is kept above
popularity says it: (after - popularity) / (before - popularity).
"""

from typing import Callable

import numpy as np

BOOTSTRAP = 1000  # resamples of the users behind every 95% interval
ABOVE, IN_WORDS = "kept above popularity", "kept in words"  # keys of a row of results.json
SHARES = "kept", ABOVE


def hits(ranks: np.ndarray, seed: int) -> dict:
    """hit@1, hit@3 and hit@10 as fractions in [0, 1], each with its 95% interval over resampled users."""
    values, intervals = {}, {}
    for k in (1, 3, 10):
        hit, rng = ranks <= k, np.random.default_rng(seed)
        # resampling n users with replacement: the number of hits among them is binomial
        draws = rng.binomial(len(hit), hit.mean(), BOOTSTRAP) / len(hit)
        values[f"hit@{k}"] = float(hit.mean())
        intervals[f"hit@{k} interval"] = [*map(float, np.quantile(draws, [0.025, 0.975]))]
    return values | intervals


def triple(row: dict, key: str) -> list[float]:
    """[value, low, high] of a figure whose interval stands beside it, such as Hit@k."""
    return [row[key], *row[f"{key} interval"]]


def kept(
    popular: np.ndarray, before: np.ndarray, after: np.ndarray, seed: int, name: str
) -> dict[str, list | str]:
    """What a row of results.json says of what is kept, from the ranks (users,) of all held-out items.

    [value, low, high] of both shares, null for what there is not, and what is to be said of them.
    The intervals are paired: a resample has the same users in popularity, before and after.
    """
    hit = np.stack([popular, before, after]) <= 10
    kinds, counts = np.unique(hit, axis=1, return_counts=True)  # (3, kinds), (kinds,)
    # resampling users with replacement: how many are of each kind, hit here and not there, is multinomial
    n, rng = hit.shape[1], np.random.default_rng(seed)
    draws = rng.multinomial(n, counts / n, BOOTSTRAP)
    popular, before, after = kinds @ np.vstack([counts, draws]).T / n
    found = shares(popular, before, after)
    words = ["below popularity"] if after[0] < popular[0] else []
    if found[ABOVE][0] is None:
        words.append(f"{name} is not above popularity")
    elif found[ABOVE][1] is None:
        words.append(f"no interval: {name} may not be above popularity")
    return found | {IN_WORDS: "; ".join(words)}


def shares(*rates: np.ndarray | float) -> dict[str, list]:
    """Both shares from Hit@10 in popularity, before and after: as measured, or (1 + draws,) resampled too."""
    popular, before, after = map(np.atleast_1d, rates)
    return {"kept": share(after, before), ABOVE: share(after - popular, before - popular)}


def share(part: np.ndarray, whole: np.ndarray) -> list[float | None]:
    """[value, low, high] of part / whole (1 + draws,), None for what there is not.

    No value where there is no whole, and no interval where that of the whole is not beyond 0: of nearly
    nothing any share could be kept.
    """
    if whole[0] <= 0:
        return [None, None, None]
    # the few draws without a whole then lie beyond the ends of the interval, on the side of their part
    value, *drawn = part / np.maximum(whole, 1e-9)
    if not drawn or np.quantile(whole[1:], 0.025, method="lower") <= 0:
        return [float(value), None, None]
    return [float(value), *map(float, np.quantile(drawn, [0.025, 0.975]))]


def interval_over_users(
    n: int, statistic: Callable[[np.ndarray], np.ndarray], rng: np.random.Generator
) -> list[float]:
    """[low, high], 95%, of a statistic of n users over resampled ones; NaN counts for nothing.

    It is given how often each user is drawn, (n, draws), and says what each draw has, (draws,).
    """
    part, draws = BOOTSTRAP // 10, []  # ten times a tenth, to keep the memory small
    for _ in range(10):
        # NumPy's multinomial takes five times as long
        drawn = (n * np.arange(part)[:, None] + rng.integers(n, size=(part, n))).ravel()
        counts = np.bincount(drawn, minlength=part * n).reshape(part, n)
        draws.append(statistic(counts.T.astype(np.int32, order="C")))
    return [*map(float, np.nanquantile(draws, [0.025, 0.975]))]


def shuffles_of(n_users: int) -> int:
    """Shuffles behind the floor of a run's own table; the audit has more."""
    return 5 if n_users < 10_000 else 1  # of so many users one is within a point of one half
