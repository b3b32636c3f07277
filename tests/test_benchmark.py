"""The benchmark runs, counts what it says that it counts, and compares equal things."""

import importlib.util
import json

import pytest
import torch

from model import T5, T5Config, init_from_scratch, target_loss
from reproduction import benchmark
from reproduction.benchmark import Products, World, item_tokens, products_of
from support.files import InputError

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "names",
    [
        ["step", "batch", "p5", "scores", "ranks", "loading", "bf16"],
        pytest.param(["growth"], marks=pytest.mark.slow),
    ],
)
def test_rows_run_and_are_kept(names, tmp_path, capsys):
    out = tmp_path / "rows.json"
    small = [
        "--shape",
        "tiny",
        "--batch",
        "4",
        "--source",
        "64",
        "--repeats",
        "1",
        "--out",
        str(out),
    ]
    rows = benchmark.main(["--rows", ",".join(names), *small])
    assert json.loads(out.read_text()) == rows
    ways = {row["way"] for row in rows}
    assert all(min(row["seconds"]) > 0 for row in rows)
    if names == ["growth"]:
        assert {"512 tokens", "32 prompts", "32 users"} <= ways
        return
    assert {"ours", "word for word", "the products alone", "bfloat16", "among 3,416"} <= ways
    if importlib.util.find_spec("transformers") is not None:
        assert "transformers, each candidate alone" in ways
        text = capsys.readouterr().out
        apart = float(text.split("difference of a log-probability: ")[1].split()[0])
        assert 0 < apart < 1e-4


def test_products_of_a_training_step_by_hand():
    """Forward, and twice as much backward but for what nothing before it learns from."""
    d, f, s, y, b, v, h = 16, 24, 5, 3, 2, 30, 2
    cfg = T5Config(v, d_model=d, d_kv=8, d_ff=f, num_layers=1, num_decoder_layers=1, num_heads=h)
    model = T5(cfg)
    init_from_scratch(model, torch.Generator().manual_seed(0))
    ids, target = torch.randint(2, v, (b, s)), torch.randint(2, v, (b, y))
    run = lambda: target_loss(model, model.encode(ids, torch.ones_like(ids).bool()), target)
    with torch.no_grad():
        found = products_of(run).flop()
    encoder = s * (4 * d * d + 2 * d * f) + 2 * s * s * d
    decoder = y * (6 * d * d + 2 * d * f) + 2 * s * d * d + 2 * y * y * d + 2 * y * s * d
    assert found == 2 * b * (encoder + decoder + y * d * v)
    model.requires_grad_(False)
    model.embedding.weight.requires_grad_(True)
    trained = products_of(lambda: run().backward()).flop()
    # the gradients of every product's input, as in a frozen model, and of the head's own weights; each of
    # attention's two products has two inputs, and its weights are computed once more
    attention = 2 * b * h * 8 * (s * s + y * y + y * s)
    assert trained == 2 * found + 3 * attention + 2 * b * y * d * v


def test_the_products_alone_are_of_the_same_shapes():
    products = Products()
    with products:
        torch.randn(3, 4) @ torch.randn(4, 5)
        torch.bmm(torch.randn(2, 3, 4), torch.randn(2, 4, 6))
    assert products.shapes == {(1, 3, 4, 5): 1, (2, 3, 4, 6): 1}
    assert products_of(products.alone(CPU, torch.float32)).shapes == products.shapes
    assert products.flop() == 2 * (3 * 4 * 5 + 2 * 3 * 4 * 6)


def test_items_are_distinct_and_share_beginnings():
    world = World("tiny", 2, 64, CPU, torch.float32)
    assert len(set(world.items)) == len(world.items) == 3416
    assert item_tokens(1234) == (112, 334, 1) and len({item[0] for item in world.items}) == 35


@pytest.mark.parametrize(
    "flags, message",
    [
        (
            ["--rows", "step,dance"],
            "--rows step,dance: there is no 'dance'; choose from step, batch",
        ),
        (["--source", "63"], "--source 63: too small; 64 at least"),
        (["--repeats", "0"], "--repeats 0: too small; 1 at least"),
    ],
)
def test_mistakes_are_said_in_one_line(flags, message):
    with pytest.raises(InputError, match=message):
        benchmark.main(flags)
