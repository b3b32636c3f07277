"""Hit@k, and the table that a run ends with: how good its recommendations are, what attackers still read.

    python evaluate.py --run runs/toy-gender-seed0 --audit [--plot]
    python evaluate.py --run runs/toy-gender+age-seed0 --user 42 --hide gender,age

The attackers are in `probe.py`, the tables' layout in `support/screens.py`. The command hands over to the
audit and to one person's view, which stand in `audit/`.
"""

import support  # noqa: F401, I001 (before torch; see there)
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

from cfp import Discriminator
from data import Asked, Batch, Corpus, collate, people_with, raw_history
from mixer import Study
from model import Backbone, Encoded, Prefix
from probe import attack, floor, macro_auc, user_states, whom
from support.candidates import generate, rank_of_first, ranks_by_end
from support.files import run_command
from support.hits import hits, kept, shuffles_of
from support.runs import run_module


@torch.no_grad()
def held_out_ranks(
    model: Backbone,
    asked: Asked,
    prefix: Prefix | None = None,
    change: Callable[[Encoded, Batch], Encoded] | None = None,
) -> np.ndarray:
    """Rank (users,), 1 is best, of every user's held-out item among the candidates.

    Source: section 5.1; Hit@k is the share of ranks up to k. `change`, if there is one, is made to the
    prompts as encoded before the answers are decoded.
    """
    ranks, target = np.zeros(len(asked.users), dtype=np.int64), asked.corpus.target
    for rows, batch in asked.batches(64, next(model.parameters()).device):
        encoded = model.encode(batch.input_ids, batch.mask, prefix)
        encoded = encoded if change is None else change(encoded, batch)
        candidates = [[target(item) for item in asked.candidates(user)] for user in batch.users]
        ranks[rows] = ranks_by_end(model, encoded, candidates)
    return ranks


def popularity(asked: Asked) -> np.ndarray:
    """How often each item occurs in the training histories, for every user alike, (users, items)."""
    items = np.concatenate(asked.corpus.split.train)
    counts = np.bincount(items, minlength=len(asked.corpus.numbers)).astype(float)
    return np.broadcast_to(counts, (len(asked.users), len(counts)))


def candidate_ranks(asked: Asked, scores: np.ndarray) -> np.ndarray:
    """The same ranks of a recommender that scores the whole catalogue at once, (users, items)."""
    among = (asked.candidates(user) for user in asked.users)
    return np.array(
        [rank_of_first(row[items][None], [len(items)])[0] for row, items in zip(scores, among)]
    )


def popularity_ranks(asked: Asked) -> np.ndarray:
    """The same ranks when items are ordered by how often they occur in the training histories."""
    return candidate_ranks(asked, popularity(asked))


def validation_hit(model: Backbone, corpus: Corpus, task: str, users: np.ndarray) -> float:
    """Hit@10 on validation items, a fraction in [0, 1]."""
    return (held_out_ranks(model, Asked(corpus, task, "valid", users)) <= 10).mean()


class Attacks(NamedTuple):
    """Whose label is attacked: of each attribute those that are held out, as in `whom`."""

    held_out: dict[str, np.ndarray]
    seed: int
    device: torch.device

    def tested(self, attr: str, asked: Asked) -> np.ndarray:
        """Which of the users that are asked are attacked (users,); see `whom`."""
        return whom(self.held_out[attr][asked.users], asked.labels(attr))

    def row(self, asked: Asked, states: np.ndarray) -> dict:
        """What a row of results.json says of attacks on states (users, d)."""
        row = {"auc": {}, "auc interval": {}, "attackers": {}}
        for attr in self.held_out:
            labels, tested = asked.labels(attr), self.tested(attr, asked)
            found = attack(states, labels, None, self.seed, self.device, tested)
            row["auc"][attr], *row["auc interval"][attr] = found["auc"]
            row["attackers"][attr] = found
        return row

    def floors(self, asked: Asked, states: np.ndarray) -> dict[str, float]:
        """Of each attribute, how far from one half the same attacks get on shuffled labels."""
        found, about = {}, (self.seed, shuffles_of(len(asked.users)), self.device)
        for attr in self.held_out:
            found[attr] = floor(states, asked.labels(attr), *about, self.tested(attr, asked))
        return found


def measure(
    study: Study,
    task: str,
    prefix: Prefix | None,
    attacks: Attacks,
    before: np.ndarray | None = None,
) -> tuple[dict, np.ndarray, np.ndarray]:
    """(a row of results.json, user states (users, d), ranks (users,)): test items through a prefix.

    Hit@k, of each attribute what the strongest fresh attacker reads in the user-token states, and
    what is kept of Hit@10 where there are the ranks (users,) `before`, which are those without a prefix.
    """
    asked = Asked(study.corpus, task, "test", people_with(study.corpus, "test"))
    states = user_states(study.model, asked, prefix)
    ranks = held_out_ranks(study.model, asked, prefix)
    row = hits(ranks, study.seed)
    if before is not None:
        row |= kept(popularity_ranks(asked), before, ranks, study.seed, "P5")
    return row | attacks.row(asked, states), states, ranks


def circumstances(corpus: Corpus, tasks: list[str], attacks: Attacks) -> dict:
    """What results.json says whatever the prompts are: sizes, popularity's Hit@k, the ceilings.

    "tested" says of each attribute how many people's label is attacked, "held out" of which attributes
    the adversary had not seen these.
    """
    users = people_with(corpus, "test")
    asked = {task: Asked(corpus, task, "test", users) for task in tasks}
    counts = {t: [len(a.candidates(user)) for user in users] for t, a in asked.items()}
    popular = {t: hits(popularity_ranks(a), attacks.seed) for t, a in asked.items()}
    tested = {k: users[attacks.tested(k, asked[tasks[0]])] for k in attacks.held_out}
    return {
        "tasks": tasks,
        "users": len(users),
        "candidates": {task: [min(counts[task]), max(counts[task])] for task in tasks},
        "prompt candidates": corpus.prompt_candidates,
        "popularity": popular,
        "tested": {k: len(people) for k, people in tested.items()},
        "held out": [k for k, people in tested.items() if attacks.held_out[k][people].any()],
        "ceiling": attacks.row(asked[tasks[0]], raw_history(corpus))["attackers"],
        "shuffles": shuffles_of(len(users)),
    }


def before_and_after(
    study: Study, prefix: Prefix, discriminator: Discriminator | None, attacks: Attacks
) -> dict:
    """What results.json says of a run with one attribute: the test items are looked at here, once.

    `discriminator` is None where it was no classifier.
    """
    (attr,), corpus = attacks.held_out, study.corpus
    results = circumstances(corpus, study.tasks, attacks)
    results |= {"before": {}, "after": {}, "floor": {}, "co-trained auc": {}}
    for t, task in enumerate(study.tasks):
        asked, ranks = Asked(corpus, task, "test", people_with(corpus, "test")), None
        for when, read_through in ("before", None), ("after", prefix):
            results[when][task], states, ranks = measure(study, task, read_through, attacks, ranks)
        results["floor"][task] = attacks.floors(asked, states)
        if discriminator is not None:
            found = co_trained_auc(discriminator, states, asked.labels(attr), t)
            results["co-trained auc"][task] = {attr: found}
    return results


class Combined(NamedTuple):
    """A way to hide some attributes together."""

    attrs: tuple[str, ...]
    how: str  # "mixer", "concatenation" or "from scratch"
    seconds: float  # of training beyond the single attributes' prompts; of a single one, its own
    prefix: Prefix


def combinations(study: Study, ways: list[Combined], attacks: Attacks, results: dict) -> None:
    """Add to `results` what results.json says of a run with several attributes, all attacked behind
    every prefix; what is there, from before the run was interrupted, is not measured again.
    """
    corpus, before = study.corpus, {}  # ranks without a prefix, which no file has
    asked = {t: Asked(corpus, t, "test", people_with(corpus, "test")) for t in study.tasks}
    if "ways" not in results:
        found = circumstances(corpus, study.tasks, attacks) | {"before": {}, "floor": {}}
        for task in study.tasks:
            found["before"][task], states, before[task] = measure(study, task, None, attacks)
            found["floor"][task] = attacks.floors(asked[task], states)
        results |= found | {"ways": []}
        study.run.keep(results)
    for task in set(study.tasks) - set(before):  # that row was measured before an interruption
        before[task] = held_out_ranks(study.model, asked[task])
    done = len(results["ways"])
    for number, (hidden, how, seconds, prefix) in enumerate(ways[done:], done + 1):
        study.run.say(f"measuring {number} of {len(ways)}: {', '.join(hidden)}, {how}")
        row = {t: measure(study, t, prefix, attacks, before[t])[0] for t in study.tasks}
        results["ways"].append({"attrs": list(hidden), "how": how, "seconds": seconds, **row})
        study.run.keep(results)


def co_trained_auc(
    discriminator: Discriminator, states: np.ndarray, labels: np.ndarray, task: int
) -> float:
    """AUC of the training adversary itself on user states (users, d): the optimistic figure.

    It was trained together with the prefix, which learnt to hide from just this one, and it has
    seen these users' labels. Its score is the mean log-probability over its members.
    """
    user_bd = torch.from_numpy(states).to(next(discriminator.parameters()).device)
    discriminator.eval()
    with torch.no_grad():  # those of all readings are asked and this task's are heard
        everything = discriminator(user_bd.expand(discriminator.n_readings, -1, -1))
    members = [logits_rbc[task].log_softmax(-1) for logits_rbc in everything]
    scores, labelled = torch.stack(members).mean(0).cpu().numpy(), labels >= 0
    return float(macro_auc(scores[labelled], labels[labelled])[0])


def example(study: Study, prefix: Prefix) -> str:
    """One user's test prompt and what the model writes in answer, without and with the prefix."""
    corpus, model, user = study.corpus, study.model, people_with(study.corpus, "test")[0]
    asked = Asked(corpus, study.tasks[0], "test", np.array([user])).example(user)
    batch = collate(corpus, [asked], study.device)
    title = dict(zip(map(str, corpus.numbers), corpus.dataset.titles))
    lines = [corpus.tokenizer.decode(asked.input_ids)]
    for name, read_through in ("P5", None), ("P5 + CFP", prefix):
        ids = generate(model, batch.input_ids, batch.mask, read_through)[0].tolist()
        text = " ".join(corpus.tokenizer.decode(ids).split())  # it may write several lines
        lines.append(f"  {name:<12}{text} {title.get(text, '(no item has this number)')}")
    return "\n".join(lines)


if __name__ == "__main__":
    run_command(lambda: run_module("audit.command"))
