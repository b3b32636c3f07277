"""What several tests use: a small world, a small random backbone, a miniature of each data set."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent.parent))

from two_at_once import pytest_runtestloop  # noqa: F401  both cores are at work

from data import TASKS, P5Config, make_corpus, train_tokenizer
from model import T5, Llama, LlamaConfig, Prefix, T5Config
from support import datasets, training
from support.backbones import init_from_scratch
from support.tokens import Tokenizer


@pytest.fixture(scope="session")
def dataset():
    return datasets.load_toy(3, datasets.ToyConfig(users=60))


@pytest.fixture(scope="session")
def corpus(dataset):
    return make_corpus(dataset, tokenizer_for(dataset), P5Config(), seed=3)


@pytest.fixture()
def model(corpus):
    return random_t5(corpus.tokenizer.vocab_size).requires_grad_(False).eval()


def tokenizer_for(dataset, begins: bool = False) -> Tokenizer:
    sizes = len(dataset.users), len(dataset.titles), dataset.nouns
    return Tokenizer(train_tokenizer(*sizes, begins))


def random_t5(vocab_size: int, seed: int = 0, **more) -> T5:
    model = T5(T5Config(vocab_size=vocab_size, **more))
    init_from_scratch(model, torch.Generator().manual_seed(seed))
    return model


def random_llama(vocab_size: int, seed: int = 0, **more) -> Llama:
    model = Llama(LlamaConfig(vocab_size=vocab_size, **more))
    init_from_scratch(model, torch.Generator().manual_seed(seed))
    return model


@pytest.fixture()
def no_checkpoints(monkeypatch):
    """For runs that have no folder: on a machine with much else to do a short training takes a minute too."""
    monkeypatch.setattr(training, "EVERY", math.inf)


@pytest.fixture()
def rng():
    return np.random.default_rng(0)


ML1M = {
    "users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n3::M::25::15::55117\n",
    "movies.dat": "10::Toy Story (1995)::Animation|Comedy\n20::Café (1995)::Drama\n"
    "30::Heat (1995)::Action\n40::Sabrina (1995)::Comedy\n50::Nobody's (1990)::Drama\n",
    "ratings.dat": "1::40::5::900\n1::30::4::500\n1::20::3::500\n1::10::1::100\n"
    "2::10::5::7\n2::20::5::8\n2::30::5::9\n3::30::2::1\n3::10::2::2\n",
}
ML100K = {
    "u.user": "1|24|M|technician|85711\n2|53|F|other|94043\n3|13|M|writer|32067\n",
    "u.item": "".join(
        f"{i}|Film {i} (1990)|01-Jan-1990||http://x|"
        + "|".join("01"[g == i] for g in range(19))
        + "\n"
        for i in (1, 2, 3, 4)
    ),
    "u.data": "1\t1\t5\t10\n1\t2\t4\t20\n1\t3\t1\t30\n2\t2\t3\t5\n"
    "2\t1\t3\t6\n3\t4\t2\t2\n3\t1\t2\t9\n3\t2\t2\t9\n",
}
PRODUCTS = "P5DA,RIBP,8NN1,7POT"
INSURANCE = {
    "Train.csv": "ID,join_date,sex,marital_status,birth_year,branch_code,occupation_code,"
    f"occupation_category_code,{PRODUCTS}\n"
    "A1,1/2/2019,F,M,1987,X,Y,T4MS,1,1,0,1\nB2,1/6/2019,M,S,1950,X,Y,90QI,1,0,1,0\n"
    "C3,,M,f,1991,X,Y,T4MS,1,1,0,0\nD4,1/6/2019,M,P,2001,X,Y,AHH5,0,1,0,1\n"
}
RECBOLE = {
    "mini.user": "user_id:token\tage:token\tgender:token\tcountry:token\n"
    "u1\t24\tF\tDE\nu2\t30\tM\tFR\nu3\t41\tF\tDE\n",
    "mini.item": "item_id:token\tmovie_title:token_seq\tclass:token_seq\ni1\tFirst Film\tDrama War\n"
    "i2\tSecond\tDrama\ni3\tThird\tWar\n",
    "mini.inter": "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
    "u1\ti2\t5\t30\nu1\ti1\t5\t10\nu1\ti3\t5\t20\nu2\ti1\t1\t1\nu2\ti2\t1\t2\nu3\ti3\t1\t5\nu3\ti3\t2\t6\n",
}
MINIATURES = {"ml-1m": ML1M, "ml-100k": ML100K, "insurance": INSURANCE, "mini": RECBOLE}


def write_miniature(folder: Path, name: str, files: list[str] | None = None) -> Path:
    """The files of that miniature, or some of them."""
    encoding = "latin-1" if name.startswith("ml") else "utf-8"
    for file in files or MINIATURES[name]:
        (folder / file).write_text(MINIATURES[name][file], encoding=encoding)
    return folder


@pytest.fixture(params=MINIATURES)
def miniature(request, tmp_path):
    """(name, folder) of each data set's hand-written miniature."""
    return request.param, write_miniature(tmp_path, request.param)


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


def random_prefix(cfg, length: int, batch: int = 1, seed: int = 2) -> Prefix:
    g = torch.Generator().manual_seed(seed)
    stacks = {
        name: torch.randn(n_layers, 2, batch, n_heads, length, width, generator=g)
        for name, (n_layers, n_heads, width) in cfg.prefix_shapes.items()
    }
    return Prefix(stacks.get("encoder"), stacks["decoder"])


def some_without_gender(folder, n_people=80, n_without=9) -> None:
    """A data set "shop" of people who met fourteen of thirty items; of the first ones no gender is known."""
    rng, people, met = np.random.default_rng(0), [], []
    for user in range(n_people):
        people.append(
            f"u{user}\t{'' if user < n_without else 'FM'[user % 2]}\t{20 + user % 40}\t\n"
        )
        items = rng.permutation(30)[:14]
        met += [f"u{user}\ti{item}\t{when}\n" for when, item in enumerate(items)]
    head = "user_id:token\tgender:token\tage:token\theight:float\n"
    (folder / "shop.user").write_text(head + "".join(people))
    head = "user_id:token\titem_id:token\ttimestamp:float\n"
    (folder / "shop.inter").write_text(head + "".join(met))
