"New words begin at the mean of their pieces, old ones stay; unknown aspects do not count."

import json

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from seatrial.base.settings import CannotDo
from seatrial.tune.niche import Aspects, aspect_loss, aspect_targets, extended, style, styled, words_to_add
from seatrial.tune.training import train

transformers = pytest.importorskip("transformers", reason="encoders need the extra text")
tokenizers = pytest.importorskip("tokenizers", reason="tokenizers come with the extra text")

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[", "]", "film", "news", "good", "bad", "melo", "##drama", "##s", "un"]


@pytest.fixture
def file(tmp_path):
    reader = tokenizers.Tokenizer(tokenizers.models.WordPiece({w: i for i, w in enumerate(PIECES)}, unk_token="[UNK]"))
    reader.normalizer = tokenizers.normalizers.Lowercase()
    reader.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    reader.enable_padding()
    reader.save(str(path := tmp_path / "old.json"))
    return path


def encoder():
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.BertConfig(vocab_size=len(PIECES), pad_token_id=0, **sizes)
    return transformers.BertModel(config, add_pooling_layer=False).eval()


def read(path):
    return tokenizers.Tokenizer.from_file(str(path))


def test_new_tokens_begin_at_the_mean_of_their_pieces(file, tmp_path):
    network = encoder()
    old = network.get_input_embeddings().weight.detach().clone()
    reader = read(extended(network, file, ["melodrama", "melodramas"], tmp_path, ["film"]))
    new = network.get_input_embeddings().weight.detach()
    assert torch.equal(new[: len(old)], old) and len(new) == reader.get_vocab_size() == len(PIECES) + 3
    for word, pieces in (("melodrama", [10, 11]), ("melodramas", [10, 11, 12]), ("[film]", [4, 6, 5])):
        assert torch.allclose(new[reader.token_to_id(word)], old[pieces].mean(0))


def test_texts_without_new_words_are_read_as_before(file, tmp_path):
    network = encoder()
    inputs = {"input_ids": torch.tensor([[6, 8, 9]]), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
    before = network(**inputs)[0]
    reader = read(extended(network, file, ["melodrama"], tmp_path))
    assert torch.equal(network(**inputs)[0], before)
    assert reader.encode("good bad film").ids == [8, 9, 6]


def test_new_words_are_found_whatever_their_case_but_only_whole(file, tmp_path):
    reader = read(extended(encoder(), file, ["melodrama"], tmp_path, ["news"]))
    whole = reader.token_to_id("melodrama")
    assert reader.encode("Good Melodrama").ids == [8, whole]
    assert whole not in reader.encode("melodramas").ids
    assert reader.encode(styled(["good"], "news")[0]).tokens == ["[news]", "good"]


def test_only_frequent_words_in_pieces_are_proposed(file):
    texts = ["good melodrama melodrama"] * 5 + ["melodramas"] * 4 + ["bad film"] * 9
    assert words_to_add(texts, file, least=5) == ["melodrama"]
    assert words_to_add(texts, file, least=4) == ["melodrama", "melodramas"]
    assert words_to_add(texts, file, least=4, pieces=3) == ["melodramas"]
    assert words_to_add(texts, file, n=1, least=4) == ["melodrama"]
    assert words_to_add([], file) == []


def test_the_extended_network_trains_its_new_embeddings(file, tmp_path):
    network = encoder()
    reader = read(extended(network, file, ["melodrama"], tmp_path))
    token = reader.token_to_id("melodrama")
    network(input_ids=torch.tensor([[token, 8]]))[0].square().sum().backward()
    grad = network.get_input_embeddings().weight.grad
    assert grad[token].abs().sum() > 0 and grad[9].abs().sum() == 0


def test_bad_words_tokenizers_and_domains_get_one_sentence(file, tmp_path):
    network = encoder()
    with pytest.raises(ValueError, match="'film', which is one already"):
        extended(network, file, ["film"], tmp_path)
    with pytest.raises(ValueError, match="words must be new tokens"):
        extended(network, file, [], tmp_path)
    with pytest.raises(ValueError, match="2 with 1 different"):
        extended(network, file, ["melodrama", "melodrama"], tmp_path)
    assert network.get_input_embeddings().num_embeddings == len(PIECES)
    wider = extended(network, file, ["melodrama"], tmp_path)
    with pytest.raises(ValueError, match="14 tokens for 15 embeddings"):
        extended(network, file, ["melodramas"], tmp_path)
    assert read(wider).get_vocab_size() == 15
    (tmp_path / "broken.json").write_text(json.dumps({"model": 1}))
    with pytest.raises(CannotDo, match="is no tokenizer file"):
        words_to_add(["x"], tmp_path / "broken.json")
    for bad in ("Film", "film noir", "", "[film]"):
        with pytest.raises(ValueError, match="domain must be a lower-case word"):
            style(bad)
    with pytest.raises(ValueError, match="at least 1"):
        words_to_add(["x"], file, n=0)


@settings(max_examples=40)
@given(st.integers(0, 10_000), st.lists(st.floats(0.1, 5), min_size=2, max_size=2))
def test_unknown_aspects_do_not_count_and_given_weights_weigh(seed, weights):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(6, 2))
    values[0, 0] = np.nan
    said = torch.tensor(rng.normal(size=(6, 2)), dtype=torch.float32)
    s = torch.tensor(weights).log().neg().expand(6, 2)
    found = float(aspect_loss((said, s), torch.from_numpy(aspect_targets(values))))
    miss, known = (said.numpy() - values) ** 2, ~np.isnan(values)
    expected = 0.5 * (np.nan_to_num(miss * weights) - known * np.log(weights)).sum() / 6
    assert np.isclose(found, expected, rtol=1e-4, atol=1e-5)


class Level(nn.Module):
    "One number for each aspect."

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.zeros(2))

    def forward(self, x):
        return self.level.expand(len(x), 2)


def test_given_weights_stay_and_learned_ones_move():
    values = np.random.default_rng(0).normal(size=(200, 2)) * [3.0, 0.3]
    data = ({"x": np.zeros((200, 1), np.float32)}, aspect_targets(values))
    how = {"epochs": 3, "lr": 0.05, "batch": 20, "loss": aspect_loss}
    given_, learned = Aspects(Level(), 2, [1.0, 2.0]), Aspects(Level(), 2)
    train(given_, data, data, **how)
    train(learned, data, data, **how)
    assert torch.allclose(torch.exp(-given_.s), torch.tensor([1.0, 2.0]))
    assert learned.s[0] > 0 > learned.s[1]


@pytest.mark.parametrize("weights", [[1.0], [1.0, 0.0], [1.0, -1.0], [1.0, np.nan]])
def test_weights_are_positive_and_one_for_each_aspect(weights):
    with pytest.raises(ValueError, match="weights must be 2 positive numbers"):
        Aspects(Level(), 2, weights)


def test_an_aspect_of_which_nothing_is_known_is_refused():
    with pytest.raises(ValueError, match="something known of each aspect"):
        aspect_targets([[1.0, np.nan]])
    with pytest.raises(ValueError, match=r"got shape \(3,\)"):
        aspect_targets([1.0, 2.0, 3.0])
