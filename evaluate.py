"""How good the recommendations of a run are, and what a fresh attacker still reads about the people.

    python evaluate.py --run runs/toy-gender-seed0 --audit [--plot]
    python evaluate.py --run runs/toy-gender+age-seed0 --user 42 --hide gender,age

`before_and_after` and `table`, or `combinations` and `combinations_table`, are what every training ends
with; the audit is in `audit.py`, one person's view in `person.py`, the attackers in `attack.py`, Hit@k
in `ranks.py`.
"""

import importlib.util
import json
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from attack import SHUFFLES, attack, floor, macro_auc
from audit import person
from audit import report as audit
from audit.surfaces import raw_history, user_states
from cfp import Discriminator
from data import TASKS, Corpus, candidates_of, collate, held_out_example, people_with
from model import Backbone, Prefix
from p5 import open_run, to_hide
from ranks import held_out_ranks, hits, popularity_ranks
from support.candidates import generate
from support.files import InputError, run_command, write_atomically
from support.flags import Parser, at_least
from support.runs import Run

FEW_SHUFFLES = 5  # behind the floor of a run's own table; the audit has more
# With so many a single shuffle has to do: it is within a point of one half, but for classes of a few people
# (up to five points).
MANY_USERS = 10_000


# -------------------------------------------------------------------------------------------------
# The table that a run ends with
# -------------------------------------------------------------------------------------------------


def measure(
    model: Backbone,
    corpus: Corpus,
    task: str,
    attrs: list[str],
    prefix: Prefix | None,
    seed: int,
    held_out: dict[str, np.ndarray],
) -> tuple[dict, np.ndarray]:
    """(a row of results.json, user states (users, d)): the test items of a task through a prefix.

    Hit@k, and of each attribute what the strongest fresh attacker reads in the user-token states.
    `held_out` (users,) of each attribute is True where the adversary was not told the label: attackers
    are then also trained and tested among these people alone, and among the others.
    """
    users = people_with(corpus, "test")
    states = user_states(model, corpus, task, "test", users, prefix)
    row = hits(held_out_ranks(model, corpus, task, "test", users, prefix), seed)
    device = next(model.parameters()).device
    return row | attacked_row(corpus, users, states, attrs, seed, held_out, device), states


def attacked_row(
    corpus: Corpus,
    users: np.ndarray,
    states: np.ndarray,
    attrs: list[str],
    seed: int,
    held_out: dict[str, np.ndarray],
    device: torch.device,
) -> dict:
    """The part of a row of results.json that says what is read in the states (users, d) of these users."""
    row = {"auc": {}, "auc interval": {}, "attackers": {}}
    for attr in attrs:
        labels = corpus.dataset.labels(attr)[users]
        found = attack(states, labels, None, seed, device)
        row["auc"][attr], row["auc interval"][attr] = auc_and_interval(found)
        row["attackers"][attr] = found
        unseen = held_out[attr][users]
        if unseen.any():
            row.setdefault("auc by group", {})[attr] = {
                name: attack(states[some], labels[some], None, seed, device)["auc"]
                for name, some in (("held out", unseen), ("known", ~unseen))
            }
    return row


def circumstances(
    corpus: Corpus, tasks: list[str], attrs: list[str], seed: int, device: torch.device
) -> dict:
    """What results.json says whatever the prompts are: sizes, popularity's Hit@k, the ceilings."""
    users = people_with(corpus, "test")
    popularity = {task: popularity_ranks(corpus, task, "test", users) for task in tasks}
    counts = {t: [len(candidates_of(corpus, t, user, "test")) for user in users] for t in tasks}
    history, labels = raw_history(corpus), corpus.dataset.labels
    ceiling = lambda attr: attack(history, labels(attr)[users], None, seed, device)
    return {
        "tasks": tasks,
        "users": len(users),
        "candidates": {task: [min(counts[task]), max(counts[task])] for task in tasks},
        "prompt candidates": corpus.prompt_candidates,
        "popularity": {task: hits(ranks, seed) for task, ranks in popularity.items()},
        "ceiling": {attr: ceiling(attr) for attr in attrs},
        "shuffles": FEW_SHUFFLES if len(users) < MANY_USERS else 1,
    }


def before_and_after(
    model: Backbone,
    corpus: Corpus,
    tasks: list[str],
    attr: str,
    prefix: Prefix,
    discriminator: Discriminator | None,
    held_out: np.ndarray,
    seed: int,
) -> dict:
    """What results.json says of a run with one attribute: the test items are looked at here, once.

    `discriminator` is None where it was no classifier; `held_out` (users,) is True where the adversary
    was not told the label.
    """
    device = next(model.parameters()).device
    results = circumstances(corpus, tasks, [attr], seed, device)
    results |= {"before": {}, "after": {}, "floor": {}, "co-trained auc": {}}
    users = people_with(corpus, "test")
    labels = corpus.dataset.labels(attr)[users]
    for t, task in enumerate(tasks):
        for when, given in ("before", None), ("after", prefix):
            results[when][task], states = measure(
                model, corpus, task, [attr], given, seed, {attr: held_out}
            )
        chance = floor(states, labels, None, seed, results["shuffles"], device)
        results["floor"][task] = {attr: chance}
        if discriminator is not None:
            found = co_trained_auc(discriminator, states, labels, t)
            results["co-trained auc"][task] = {attr: found}
    return results


class Combined(NamedTuple):
    """A way to hide some attributes together."""

    attrs: tuple[str, ...]
    how: str  # "mixer", "concatenation" or "from scratch"
    seconds: float  # of training beyond the single attributes' prompts; of a single one, its own
    prefix: Prefix


def combinations(
    model: Backbone,
    corpus: Corpus,
    tasks: list[str],
    attrs: list[str],
    ways: list[Combined],
    held_out: dict[str, np.ndarray],
    seed: int,
    results: dict,
    run: Run,
) -> None:
    """Add to `results` what results.json says of a run with several attributes, all attacked behind
    every prefix; what is there, from before the run was interrupted, is not measured again.

    Where people's labels of an attribute were held out, its floor is about these people.
    """
    users, device = people_with(corpus, "test"), next(model.parameters()).device
    if "ways" not in results:
        found = circumstances(corpus, tasks, attrs, seed, device) | {"before": {}, "floor": {}}
        about = {}
        for attr in attrs:
            unseen = held_out[attr][users]
            about[attr] = np.flatnonzero(unseen if unseen.any() else ~unseen)
        found["held out"] = {k: len(about[k]) for k in attrs if held_out[k][users].any()}
        for task in tasks:
            row, states = measure(model, corpus, task, attrs, None, seed, held_out)
            found["before"][task], found["floor"][task] = row, {}
            for attr, rows in about.items():
                labels = corpus.dataset.labels(attr)[users[rows]]
                chance = floor(states[rows], labels, None, seed, found["shuffles"], device)
                found["floor"][task][attr] = chance
        results |= found | {"ways": []}
        run.keep(results)
    done = len(results["ways"])
    for number, (hidden, how, seconds, prefix) in enumerate(ways[done:], done + 1):
        run.say(f"measuring {number} of {len(ways)}: {', '.join(hidden)}, {how}")
        measured = lambda task: measure(model, corpus, task, attrs, prefix, seed, held_out)[0]
        row = {task: measured(task) for task in tasks}
        results["ways"].append({"attrs": list(hidden), "how": how, "seconds": seconds, **row})
        run.keep(results)


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
    return float(macro_auc(torch.stack(members).mean(0).cpu().numpy(), labels)[0])


def table(results: dict) -> str:
    """The table that a run ends with, from what stands in results.json; figures in percent."""
    (attr,), lines = results["attrs"], []

    def cell(value: float, interval: list[float] | None = None) -> str:
        text = f"{100 * value:.1f}"
        return (
            text
            if interval is None
            else f"{text} [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]"
        )

    for task in results["tasks"]:
        among = how_many_candidates(results, task)
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
            group = lambda row, name: auc_and_interval({"auc": row["auc by group"][attr][name]})
            lines.append(
                "  Users whose labels the adversary never saw, attacked apart: AUC "
                f"{cell(*group(before, 'held out'))} -> {cell(*group(after, 'held out'))}; the others: "
                f"{cell(*group(before, 'known'))} -> {cell(*group(after, 'known'))}."
            )
        lines += [
            f"  Hit@10 kept: {cell(after['hit@10'] / max(before['hit@10'], 1e-9))}.  AUC, to compare: "
            f"floor (shuffled labels) 50 +- {100 * results['floor'][task][attr]:.1f}, "
            f"ceiling (raw history) {cell(*auc_and_interval(results['ceiling'][attr]))};",
        ]
        if task in results["co-trained auc"]:
            knew = "learnt from" if "auc by group" in after else "knew the labels of"
            lines += [
                "  The co-trained discriminator's own AUC, "
                f"{cell(results['co-trained auc'][task][attr])}, is no measure: the prompt learnt to hide",
                f"  from just this one (optimistic), and it {knew} these users (pessimistic).",
            ]
        lines.append("")
    lines += [
        "AUC 50 is chance; below 50 is a leak as well. Attackers are fresh: logistic regression and two",
        "MLPs, trained afterwards on some users' token states and tested on others' (five folds); the one",
        "that is best on validation users is shown. Brackets are 95% bootstrap intervals over users; the",
        "floor is how far from 50 this gets on shuffled labels (95% quantile of shuffles: "
        f"{results['shuffles']}).",
    ]
    return "\n".join(lines)


def combinations_table(results: dict) -> str:
    """The table that a run with several attributes ends with; figures in percent."""
    attrs, lines = list(results["ceiling"]), []
    width = max(map(len, ["nothing", *(", ".join(way["attrs"]) for way in results["ways"])])) + 2
    cell = lambda value, interval: "{:.1f} [{:.0f}, {:.0f}]".format(
        *(100 * number for number in (value, *interval))
    )
    for task in results["tasks"]:
        before, popular = results["before"][task], results["popularity"][task]
        among = how_many_candidates(results, task)
        lines += [
            f"{task} recommendation, {results['users']} users, the test item among {among} candidates (%)",
            f"  {'hidden':<{width}}{'by':<15}{'Hit@1':<7}{'Hit@3':<7}{'Hit@10':<15}{'kept':<6}"
            + "".join(f"{attr + ' AUC':<16}" for attr in attrs)
            + f"{'mean':<6}seconds",
            f"  {'(popularity)':<{width + 15}}" + hit_cells(popular),
            f"  {'nothing':<{width}}{'P5':<15}{hit_cells(before)}{'':<6}"
            + "".join(f"{cell(*shown(before, k)):<16}" for k in attrs),
        ]
        for way in results["ways"]:
            row, hidden = way[task], way["attrs"]
            kept = row["hit@10"] / max(before["hit@10"], 1e-9)
            aucs = [cell(*shown(row, k)) + ("*" if k in hidden else "") for k in attrs]
            lines.append(
                f"  {', '.join(hidden):<{width}}{way['how']:<15}{hit_cells(row)}{100 * kept:<6.0f}"
                + "".join(f"{auc:<16}" for auc in aucs)
                + f"{100 * mean_leak(row, hidden):<6.1f}{way['seconds']:.0f}"
            )
        chance = [f"50 +- {100 * results['floor'][task][k]:.1f}" for k in attrs]
        ceiling = [cell(*auc_and_interval(results["ceiling"][k])) for k in attrs]
        for name, cells in ("shuffled labels", chance), ("raw history", ceiling):
            lines.append(f"  {name:<{width + 50}}" + "".join(f"{c:<16}" for c in cells).rstrip())
        lines.append("")
    lines += [
        "AUC of the strongest fresh attacker on the user tokens, as at the end of a run with one attribute;",
        "50 is chance, * is to be hidden. Mean: 50 and the mean distance from 50 of what is to be hidden.",
        "A prompt that is chosen alone passes the mixer unchanged. Seconds of training: of a single prompt,",
        "of one mixer for all combinations, of a prompt of its own for each. Brackets are 95% intervals over",
        f"users; 50 +- is how far from 50 the attack gets on shuffled labels (95% of {results['shuffles']}).",
    ]
    for attr, n in results["held out"].items():
        lines.append(f"The {attr} AUC is about {n} people whose {attr} the adversary never saw.")
    return "\n".join(line.rstrip() for line in lines)


def how_many_candidates(results: dict, task: str) -> str:
    """101, or 17 to 20 where users have fewer negatives than others."""
    fewest, most = results["candidates"][task]
    return f"{most}" if fewest == most else f"{fewest} to {most}"


def hit_cells(row: dict) -> str:
    """Hit@1, Hit@3 and Hit@10, the last with its interval, as columns of `combinations_table`."""
    low, high = (100 * number for number in row["hit@10 interval"])
    return "{:<7.1f}{:<7.1f}{:<15}".format(
        100 * row["hit@1"], 100 * row["hit@3"], f"{100 * row['hit@10']:.1f} [{low:.0f}, {high:.0f}]"
    )


def mean_leak(row: dict, hidden: list[str]) -> float:
    """One half and the mean distance from it of the hidden attributes' AUC: 45 does not make up for 55."""
    return 0.5 + float(np.mean([abs(shown(row, attr)[0] - 0.5) for attr in hidden]))


def shown(row: dict, attr: str) -> tuple[float, list[float]]:
    """(AUC, interval) of a row: among people whose label the adversary never saw, where there are any."""
    if attr in row.get("auc by group", {}):
        value, *interval = row["auc by group"][attr]["held out"]
        return value, interval
    return row["auc"][attr], row["auc interval"][attr]


def auc_and_interval(attacked: dict) -> tuple[float, list[float]]:
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
    parser = Parser(
        description="Audit a finished run: what do fresh attackers read, on which surface? Or look at "
        "the list of one user, without and with attributes hidden.",
    )
    add = parser.add_argument
    add("--run", required=True, type=Path, help="folder of a finished run")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--audit", action="store_true", help="attack every surface")
    what.add_argument(
        "--user", help="the list of this user, by the data's own id, beside the fair one"
    )
    add("--hide", help="what to hide, such as gender,age, or none; else all that the run can")
    add("--seed", type=at_least(0), default=0, help="of folds and attackers (0)")
    group = parser.add_argument_group("with --audit")
    group.add_argument("--attr", help="what to read; else what the run hides")
    group.add_argument(
        "--shuffles",
        type=int,
        choices=range(1, 101),
        metavar="N",
        help=f"of the labels, behind each floor, 1 to 100 ({SHUFFLES})",
    )
    group.add_argument("--plot", action="store_true", help="draw it too, as audit.png (matplotlib)")
    group = parser.add_argument_group("with --user")
    group.add_argument(
        "--top", type=int, choices=range(1, 101), metavar="N", help="items listed (10)"
    )
    group.add_argument("--task", choices=TASKS, help="whose prompt is asked (the run's first)")
    args = parser.parse_args(argv)
    for flag in ("attr", "shuffles", "plot") if args.user is not None else ("top", "task"):
        if getattr(args, flag):
            other = "--audit" if args.user is not None else "--user"
            raise InputError(f"--{flag} belongs to {other}; leave it out")
    if args.plot and importlib.util.find_spec("matplotlib") is None:
        raise InputError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    opened = open_run(args.run, torch.device("cpu"))
    hide = tuple(opened.prefixes) if args.hide is None else to_hide(args.hide, opened)
    if args.user is not None:
        task = args.task or opened.config["tasks"][0]
        found = person.compare(opened, args.user, hide, task, args.top or 10, args.seed)
        print(person.comparison(found))
        return found
    if args.attr is None and len(opened.prefixes) > 1:
        raise InputError(
            f"--audit: {args.run} hides {', '.join(opened.prefixes)}; name the one to read with --attr"
        )
    attr = args.attr or next(iter(opened.prefixes))
    opened.corpus.dataset.labels(attr)  # says so where there is no such attribute
    if not hide:
        raise InputError("--hide none: an audit compares a prompt with none; name what to hide")
    shuffles = args.shuffles or SHUFFLES
    result, picture = audit.audit(opened, attr, hide, args.seed, shuffles)
    name = "audit" + ("" if hide == (attr,) else f"-{attr}-hiding-{'+'.join(hide)}")
    write_atomically(args.run / f"{name}.json", (json.dumps(result, indent=2) + "\n").encode())
    if args.plot:
        audit.plot(result, picture, args.run / f"{name}.png")
    print("\n" + audit.audit_table(result))
    return result


if __name__ == "__main__":
    run_command(main)
