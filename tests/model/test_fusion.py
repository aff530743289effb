"What holds for every mask: nothing under it is heard, and no gradient goes there."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch.nn import functional

from seatrial.model.fusion import Fusion, Layer, Reader, attention, kept, phases

masks = arrays(bool, (3, 5))
foul = st.sampled_from([float("nan"), float("inf"), -1e30])


@given(mask=masks, dirt=foul)
@settings(max_examples=50, deadline=None)
def test_a_reader_hears_nothing_under_the_mask_and_sends_no_gradient_there(mask, dirt):
    torch.manual_seed(0)
    reader, tokens, query, mask = (
        Reader(8, 2, 1).eval(),
        torch.randn(3, 5, 8),
        torch.randn(3, 8),
        torch.from_numpy(mask),
    )
    dirty = torch.where(mask.unsqueeze(-1), tokens, torch.tensor(dirt)).requires_grad_()
    answer = reader(kept(dirty, mask.unsqueeze(-1)), mask, query)
    assert torch.equal(answer, reader(kept(tokens, mask.unsqueeze(-1)), mask, query)) and answer.isfinite().all()
    answer.sum().backward()
    assert not dirty.grad[~mask].any() and dirty.grad.isfinite().all()


@given(present=arrays(bool, (4, 3)), dirt=foul)
@settings(max_examples=50, deadline=None)
def test_weights_are_shared_by_what_is_there_and_by_nothing_else(present, dirt):
    torch.manual_seed(0)
    mix, vectors, present = Fusion(8), torch.randn(4, 3, 8), torch.from_numpy(present)
    dirty = torch.where(present.unsqueeze(-1), vectors, torch.tensor(dirt)).requires_grad_()
    mixed, weights = mix(dirty, present)
    assert torch.equal(weights > 0, present)
    torch.testing.assert_close(weights.sum(1), present.any(1).float())
    torch.testing.assert_close(mixed, mix(vectors, present)[0])
    mixed.sum().backward()
    assert not dirty.grad[~present].any() and dirty.grad.isfinite().all()
    assert mix.score.weight.grad.isfinite().all()


def test_the_order_of_tokens_does_not_matter_without_clocks():
    torch.manual_seed(0)
    reader, tokens, query = Reader(16).eval(), torch.randn(2, 6, 16), torch.randn(2, 16)
    mask, turned = torch.rand(2, 6) < 0.7, torch.tensor([3, 5, 0, 1, 4, 2])
    torch.testing.assert_close(reader(tokens, mask, query), reader(tokens[:, turned], mask[:, turned], query))


def test_attention_is_that_of_torch():
    torch.manual_seed(1)
    q, k, v = torch.randn(3, 4, 2, 7, 8)
    mask = torch.rand(4, 7) < 0.5
    mask[:, 0] = True
    theirs = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask[:, None, None, :])
    torch.testing.assert_close(attention(q, k, v, mask), theirs)


@given(time=st.integers(-30000, 30000), turns=st.integers(-20, 20), period=st.sampled_from([7.0, 24.0, 365.0]))
def test_a_clock_shows_the_same_after_any_number_of_turns(time, turns, period):
    now, later = phases(torch.tensor([float(time), time + turns * period]), [period])
    torch.testing.assert_close(now, later, atol=1e-3, rtol=0)
    np.testing.assert_allclose((now**2).sum(), 1, atol=1e-5)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: Layer(10, 4), "multiple of heads, got width=10 and heads=4"),
        (lambda: Layer(8, 0), "got width=8 and heads=0"),
        (lambda: Reader(8, layers=0), "layers must be at least 1, got 0"),
        (lambda: phases(torch.zeros(2), []), "at least one"),
        (lambda: phases(torch.zeros(2), [7, -1]), "above 0"),
        (lambda: phases(torch.zeros(2), np.array([7.0, np.nan])), r"above 0, at least one, got \(.*nan"),
    ],
)
def test_what_cannot_be_built_is_named(call, said):
    with pytest.raises(ValueError, match=said):
        call()


@given(mask=masks, dirt=foul)
@settings(max_examples=30, deadline=None)
def test_a_reader_and_its_attention_silence_a_nan_by_themselves(mask, dirt):
    torch.manual_seed(0)
    reader, tokens, query, mask = Reader(8, 2, 2), torch.randn(3, 5, 8), torch.randn(3, 8), torch.from_numpy(mask)
    dirty = torch.where(mask.unsqueeze(-1), tokens, torch.tensor(dirt)).requires_grad_()
    answer = reader.eval()(dirty, mask, query)
    assert torch.equal(answer, reader(tokens, mask, query)) and answer.isfinite().all()
    answer.sum().backward()
    assert not dirty.grad[~mask].any() and dirty.grad.isfinite().all()
    assert all(p.grad.isfinite().all() for p in reader.parameters())
    q = query[:, None, None].requires_grad_()
    heard = attention(q, dirty[:, None], dirty[:, None], mask)
    heard.sum().backward()
    assert torch.equal(heard, attention(q, tokens[:, None], tokens[:, None], mask)) or not mask.any(1).all()
    assert heard.isfinite().all() and q.grad.isfinite().all()


def test_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    reader, mix, mask = Reader(4, 2, 1).double().eval(), Fusion(4).double(), torch.tensor([[1, 1, 0], [1, 0, 0]]).bool()
    tokens, query = torch.randn(2, 3, 4).double().requires_grad_(), torch.randn(2, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda t, q: reader(t, mask, q), (tokens, query))
    assert torch.autograd.gradcheck(lambda t: mix(t, mask), (tokens,))


def test_a_mask_and_a_period_may_be_numpys():
    assert phases(torch.zeros(2), np.array([7.0, 24.0])).shape == (2, 4)
