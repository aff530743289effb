"A scorer of four aspects: what is missing has no weight, no influence and no gradient; attributions add up."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from seatrial.engine.bundle import Signature, TensorSpec
from seatrial.engine.export import export
from seatrial.engine.runtime import load
from seatrial.model.aspects import ASPECTS, SIZES, AspectScorer, Reader, Table, TextAspect, attribution, shared_out

masks = st.lists(st.lists(st.booleans(), min_size=4, max_size=4), min_size=1, max_size=6)


@pytest.fixture
def model():
    torch.manual_seed(0)
    made = AspectScorer(TextAspect(Table(50, 4)), width=5, prior=0.75).eval()
    with torch.no_grad():
        made.logits[:] = torch.tensor([1.0, -0.5, 0.3, 0.0])
    return made


def rows(n, seed=0):
    g = torch.Generator().manual_seed(seed)
    made = {name: torch.randn(n, size, generator=g) for name, size in SIZES.items()}
    return made | {"script": torch.randint(0, 50, (n, 7), generator=g)}


def other(inputs, present, fill, token=9):
    "The same rows with something else wherever an aspect is missing."
    made = {n: torch.where(present[:, k : k + 1], inputs[n], fill) for k, n in enumerate(ASPECTS) if k}
    return made | {"script": torch.where(present[:, :1], inputs["script"], token)}


@settings(deadline=None)
@given(mask=masks)
def test_weights_are_a_softmax_over_what_is_there(mask):
    logits, there = torch.tensor([2.0, -1.0, 0.5, 0.0]), torch.tensor(mask)
    w = shared_out(logits, there)
    assert not w[~there].any()
    torch.testing.assert_close(w.sum(1), there.any(1).float())
    for row, m in zip(w, there, strict=True):
        torch.testing.assert_close(row[m], torch.softmax(logits[m], 0))


def test_weights_survive_extreme_logits():
    w = shared_out(torch.tensor([300.0, -300.0, 0.0, 299.0]), torch.tensor([[True] * 4, [False, True, False, False]]))
    assert torch.isfinite(w).all() and w[0, 0] > w[0, 3] > 0
    assert w[1].tolist() == [0.0, 1.0, 0.0, 0.0]


@pytest.mark.parametrize(("fill", "token"), [(float("nan"), 9), (float("inf"), -1), (1e30, 10**6)])
@settings(deadline=None, max_examples=20)
@given(mask=masks)
def test_what_is_missing_has_no_influence(fill, token, mask):
    torch.manual_seed(0)
    model, present = AspectScorer(TextAspect(Table(50, 4)), width=5).eval(), torch.tensor(mask)
    inputs = rows(len(mask))
    with torch.inference_mode():
        said, again = model(**inputs, present=present), model(**other(inputs, present, fill, token), present=present)
    assert all(torch.equal(a, b) for a, b in zip(said, again, strict=True))
    assert all(torch.isfinite(a).all() for a in said)


@pytest.mark.parametrize("missing", range(4))
def test_what_is_missing_gets_no_gradient(model, missing):
    present = torch.ones(5, 4, dtype=torch.bool)
    present[:, missing] = False
    inputs = other(rows(5), present, float("nan"))
    model(**inputs, present=present)[0].square().sum().backward()
    parts = [model.script, *model.others.values()]
    for k, part in enumerate(parts):
        moved = sum(float(p.grad.abs().sum()) for p in part.parameters())
        assert moved == 0 if k == missing else 0 < moved < float("inf")
    assert (model.logits.grad[missing] == 0) and model.logits.grad.abs().sum() > 0


def test_shapes_and_the_overall_score(model):
    overall, aspects, weights = model(**rows(6), present=torch.ones(6, 4, dtype=torch.bool))
    assert (overall.shape, aspects.shape, weights.shape) == ((6,), (6, 4), (6, 4))
    torch.testing.assert_close(overall, (aspects * weights).sum(1))


def test_row_without_any_aspect_gets_the_prior(model):
    overall, aspects, weights = model(**rows(2), present=torch.zeros(2, 4, dtype=torch.bool))
    assert overall.tolist() == [0.75, 0.75] and not aspects.any() and not weights.any()


def test_rows_do_not_depend_on_their_company(model):
    inputs, present = rows(6), torch.rand(6, 4, generator=torch.Generator().manual_seed(1)) < 0.5
    with torch.inference_mode():
        together = model(**inputs, present=present)
        for i in range(6):
            alone = model(**{k: v[i : i + 1] for k, v in inputs.items()}, present=present[i : i + 1])
            for a, b in zip(alone, together, strict=True):
                torch.testing.assert_close(a[0], b[i])


@settings(deadline=None)
@given(row=st.lists(st.integers(1, 49), min_size=0, max_size=12), extra=st.integers(1, 6))
def test_attributions_add_up_and_padding_adds_nothing(row, extra):
    torch.manual_seed(0)
    model = AspectScorer(TextAspect(Table(50, 4))).eval()
    torch.nn.init.normal_(model.script.encoder.rows.weight[1:])
    ids = np.array([row + [0] * extra])
    each, gap = attribution(model, ids)
    assert not each[0, len(row) :].any()
    np.testing.assert_allclose(each.sum(1), gap, atol=1e-5)


def test_attribution_of_a_reader_adds_up(tmp_path):
    transformers = pytest.importorskip("transformers", reason="the text extra is not installed")
    from seatrial.model.quality import quiet

    torch.manual_seed(0)
    sizes = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    with quiet():
        config = transformers.BertConfig(**sizes, intermediate_size=32)
        transformers.BertModel(config).save_pretrained(tmp_path)
    model = AspectScorer(TextAspect(Reader(str(tmp_path)))).eval()
    each, gap = attribution(model, np.array([[3, 4, 5, 0, 0], [6, 7, 8, 9, 10]]))
    np.testing.assert_allclose(each.sum(1), gap, atol=1e-5)
    assert not each[0, 3:].any()
    alone, _ = attribution(model, np.array([[3, 4, 5]]))
    np.testing.assert_allclose(alone[0], each[0, :3], atol=1e-5)


def test_graph_takes_masks_and_answers_as_the_module(model, tmp_path):
    floats = [TensorSpec(name, "FP32", (-1, size), True) for name, size in SIZES.items()]
    asked = (TensorSpec("script", "INT64", (-1, -1)), *floats, TensorSpec("present", "BOOL", (-1, 4)))
    answered = [TensorSpec("overall", "FP32", (-1,)), *(TensorSpec(n, "FP32", (-1, 4)) for n in ("aspects", "weights"))]
    inputs, present = rows(9), torch.rand(9, 4, generator=torch.Generator().manual_seed(2)) < 0.5
    example = {k: v.numpy() for k, v in (inputs | {"present": present}).items()}
    facts = {"signature": Signature(asked, tuple(answered)), "batches": (1, 7)}
    engine = load(export(model, example, tmp_path / "b", **facts))
    foul = other(inputs, present, float("nan"), 10**6) | {"present": present}
    with torch.inference_mode():
        expected = model(**inputs, present=present)
    for row in (slice(None), slice(3, 4)):
        said = engine.run({k: v[row].numpy() for k, v in foul.items()})
        for name, value in zip(("overall", "aspects", "weights"), expected, strict=True):
            np.testing.assert_allclose(said[name], value[row].numpy(), atol=1e-5)


def test_ids_below_zero_are_padding_in_the_network_and_in_the_graph(model, tmp_path):
    signature = Signature((TensorSpec("ids", "INT64", (-1, -1)),), (TensorSpec("score", "FP32", (-1,)),))
    ids = rows(4)["script"]
    engine = load(export(model.script, {"ids": ids.numpy()}, tmp_path / "b", signature=signature, batches=(1, 7)))
    for filling in (-1, -100):
        padded = torch.cat([ids, torch.full((4, 2), filling)], 1)
        with torch.inference_mode():
            torch.testing.assert_close(model.script(padded), model.script(ids))
            np.testing.assert_allclose(engine.run({"ids": padded.numpy()})["score"], model.script(ids), atol=1e-5)
        each, gap = attribution(model, padded.numpy())
        assert not each[:, -2:].any() and np.allclose(each.sum(1), gap, atol=1e-5)


def test_attributions_add_up_in_the_middle_of_training_too(model):
    class Forgetful(torch.nn.Module):
        width = 4

        def __init__(self):
            super().__init__()
            self.table, self.dropout = Table(50, 4), torch.nn.Dropout(0.5)

        def forward(self, ids, mask):
            return self.dropout(self.table(ids, mask))

    model = AspectScorer(TextAspect(Forgetful())).train()
    each, gap = attribution(model, [[3, 4, 5, 6, 7]])
    np.testing.assert_allclose(each.sum(1), gap, atol=1e-6)
    assert model.training and model.script.encoder.dropout.training


def test_gradients_are_those_of_finite_differences(model):
    inputs, present = rows(3), torch.tensor([[1, 1, 0, 1], [1, 0, 1, 1], [0, 0, 0, 1]]).bool()
    model, script = model.double(), inputs.pop("script")
    wide = [x.double().requires_grad_() for x in inputs.values()]
    assert torch.autograd.gradcheck(lambda *given: model(script, *given, present)[0], wide)


def test_refusals():
    with pytest.raises(ValueError, match="buckets must be at least 2 and width at least 1, got 1 and 32"):
        Table(1)
    with pytest.raises(ValueError, match="script must be a TextAspect, got NoneType"):
        AspectScorer(None)
    for bad in ({"prior": None}, {"width": 0}, {"width": 2.5}, {"prior": float("inf")}):
        with pytest.raises(ValueError, match="width must be at least 1 and prior a number"):
            AspectScorer(TextAspect(Table(5, 2)), **bad)


@pytest.mark.parametrize(
    ("name", "made", "said"),
    [
        ("present", torch.ones(3, 4), r"present must be bool of shape \(batch, 4\).* got torch.float32 \(3, 4\)"),
        ("present", torch.ones(3, 5).bool(), r"got torch.bool \(3, 5\)"),
        ("present", torch.ones(1, 4).bool(), "equally many rows, got {'present': 1, 'script': 3"),
        ("audio", torch.ones(3, 23), r"audio must have shape \(batch, 24\), got \(3, 23\)"),
        ("visual", torch.ones(1, 32), "equally many rows, got .*'visual': 1"),
        ("script", torch.ones(3, 7), r"script must be whole ids \(batch, tokens\), got torch.float32 \(3, 7\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(model, name, made, said):
    inputs = rows(3) | {"present": torch.ones(3, 4, dtype=torch.bool)} | {name: made}
    with pytest.raises(ValueError, match=said):
        model(**inputs)


@pytest.mark.parametrize("script", [[1, 2], [[1.5, 2.0]], [["word"]]])
def test_only_tables_of_ids_are_attributed(model, script):
    with pytest.raises(ValueError, match=r"script must be whole ids \(batch, tokens\), got"):
        attribution(model, script)
