"""What is kept of Hit@10, all of it and above popularity: by hand, resampled by hand, and in the tables."""

import numpy as np
import pytest

from support import hits
from support.hits import ABOVE, IN_WORDS, kept, share, shares
from support.screens import combinations_table, kept_cells, table

NEVER = 99  # a rank beyond 10


def ranks(*hit: int) -> np.ndarray:
    """Ranks of users of whom those marked by 1 are hit."""
    return np.where(np.array(hit) == 1, 10, NEVER)


def some(n: int, **hit: int) -> list[np.ndarray]:
    """Ranks of n users in popularity, before and after: the first so many are hit in each."""
    return [ranks(*(np.arange(n) < hit[name])) for name in ("popular", "before", "after")]


def test_both_shares_by_hand():
    popular = ranks(1, 0, 0, 0, 0, 0, 0, 0)  # 1 of 8
    before = ranks(1, 1, 1, 1, 1, 0, 0, 0)  # 5 of 8
    after = ranks(0, 1, 1, 1, 0, 0, 1, 0)  # 4 of 8
    found = kept(popular, before, after, 0, "P5")
    assert found["kept"][0] == pytest.approx(4 / 5)
    assert found[ABOVE][0] == pytest.approx((4 - 1) / (5 - 1))
    assert shares(1 / 8, 5 / 8, 4 / 8)[ABOVE] == [pytest.approx(3 / 4), None, None]


def test_what_changes_nobody_is_kept_whole():
    """With unpaired resamples the interval of 1 would be wide."""
    popular, before, _ = some(200, popular=40, before=120, after=0)
    found = kept(popular, before, before, 0, "P5")
    assert found["kept"] == found[ABOVE] == [1.0, 1.0, 1.0] and found[IN_WORDS] == ""


def test_the_interval_is_that_of_resampled_users():
    rng = np.random.default_rng(5)
    users, n = rng.random((3, 400)), 400
    popular, before = users[0] < 0.2, users[1] < 0.5
    after = np.where(users[2] < 0.8, before, users[0] < 0.25)
    draws = {"kept": [], ABOVE: []}
    for _ in range(6000):
        drawn = rng.integers(n, size=n)  # the same people in all three
        p, b, a = popular[drawn].sum(), before[drawn].sum(), after[drawn].sum()
        draws["kept"].append(a / b)
        draws[ABOVE].append((a - p) / (b - p))
    found = kept(ranks(*popular), ranks(*before), ranks(*after), 0, "P5")
    for key, values in draws.items():
        low, high = np.quantile(values, [0.025, 0.975])
        assert found[key][1:] == pytest.approx([low, high], abs=0.15 * (high - low))
    unpaired = rng.permutation(after), rng.permutation(before)
    loose = kept(ranks(*popular), *(ranks(*hit) for hit in unpaired[::-1]), 0, "P5")
    assert loose[ABOVE][2] - loose[ABOVE][1] > 1.2 * (found[ABOVE][2] - found[ABOVE][1])


def test_after_below_popularity_is_said():
    found = kept(*some(400, popular=100, before=200, after=80), 0, "P5")
    value, low, high = found[ABOVE]
    assert value == pytest.approx(-20 / 100) and low < value < high < 0
    assert found[IN_WORDS] == "below popularity"
    assert kept_cells(found)[1] == f"-20.0 [{100 * low:.0f}, {100 * high:.0f}]; below popularity"


@pytest.mark.parametrize("before", [100, 90, 0])
def test_before_not_above_popularity_there_is_nothing_to_keep(before):
    found = kept(*some(400, popular=100, before=before, after=120), 0, "PMF")
    assert found[ABOVE] == [None, None, None]
    assert found[IN_WORDS] == "PMF is not above popularity"
    assert (found["kept"][0] is None) == (before == 0)
    assert kept_cells(found)[1] == "PMF is not above popularity"
    found = kept(*some(400, popular=100, before=before, after=70), 0, "PMF")
    assert found[IN_WORDS] == "below popularity; PMF is not above popularity"


def test_where_before_may_not_be_above_there_is_a_value_and_no_interval():
    """8 people of 400 more than popularity's, after two opposed groups of 60 and 52 are counted."""
    kinds = np.repeat([[1, 0, 0], [0, 1, 1], [1, 1, 1], [0, 0, 0]], [52, 60, 100, 188], axis=0)
    found = kept(*(ranks(*hit) for hit in kinds.T), 0, "P5")
    assert found[ABOVE] == [1.0, None, None] and None not in found["kept"]
    assert found[IN_WORDS] == "no interval: P5 may not be above popularity"
    assert kept_cells(found)[1] == f"100.0; {found[IN_WORDS]}"


def test_the_few_resamples_without_a_whole_are_farthest_out():
    whole = np.r_[1.0, np.full(1000, 1.0)]
    part = whole * np.r_[0.5, np.linspace(0.4, 0.6, 1000)]
    whole[1:25] = -0.1  # 24 of 1000, as many as can be; their part says on which side
    part[1:13], part[13:25] = -0.1, 0.1
    value, low, high = share(part, whole)
    assert value == 0.5 and 0.4 < low < 0.42 and 0.59 < high < 0.6
    whole[25] = 0.0
    assert share(part, whole) == [0.5, None, None]


def row(found: dict, hit: float) -> dict:
    both = {f"hit@{k}": hit for k in (1, 3, 10)}
    both |= {f"hit@{k} interval": [hit - 0.02, hit + 0.02] for k in (1, 3, 10)}
    both |= {"auc": {"gender": 0.6}, "auc interval": {"gender": [0.5, 0.7]}}
    return both | {"attackers": {"gender": {"strongest": "kNN"}}} | found


def test_the_tables_say_both():
    good = {"kept": [0.9, 0.8, 1.0], ABOVE: [0.75, 0.5, 0.95], IN_WORDS: ""}
    bad = {"kept": [0.6, 0.5, 0.7], ABOVE: [-0.25, -0.5, -0.1], IN_WORDS: "below popularity"}
    popular = {k: v for k, v in row({}, 0.2).items() if k.startswith("hit")}
    results = {
        "attrs": ["gender"],
        "tasks": ["direct"],
        "users": 1200,
        "candidates": {"direct": [101, 101]},
        "prompt candidates": 0,
        "popularity": {"direct": popular},
        "before": {"direct": row({}, 0.4)},
        "after": {"direct": row(good, 0.35)},
        "floor": {"direct": {"gender": 0.03}},
        "ceiling": {"gender": {"auc": [0.9, 0.88, 0.92]}},
        "co-trained auc": {},
        "shuffles": 5,
        "tested": {"gender": 480},
        "held out": ["gender"],
    }
    line = "  Hit@10 kept: 90.0 [80.0, 100.0]; above popularity: 75.0 [50.0, 95.0]."
    text = table(results)
    assert line in text.splitlines()
    assert "(after - popularity) / (before - popularity)" in text
    results["after"]["direct"] = row(bad, 0.15)
    assert "above popularity: -25.0 [-50.0, -10.0]; below popularity." in table(results)
    ways = [(good, "mixer"), (bad, "concatenation")]
    results["ways"] = [
        {"attrs": ["gender"], "how": how, "seconds": 1.0, "direct": row(found, 0.3)}
        for found, how in ways
    ]
    heads, *lines = [line for line in combinations_table(results).splitlines() if "  " in line]
    at = heads.index("above popularity")
    assert heads[at - 16 :].startswith("kept            above popularity")
    said = {line.split()[1]: line[at:] for line in lines if line.startswith("  gender")}
    assert said["mixer"].startswith("75.0 [50, 95]  ")
    assert said["concatenation"].startswith("-25.0 [-50, -10]; below popularity  ")


def test_hit_at_k_has_its_own_interval():
    """The figures that stood in results.json before stay what they were."""
    found = hits.hits(np.r_[np.ones(30), np.full(70, NEVER)], seed=3)
    draws = np.random.default_rng(3).binomial(100, 0.3, hits.BOOTSTRAP) / 100
    assert found["hit@10 interval"] == [*np.quantile(draws, [0.025, 0.975])]
