"""The command behind `python evaluate.py`: audit a finished run, or look at one person's lists."""

from pathlib import Path

import torch

from audit import person, report
from data import TASKS
from mixer import open_run
from probe import SHUFFLES
from support.files import InputError, can_draw, refuse, run_command, show, try_folder
from support.flags import Parser, at_least, to_hide
from support.runs import write_json


def main(argv: list[str] | None = None) -> dict | person.Compared:
    text = "Audit a finished run: what do fresh attackers read, on which surface? Or look at the list of "
    parser = Parser(f"{text}one user, without and with attributes hidden.")
    add = parser.add_argument
    add("--run", required=True, type=Path, help="folder of a finished run")
    either = parser.add_mutually_exclusive_group(required=True).add_argument
    either("--audit", action="store_true", help="attack every surface")
    either("--user", help="the list of this user, by the data's own id, beside the fair one")
    add("--hide", help="what to hide, such as gender,age, or none; else all that the run can")
    add("--seed", type=at_least(0), default=0, help="of folds and attackers (0)")
    number = dict(type=int, choices=range(1, 101), metavar="N")
    add = parser.add_argument_group("with --audit").add_argument
    add("--attr", help="what to read; else what the run hides")
    add("--shuffles", help=f"of the labels, behind each floor, 1 to 100 ({SHUFFLES})", **number)
    add("--plot", action="store_true", help="draw it too, as audit.png (matplotlib)")
    add = parser.add_argument_group("with --user").add_argument
    add("--top", help="items listed (10)", **number)
    add("--task", choices=TASKS, help="whose prompt is asked (the run's first)")
    args = parser.parse_args(argv)
    of_audit, of_user = ("--audit", ("attr", "shuffles", "plot")), ("--user", ("top", "task"))
    other, flags = of_user if args.user is None else of_audit
    for flag in flags:
        if getattr(args, flag):
            raise InputError(f"--{flag} belongs to {other}; leave it out")
    if args.plot and not can_draw():
        raise InputError("--plot needs matplotlib, which is not installed: pip install matplotlib")
    opened = open_run(args.run, torch.device("cpu"))
    hide = tuple(opened.prefixes) if args.hide is None else to_hide(args.hide, opened)
    if args.user is not None:
        tasks = opened.config["tasks"]
        task = args.task or tasks[0]
        if task not in tasks:
            refuse(f"--task {task}", f"P5 of {args.run} is for {tasks[0]} alone; leave it out")
        found = person.compare(opened, args.user, hide, task, args.top or 10, args.seed)
        show(person.comparison(found))
        return found
    if args.attr is None and len(opened.prefixes) > 1:
        hidden = f"{args.run} hides {', '.join(opened.prefixes)}"
        refuse("--audit", f"{hidden}; name the one to read with --attr")
    attr = args.attr or next(iter(opened.prefixes))
    if not hide:
        raise InputError("--hide none: an audit compares a prompt with none; name what to hide")
    try_folder(args.run)
    shuffles = args.shuffles or SHUFFLES
    result, picture = report.audit(opened, attr, hide, args.seed, shuffles)
    name = "audit" + ("" if hide == (attr,) else f"-{attr}-hiding-{'+'.join(hide)}")
    write_json(args.run / f"{name}.json", result)
    if args.plot:
        report.plot(result, picture, args.run / f"{name}.png")
    show("\n" + report.audit_table(result))
    return result


if __name__ == "__main__":
    run_command(main)
