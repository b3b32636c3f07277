"""The whole story at full size, with what the README promises; all of these take minutes."""

import json
from functools import cache, partial
from pathlib import Path
from typing import Callable

import numpy as np
import pytest
import torch
from commands import command

from data import Asked, people_with
from mixer import open_run
from probe import attack, auc, user_states
from support.side_by_side import five_folds, standardised

HIDING_GENDER = "--attr gender --backbone tiny --seed 0 --out runs/tiny-0"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Callable[[str], Path]:
    """Gives the folder of the run with these flags, when it is finished.

    They share a workshop, so that a later one uses again the backbone and the prompt of an earlier one.
    """
    workshop = tmp_path_factory.mktemp("workshop")

    @cache
    def folder_of(flags: str) -> Path:
        done = command(workshop, flags, seconds=1800)
        assert done.returncode == 0, done.stderr
        return workshop / flags.split()[-1]

    return folder_of


@pytest.mark.slow
def test_the_prompt_hides_gender_and_keeps_the_recommendations(finished):
    results = json.loads((finished(HIDING_GENDER) / "results.json").read_text())
    before, after = results["before"], results["after"]
    popularity = results["popularity"]["sequential"]["hit@10"]
    assert before["sequential"]["hit@10"] >= 1.5 * popularity
    # dependence over whitened states costs seed 0 two points more than the weaker hiding before it: 92, 80%
    for task, kept in (("sequential", 0.88), ("direct", 0.75)):
        assert before[task]["auc"]["gender"] >= 0.75
        # of 480 people's shuffled labels 55 is read on average, 60 at times
        assert abs(after[task]["auc"]["gender"] - 0.5) <= 0.11
        assert after[task]["hit@10"] >= kept * before[task]["hit@10"]
        assert results["floor"][task]["gender"] < 0.12  # of 480 people
    assert results["ceiling"]["gender"]["auc"][0] > 0.85


@pytest.mark.slow
def test_kernel_ridge_reads_what_scikit_learns_attackers_read(finished, monkeypatch):
    """States of both tasks, before and behind the prompt: at most a point less than the better of two."""
    svm, ensemble = map(pytest.importorskip, ("sklearn.svm", "sklearn.ensemble"))
    run = finished(HIDING_GENDER)
    monkeypatch.chdir(run.parents[1])
    opened = open_run(run, torch.device("cpu"))
    users = people_with(opened.corpus, "test")
    labels, unseen = opened.corpus.dataset.labels("gender")[users], opened.unseen("gender")[users]
    (_, train, _, test), ours, theirs = five_folds(labels[None], [0], unseen), [], []
    for task in ("sequential", "direct"):
        for prefix in (None, opened.hiding(("gender",))):
            states = user_states(opened.model, Asked(opened.corpus, task, "test", users), prefix)
            x = standardised(states).numpy()
            found = attack(states, labels, ["kernel ridge"], 0, tested=unseen)
            ours.append(found["auc"][0])
            values = []
            for make, score in (
                (svm.SVC, "decision_function"),
                (partial(ensemble.HistGradientBoostingClassifier, max_iter=50), "predict_proba"),
            ):
                of_folds = []
                for learnt, tested in zip(train[0].numpy(), test[0].numpy()):
                    fitted = make().fit(x[learnt], labels[learnt])
                    scores = getattr(fitted, score)(x[tested]).reshape(len(tested), -1)[:, -1]
                    of_folds.append(auc(scores, labels[tested] == 1)[0])
                values.append(np.mean(of_folds))
            theirs.append(max(values))
    assert np.mean(ours) >= np.mean(theirs) - 0.01, (ours, theirs)


@pytest.mark.slow
def test_the_mixer_hides_two_attributes_where_concatenation_does_not(finished):
    """A choice of two, with the prompt for gender of the run before; a choice of one leaves the other to be
    read.
    """
    run = finished("--attr gender,age --out runs/mixed")
    results = json.loads((run / "results.json").read_text())
    ways = {("+".join(way["attrs"]), way["how"]): way for way in results["ways"]}
    for task, kept in (("sequential", 0.87), ("direct", 0.8)):
        before = results["before"][task]
        mixed, beside = (ways["gender+age", how][task] for how in ("mixer", "concatenation"))
        leaks = [abs(auc - 0.5) for auc in mixed["auc"].values()]
        # of 480 people's shuffled labels 55 is read on average
        assert max(leaks) <= 0.17 and np.mean(leaks) <= 0.13
        assert mixed["hit@10"] >= kept * before["hit@10"]
        assert beside["auc"]["gender"] >= 0.65
        for hidden, other in (("gender", "age"), ("age", "gender")):
            alone = ways[hidden, "mixer"][task]
            assert abs(alone["auc"][hidden] - 0.5) <= 0.13
            assert alone["auc"][other] - 0.5 >= 0.6 * (before["auc"][other] - 0.5)
