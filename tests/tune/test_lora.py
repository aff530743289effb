"Low-rank training changes what it says it changes, and merges without moving an answer."

import copy
import sys

import numpy as np
import pytest
import torch
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune import lora as module
from seatrial.tune.feed import predict
from seatrial.tune.lora import Lora, adapted, lora, merged, projections, wearing

transformers = pytest.importorskip("transformers", reason="encoders need the extra text")
needs_peft = pytest.mark.skipif(
    not module.find_spec("peft"), reason="peft is not installed; pip install seatrial[tune] runs these"
)

SIZES = {"vocab_size": 40, "pad_token_id": 0}
FAMILIES = {
    "bert": lambda t: t.BertModel(
        t.BertConfig(hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, **SIZES),
        add_pooling_layer=False,
    ),
    "distilbert": lambda t: t.DistilBertModel(
        t.DistilBertConfig(dim=16, n_layers=2, n_heads=2, hidden_dim=32, **SIZES)
    ),
    "electra": lambda t: t.ElectraModel(
        t.ElectraConfig(
            embedding_size=16,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
            **SIZES,
        )
    ),
}


class Scorer(nn.Module):
    "An encoder's first token, and a line."

    def __init__(self, family="bert", seed=0):
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.encoder = FAMILIES[family](transformers)
            self.head = nn.Linear(16, 1)

    def forward(self, input_ids, attention_mask):
        return self.head(self.encoder(input_ids=input_ids, attention_mask=attention_mask)[0][:, 0]).squeeze(-1)


RNG = np.random.default_rng(0)
IDS = {"input_ids": RNG.integers(1, 40, (48, 6)), "attention_mask": np.ones((48, 6), np.int64)}
DATA = (IDS, (IDS["input_ids"][:, 0] > 20).astype(np.float32))
HOW = {"epochs": 2, "lr": 1e-2, "batch": 16}


@needs_peft
@pytest.mark.parametrize("family", FAMILIES)
def test_any_family_trains_merges_and_keeps_its_answers(family):
    before = Scorer(family)
    made = lora(copy.deepcopy(before), DATA, DATA, **HOW)
    assert made.strayed < 1e-5 and type(made.model) is Scorer
    was, now = before.state_dict(), made.model.state_dict()
    assert list(was) == list(now)
    changed = {name.rpartition(".")[0] for name in was if not torch.equal(was[name], now[name])}
    assert changed == {*projections(before), "head"}
    assert all(p.requires_grad for p in made.model.parameters()) and not hasattr(made.model, "peft_config")


@needs_peft
def test_adapters_change_nothing_before_the_first_step():
    plain = Scorer()
    worn = adapted(copy.deepcopy(plain))
    assert np.array_equal(predict(worn, IDS), predict(plain, IDS))
    assert sum(p.numel() for p in worn.parameters() if p.requires_grad) == 8 * 8 * (16 + 16) + 17


@needs_peft
def test_the_same_seed_ends_in_the_same_bits():
    ends = [lora(Scorer(), DATA, DATA, seed=s, **HOW).adapter for s in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


@needs_peft
def test_a_stored_adapter_makes_the_same_network_again():
    made = lora(Scorer(), DATA, DATA, Lora(rank=2), **HOW)
    again = wearing(Scorer(), made.adapter, Lora(rank=2))
    assert all(torch.equal(v, again.state_dict()[name]) for name, v in made.model.state_dict().items())
    assert len(made.adapter) < 4 * made.trained + 10_000


@needs_peft
def test_an_adapter_that_does_not_fit_is_refused_before_anything_changes():
    made, other = lora(Scorer(), DATA, DATA, Lora(rank=2), **HOW), Scorer(seed=1)
    before = predict(other, IDS)
    with pytest.raises(CannotDo, match="does not fit this network"):
        wearing(other, made.adapter, Lora(rank=2))
    assert np.array_equal(predict(other, IDS), before)
    assert not [name for name, _ in other.named_modules() if "lora" in name]
    with pytest.raises(CannotDo, match="no safetensors file"):
        wearing(Scorer(), b"PK something else")


@needs_peft
def test_a_merge_that_moves_answers_is_refused():
    worn = adapted(Scorer())
    for name, p in worn.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(p, std=100.0)
    with pytest.raises(CannotDo, match="merging moved the answers by"):
        merged(worn, IDS, tolerance=0.0)


@needs_peft
def test_targets_must_be_there_and_free():
    with pytest.raises(ValueError, match="targets must be named for Linear"):
        adapted(nn.Linear(2, 2), head="")
    with pytest.raises(ValueError, match=r"got 'encoder\.missing'"):
        adapted(Scorer(), Lora(targets=("encoder.missing",)))
    twice = Scorer()
    adapted(twice)
    with pytest.raises(ValueError, match="adapters already"):
        adapted(twice)


@pytest.mark.parametrize("bad", [{"rank": 0}, {"rank": 2.0}, {"dropout": 1.0}, {"scale": 0}])
def test_plans_that_cannot_work_are_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        Lora(**bad)


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(CannotDo, match=r"pip install seatrial\[tune\]"):
        adapted(Scorer())
