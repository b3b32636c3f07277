"""The data sets: who interacted with what in which order, and what is known about the people.

Each is read by one function that checks every line; its InputError names the file and the line.
"""

import hashlib
import io
import re
import urllib.request
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http.client import HTTPException
from pathlib import Path
from typing import Iterator, NamedTuple, Sequence

import numpy as np
import torch

from support import toy
from support.files import InputError, enough_memory, refuse, show, write_atomically

GENDERS = ["F", "M"]
AGES = ["under 18", "18-24", "25-34", "35-44", "45-49", "50-55", "56+"]  # MovieLens-1M's classes
AGE_CODES = ["1", "18", "25", "35", "45", "50", "56"]  # what users.dat has for them
AGE_STARTS = [0, 18, 25, 35, 45, 50, 56]  # years
OCCUPATIONS = (  # MovieLens-1M's README, in the order of its codes 0 .. 20
    "other, academic/educator, artist, clerical/admin, college/grad student, customer service, doctor/"
    "health care, executive/managerial, farmer, homemaker, K-12 student, lawyer, programmer, retired, "
    "sales/marketing, scientist, self-employed, technician/engineer, tradesman/craftsman, unemployed, writer"
).split(", ")
ML100K_GENRES = (  # the flags of u.item, in the order of its columns
    "unknown|Action|Adventure|Animation|Children's|Comedy|Crime|Documentary|Drama|Fantasy|"
    "Film-Noir|Horror|Musical|Mystery|Romance|Sci-Fi|Thriller|War|Western"
)
ML1M_URL = "https://files.grouplens.org/datasets/movielens/ml-1m.zip"
ML1M_MD5 = "c4d9eecfca2ab87c1945afe126590906"  # published beside the file
ML1M_FOLDER = "data/ml-1m"
ML1M_FILES = "users.dat", "movies.dat", "ratings.dat"
# how programs write that there is no value; not "none", an occupation of MovieLens-100K
MISSING = {"", *"nan null na n/a #n/a <na> nil undefined missing ? - -- \\n".split()}
# the words of the prompts: of several, of one, what was done with them, what is done with one
MOVIES = "movies", "movie", "watched", "watch"
INSURANCE = "insurance", "insurance", "bought", "buy"
NO_LABEL = -2  # class of a user of whom the data do not say one
MOST_CLASSES = 50  # of an attribute that is attacked
LEAST = 5  # users of a class that an attack needs, one for each of its folds
# of Insurance's Train.csv, before one column for each product
PERSON = "ID,join_date,sex,marital_status,birth_year,branch_code,occupation_code,occupation_category_code"


class Copies(NamedTuple):
    """Registered users of the toy world who are copies of its first people (see `toy.with_copies`)."""

    attr: str  # what a twin differs in
    twins: np.ndarray  # (n,) the user who is the twin of person 0 .. n-1
    placebos: np.ndarray  # (n,) the user who is the placebo
    coding: np.ndarray  # (n, items) how much an item speaks for the twin's class, not the person's


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
    attributes: dict[str, np.ndarray]  # class of each user, (users,); NO_LABEL for none
    classes: dict[str, list[str]]  # what each class is called
    titles: list[str]
    genres: list[str]  # names joined by "|", "" where unknown
    histories: list[np.ndarray]  # item indices, oldest first
    nouns: tuple[str, ...] = MOVIES
    notes: list[str] = field(default_factory=list)  # what was left out and how often
    unfit: dict[str, str] = field(default_factory=dict)  # attributes that are not attacked, and why
    copies: Copies | None = None

    @property
    def is_person(self) -> np.ndarray:
        """(users,) False for whom the recommender knows but who is never measured: copies of people."""
        person = np.ones(len(self.users), dtype=bool)
        if self.copies is not None:
            person[self.copies.twins] = person[self.copies.placebos] = False
        return person

    def about(self, attrs: tuple[str, ...]) -> "Dataset":
        """The same data with notes of who lacks one of these attributes. Raises InputError as `labels` does.

        Who has no label in an attribute is recommended to like everybody, and counts in popularity,
        validation and Hit@k. For that attribute, not for the others, this user is in no attack, not held out
        and in no loss of an adversary.
        """
        lacking = {attr: (self.labels(attr) == NO_LABEL).sum() for attr in attrs}
        what = "recommended to like everybody, in no attack on"
        notes = [f"{n} users without {attr}: {what} {attr}" for attr, n in lacking.items() if n]
        return replace(self, notes=self.notes + notes)

    def labelled(self, attr: str) -> np.ndarray:
        """(users,) True for the people who have a label in an attribute."""
        return self.is_person & (self.labels(attr) != NO_LABEL)

    def labels(self, attr: str) -> np.ndarray:
        """Class of each user (users,), NO_LABEL for those who have none.

        Raises InputError for an attribute that cannot be attacked.
        """
        check_attribute(attr, self.name, self.attributes)
        values = self.attributes[attr]
        if attr in self.unfit:
            why = f"{self.name} has {self.unfit[attr]}; cut numbers as in --classes {attr}=0,10,20"
            refuse(f"--attr {attr}", f"{why}, merge rare classes in the file, or choose another")
        counts = np.bincount(values[values >= 0], minlength=len(self.classes[attr]))
        if (counts > 0).sum() < 2:
            name = self.classes[attr][counts.argmax()]
            alike = f"all {counts.sum()} users of {self.name} are in one class ({name})"
            refuse(f"--attr {attr}", f"{alike}, so nothing can leak; choose another attribute")
        if (counts >= LEAST).sum() < 2:
            few = f"fewer than two classes of {self.name} have the {LEAST} users that an attack in five"
            refuse(f"--attr {attr}", f"{few} folds needs; choose another attribute")
        return self.attributes[attr]


def check_attribute(attr: str, name: str, attributes: dict[str, np.ndarray]) -> None:
    """Raises InputError where the data set called `name` has no such attribute."""
    if attr not in attributes:
        choices = ", ".join(attributes)
        refuse(f"--attr {attr}", f"{name} has no such attribute; choose from {choices}")


def files_of(name: str, folder: Path | None) -> Path | None:
    """Where the files of a data set are that was loaded with --data-dir `folder`; None for the toy world."""
    return Path(ML1M_FOLDER) if folder is None and name == "ml-1m" else folder


def load_dataset(
    name: str,
    folder: Path | None = None,
    seed: int = 0,
    cfg: ToyConfig = ToyConfig(),
    classes: dict[str, list[float]] | None = None,
    nouns: Sequence[str] | None = None,
) -> Dataset:
    """The data set called `name`: toy, ml-1m, ml-100k, insurance, or NAME for NAME.inter in `folder`.

    In a folder with NAME.inter, or NAME/NAME.inter, this is read whatever the name is: RecBole has its own
    ml-100k. `seed` and `cfg` are the toy world's, `classes` are as in `load_recbole`, `nouns` words of the
    prompts in place of the data set's. Without a folder, MovieLens-1M is downloaded into `ML1M_FOLDER`.
    """
    if nouns is not None:
        found = load_dataset(name, folder, seed, cfg, classes)
        return replace(found, nouns=tuple(nouns))
    if folder is not None and inter_in(name, folder).exists():
        return load_recbole(name, folder, classes)
    if classes is not None:
        refuse(
            f"--data {name}", "--classes cuts columns of RecBole's files, NAME.user; leave it out"
        )
    if name == "toy":
        return load_toy(seed, cfg)
    if name == "ml-1m":
        return load_ml1m(folder or download_ml1m(Path(ML1M_FOLDER)))
    if folder is None:
        raise InputError(f"--data {name} needs --data-dir, the folder with its files")
    if name == "ml-100k":
        return load_ml100k(folder)
    return load_insurance(folder) if name == "insurance" else load_recbole(name, folder)


def inter_in(name: str, folder: Path) -> Path:
    """The interactions of a data set in RecBole's files, in the folder or in one of its name within it."""
    within = folder / name / f"{name}.inter"
    # the name is also part of a run's folder
    return within if Path(name).name == name and within.exists() else folder / f"{name}.inter"


def hint(path: Path) -> str:
    """Where a file may be that is missing."""
    folder = path.parent
    if folder.is_file():
        return f"{folder} is a file; unpack it and name its folder with --data-dir"
    if elsewhere := sorted(folder.glob(f"*/{path.name}")):
        return f"it is in {elsewhere[0].parent}; name that with --data-dir"
    if zips := sorted(folder.glob("*.zip")):
        return f"unpack {zips[0]}, and name the folder with --data-dir"
    return ""


def load_toy(seed: int, cfg: ToyConfig = ToyConfig()) -> Dataset:
    """The embedded world of `toy.py` with its users' factual histories.

    Raises InputError for more twins than people and for twins in an attribute that is not there.
    """
    if cfg.twins > cfg.users:
        people = f"there are {cfg.users} people to copy"
        refuse(f"--toy-twins {cfg.twins}", f"{people}; choose fewer or more --toy-users")
    # a user takes 8 kB, as measured: scores and noise of 160 movies, and a generator
    needed, remedy = 8000 * (cfg.users + 2 * cfg.twins), "choose a smaller --toy-users"
    enough_memory(f"a toy world of {cfg.users} users", needed, torch.device("cpu"), remedy)
    world, copies = toy.make_world(seed, cfg.users, cfg.effect), None
    if cfg.twins:
        check_attribute(cfg.twins_in, "toy", world.attributes)
        world = toy.with_copies(world, cfg.twins_in, cfg.twins, seed)
        twins = cfg.users + np.arange(cfg.twins)
        classes = world.attributes[cfg.twins_in]
        coding = toy.coding(world, cfg.twins_in, classes[: cfg.twins], classes[twins])
        copies = Copies(cfg.twins_in, twins, twins + cfg.twins, coding)
    return Dataset(
        name="toy",
        users=[str(u + 1) for u in range(len(world.lengths))],
        attributes=world.attributes,
        classes={"gender": GENDERS, "age": AGES, "occupation": OCCUPATIONS},
        titles=world.titles,
        genres=[toy.GENRES[g] for g in world.genre],
        histories=toy.watch(world),
        copies=copies,
    )


def read_rows(
    path: Path, separator: str, columns: str | None = None, notes: list[str] | None = None
) -> Iterator[tuple[str, list[str]]]:
    """Each line of a table as ("file:line", its fields).

    Every line must be as wide as `columns`, names with the separator in between, or, if there are
    none, as the first line, the file's own header. The file is in UTF-8; with `notes`, which say so
    where it is, a line may also be in Latin-1, as MovieLens is. None of its names is UTF-8 by chance.
    """
    place, width = str(path), len(columns.split(separator)) if columns else None
    try:
        # bytes that are not UTF-8 become lone surrogates, which no text has
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            for number, line in enumerate(file, start=1):
                where = f"{place}:{number}"
                is_utf8 = line.isascii() or not re.search("[\udc80-\udcff]", line)
                if not is_utf8 and notes is None or number == 1 and "\0" in line:  # in UTF-16
                    refuse(where, "the file is not in UTF-8, in which it is read; save it so")
                if not is_utf8:
                    line = line.encode(errors="surrogateescape").decode("latin-1")
                elif notes is not None and not line.isascii():
                    notes.append(f"{path.name} is in UTF-8, not in Latin-1, and read so")
                row = line.rstrip("\r\n").split(separator)
                width = width or len(row)
                if len(row) != width:
                    has = f"{len(row)} columns where {columns or 'the header'} has {width}"
                    refuse(where, f"{has}; mend the line or copy the file again")
                yield where, row
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        why = "is missing" if missing else f"cannot be read: {error.strerror}"
        remedy = hint(path) or "put it there or correct --data-dir"
        raise InputError(f"{path} {why}; {remedy}") from None


def whole(where: str, what: str, text: str, low: int = 0, high: int = 2**53) -> int:
    """`text` as a whole number in [low, high]; InputError at `where` otherwise."""
    # int() alone takes 1_0, +1 and the digits of other scripts as well, but not thousands of digits
    plain = text.isascii() and text.isdecimal() and len(text) < 4000
    if not plain or not low <= int(text) <= high:
        why = f"{what} is {text[:40]!r}, not a whole number in {low}..{high}"
        refuse(where, f"{why}; mend it or remove the line")
    return int(text)


def says_nothing(what: str, text: str) -> bool:
    """Whether a cell only says that there is no value."""
    return text.strip().lower() in MISSING or (what, text) == ("age", "-1")


def given(where: str, what: str, text: str, whose: str = "user") -> str:
    """`text` as it is; InputError at `where` if it only says that there is no value."""
    if says_nothing(what, text):
        says = f"{text[:40]!r}, which stands for no value" if text.strip() else "empty"
        refuse(where, f"{what} is {says}; fill it or remove the {whose}")
    return text


def index_of(where: str, what: str, value: str, values: list[str] | dict[str, int]) -> int:
    """Position of a value in a closed list; InputError at `where` otherwise."""
    if value not in values:
        first = ", ".join(name[:40] for name in list(values)[:8])
        more = ", .." if len(values) > 8 else ""
        refuse(where, f"{what} {value[:40]!r} is unknown, known are {first}{more}; mend it")
    return values[value] if isinstance(values, dict) else values.index(value)


def age_class(years: float) -> int:
    """MovieLens-1M's class, 0 .. 6, of an age in years."""
    return int(np.searchsorted(AGE_STARTS, years, side="right")) - 1


class Draft:
    """A data set whose files are being read; `finish` makes a Dataset of it.

    `classes` says what the classes of an attribute are called; those of any other are its names by
    alphabet.
    """

    def __init__(self, name: str, **classes: list[str]):
        self.name, self.classes = name, classes
        self.users, self.items = {}, {}  # the source's own id -> index, in the order of the file
        self.people: list[dict] = []  # of each user the class, or its name, in each attribute
        self.titles: list[tuple[str, str]] = []  # of each item its title and its genres
        self.interactions: list[tuple[int, int, float]] = []  # user, item, time
        self.notes: list[str] = []  # what was left out and how often

    def add(self, where: str, what: str, source_id: str, value: dict | tuple[str, str]) -> None:
        """A "user", or an item, called `what` in messages; InputError at `where` if it is there already."""
        of_user, of_item = (self.users, self.people), (self.items, self.titles)
        indices, values = of_user if what == "user" else of_item
        if given(where, what, source_id, what) in indices:
            refuse(where, f"{what} {source_id[:40]!r} stands in the file twice; remove one")
        indices[source_id] = len(indices)
        values.append(value)

    def add_ratings(self, path: Path, separator: str, columns: str, lowest: int) -> None:
        """MovieLens's ratings, `lowest` to 5: user, movie, rating, time in seconds."""
        for where, (user, movie, rating, time) in read_rows(path, separator, columns):
            if user not in self.users or movie not in self.items:  # calls for a million are slow
                index_of(where, "user", user, self.users)
                index_of(where, "movie", movie, self.items)
            whole(where, "rating", rating, lowest, 5)
            when = whole(where, "timestamp", time)
            self.interactions.append((self.users[user], self.items[movie], when))

    def finish(self, path: Path, **nouns: tuple[str, ...]) -> Dataset:
        """The Dataset of everything that was added; `path` is the file of the interactions.

        Interactions are ordered by time with a stable sort: those of one user at the same second
        (about half of MovieLens-1M's) stay in the order of the file, not of the item ids. Users and
        items without an interaction and repeats of the same user and item are left out and counted.
        """
        if not self.interactions:
            refuse(path, "no interactions in it; copy it again")
        user, item, time = map(np.array, zip(*self.interactions))
        order = np.lexsort((time, user))  # lexsort is stable
        user, item = user[order], item[order]
        first = np.sort(np.unique(user * len(self.items) + item, return_index=True)[1])
        # numbered anew, without those that have no interaction
        active, user = np.unique(user[first], return_inverse=True)
        used, item = np.unique(item[first], return_inverse=True)
        left_out = {
            "repeated interactions left out, the first of each is kept": len(order) - len(first),
            "users without any interaction left out": len(self.users) - len(active),
            "items without any interaction left out": len(self.items) - len(used),
        }
        ids, attributes, classes, unfit = list(self.users), {}, {}, {}
        for attr in self.people[0]:
            labels = [person[attr] for person in self.people]
            names = self.classes.get(attr) or sorted({*labels} - {None})
            if not names:
                self.notes.append(f"{attr} left out, of which nobody has a value")
                continue
            codes = {name: i for i, name in enumerate(names)} | {None: NO_LABEL}
            values = np.array([codes.get(label, label) for label in labels])[active]  # or codes
            attributes[attr], classes[attr] = values, names
            # Most of them rare, they are towns or numbers rather than kinds of people; of one or two
            # `labels` says more. The toy world has none of these: it is as small as one asks for.
            sizes = np.unique(values[values >= 0], return_counts=True)[1]
            n_rare = (sizes < LEAST).sum()
            if len(names) > MOST_CLASSES:
                unfit[attr] = f"{len(names)} classes, {MOST_CLASSES} at most are attacked"
            elif 2 < len(sizes) < 2 * n_rare:
                rare = f"{n_rare} of them of fewer than the {LEAST} people that an attack needs"
                unfit[attr] = f"{len(sizes)} classes, {rare}"
        return Dataset(
            name=self.name,
            users=[ids[u] for u in active],
            attributes=attributes,
            classes=classes,
            titles=[self.titles[i][0] for i in used],
            genres=[self.titles[i][1] for i in used],
            histories=np.split(item, np.flatnonzero(np.diff(user)) + 1),
            notes=[*dict.fromkeys(self.notes)]
            + [f"{n} {what}" for what, n in left_out.items() if n],
            unfit=unfit,
            **nouns,
        )


def download_ml1m(folder: Path, url: str = ML1M_URL, md5: str = ML1M_MD5, say=show) -> Path:
    """MovieLens-1M's three files in `folder`, downloaded from GroupLens if they are not there yet.

    The zip is checked against its published MD5 before anything is taken out of it, and three
    members are read by name; a failure leaves nothing behind. Raises InputError.
    """
    if all((folder / name).exists() for name in ML1M_FILES):
        return folder
    put = f"put {', '.join(ML1M_FILES)} into {folder}"
    by_hand = f"{put} by hand, or name their folder with --data-dir"
    say(f"downloading MovieLens-1M (6 MB) from {url} into {folder}")
    try:
        with urllib.request.urlopen(url, timeout=30) as response:
            content = response.read(50_000_000)  # the zip has 6 MB
    except (OSError, HTTPException) as error:
        raise InputError(f"cannot download {url} ({error}); {by_hand}") from None
    got = hashlib.md5(content).hexdigest()
    if got != md5:
        raise InputError(f"{url} has MD5 {got}, MovieLens-1M has {md5}; try again, or {by_hand}")
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            files = {name: archive.read(f"ml-1m/{name}") for name in ML1M_FILES}
    except (zipfile.BadZipFile, KeyError) as error:
        refuse(url, f"not the zip of MovieLens-1M ({error}); {by_hand}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write_atomically(folder / name, content)
    return folder


def load_ml1m(folder: Path) -> Dataset:
    """MovieLens-1M (Harper and Konstan 2015): gender 2, age 7, occupation 21 classes, its own codes."""
    draft = Draft("ml-1m", gender=GENDERS, age=AGES, occupation=OCCUPATIONS)
    columns = "UserID::Gender::Age::Occupation::Zip-code"
    for where, row in read_rows(folder / "users.dat", "::", columns, draft.notes):
        gender = index_of(where, "gender", row[1], GENDERS)
        age = index_of(where, "age", row[2], AGE_CODES)
        occupation = whole(where, "occupation", row[3], 0, 20)
        draft.add(where, "user", row[0], dict(gender=gender, age=age, occupation=occupation))
    columns = "MovieID::Title::Genres"
    for where, (movie, title, genres) in read_rows(
        folder / "movies.dat", "::", columns, draft.notes
    ):
        draft.add(where, "movie", movie, (title, genres))
    path, columns = folder / "ratings.dat", "UserID::MovieID::Rating::Timestamp"
    draft.add_ratings(path, "::", columns, lowest=0)
    return draft.finish(path)


def load_ml100k(folder: Path) -> Dataset:
    """MovieLens-100K: gender 2, age 7, occupation 21 classes.

    Years of age become MovieLens-1M's seven classes; the occupations are u.user's own 21, by alphabet.
    """
    draft = Draft("ml-100k", gender=GENDERS, age=AGES)
    columns = "user id|age|gender|occupation|zip code"
    for where, row in read_rows(folder / "u.user", "|", columns, draft.notes):
        age = age_class(whole(where, "age", row[1], 1, 120))
        gender = index_of(where, "gender", row[2], GENDERS)
        occupation = given(where, "occupation", row[3])
        draft.add(where, "user", row[0], dict(gender=gender, age=age, occupation=occupation))
    columns = f"movie id|title|release|video release|URL|{ML100K_GENRES}"
    for where, row in read_rows(folder / "u.item", "|", columns, draft.notes):
        flags = zip(ML100K_GENRES.split("|"), row[5:])
        genres = "|".join(genre for genre, flag in flags if flag == "1")
        draft.add(where, "movie", row[0], (row[1], genres))
    path = folder / "u.data"
    draft.add_ratings(path, "\t", "user id\titem id\trating\ttimestamp", lowest=1)
    return draft.finish(path)


def load_insurance(folder: Path) -> Dataset:
    """Insurance (Zimnat, `Train.csv`): gender 2, marital status 7, occupation 6, age 5 classes.

    gender is `sex`; marital the seven capital letters of `marital_status` (one user has a stray
    small f and is left out, counted); occupation is `occupation_category_code`, whose six values
    are the paper's six (`occupation_code` has hundreds).
    # Paper silent: how `birth_year` becomes five classes; we take the age at the end of the data
    # (2020) in steps of ten years: under 30, 30-39, 40-49, 50-59, 60 and over.
    Purchases carry no time. # Paper silent: their order; we shuffle each user's with a fixed seed
    of our own, the same in every run, because the order of the columns would make the held-out
    product the rightmost one, the same few products for everybody.
    """
    path = folder / "Train.csv"
    rows = read_rows(path, ",")
    where, header = next(rows, (f"{path}:1", [""]))
    products = header[8:]
    if ",".join(header[:8]) != PERSON or len(set(products)) < max(len(products), 2):
        refuse(where, f"the header is not '{PERSON},<one column a product>'; copy it again")
    marital, jobs = list("MSUWDRP"), "T4MS 90QI 56SI L44T JD7X AHH5".split()
    ages = ["under 30", "30-39", "40-49", "50-59", "60+"]
    draft = Draft("insurance", gender=GENDERS, marital=marital, occupation=jobs, age=ages)
    n_stray, order = 0, np.random.default_rng(0)
    for product in products:
        draft.add(where, "product", product, (product, ""))
    for where, row in rows:
        if row[3] == "f":  # the published file's one slip; any other value is an error
            n_stray += 1
            continue
        gender = index_of(where, "sex", row[2], GENDERS)
        status = index_of(where, "marital_status", row[3], marital)
        job = index_of(where, "occupation_category_code", row[7], jobs)
        decade = (2020 - whole(where, "birth_year", row[4], 1900, 2020)) // 10
        age = min(max(decade, 2), 6) - 2
        person = dict(gender=gender, marital=status, occupation=job, age=age)
        draft.add(where, "user", row[0], person)
        for item, flag in enumerate(row[8:]):
            if index_of(where, products[item], flag, ["0", "1"]):
                draft.interactions.append((draft.users[row[0]], item, order.random()))
    if n_stray:
        draft.notes.append(f"{n_stray} user left out whose marital_status is 'f'")
    return draft.finish(path, nouns=INSURANCE)


def read_atomic(path: Path, *needed: str) -> tuple[dict[str, str], Iterator]:
    """(type of each field, the rows as ("file:line", {field: value})) of one of RecBole's files.

    Raises InputError where the header lacks a field that is needed or has one that cannot be used.
    """
    rows = read_rows(path, "\t")
    where, header = next(rows, (f"{path}:1", [""]))
    types = dict(column.partition(":")[::2] for column in header)
    kinds = {"token", "token_seq", "float", "float_seq"}
    unfit = [name for name in types if set(name) & set("/\\,")]  # attributes name files
    if len(types) < len(header) or set(types.values()) - kinds or set(needed) - set(types) or unfit:
        must = "the header must name each column once as field:type, field without / \\ and comma"
        which = f"type one of {', '.join(sorted(kinds))}, with {', '.join(needed)} among them"
        refuse(where, f"{must}, {which}")
    return types, ((where, dict(zip(types, row))) for where, row in rows)


def cut(where: str, what: str, text: str, begins: list[float]) -> int:
    """The class of a number, `begins[0]` or more, where class c goes from `begins[c]` to below the next."""
    with suppress(ValueError):
        if begins[0] <= float(text) < np.inf:
            return int(np.searchsorted(begins, float(text), side="right")) - 1
    why = f"{what} is {text[:40]!r}, not a number from {begins[0]:g} on"
    refuse(where, f"{why}; mend it or --classes")


def load_recbole(name: str, folder: Path, classes: dict[str, list[float]] | None = None) -> Dataset:
    """A data set in RecBole's atomic files: NAME.inter and NAME.user, and NAME.item if there is one.

    Tab-separated, the first line names each column as `field:type`. Every `token` column of
    NAME.user becomes an attribute with its values, by alphabet, as classes; an `age` in years (token or
    float, more than ten different ones) becomes MovieLens-1M's seven classes, and what is no number of
    years among them is refused: it would leave a class for every year. A user whose cell is empty, or only
    says that there is no value (`MISSING`; as an age, -1), has no label there. `classes` says of columns
    of numbers, of any type, where their classes begin (see `cut`). Interactions are ordered
    by `timestamp`, where there is none by their order in the file. A title is the item's first column
    with 'title' or 'name' in its field.
    """
    path, draft = inter_in(name, folder), Draft(name)
    is_name = Path(name).name == name
    if not is_name or not path.exists():
        why = f"neither toy, ml-1m, ml-100k, insurance nor a file {path}"
        refuse(f"--data {name}", f"{why}; {is_name and hint(path) or 'correct one of the two'}")
    user_path = path.with_name(f"{name}.user")
    types, rows = read_atomic(user_path, "user_id")
    for where, row in rows:
        draft.add(where, "user", row["user_id"], row)
        row |= {column: None for column in types if says_nothing(column, row[column])}
    for column, begins in (classes or {}).items():
        if column not in types or column == "user_id":
            refuse(f"--classes {column}", f"{user_path} has no such column; correct one of the two")
        ranges = [f"{low:g} to below {high:g}" for low, high in zip(begins, begins[1:])]
        draft.classes[column], types[column] = [*ranges, f"{begins[-1]:g} or more"], "token"
        for line, person in enumerate(draft.people, start=2):
            if person[column] is not None:
                where = f"{user_path}:{line}"
                person[column] = cut(where, column, person[column], begins)
    others = [] if "age" in draft.classes else draft.people
    ages = {person["age"].removesuffix(".0") for person in others if person.get("age")}
    # a single one may be no year: the largest of ages that were scaled to 0 .. 1
    if len(ages) > 10 and len(ages & {str(years) for years in range(1, 121)}) > 1:
        draft.classes["age"], types["age"] = AGES, "token"
        for line, person in enumerate(draft.people, start=2):
            if person["age"]:  # months, as in 33.5, do not matter
                years = re.sub(r"\.\d{1,9}$", "", person["age"], flags=re.ASCII)
                person["age"] = age_class(whole(f"{user_path}:{line}", "age", years, 1, 120))
    kept = [column for column in types if types[column] == "token" and column != "user_id"]
    draft.people = [{column: person[column] for column in kept} for person in draft.people]
    item_path = path.with_name(f"{name}.item")
    if has_items := item_path.exists():
        types, rows = read_atomic(item_path, "item_id")
        titles = [column for column in types if "title" in column or "name" in column]
        for where, row in rows:
            genres = "|".join(row.get("genre", row.get("class", "")).split())
            draft.add(where, "item", row["item_id"], (row[[*titles, "item_id"][0]], genres))
    for where, row in read_atomic(path, "user_id", "item_id")[1]:
        user = index_of(where, "user", row["user_id"], draft.users)
        if not has_items and row["item_id"] not in draft.items:
            draft.add(where, "item", row["item_id"], (row["item_id"], ""))
        item = index_of(where, "item", row["item_id"], draft.items)
        try:
            time = float(row.get("timestamp", len(draft.interactions)))
        except ValueError:
            time = np.nan
        if not np.isfinite(time):
            refuse(where, f"timestamp is {row['timestamp'][:40]!r}, not a number; mend it")
        draft.interactions.append((user, item, time))
    return draft.finish(path)


def fingerprint(dataset: Dataset) -> str:
    """Twelve hex digits that change with any user, item, attribute, interaction or word of the prompts."""
    digest = hashlib.sha256(repr((dataset.name, dataset.users, dataset.titles)).encode())
    for attr, values in dataset.attributes.items():
        digest.update(repr((attr, dataset.classes[attr])).encode() + values.astype("<i8").tobytes())
    for history in dataset.histories:
        digest.update(history.astype("<i8").tobytes() + b"|")
    if dataset.nouns not in (MOVIES, INSURANCE):
        digest.update(repr(dataset.nouns).encode())
    return digest.hexdigest()[:12]
