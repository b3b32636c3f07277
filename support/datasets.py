"""The data sets: who interacted with what in which order, and what is known about the people.

The toy world, MovieLens-1M, MovieLens-100K, Insurance and any data set in RecBole's atomic files,
each read by one function that checks every line and says which file and line is wrong and what to
do.
"""

import hashlib
import io
import os
import shutil
import tempfile
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Iterator, NamedTuple

import numpy as np
import torch

from support import toy
from support.files import InputError, enough_memory

ML1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # published beside the file
ML1M_FILES = "users.dat", "movies.dat", "ratings.dat"
AGES = ["under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+"]  # MovieLens-1M's classes
AGE_STARTS = [0, 18, 25, 35, 45, 50, 56]  # years
OCCUPATIONS = [  # MovieLens-1M's README, in the order of its codes 0 .. 20
    "other",
    "academic/educator",
    "artist",
    "clerical/admin",
    "college/grad student",
    "customer service",
    "doctor/health care",
    "executive/managerial",
    "farmer",
    "homemaker",
    "K-12 student",
    "lawyer",
    "programmer",
    "retired",
    "sales/marketing",
    "scientist",
    "self-employed",
    "technician/engineer",
    "tradesman/craftsman",
    "unemployed",
    "writer",
]


class Copies(NamedTuple):
    """Registered users of the toy world who are copies of its first people (see `toy.with_copies`)."""

    attr: str  # what a twin differs in
    twins: np.ndarray  # (n,) the user who is the twin of person 0 .. n-1
    placebos: np.ndarray  # (n,) the user who is the placebo
    coding: (
        np.ndarray
    )  # (n, items) how much an item speaks for the twin's class against the person's


@dataclass(frozen=True)
class ToyConfig:
    """What the toy world is like."""

    users: int = 1200  # people
    effect: float = 1.0  # of the attributes on what is watched; 0 for none
    twins: int = 0  # people who get a twin and a placebo, registered like everybody else
    twins_in: str = "gender"  # the attribute in which a twin differs


@dataclass(frozen=True)
class Dataset:
    """Users with attributes, items with titles, and who interacted with what in which order."""

    name: str
    users: list[str]  # the source's own ids
    attributes: dict[str, np.ndarray]  # class of each user, (users,)
    classes: dict[str, list[str]]  # what each class is called
    titles: list[str]
    genres: list[str]  # names joined by "|", "" where unknown
    histories: list[np.ndarray]  # item indices, oldest first
    nouns: tuple[str, str, str] = ("movies", "movie", "watched")  # for the prompts
    notes: list[str] = field(default_factory=list)  # what was left out and how often
    copies: Copies | None = None

    @property
    def is_person(self) -> np.ndarray:
        """(users,) False for the copies, whom the recommender knows and nobody is measured on."""
        person = np.ones(len(self.users), dtype=bool)
        if self.copies is not None:
            person[self.copies.twins] = person[self.copies.placebos] = False
        return person

    def labels(self, attr: str) -> np.ndarray:
        """Class of each user (users,). Raises InputError for an attribute that is not there."""
        if attr not in self.attributes:
            known = ", ".join(self.attributes)
            raise InputError(
                f"--attr {attr}: {self.name} has no such attribute; choose from {known}"
            )
        counts = np.bincount(self.attributes[attr], minlength=len(self.classes[attr]))
        if (counts > 0).sum() < 2:
            raise InputError(
                f"--attr {attr}: all {counts.sum()} users of {self.name} are in one class "
                f"({self.classes[attr][counts.argmax()]}), so nothing can leak; "
                "choose another attribute"
            )
        if (counts >= 5).sum() < 2:
            raise InputError(
                f"--attr {attr}: fewer than two classes of {self.name} have the 5 users that an attack "
                "in five folds needs; choose another attribute"
            )
        return self.attributes[attr]


def load_dataset(
    name: str, folder: Path | None = None, seed: int = 0, toy_cfg: ToyConfig = ToyConfig()
) -> Dataset:
    """The data set called `name`: toy, ml-1m, ml-100k, insurance, or NAME for NAME.inter in `folder`.

    `seed` and `toy_cfg` matter to the toy world only. Without a folder, MovieLens-1M is
    downloaded into data/ml-1m. Raises InputError naming file and line.
    """
    if name == "toy":
        return load_toy(seed, toy_cfg)
    if name == "ml-1m":
        return load_ml1m(folder if folder is not None else download_ml1m(Path("data/ml-1m")))
    if folder is None:
        raise InputError(f"--data {name} needs --data-dir, the folder with its files")
    if not Path(folder).is_dir():
        raise InputError(f"--data-dir {folder}: there is no such folder; correct it")
    if name == "ml-100k":
        return load_ml100k(folder)
    if name == "insurance":
        return load_insurance(folder)
    return load_recbole(name, folder)


def load_toy(seed: int, cfg: ToyConfig = ToyConfig()) -> Dataset:
    """The embedded world of `toy.py` with its users' factual histories.

    Raises InputError for more twins than people and for twins in an attribute that is not there.
    """
    if cfg.twins > cfg.users:
        raise InputError(
            f"--toy-twins {cfg.twins}: there are {cfg.users} people to copy; choose fewer or more "
            "--toy-users"
        )
    enough_memory(
        f"a toy world of {cfg.users} users",
        8000
        * (cfg.users + 2 * cfg.twins),  # as measured: scores and noise of 96 movies, a generator
        torch.device("cpu"),
        "choose a smaller --toy-users",
    )
    world, copies = toy.make_world(seed, cfg.users, cfg.effect), None
    if cfg.twins:
        if cfg.twins_in not in world.attributes:
            known = ", ".join(world.attributes)
            raise InputError(
                f"--attr {cfg.twins_in}: toy has no such attribute; choose from {known}"
            )
        world = toy.with_copies(world, cfg.twins_in, cfg.twins, seed)
        twins = cfg.users + np.arange(cfg.twins)
        classes = world.attributes[cfg.twins_in]
        coding = toy.coding(world, cfg.twins_in, classes[: cfg.twins], classes[twins])
        copies = Copies(cfg.twins_in, twins, twins + cfg.twins, coding)
    return Dataset(
        name="toy",
        users=[str(u + 1) for u in range(len(world.lengths))],
        attributes=world.attributes,
        classes={"gender": ["F", "M"], "age": AGES, "occupation": OCCUPATIONS},
        titles=world.titles,
        genres=[toy.GENRES[g] for g in world.genre],
        histories=toy.watch(world),
        copies=copies,
    )


def read_rows(
    path: Path,
    separator: str,
    columns: tuple[str, ...],
    encoding: str = "utf-8",
    at_least: bool = False,
) -> Iterator[tuple[str, list[str]]]:
    """Each line of a table as ("file:line", its fields); `columns` says how many there must be.

    With `at_least` there may be more. Empty lines are refused like any other line of a wrong width.
    """
    path = Path(path)
    try:
        file = path.open(encoding=encoding, newline="")
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "is missing" if missing else f"cannot be read: {error.strerror}"
        raise InputError(f"{path} {why}; put it there or correct --data-dir") from None
    with file:
        lines = enumerate(file, start=1)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except UnicodeDecodeError as error:
                raise InputError(f"{path}: not {encoding} text ({error}); copy it again") from None
            if number == 1:
                # the mark that some editors put in front of UTF-8, also as Latin-1 reads it
                line = line.removeprefix("\ufeff").removeprefix("\xef\xbb\xbf")
            where, row = f"{path}:{number}", line.rstrip("\r\n").split(separator)
            if len(row) != len(columns) and not (at_least and len(row) > len(columns)):
                raise InputError(
                    f"{where}: {len(row)} columns where {separator.join(columns)} has {len(columns)}; "
                    "mend the line or copy the file again"
                )
            yield where, row


def whole(where: str, what: str, text: str, low: int = 0, high: int = 2**53) -> int:
    """`text` as a whole number in [low, high]; InputError at `where` otherwise."""
    try:
        # int() alone would take 1_0, +1 and the digits of other scripts as well
        if text.isascii() and text.isdecimal() and low <= int(text) <= high:
            return int(text)
    except ValueError:  # thousands of digits
        pass
    raise InputError(
        f"{where}: {what} is {text[:40]!r}, not a whole number in {low}..{high}; mend it"
    )


def index_of(where: str, what: str, value: str, known: dict[str, int]) -> int:
    """Position of a value in a closed list; InputError at `where` otherwise."""
    if value not in known:
        some = ", ".join(name[:40] for name in list(known)[:8])
        some += ", .." if len(known) > 8 else ""
        raise InputError(f"{where}: {what} {value[:40]!r} is unknown, known are {some}; mend it")
    return known[value]


def add_once(where: str, what: str, value: str, known: dict[str, int]) -> None:
    """Give a new id the next index; InputError at `where` if it stands there already."""
    if value in known:
        raise InputError(f"{where}: {what} {value[:40]!r} stands in the file twice; remove one")
    known[value] = len(known)


def build(
    path: Path,
    name: str,
    users: dict[str, int],
    items: dict[str, int],
    labels: dict[str, list[int]],
    classes: dict[str, list[str]],
    titles: list[str],
    genres: list[str],
    interactions: list[tuple[int, int, float]],
    **more,
) -> Dataset:
    """A Dataset from (user, item, time) triples in the order of the file at `path`.

    Interactions are ordered by time with a stable sort: those of one user at the same second
    (about half of MovieLens-1M's) stay in the order of the file, never in the order of the item
    ids. Users without an interaction, items without one and repeats of the same user and item are
    left out and counted.
    """
    if not interactions:
        raise InputError(f"{path}: no interactions in it; copy it again")
    user, item = (np.array([row[axis] for row in interactions], dtype=np.int64) for axis in (0, 1))
    order = np.lexsort((np.array([row[2] for row in interactions]), user))  # lexsort is stable
    user, item = user[order], item[order]
    first = np.zeros(len(user), dtype=bool)
    first[np.unique(user * len(items) + item, return_index=True)[1]] = True
    notes = list(more.pop("notes", []))
    if not first.all():
        notes.append(f"{(~first).sum()} repeated interactions left out, the first of each is kept")
    user, item = user[first], item[first]
    kept_users, user = np.unique(user, return_inverse=True)
    kept_items, item = np.unique(item, return_inverse=True)
    for kind, known, kept in (("users", users, kept_users), ("items", items, kept_items)):
        if len(kept) < len(known):
            notes.append(f"{len(known) - len(kept)} {kind} without any interaction left out")
    user_ids = list(users)
    return Dataset(
        name=name,
        users=[user_ids[u] for u in kept_users],
        attributes={attr: np.array(values)[kept_users] for attr, values in labels.items()},
        classes=classes,
        titles=[titles[i] for i in kept_items],
        genres=[genres[i] for i in kept_items],
        histories=np.split(item, np.flatnonzero(np.diff(user)) + 1),
        notes=notes,
        **more,
    )


def load_ml1m(folder: Path) -> Dataset:
    """MovieLens-1M (Harper and Konstan 2015): gender 2, age 7, occupation 21 classes.

    The classes are the file's own codes. Raises InputError naming file and line.
    """
    folder = Path(folder)
    genders, ages = {"F": 0, "M": 1}, {str(a): i for i, a in enumerate([1, 18, 25, 35, 45, 50, 56])}
    users, items, titles, genres, interactions = {}, {}, [], [], []
    labels = {"gender": [], "age": [], "occupation": []}
    columns = ("UserID", "Gender", "Age", "Occupation", "Zip-code")
    for where, row in read_rows(folder / "users.dat", "::", columns, "latin-1"):
        add_once(where, "user", row[0], users)
        labels["gender"].append(index_of(where, "gender", row[1], genders))
        labels["age"].append(index_of(where, "age", row[2], ages))
        labels["occupation"].append(whole(where, "occupation", row[3], 0, 20))
    for where, row in read_rows(
        folder / "movies.dat", "::", ("MovieID", "Title", "Genres"), "latin-1"
    ):
        add_once(where, "movie", row[0], items)
        titles.append(row[1])
        genres.append(row[2])
    path, columns = folder / "ratings.dat", ("UserID", "MovieID", "Rating", "Timestamp")
    for where, row in read_rows(path, "::", columns, "latin-1"):
        user, item = users.get(row[0]), items.get(row[1])
        if user is None or item is None:  # only then the slow functions with the messages
            index_of(where, "user", row[0], users), index_of(where, "movie", row[1], items)
        whole(where, "rating", row[2], 0, 5)
        interactions.append((user, item, whole(where, "timestamp", row[3])))
    classes = {"gender": ["F", "M"], "age": AGES, "occupation": OCCUPATIONS}
    return build(path, "ml-1m", users, items, labels, classes, titles, genres, interactions)


def load_ml100k(folder: Path) -> Dataset:
    """MovieLens-100K: gender 2, age 7, occupation 21 classes.

    Years of age become MovieLens-1M's seven classes; the occupations are u.user's own 21, by
    alphabet. Raises InputError naming file and line.
    """
    folder = Path(folder)
    users, items, titles, genres, interactions = {}, {}, [], [], []
    genders, jobs = {"F": 0, "M": 1}, []
    labels = {"gender": [], "age": []}
    columns = ("user id", "age", "gender", "occupation", "zip code")
    for where, row in read_rows(folder / "u.user", "|", columns, "latin-1"):
        add_once(where, "user", row[0], users)
        labels["age"].append(age_class(whole(where, "age", row[1], 1, 120)))
        labels["gender"].append(index_of(where, "gender", row[2], genders))
        jobs.append(row[3])
    occupations = sorted(set(jobs))
    labels["occupation"] = [occupations.index(job) for job in jobs]
    genre_names = (
        "unknown Action Adventure Animation Children's Comedy Crime Documentary Drama Fantasy "
    )
    genre_names += "Film-Noir Horror Musical Mystery Romance Sci-Fi Thriller War Western"
    columns = ("movie id", "title", "release", "video release", "URL", *genre_names.split())
    for where, row in read_rows(folder / "u.item", "|", columns, "latin-1"):
        add_once(where, "movie", row[0], items)
        titles.append(row[1])
        genres.append("|".join(name for name, flag in zip(columns[5:], row[5:]) if flag == "1"))
    path, columns = folder / "u.data", ("user id", "item id", "rating", "timestamp")
    for where, row in read_rows(path, "\t", columns, "latin-1"):
        user, item = index_of(where, "user", row[0], users), index_of(where, "movie", row[1], items)
        whole(where, "rating", row[2], 1, 5)
        interactions.append((user, item, whole(where, "timestamp", row[3])))
    classes = {"gender": ["F", "M"], "age": AGES, "occupation": occupations}
    return build(path, "ml-100k", users, items, labels, classes, titles, genres, interactions)


def age_class(years: int) -> int:
    """MovieLens-1M's class, 0 .. 6, of an age in years."""
    return int(np.searchsorted(AGE_STARTS, years, side="right")) - 1


def load_insurance(folder: Path) -> Dataset:
    """Insurance (Zimnat, `Train.csv`): gender 2, marital status 7, occupation 6, age 5 classes.

    gender is `sex`; marital the seven capital letters of `marital_status` (one user has a stray
    small f and is left out, counted); occupation is `occupation_category_code`, whose six values
    are the paper's six (`occupation_code` has hundreds).
    # Paper silent: how `birth_year` becomes five classes; we take the age at the end of the data
    # (2020) in steps of ten years: under 30, 30-39, 40-49, 50-59, 60 and over.
    Purchases carry no time. # Paper silent: their order; we shuffle each user's with a fixed seed
    of our own, the same in every run, because the order of the columns would make the held-out
    product the rightmost one, the same few products for everybody. Raises InputError naming file
    and line.
    """
    path = Path(folder) / "Train.csv"
    head = "ID,join_date,sex,marital_status,birth_year,branch_code,occupation_code,occupation_category_code"
    rows = read_rows(path, ",", tuple(head.split(",")), at_least=True)
    where, columns = next(rows, (f"{path}:1", [""]))
    products = columns[8:]
    if columns[:8] != head.split(",") or len(set(products)) < max(len(products), 2):
        raise InputError(
            f"{where}: the header is not '{head},<one column a product>'; copy it again"
        )
    marital, jobs = ["M", "S", "U", "W", "D", "R", "P"], [
        "T4MS",
        "90QI",
        "56SI",
        "L44T",
        "JD7X",
        "AHH5",
    ]
    genders, stray = {"F": 0, "M": 1}, 0
    users, interactions = {}, []
    labels = {"gender": [], "marital": [], "occupation": [], "age": []}
    for where, row in rows:
        if len(row) != len(columns):
            raise InputError(
                f"{where}: {len(row)} columns where the header has {len(columns)}; mend it"
            )
        if row[3] == "f":  # the published file's one slip; any other value is an error
            stray += 1
            continue
        add_once(where, "user", row[0], users)
        labels["gender"].append(index_of(where, "sex", row[2], genders))
        codes = {code: i for i, code in enumerate(marital)}
        labels["marital"].append(index_of(where, "marital_status", row[3], codes))
        codes = {code: i for i, code in enumerate(jobs)}
        labels["occupation"].append(index_of(where, "occupation_category_code", row[7], codes))
        decade = (2020 - whole(where, "birth_year", row[4], 1900, 2020)) // 10
        labels["age"].append(min(max(decade, 2), 6) - 2)
        for product, flag in enumerate(row[8:]):
            if index_of(where, products[product], flag, {"0": 0, "1": 1}):
                interactions.append((users[row[0]], product))
    when = np.random.default_rng(0).random(len(interactions))
    return build(
        path,
        "insurance",
        users,
        {product: i for i, product in enumerate(products)},
        labels,
        {
            "gender": ["F", "M"],
            "marital": marital,
            "occupation": jobs,
            "age": ["under 30", "30-39", "40-49", "50-59", "60+"],
        },
        titles=products,
        genres=[""] * len(products),
        interactions=[(user, item, time) for (user, item), time in zip(interactions, when)],
        nouns=("insurance", "insurance", "bought"),
        notes=[f"{stray} user left out whose marital_status is 'f'"] if stray else [],
    )


def load_recbole(name: str, folder: Path) -> Dataset:
    """A data set in RecBole's atomic files: NAME.inter and NAME.user, and NAME.item if there is one.

    Tab-separated, the first line names each column as `field:type`. Every `token` column of
    NAME.user becomes an attribute with its values, by alphabet, as classes; an `age` in whole
    years (token or float, more than ten different ones) becomes MovieLens-1M's seven classes.
    Interactions are ordered by `timestamp`, where there is none by their order in the file. A
    title is the item's first column with 'title' or 'name' in its field. Raises InputError naming
    file and line.
    """
    folder = Path(folder)
    if (
        Path(name).name != name or not (folder / f"{name}.inter").exists()
    ):  # it names a run's folder
        raise InputError(
            f"--data {name}: neither toy, ml-1m, ml-100k, insurance nor a file {folder / name}.inter; "
            "correct one of the two"
        )

    def table(suffix: str, *needed: str):
        path = folder / f"{name}.{suffix}"
        rows = read_rows(path, "\t", ("field:type",) * len(needed), at_least=True)
        where, header = next(rows, (f"{path}:1", [""]))
        types = [column.partition(":")[::2] for column in header]
        known = {"token", "token_seq", "float", "float_seq"}
        names = [field_name for field_name, _ in types]
        bad = [kind for _, kind in types if kind not in known]
        bad += [field_name for field_name in names if set(field_name) & set("/\\,")]  # names files
        lacking = [field_name for field_name in needed if field_name not in names]
        if bad or lacking or len(set(names)) < len(names):
            raise InputError(
                f"{where}: the header must name each column once as field:type, field without / \\ and "
                f"comma, type one of {', '.join(sorted(known))}, with {', '.join(needed)} among them"
            )
        for where, row in rows:
            if len(row) != len(header):
                raise InputError(
                    f"{where}: {len(row)} columns where the header has {len(header)}; mend it"
                )
            yield where, dict(types), dict(zip(names, row))

    users, items, interactions, notes = {}, {}, [], []
    kinds, values = {}, {}
    for where, kinds, row in table("user", "user_id"):
        add_once(where, "user", row["user_id"], users)
        for field_name, value in row.items():
            if not value:
                raise InputError(f"{where}: {field_name} is empty; fill it or remove the user")
            values.setdefault(field_name, []).append(value)
    labels, classes = {}, {}
    for field_name, kind in kinds.items():
        texts = values[field_name]
        if (
            field_name == "age"
            and len(set(texts)) > 10
            and all(t.isascii() and t.removesuffix(".0").isdecimal() for t in texts)
        ):
            labels["age"], classes["age"] = [age_class(int(float(t))) for t in texts], AGES
        elif field_name != "user_id" and kind == "token":
            classes[field_name] = sorted(set(texts))
            codes = {value: i for i, value in enumerate(classes[field_name])}
            labels[field_name] = [codes[value] for value in texts]
    titles, genres = [], []
    has_items = (folder / f"{name}.item").exists()
    for where, kinds, row in table("item", "item_id") if has_items else ():
        add_once(where, "item", row["item_id"], items)
        called = [f for f in kinds if "title" in f or "name" in f]
        titles.append(row[called[0]] if called else row["item_id"])
        genres.append("|".join(row.get("genre", row.get("class", "")).split()))
    path = folder / f"{name}.inter"
    for where, kinds, row in table("inter", "user_id", "item_id"):
        user = index_of(where, "user", row["user_id"], users)
        if not has_items and row["item_id"] not in items:
            add_once(where, "item", row["item_id"], items)
            titles.append(row["item_id"])
            genres.append("")
        item = index_of(where, "item", row["item_id"], items)
        try:
            time = float(row["timestamp"]) if "timestamp" in row else float(len(interactions))
        except ValueError:
            time = np.nan
        if not np.isfinite(time):
            raise InputError(
                f"{where}: timestamp is {row['timestamp'][:40]!r}, not a number; mend it"
            )
        interactions.append((user, item, time))
    return build(
        path, name, users, items, labels, classes, titles, genres, interactions, notes=notes
    )


def download_ml1m(folder: Path, url: str = ML1M_URL, md5: str = ML1M_MD5, say=print) -> Path:
    """MovieLens-1M's three files in `folder`, downloaded from GroupLens if they are not there yet.

    The zip is checked against its published MD5 before anything is taken out of it, and three
    members are read by name; a failure leaves nothing behind. Raises InputError.
    """
    if all((folder / name).exists() for name in ML1M_FILES):
        return folder
    by_hand = (
        f"put {', '.join(ML1M_FILES)} into {folder} by hand, or name their folder with --data-dir"
    )
    say(f"downloading MovieLens-1M (6 MB) from {url} into {folder}")
    content = io.BytesIO()
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            while chunk := response.read(1 << 20):
                content.write(chunk)
                if content.tell() > 50_000_000:
                    raise InputError(
                        f"{url} sends more than 50 MB, which MovieLens-1M is not; {by_hand}"
                    )
    except (OSError, urllib.error.URLError) as error:
        raise InputError(f"cannot download {url} ({error}); {by_hand}") from None
    got = hashlib.md5(content.getvalue()).hexdigest()
    if got != md5:
        raise InputError(f"{url} has MD5 {got}, MovieLens-1M has {md5}; try again, or {by_hand}")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".ml-1m."))
    try:
        with zipfile.ZipFile(content) as archive:
            for name in ML1M_FILES:
                info = archive.getinfo(f"ml-1m/{name}")
                if info.file_size > 50_000_000:
                    raise InputError(
                        f"{url}: {name} would unpack to {info.file_size} bytes; {by_hand}"
                    )
                (temporary / name).write_bytes(archive.read(info))
        folder.mkdir(exist_ok=True)
        for name in ML1M_FILES:
            os.replace(temporary / name, folder / name)
    except (zipfile.BadZipFile, KeyError) as error:
        raise InputError(f"{url}: not the zip of MovieLens-1M ({error}); {by_hand}") from None
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder


def fingerprint(dataset: Dataset) -> str:
    """Twelve hex digits that change with any user, item, attribute or interaction."""
    digest = hashlib.sha256(repr((dataset.name, dataset.users, dataset.titles)).encode())
    for attr, values in dataset.attributes.items():
        digest.update(repr((attr, dataset.classes[attr])).encode() + values.astype("<i8").tobytes())
    for history in dataset.histories:
        digest.update(history.astype("<i8").tobytes() + b"|")
    return digest.hexdigest()[:12]
