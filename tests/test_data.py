"""Data sets, split, negatives, item numbers, prompts: on hand-written miniatures and bad input."""

import hashlib
import http.server
import io
import json
import threading
import zipfile

import numpy as np
import pytest
import torch
from commands import command
from conftest import INSURANCE, MINIATURES, ML1M, some_without_gender, write_miniature

import data
import evaluate
from data import (
    Asked,
    P5Config,
    collate,
    direct_prompt,
    draw_negatives,
    leave_one_out,
    make_corpus,
    positions_of,
    sequential_indexing,
    sequential_prompt,
    training_example,
)
from support import datasets, toy
from support.expected import labels_for_game, marks_of
from support.files import InputError
from support.screens import describe


def class_names(dataset, attr):
    return [dataset.classes[attr][c] for c in dataset.attributes[attr]]


def watched(dataset, user):
    return [dataset.titles[item] for item in dataset.histories[user]]


# ----- the loaders ---------------------------------------------------------------------------------


def test_ml1m(tmp_path):
    dataset = datasets.load_dataset("ml-1m", write_miniature(tmp_path, "ml-1m"))
    assert dataset.users == ["1", "2", "3"]
    assert class_names(dataset, "gender") == ["F", "M", "M"]
    assert class_names(dataset, "age") == ["under 18", "56+", "25-34"]
    assert class_names(dataset, "occupation") == ["K-12 student", "self-employed", "scientist"]
    # 30 and 20 tie in time: the order of the file decides, not the id
    assert watched(dataset, 0) == [
        "Toy Story (1995)",
        "Heat (1995)",
        "Café (1995)",
        "Sabrina (1995)",
    ]
    assert dataset.genres[0] == "Animation|Comedy"
    assert dataset.notes == ["1 items without any interaction left out"]
    assert [len(dataset.classes[a]) for a in ("gender", "age", "occupation")] == [2, 7, 21]


def test_ties_in_time_keep_the_order_of_the_file(tmp_path):
    """Twenty movies rated in the same second, their ids in no order."""
    ids = np.random.default_rng(0).permutation(20) + 1
    folder = write_miniature(tmp_path, "ml-1m")
    (folder / "movies.dat").write_text("".join(f"{i}::Movie {i}::Drama\n" for i in range(1, 21)))
    (folder / "ratings.dat").write_text("".join(f"1::{i}::5::777\n" for i in ids))
    assert watched(datasets.load_ml1m(folder), 0) == [f"Movie {i}" for i in ids]


def test_ml100k(tmp_path):
    dataset = datasets.load_dataset("ml-100k", write_miniature(tmp_path, "ml-100k"))
    assert class_names(dataset, "age") == ["18-24", "50-55", "under 18"]
    assert class_names(dataset, "occupation") == ["technician", "other", "writer"]
    assert watched(dataset, 2) == ["Film 4 (1990)", "Film 1 (1990)", "Film 2 (1990)"]
    assert dataset.genres[:2] == ["Action", "Adventure"]


def test_insurance(tmp_path):
    dataset = datasets.load_dataset("insurance", write_miniature(tmp_path, "insurance"))
    assert dataset.users == ["A1", "B2", "D4"]
    assert class_names(dataset, "marital") == ["M", "S", "P"]
    assert class_names(dataset, "occupation") == ["T4MS", "90QI", "AHH5"]
    assert class_names(dataset, "age") == ["30-39", "60+", "under 30"]
    assert sorted(watched(dataset, 0)) == ["7POT", "P5DA", "RIBP"]
    assert [len(dataset.classes[a]) for a in ("gender", "marital", "occupation", "age")] == [
        2,
        7,
        6,
        5,
    ]
    assert dataset.notes == ["1 user left out whose marital_status is 'f'"]


def test_insurance_holds_out_any_product_not_the_rightmost(tmp_path):
    header, row = INSURANCE["Train.csv"].splitlines()[:2]
    rows = [row.replace("A1", f"U{i}").replace("1,1,0,1", "1,1,1,1") for i in range(400)]
    (tmp_path / "Train.csv").write_text("\n".join([header, *rows]) + "\n")
    dataset = datasets.load_insurance(tmp_path)
    held_out = np.bincount(leave_one_out(dataset.histories).test, minlength=4)
    assert held_out.min() > 60  # 100 each are expected


def test_recbole(tmp_path):
    dataset = datasets.load_dataset("mini", write_miniature(tmp_path, "mini"))
    assert class_names(dataset, "country") == ["DE", "FR", "DE"]
    assert class_names(dataset, "age") == ["24", "30", "41"]  # too few ages to be years
    assert watched(dataset, 0) == ["First Film", "Third", "Second"]
    assert dataset.genres[0] == "Drama|War"
    assert dataset.notes == ["1 repeated interactions left out, the first of each is kept"]


def test_recbole_ages_in_years_become_seven_classes(tmp_path):
    folder = write_miniature(tmp_path, "mini")
    users = "".join(f"u{i}\t{ages}.0\n" for i, ages in enumerate(range(15, 75, 5)))
    (folder / "mini.user").write_text("user_id:token\tage:float\n" + users)
    (folder / "mini.inter").write_text("user_id:token\titem_id:token\nu0\ti1\nu11\ti2\nu5\ti3\n")
    dataset = datasets.load_dataset("mini", folder)
    assert class_names(dataset, "age") == ["under 18", "35-44", "56+"]


def test_recbole_ages_that_are_missing_or_have_months(tmp_path):
    folder, ages = write_miniature(tmp_path, "mini"), ["nan", "-1", "?", "", "33.5", *range(15, 30)]
    users = "".join(f"u{i}\t{age}\n" for i, age in enumerate(ages))
    (folder / "mini.user").write_text("user_id:token\tage:float\n" + users)
    met = "".join(f"u{i}\ti1\n" for i in range(len(ages)))
    (folder / "mini.inter").write_text("user_id:token\titem_id:token\n" + met)
    dataset = datasets.load_dataset("mini", folder)
    assert dataset.attributes["age"][:4].tolist() == [datasets.NO_LABEL] * 4
    assert [datasets.AGES[c] for c in dataset.attributes["age"][4:9]] == ["25-34"] + 3 * [
        "under 18"
    ] + ["18-24"]


def test_what_nobody_says_is_no_attribute(tmp_path):
    folder = write_miniature(tmp_path, "mini")
    people = (folder / "mini.user").read_text()
    (folder / "mini.user").write_text(people.replace("\tDE", "\t").replace("\tFR", "\t"))
    dataset = datasets.load_dataset("mini", folder)
    assert "country" not in dataset.classes and "gender" in dataset.classes
    assert "country left out, of which nobody has a value" in dataset.notes


@pytest.mark.parametrize("name", ["ml-100k", "ml-1m", "insurance"])
@pytest.mark.parametrize("place", ["", "{}"])
def test_recbole_s_own_copies_of_known_data_sets_are_read_as_they_are(tmp_path, name, place):
    """Its ml-100k has ml-100k.inter, often in a folder of that name, beside which no u.data lies."""
    (folder := tmp_path / place.format(name)).mkdir(exist_ok=True)
    write_miniature(folder, "mini")
    for file in folder.glob("mini.*"):
        file.rename(folder / f"{name}{file.suffix}")
    assert datasets.load_dataset(name, tmp_path).users == ["u1", "u2", "u3"]
    assert datasets.load_dataset(name, tmp_path).name == name


@pytest.mark.parametrize("name", MINIATURES)
def test_a_folder_one_level_too_high_or_a_zip_gets_a_hint(tmp_path, name):
    (inner := tmp_path / "inner").mkdir()
    write_miniature(inner, name)
    with pytest.raises(InputError, match=f"it is in {inner}; name that with --data-dir"):
        datasets.load_dataset(name, tmp_path)
    for file in inner.iterdir():
        file.unlink()
    (tmp_path / "all.zip").write_bytes(b"")
    with pytest.raises(InputError, match="unpack .*all.zip, and name the folder"):
        datasets.load_dataset(name, tmp_path)
    with pytest.raises(InputError, match="all.zip is a file; unpack it"):
        datasets.load_dataset(name, tmp_path / "all.zip")


def test_classes_of_numbers_are_cut_where_the_user_says(tmp_path):
    some_without_gender(tmp_path)
    (people,) = tmp_path.glob("*.user")
    people.write_text(people.read_text().replace("\t20\t", "\t-1\t"))
    cuts = {"age": [0, 18, 30.5, 50]}
    dataset = datasets.load_dataset("shop", tmp_path, classes=cuts)
    assert dataset.classes["age"] == [
        "0 to below 18",
        "18 to below 30.5",
        "30.5 to below 50",
        "50 or more",
    ]
    names = [dataset.classes["age"][c] if c >= 0 else None for c in dataset.attributes["age"]]
    years = [None if user % 40 == 0 else 20 + user % 40 for user in range(80)]
    expected = {True: "18 to below 30.5", False: "30.5 to below 50"}
    assert names == [
        None if y is None else "50 or more" if y >= 50 else expected[y < 30.5] for y in years
    ]
    plain = datasets.load_dataset("shop", tmp_path)
    assert plain.classes["age"] == datasets.AGES
    assert datasets.fingerprint(plain) != datasets.fingerprint(dataset)


def test_a_run_about_restaurants_speaks_of_restaurants(tmp_path):
    """And opened again, by probe.py, it has the same words and classes."""
    some_without_gender(tmp_path, n_without=0)
    small = "--p5-steps 4 --epochs 1 --batch-size 30 --prefix-len 3 --out run"
    words = "--nouns restaurants,restaurant,visited,visit --classes age=0,40"
    done = command(tmp_path, f"--attr age --data shop --data-dir . {words} {small}")
    assert done.returncode == 0, done.stderr
    assert "age (to be hidden): 0 to below 40 40, 40 or more 40" in done.stdout
    assert "User_1 has already visited the following restaurants 10" in done.stdout
    assert "Which restaurant user_1 would like to visit next?" in done.stdout
    again = command(tmp_path, "--kind classifier --attr age --run run --hide age", "probe.py")
    assert again.returncode == 0, again.stderr


def test_who_has_no_label_is_recommended_to_and_in_no_attack_on_it(tmp_path):
    """An empty cell matters in that attribute alone; in others the user is like everybody."""
    some_without_gender(tmp_path)
    dataset = datasets.load_dataset("shop", tmp_path)
    assert dataset.about(("age",)).notes == dataset.notes  # only what is asked for matters
    dataset, without = dataset.about(("gender", "age")), np.arange(80) < 9
    said = "9 users without gender: recommended to like everybody, in no attack on gender"
    assert dataset.notes[-1] == said and not any("age" in note for note in dataset.notes)
    assert (dataset.labelled("gender") == ~without).all() and dataset.labelled("age").all()
    known = {attr: data.hold_out(dataset, attr, 0.4, 0) for attr in ("gender", "age")}
    assert (known["gender"][:9] == datasets.NO_LABEL).all()
    assert [(known["gender"] == -1).sum(), (known["gender"] >= 0).sum()] == [28, 43]
    assert (known["age"] >= -1).all() and 0 < (known["age"][:9] == -1).sum() < 9
    corpus = make_corpus(dataset, None, P5Config(), seed=0)
    for part in "valid", "test":
        assert data.people_with(corpus, part).tolist() == list(range(80))
    for task in data.TASKS:
        assert set(range(80)) == set(positions_of(corpus, task)[0])
    asked = Asked(corpus, "direct", "test", data.people_with(corpus, "test"))
    for share, n_tested in (0.4, {"gender": 28, "age": 32}), (0.0, {"gender": 71, "age": 80}):
        unseen = {attr: data.hold_out(dataset, attr, share, 0) < 0 for attr in known}
        attacks = evaluate.Attacks(unseen, 0, torch.device("cpu"))
        tested = {attr: attacks.tested(attr, asked) for attr in known}
        assert {attr: rows.sum() for attr, rows in tested.items()} == n_tested
        assert not tested["gender"][:9].any()
    histories = torch.from_numpy(marks_of(corpus.split.train, 30)).numpy()
    for hard in (True, False):
        labels = labels_for_game(known, histories, hard)
        assert not labels["gender"][:9].any()  # in no L_dis, in no dependence
        assert hard or labels["gender"][9:].any(1).all() and labels["age"].any(1).all()


def test_a_run_whose_data_have_an_empty_cell(tmp_path):
    some_without_gender(tmp_path)
    small = "--p5-steps 4 --epochs 1 --batch-size 30 --prefix-len 3 --out run"
    done = command(tmp_path, f"--attr gender --data shop --data-dir . {small}")
    assert done.returncode == 0, done.stderr
    said = "  9 users without gender: recommended to like everybody, in no attack on gender\n"
    assert said in done.stdout and "gender (to be hidden): F 35, M 36, not known 9" in done.stdout
    assert "sequential recommendation, 80 users" in done.stdout  # Hit@k is about everybody
    assert "AUC: of 28 people whose gender the prompt's adversary never saw." in done.stdout
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert (results["users"], results["tested"]) == (80, {"gender": 28})
    for kind in "classifier", "manual", "soft":
        asked = f"--kind {kind} --attr gender --run run --hide gender"
        again = command(tmp_path, asked, "probe.py")
        assert again.returncode == 0, again.stderr
        found = json.loads(
            (tmp_path / "run" / f"probe-{kind}-gender-hiding-gender.json").read_text()
        )
        n_tested = 3 if kind == "soft" else 28  # a tenth
        assert {row["users"] for row in found.values()} == {n_tested}


def test_what_a_run_was_not_begun_with_is_probed_where_it_is_known(tmp_path):
    some_without_gender(tmp_path)
    small = "--p5-steps 4 --epochs 1 --batch-size 30 --prefix-len 3 --out run"
    done = command(tmp_path, f"--attr age --data shop --data-dir . {small}")
    assert done.returncode == 0 and "users without" not in done.stdout, done.stderr
    asked = "--kind classifier --attr gender --run run"
    done = command(tmp_path, asked, "probe.py")
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run" / "probe-classifier-gender.json").read_text())
    assert {row["users"] for row in found.values()} == {71}


def with_towns(folder, sizes: list[int]) -> datasets.Dataset:
    """A data set "towns" with so many people from each of some towns."""
    towns = [f"town {i:02}" for i, n in enumerate(sizes) for _ in range(n)]
    people = "".join(f"u{i}\t{'FM'[i % 2]}\t{town}\n" for i, town in enumerate(towns))
    (folder / "towns.user").write_text(f"user_id:token\tgender:token\ttown:token\n{people}")
    met = "".join(f"u{i}\ti{item}\n" for i in range(len(towns)) for item in range(3))
    (folder / "towns.inter").write_text(f"user_id:token\titem_id:token\n{met}")
    return datasets.load_dataset("towns", folder)


@pytest.mark.parametrize(
    "sizes, said",
    [
        ([5, 5, 4, 4], None),  # half of them are rare
        ([20, 9, 9, 1, 2], None),
        ([9, 4, 4], "3 classes, 2 of them of fewer than the 5 people that an attack needs"),
        ([1] * 50, "50 classes, 50 of them of fewer than the 5 people that an attack needs"),
        ([5] * 50, None),
        ([5] * 51, "51 classes, 50 at most are attacked"),
    ],
)
def test_an_attribute_of_rare_classes_is_listed_short_and_refused(tmp_path, sizes, said):
    dataset = with_towns(tmp_path, sizes)
    (line,) = [line for line in describe(dataset, (), 0).splitlines() if "  town: " in line]
    every = [f"town {i:02} {n}" for i, n in enumerate(sizes)]
    dataset.labels("gender")
    if said is None:
        assert line == f"  town: {', '.join(every)}"
        assert len(dataset.labels("town")) == sum(sizes)
        return
    assert line == f"  town: {said}: {every[0]}, {every[1]}, .."
    how = "cut numbers as in --classes town=0,10,20, merge rare classes in the file"
    with pytest.raises(InputError) as error:
        dataset.about(("gender", "town"))
    why = f"towns has {said}; {how}, or choose another"
    assert str(error.value) == f"--attr town: {why}"


def test_classes_that_nobody_has_are_not_rare(tmp_path):
    """Of the seven classes of age a school has one or two."""
    some_without_gender(tmp_path)
    (people,) = tmp_path.glob("*.user")
    cells = [line.split("\t") for line in people.read_text().splitlines()]
    years = [[*row[:2], str(10 + i % 12), *row[3:]] for i, row in enumerate(cells[1:])]
    people.write_text("\n".join(map("\t".join, [cells[0], *years])) + "\n")
    dataset = datasets.load_dataset("shop", tmp_path)
    assert np.unique(dataset.labels("age")).tolist() == [0, 1] and not dataset.unfit


def test_the_toy_world_may_be_as_small_as_one_likes():
    dataset = datasets.load_toy(0, datasets.ToyConfig(users=60))
    sizes = np.bincount(dataset.labels("occupation"), minlength=21)
    assert (sizes < 5).sum() > 15 and "programmer" in describe(dataset, (), 0)


def test_windows_line_ends_byte_order_mark_and_no_last_newline(miniature):
    name, folder = miniature
    plain = datasets.fingerprint(datasets.load_dataset(name, folder))
    for file in MINIATURES[name]:
        content = (folder / file).read_bytes().rstrip(b"\n").replace(b"\n", b"\r\n")
        (folder / file).write_bytes(b"\xef\xbb\xbf" + content)
    assert datasets.fingerprint(datasets.load_dataset(name, folder)) == plain


def test_fingerprint_changes_with_any_interaction(tmp_path):
    folder = write_miniature(tmp_path, "ml-1m")
    before = datasets.fingerprint(datasets.load_ml1m(folder))
    (folder / "ratings.dat").write_text(ML1M["ratings.dat"].replace("3::10::2::2", "3::20::2::2"))
    assert datasets.fingerprint(datasets.load_ml1m(folder)) != before


BAD_ROWS = {  # data set, file, text to replace, replacement, expected in the message
    "columns": ("ml-1m", "ratings.dat", "1::20::3::500", "1::20::3", "ratings.dat:3: 3 columns"),
    "unknown user": (
        "ml-1m",
        "ratings.dat",
        "3::30::2::1",
        "9::30::2::1",
        "ratings.dat:8: user '9'",
    ),
    "unknown movie": ("ml-1m", "ratings.dat", "2::20::5", "2::77::5", "ratings.dat:6: movie '77'"),
    "time": ("ml-1m", "ratings.dat", "::900", "::soon", "ratings.dat:1: timestamp is 'soon'"),
    "rating": ("ml-1m", "ratings.dat", "40::5::", "40::6::", "ratings.dat:1: rating is '6'"),
    "gender": ("ml-1m", "users.dat", "2::M", "2::X", "users.dat:2: gender 'X'"),
    "age": ("ml-1m", "users.dat", "::56::", "::57::", "users.dat:2: age '57'"),
    "occupation": ("ml-1m", "users.dat", "::16::", "::21::", "users.dat:2: occupation is '21'"),
    "user twice": ("ml-1m", "users.dat", "3::M", "2::M", "users.dat:3: user '2'"),
    "ages": ("ml-100k", "u.user", "|53|", "|old|", "u.user:2: age is 'old'"),
    "genres": ("ml-100k", "u.item", "Film 1 (1990)|", "Film 1 (1990)|x|", "u.item:1: 25 columns"),
    "tab": ("ml-100k", "u.data", "1\t1\t5\t10", "1 1 5 10", "u.data:1: 1 columns"),
    "header": ("insurance", "Train.csv", "sex,", "gender,", "Train.csv:1: the header"),
    "marital": ("insurance", "Train.csv", ",S,", ",Z,", "Train.csv:3: marital_status 'Z'"),
    "year": ("insurance", "Train.csv", ",1950,", ",195O,", "Train.csv:3: birth_year is '195O'"),
    "flag": (
        "insurance",
        "Train.csv",
        ",1,0,1,0",
        ",1,0,2,0",
        "Train.csv:3: 7POT '2'".replace("7POT", "8NN1"),
    ),
    "product": ("insurance", "Train.csv", ",1,0,1,0", ",1,0,1", "Train.csv:3: 11 columns"),
    "type": ("mini", "mini.user", "age:token", "age:int", "mini.user:1: the header"),
    "path": ("mini", "mini.user", "country:", "../country:", "mini.user:1: the header"),
    "comma": ("mini", "mini.user", "country:", "land,country:", "mini.user:1: the header"),
    "no name": ("mini", "mini.user", "u2\t", "\t", "mini.user:3: user is empty"),
    "width": ("mini", "mini.user", "\tFR", "", "mini.user:3: 3 columns"),
    "no id": ("mini", "mini.inter", "item_id:", "film:", "mini.inter:1: the header"),
    "stranger": ("mini", "mini.inter", "u2\ti1", "u7\ti1", "mini.inter:5: user 'u7'"),
    "no time": ("mini", "mini.inter", "\t30\n", "\tnan\n", "mini.inter:2: timestamp is 'nan'"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_is_named_with_file_and_line(tmp_path, case):
    name, file, old, new, expected = BAD_ROWS[case]
    folder, encoding = write_miniature(tmp_path, name), "latin-1" if name[:2] == "ml" else "utf-8"
    text = MINIATURES[name][file]
    assert old in text
    (folder / file).write_text(text.replace(old, new, 1), encoding=encoding)
    with pytest.raises(InputError) as error:
        datasets.load_dataset(name, folder)
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_every_file_that_is_missing_is_named(miniature):
    name, folder = miniature
    for file in MINIATURES[name]:
        if file == "mini.item":
            continue  # RecBole's item file is optional
        content = (folder / file).read_bytes()
        (folder / file).unlink()
        with pytest.raises(InputError, match=file.replace(".", r"\.")):
            datasets.load_dataset(name, folder)
        (folder / file).write_bytes(content)
    datasets.load_dataset(name, folder)


def test_attribute_with_a_single_class_or_unknown(tmp_path):
    folder = write_miniature(tmp_path, "ml-1m")
    (folder / "users.dat").write_text(ML1M["users.dat"].replace("::F::", "::M::"))
    dataset = datasets.load_ml1m(folder)
    with pytest.raises(InputError, match="--attr gender: all 3 users of ml-1m are in one class"):
        dataset.labels("gender")
    with pytest.raises(
        InputError, match="--attr marital: ml-1m has no such.*gender, age, occupation"
    ):
        dataset.labels("marital")


# ----- the download --------------------------------------------------------------------------------


def make_zip(files):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return content.getvalue()


@pytest.fixture()
def serve():
    """A server on the loopback interface; `serve(content, announce)` gives its URL."""
    servers = []

    def start(content: bytes, announce: int | None = None) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                self.send_response(200)
                self.send_header(
                    "Content-Length", str(len(content) if announce is None else announce)
                )
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *args):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"http://127.0.0.1:{server.server_port}/ml-1m.zip"

    yield start
    for server in servers:
        server.shutdown()


ZIP = make_zip({f"ml-1m/{name}": text.encode("latin-1") for name, text in ML1M.items()})


def test_download_checks_and_unpacks_three_files(tmp_path, serve):
    said, folder = [], tmp_path / "data" / "ml-1m"
    url, md5 = serve(ZIP), hashlib.md5(ZIP).hexdigest()
    assert datasets.download_ml1m(folder, url, md5, said.append) == folder
    assert sorted(path.name for path in folder.iterdir()) == sorted(ML1M)
    assert len(datasets.load_ml1m(folder).users) == 3 and url in said[0]
    datasets.download_ml1m(folder, "http://127.0.0.1:9/gone", md5, said.append)  # already there
    assert len(said) == 1


def test_of_a_zip_three_members_are_read_and_nothing_else(tmp_path, serve):
    files = {f"ml-1m/{name}": text.encode("latin-1") for name, text in ML1M.items()}
    outside = str(tmp_path / "canary")
    evil = make_zip(files | {"../canary": "x", "ml-1m/../../canary": "x", outside: "x"})
    folder = tmp_path / "data" / "ml-1m"
    url, md5 = serve(evil), hashlib.md5(evil).hexdigest()
    datasets.download_ml1m(folder, url, md5, lambda text: None)
    left = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    assert left == {f"data/ml-1m/{name}" for name in ML1M}


EVIL = make_zip({"ml-1m/users.dat": "x", "../canary": "x", "ml-1m/movies.dat": "x"})
DOWNLOADS = {
    "other bytes": (ZIP[:-1] + b"?", None, None, "has MD5"),
    "breaks off": (ZIP[:100], len(ZIP), None, "MD5|cannot download"),
    "no zip": (b"hello", None, hashlib.md5(b"hello").hexdigest(), "not the zip"),
    "member missing": (EVIL, None, hashlib.md5(EVIL).hexdigest(), "not the zip.*ratings.dat"),
}


@pytest.mark.parametrize("case", DOWNLOADS)
def test_bad_download_leaves_nothing_behind(tmp_path, serve, case):
    content, announce, md5, expected = DOWNLOADS[case]
    url, folder = serve(content, announce), tmp_path / "data" / "ml-1m"
    with pytest.raises(InputError, match=expected) as error:
        datasets.download_ml1m(folder, url, md5 or hashlib.md5(ZIP).hexdigest(), lambda text: None)
    assert "by hand" in str(error.value) and "\n" not in str(error.value)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_offline_download_says_where_to_put_the_files(tmp_path):
    with pytest.raises(InputError, match="cannot download.*by hand"):
        datasets.download_ml1m(tmp_path / "x", "http://127.0.0.1:9/x.zip", "0", lambda text: None)


# ----- the toy world -------------------------------------------------------------------------------


def test_toy_world_has_the_schema_and_is_deterministic():
    one, two = (datasets.load_toy(5, datasets.ToyConfig(90)) for _ in range(2))
    assert datasets.fingerprint(one) == datasets.fingerprint(two)
    assert datasets.fingerprint(
        datasets.load_toy(6, datasets.ToyConfig(90))
    ) != datasets.fingerprint(one)
    assert [len(one.classes[a]) for a in ("gender", "age", "occupation")] == [2, 7, 21]
    assert all(len(set(h)) == len(h) and 28 <= len(h) <= 44 for h in one.histories)
    assert len(set(one.titles)) == 160


def test_twin_differs_by_the_attribute_alone():
    world = toy.make_world(0, 200)
    factual, same = toy.watch(world), toy.watch(
        toy.intervene(world, "gender", world.attributes["gender"])
    )
    assert all(np.array_equal(a, b) for a, b in zip(factual, same))  # the noise is the same
    flipped = 1 - world.attributes["gender"]
    twins = toy.watch(toy.intervene(world, "gender", flipped))
    assert [len(h) for h in twins] == [len(h) for h in factual]
    assert sum(not np.array_equal(a, b) for a, b in zip(factual, twins)) > 190
    # the intervention moves the share of gender-coded genres the way that B_gender says
    coded = world.weights["gender"][0][world.genre]
    as_first = [np.where(world.attributes["gender"] == 0, 0, 1)]
    effect = np.mean([coded[a].mean() - coded[b].mean() for a, b in zip(
        toy.watch(toy.intervene(world, "gender", 0 * as_first[0])),
        toy.watch(toy.intervene(world, "gender", 0 * as_first[0] + 1)),
    )])  # fmt: skip
    assert effect > 0.3


def test_without_effect_the_twin_is_the_user():
    world = toy.make_world(0, 50, effect=0.0)
    twins = toy.watch(toy.intervene(world, "gender", 1 - world.attributes["gender"]))
    assert all(np.array_equal(a, b) for a, b in zip(toy.watch(world), twins))


# ----- split, negatives, numbers -------------------------------------------------------------------


def test_leave_one_out_with_short_histories():
    histories = [np.array(h) for h in ([3, 1, 2, 0], [4, 5, 6], [7, 8], [9])]
    split = leave_one_out(histories)
    assert [list(train) for train in split.train] == [[3, 1], [4], [7], [9]]
    assert split.valid.tolist() == [2, 5, -1, -1] and split.test.tolist() == [0, 6, 8, -1]


def test_negatives_are_items_that_the_user_never_met(dataset):
    negatives = draw_negatives(dataset, seed=1)
    for row, history in zip(negatives, dataset.histories):
        assert len(set(row)) == 100 and not set(row) & set(history)
    assert np.array_equal(negatives, draw_negatives(dataset, seed=1))
    assert not np.array_equal(negatives, draw_negatives(dataset, seed=2))


def test_where_there_are_too_few_items_all_unseen_ones_are_negatives(tmp_path):
    dataset = datasets.load_dataset("insurance", write_miniature(tmp_path, "insurance"))
    for row, history in zip(draw_negatives(dataset, seed=0), dataset.histories):
        assert set(row[row >= 0]) == set(range(4)) - set(history)


def test_item_numbers_come_from_training_alone():
    train = [np.array([4, 2]), np.array([2, 0, 4]), np.array([1])]
    numbers = sequential_indexing(train, n_items=6)
    assert numbers.tolist() == [1003, 1004, 1002, 1005, 1001, 1006]  # 3 and 5 are held out only


def test_numbering_does_not_depend_on_what_is_held_out(dataset):
    split = leave_one_out(dataset.histories)
    swapped = [np.concatenate([h[:-2], h[-2:][::-1]]) for h in dataset.histories]
    again = leave_one_out(swapped)
    assert np.array_equal(
        sequential_indexing(split.train, 160), sequential_indexing(again.train, 160)
    )


# ----- prompts -------------------------------------------------------------------------------------


def test_prompts_are_the_papers_word_for_word():
    movies, insurance = datasets.MOVIES, datasets.INSURANCE
    assert sequential_prompt(42, [1001, 1017], movies) == (
        "User_42 has already watched the following movies 1001, 1017. "
        "Which movie user_42 would like to watch next?"
    )
    assert direct_prompt(42, [1001, 1017], movies) == (
        "Which movie user_42 would like to watch among the following candidates? 1001, 1017."
    )
    assert sequential_prompt(7, [1001], insurance) == (
        "User_7 has already bought the following insurance 1001. "
        "Which insurance user_7 would like to buy next?"
    )


def test_word_by_word_gives_the_pieces_of_the_whole_text(corpus):
    for user in (1, 9, 42, 60):
        text = sequential_prompt(user, [1001, 1160, 1042], corpus.dataset.nouns)
        ids, _ = data.encode_prompt(text, user, corpus.tokenizer)
        assert (
            ids[:-1] == corpus.tokenizer.model.encode(text) and ids[-1] == corpus.tokenizer.eos_id
        )


def test_user_positions_point_at_the_users_tokens(corpus, task):
    for user in (0, 8, 41):
        example = Asked(corpus, task, "test", np.array([user])).example(user)
        pieces = [corpus.tokenizer.model.id_to_piece(i) for i in example.input_ids]
        marked = [piece for piece, is_user in zip(pieces, example.is_user) if is_user]
        mentions = (["▁User"] if task == "sequential" else []) + ["▁user"]
        expected = [[name, "_", str(user + 1)] for name in mentions]
        assert marked == sum(expected, [])


def test_each_number_is_one_piece(corpus):
    tokens = [corpus.tokenizer.word(str(number)) for number in corpus.numbers]
    assert {len(token) for token in tokens} == {1} and len(set(tokens)) == 160
    assert len(corpus.tokenizer.word("user_57")) == 3
    assert corpus.tokenizer.decode(list(corpus.target(5))) == str(corpus.numbers[5])


def test_a_long_history_loses_its_oldest_items_never_the_user(dataset, corpus):
    history = dataset.histories[0][:20]
    short = make_corpus(dataset, corpus.tokenizer, P5Config(window=20, max_tokens=30), seed=3)
    example = data.sequential_example(short, 0, history, 5)
    text = corpus.tokenizer.decode(example.input_ids)
    kept = [int(n) for n in text.split("movies ")[1].split(".")[0].split(", ")]
    assert kept == [corpus.numbers[item] for item in history[-len(kept) :]]
    assert 1 <= len(kept) < 20 and len(example.input_ids) <= 30 and sum(example.is_user) == 6


def test_no_held_out_item_in_any_training_example(dataset, corpus, task, rng):
    for listed in (0, 20):
        cfg = P5Config(prompt_candidates=listed)
        world = make_corpus(dataset, corpus.tokenizer, cfg, seed=3)
        users, positions = positions_of(world, task)
        assert len(users) == sum(len(t) - (task == "sequential") for t in world.split.train)
        for user, position in zip(users, positions):
            example = training_example(world, task, user, position, rng)
            held_out = {world.split.valid[user], world.split.test[user]}
            words = (
                world.tokenizer.decode(example.input_ids)
                .replace(",", " ")
                .replace(".", " ")
                .split()
            )
            mentioned = {int(w) for w in words if w.isdigit()}
            assert example.target == world.split.train[user][position] not in held_out
            assert not mentioned & {world.numbers[item] for item in held_out}


def test_test_history_includes_the_validation_item(corpus):
    example = Asked(corpus, "sequential", "test", np.array([4])).example(4)
    text = corpus.tokenizer.decode(example.input_ids)
    assert f", {corpus.numbers[corpus.split.valid[4]]}. Which" in text
    assert str(corpus.numbers[corpus.split.test[4]]) not in text


def test_listed_candidates_are_exactly_those_that_are_ranked(dataset, corpus):
    for listed in (20, 100):
        cfg = P5Config(prompt_candidates=listed)
        world = make_corpus(dataset, corpus.tokenizer, cfg, seed=3)
        asked = Asked(world, "direct", "test", np.array([4]))
        text = world.tokenizer.decode(asked.example(4).input_ids)
        names = [int(n) for n in text.split("candidates? ")[1].rstrip(".").split(", ")]
        ranked = world.numbers[asked.candidates(4)]
        assert len(names) == listed + 1 and sorted(names) == sorted(ranked)
        assert names[0] != world.numbers[world.split.test[4]]  # the answer is not always the first


def test_batch_is_padded_on_the_right(corpus):
    examples = [
        data.sequential_example(corpus, u, corpus.split.train[u][:n], 3)
        for u, n in ((0, 5), (1, 2))
    ]
    batch = collate(corpus, examples)
    assert batch.mask.sum(1).tolist() == [len(e.input_ids) for e in examples]
    assert (batch.input_ids[~batch.mask] == corpus.tokenizer.pad_id).all()
    assert batch.user_mask.sum(1).tolist() == [6, 6] and not (batch.user_mask & ~batch.mask).any()
    assert batch.target_ids.tolist() == [list(corpus.target(3))] * 2
