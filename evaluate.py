"""How good the recommendations of a run are, and what a fresh attacker still reads about the people.

    python evaluate.py --run runs/toy-gender-seed0 --audit [--plot]

`before_and_after` and `table` are what every training ends with; the audit is in `audit.py`, the attackers
in `attack.py`, Hit@k in `ranks.py`.
"""

import argparse
import importlib.util
import json
from pathlib import Path

import numpy as np
import torch

import audit
from answers import generate
from attack import SHUFFLES, attack, floor, macro_auc
from cfp import Discriminator
from data import Corpus, candidates_of, collate, held_out_example, people_with
from files import InputError, run_command, write_atomically
from model import Backbone, Prefix
from p5 import open_run
from ranks import held_out_ranks, hits, popularity_ranks
from surfaces import raw_history, user_states

FEW_SHUFFLES = 5  # behind the floor of a run's own table; the audit has more
MANY_USERS = 10_000  # with whom a single shuffle is no farther from one half than a point


# -------------------------------------------------------------------------------------------------
# The table that a run ends with
# -------------------------------------------------------------------------------------------------


def before_and_after(
    model: Backbone,
    corpus: Corpus,
    tasks: list[str],
    attr: str,
    prefix: Prefix,
    discriminator: Discriminator,
    held_out: np.ndarray,
    seed: int,
) -> dict:
    """What results.json says of a run: the test items are looked at here, once.

    `held_out` (users,) is True where the adversary was not told the label. Where it is so for
    any person, attackers are also trained and tested among these people alone, and among the others.
    """
    users = people_with(corpus, "test")
    popularity = {task: popularity_ranks(corpus, task, "test", users) for task in tasks}
    counts = {t: [len(candidates_of(corpus, t, user, "test")) for user in users] for t in tasks}
    results = {
        "tasks": tasks,
        "users": len(users),
        "candidates": {task: [min(counts[task]), max(counts[task])] for task in tasks},
        "prompt candidates": corpus.prompt_candidates,
        "popularity": {task: hits(ranks, seed) for task, ranks in popularity.items()},
        "before": {},
        "after": {},
        "floor": {},
        "ceiling": {},
        "shuffles": FEW_SHUFFLES if len(users) < MANY_USERS else 1,
        "co-trained auc": {},
    }
    labels = corpus.dataset.labels(attr)[users]
    results["ceiling"][attr] = attack(raw_history(corpus), labels, None, seed)
    for t, task in enumerate(tasks):
        for when, given in ("before", None), ("after", prefix):
            states = user_states(model, corpus, task, "test", users, given)
            attacked = attack(states, labels, None, seed)
            results[when][task] = {
                **hits(held_out_ranks(model, corpus, task, "test", users, given), seed),
                "auc": {attr: attacked["auc"][0]},
                "auc interval": {attr: attacked["auc"][1:]},
                "attackers": {attr: attacked},
            }
            if held_out[users].any():
                results[when][task]["auc by group"] = {
                    attr: {
                        name: attack(states[group], labels[group], None, seed)["auc"]
                        for name, group in (
                            ("held out", held_out[users]),
                            ("known", ~held_out[users]),
                        )
                    }
                }
        results["floor"][task] = {attr: floor(states, labels, None, seed, results["shuffles"])}
        results["co-trained auc"][task] = {attr: co_trained_auc(discriminator, states, labels, t)}
    return results


def co_trained_auc(
    discriminator: Discriminator, states: np.ndarray, labels: np.ndarray, task: int
) -> float:
    """AUC of the training adversary itself on user states (users, d): the optimistic figure.

    It was trained together with the prefix, which learnt to hide from just this one, and it has
    seen these users' labels. Its score is the mean log-probability over its members.
    """
    user_bd = torch.from_numpy(states).to(next(discriminator.parameters()).device)
    discriminator.eval()
    with torch.no_grad():
        members = [logits.log_softmax(-1) for logits in discriminator(user_bd, task)]
    return float(macro_auc(torch.stack(members).mean(0).cpu().numpy(), labels)[0])


def table(results: dict) -> str:
    """The table that a run ends with, from what stands in results.json; figures in percent."""
    attr, lines = results["attr"], []

    def cell(value: float, interval: list[float] | None = None) -> str:
        text = f"{100 * value:.1f}"
        return (
            text
            if interval is None
            else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        )

    for task in results["tasks"]:
        fewest, most = results["candidates"][task]
        among = f"{most}" if fewest == most else f"{fewest} to {most}"
        listed = results["prompt candidates"]
        listed = "all of them" if listed else "none of them"
        lines += [
            f"{task} recommendation, {results['users']} users, the test item among {among} candidates"
            + (f", {listed} listed in the prompt (%)" if task == "direct" else " (%)"),
            f"  {'':<12}{'Hit@1':<20}{'Hit@3':<20}{'Hit@10':<20}{attr} AUC of the strongest attacker",
        ]
        for key, name in ("popularity", "popularity"), ("before", "P5"), ("after", "P5 + CFP"):
            row = results[key][task]
            cells = [cell(row[f"hit@{k}"], row[f"hit@{k} interval"]) for k in (1, 3, 10)]
            if "auc" in row:
                attacked = row["attackers"][attr]
                cells.append(
                    f"{cell(row['auc'][attr], row['auc interval'][attr])} {attacked['strongest']}"
                )
            lines.append(f"  {name:<12}{''.join(f'{text:<20}' for text in cells)}".rstrip())
        before, after = results["before"][task], results["after"][task]
        if "auc by group" in after:
            group = lambda row, name: bracket({"auc": row["auc by group"][attr][name]})
            lines.append(
                "  Users whose labels the adversary never saw, attacked apart: AUC "
                f"{cell(*group(before, 'held out'))} -> {cell(*group(after, 'held out'))}; the others: "
                f"{cell(*group(before, 'known'))} -> {cell(*group(after, 'known'))}."
            )
        lines += [
            f"  Hit@10 kept: {cell(after['hit@10'] / max(before['hit@10'], 1e-9))}.  AUC, to compare: "
            f"floor (shuffled labels) 50 +- {100 * results['floor'][task][attr]:.1f}, "
            f"ceiling (raw history) {cell(*bracket(results['ceiling'][attr]))};",
            "  The co-trained discriminator's own AUC, "
            f"{cell(results['co-trained auc'][task][attr])}, is no measure: the prompt learnt to hide from",
            "  just this one (optimistic), and it knew these users' labels (pessimistic).",
            "",
        ]
    lines += [
        "AUC 50 is chance; below 50 is a leak as well. Attackers are fresh: logistic regression and two",
        "MLPs, trained afterwards on some users' token states and tested on others' (five folds); the one",
        "that is best on validation users is shown. Brackets are 95% bootstrap intervals over users; the",
        "floor is how far from 50 this gets on shuffled labels (95% quantile of shuffles: "
        f"{results['shuffles']}).",
    ]
    return "\n".join(lines)


def bracket(attacked: dict) -> tuple[float, list[float]]:
    """(AUC, interval) of what `attack` returns."""
    return attacked["auc"][0], attacked["auc"][1:]


def example(model: Backbone, corpus: Corpus, task: str, prefix: Prefix) -> str:
    """One user's test prompt and what the model writes in answer, without and with the prefix."""
    user = people_with(corpus, "test")[0]
    asked = held_out_example(corpus, task, user, "test")
    batch = collate(corpus, [asked], next(model.parameters()).device)
    title = dict(zip(map(str, corpus.numbers), corpus.dataset.titles))
    lines = [corpus.tokenizer.decode(asked.input_ids)]
    for name, given in ("P5", None), ("P5 + CFP", prefix):
        ids = generate(model, batch.input_ids, batch.mask, given)[0].tolist()
        text = corpus.tokenizer.decode(ids)
        lines.append(f"  {name:<12}{text} {title.get(text, '(no item has this number)')}")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(
        description="Audit a finished run: what do fresh attackers read, on which surface?",
        allow_abbrev=False,
    )
    parser.add_argument("--run", required=True, type=Path, help="folder of a finished run")
    parser.add_argument("--audit", action="store_true", required=True, help="attack every surface")
    parser.add_argument("--attr", help="what to read; else what the run hides")
    parser.add_argument("--seed", type=int, default=0, help="of folds and attackers (0)")
    parser.add_argument(
        "--shuffles",
        type=int,
        choices=range(1, 101),
        metavar="N",
        default=SHUFFLES,
        help=f"of the labels, behind each floor, 1 to 100 ({SHUFFLES})",
    )
    parser.add_argument(
        "--plot", action="store_true", help="draw it too, as audit.png (matplotlib)"
    )
    args = parser.parse_args(argv)
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    opened = open_run(args.run, torch.device("cpu"))
    attr = args.attr or opened.config["attr"]
    opened.corpus.dataset.labels(attr)  # says so where there is no such attribute
    result, picture = audit.audit(opened, attr, args.seed, args.shuffles)
    name = "audit" if attr == opened.config["attr"] else f"audit-{attr}"
    write_atomically(args.run / f"{name}.json", (json.dumps(result, indent=2) + "\n").encode())
    if args.plot:
        audit.plot(result, picture, args.run / f"{name}.png")
    print("\n" + audit.audit_table(result))
    return result


if __name__ == "__main__":
    run_command(main)
