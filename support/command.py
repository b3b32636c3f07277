"""What the command line of `train.py` asks for, read and checked as far as that goes without a model."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import NamedTuple

import torch

from support import processes
from support.backbones import backbone_folder
from support.configs import CFPConfig, LlamaConfig, MixerConfig, P5Config, T5Config, config_from
from support.datasets import Dataset, ToyConfig, files_of, fingerprint, load_dataset
from support.files import InputError, refuse
from support.flags import check_toy_flags, command_to_resume, pick_device, read_attrs, train_args
from support.runs import Run, finished, frozen_in, minutes, noted, place_of, refuse_another
from support.tokens import Tokenizer, tokenizer_in
from support.training import forget
from support.weights import read_config, weights_fingerprint


class Command(NamedTuple):
    """A command line, with what it names."""

    argv: list[str]
    resume: Path | None  # the folder of the interrupted run that goes on
    args: argparse.Namespace
    device: torch.device
    attrs: tuple[str, ...]
    toy: ToyConfig
    dataset: Dataset
    folder: Path | None  # of the backbone's weights; None for one from scratch
    kind: str  # of the backbone: "tiny", "tiny-llama", "t5" or "llama", with their relatives
    shape: T5Config | LlamaConfig  # its config, of one from scratch but for its vocabulary

    @property
    def tasks(self) -> list[str]:
        task = self.args.task
        return ["sequential", "direct"] if task == "both" else [task]


def read_command(argv: list[str] | None) -> Command:
    """The flags, the data and the backbone's folder. Raises InputError."""
    argv, resume = command_to_resume(list(sys.argv[1:] if argv is None else argv), "train.py")
    args = train_args(argv)
    device = processes.start(pick_device(args.device))
    if processes.count() > 1 and resume is not None:
        raise InputError("--resume goes on in one process and torchrun begins several; begin anew")
    attrs = read_attrs(args.attr, "--attr")
    toy = ToyConfig(args.toy_users, args.toy_effect, args.toy_twins, attrs[0])
    check_toy_flags(args)
    said = args.classes, args.nouns
    dataset = load_dataset(args.data, args.data_dir, args.seed, toy, *said).about(attrs)
    folder, kind = backbone_folder(args.backbone), args.backbone
    shape = LlamaConfig(1) if kind == "tiny-llama" else T5Config(1)
    if folder is not None:
        shape = config_from(read_config(folder))
        kind = "t5" if isinstance(shape, T5Config) else "llama"
    return Command(argv, resume, args, device, attrs, toy, dataset, folder, kind, shape)


def begin_run(command: Command, p5: P5Config, cfp: CFPConfig, mixer: MixerConfig) -> Run:
    """A run's folder with its config.json, new or the interrupted one."""
    args, attrs = command.args, command.attrs
    name = f"{args.data}-{'+'.join(attrs)}-seed{args.seed}"
    name += "-paper" if args.paper_schedule else ""
    name += "-scores" if cfp.hide_from == "scores" else ""
    name += "-soft" if cfp.discriminator == "soft" else ""
    name += "" if args.backbone == "tiny" else f"-{Path(args.backbone).name}"
    config = common_config(["train.py", *command.argv], args, command.dataset, command.device)
    config |= {
        "toy": dataclasses.asdict(command.toy),
        "attrs": attrs,
        "tasks": command.tasks,
        "processes": processes.count(),
        "backbone": args.backbone,
        "dtype": args.dtype,
        "p5": dataclasses.asdict(p5),
        "cfp": dataclasses.asdict(cfp),
        "mixer": dataclasses.asdict(mixer) if len(attrs) > 1 else None,
    }
    if command.resume is not None:
        return Run.resume(command.resume, config)
    return Run(processes.folder_of(args.out), name, config)


def common_config(
    command: list[str], args: argparse.Namespace, dataset: Dataset, device: torch.device
) -> dict:
    """What config.json says of a run of `train.py` and of one of the baselines alike.

    --classes and, where there are prompts, --nouns only if they were given.
    """
    about_data = {name: getattr(args, name, None) for name in ("classes", "nouns")}
    return {
        "command": [*map(str, command)],
        "data": args.data,
        "data dir": files_of(args.data, args.data_dir),
        "label holdout": args.label_holdout,
        "data fingerprint": fingerprint(dataset),
        "seed": args.seed,
        "device": device.type,
        "torch": torch.__version__,
    } | {name: value for name, value in about_data.items() if value is not None}


class Finished(NamedTuple):
    """What a finished run was about, as far as that is known without a model."""

    config: dict  # its config.json
    configs: tuple[P5Config, CFPConfig, MixerConfig | None]  # None for a single attribute
    dataset: Dataset
    p5_folder: Path
    tokenizer: Tokenizer
    frozen: dict[str, str]  # fingerprints of backbone and tokenizer


def read_finished(folder: Path) -> Finished:
    """A finished run of `train.py`.

    Raises InputError where the folder is no finished run, or its data or its backbone have changed.
    """
    (config, results), where = finished(folder), f"--run {folder}"
    try:  # a field that is not there, or that there is no more
        data_dir = None if config["data dir"] is None else place_of(config["data dir"], folder)
        depths = {"dis_depths": tuple(config["cfp"]["dis_depths"])}
        mixer = None if config["mixer"] is None else MixerConfig(**config["mixer"])
        configs = P5Config(**config["p5"]), CFPConfig(**config["cfp"] | depths), mixer
        toy = ToyConfig(**config["toy"])
    except (KeyError, TypeError) as error:
        refuse(where, f"config.json is of another version ({error!r}); run train.py again")
    said = config.get("classes"), config.get("nouns")
    dataset = load_dataset(config["data"], data_dir, config["seed"], toy, *said)
    if (now := fingerprint(dataset)) != config["data fingerprint"]:
        why = f"its data were {config['data fingerprint']}, {config['data']} is now {now}"
        refuse(where, f"{why}; run train.py again")
    p5_folder = place_of(results["p5 folder"], folder)
    if not p5_folder.is_dir():
        refuse(where, f"its backbone {p5_folder} is missing; run train.py again")
    tokenizer = tokenizer_in(p5_folder)
    frozen = {"backbone": weights_fingerprint(p5_folder), "tokenizer": tokenizer.fingerprint}
    remedy = f"run train.py again, or bring back what was in {p5_folder}"
    refuse_another(where, frozen_in(results), frozen, remedy)
    return Finished(config, configs, dataset.about(config["attrs"]), p5_folder, tokenizer, frozen)


def begin_results(run: Run, p5_folder: Path, tokenizer: str) -> dict:
    """What results.json will hold, as far as it is known when P5 is there; `tokenizer` is a fingerprint.

    Raises InputError where a run that goes on finds another backbone than it had.
    """
    run.frozen = {"backbone": weights_fingerprint(p5_folder), "tokenizer": tokenizer}
    results = {key: run.config[key] for key in ("data", "backbone", "attrs", "seed")}
    results |= {"seconds": None, "p5 folder": noted(p5_folder, run.folder)}
    results |= {"p5 weights": run.frozen["backbone"], "p5 tokenizer": tokenizer}
    results |= {"p5 seconds": run.seconds(), "cfp seconds": {}, "cfp from": {}}
    if so_far := run.so_far():
        refuse_another(f"--resume {run.folder}", frozen_in(so_far), run.frozen, "begin anew")
        results |= so_far
    run.keep(results)
    return results


def end_run(run: Run, results: dict, *texts: str) -> None:
    """Write results.json, remove the checkpoints, print what the run ends with."""
    results["seconds"] = run.seconds()
    run.finish(results)
    forget(run)
    for text in texts:
        run.say("\n" + text)
    run.say(f"\n{minutes(run.seconds())} in all; everything is in {run.folder}")
