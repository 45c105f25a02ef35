"""Weights that are made to fit: what the network computes, row by row and layer by layer."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForPreTraining

from model import NezhaConfig, NezhaForPreTraining
from pipeline.errors import CheckpointError
from pipeline.paths import RunPaths
from pipeline.training.faults import events
from pipeline.training.start import starting_point
from pipeline.training.start.network import build_network
from tests.corpora import LETTERS, SPECIAL_IDS
from tests.small_run import fit, settings

WORDS = [*SPECIAL_IDS, *LETTERS]
SHAPE = dict(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64)


def folder(path, words=WORDS, kind=NezhaForPreTraining, **changes):
    """A public network, with weights far from their initial ones."""
    config_class = NezhaConfig if kind is NezhaForPreTraining else BertConfig
    torch.manual_seed(3)
    network = kind(config_class(vocab_size=len(words), **SHAPE | changes))
    with torch.no_grad():
        for weight in network.parameters():
            weight += 0.2 * torch.randn_like(weight)
    network.save_pretrained(path)
    (path / "vocab.txt").write_text("\n".join(words) + "\n", "utf-8")
    return network


QUERY = "nezha.encoder.layer.0.attention.self.query.weight"


def change(path, harm):
    """Change the weights of a folder."""
    weights = load_file(path / "model.safetensors")
    harm(weights)
    save_file(weights, path / "model.safetensors", {"format": "pt"})


def load(tmp_path, words=WORDS, **changes):
    vocab = tmp_path / "wanted.txt"
    vocab.write_text("\n".join(words) + "\n", "utf-8")
    network = build_network(NezhaConfig(vocab_size=len(words), **SHAPE | changes), 1, "eager")
    return network, starting_point.load(network, tmp_path / "given", vocab)


def answers(network, ids):
    network.eval()
    with torch.no_grad():
        given = network(ids, token_type_ids=(ids > 20).long())
    return given.prediction_logits, given.seq_relationship_logits


def test_a_wider_network_computes_what_the_given_one_computes(tmp_path):
    given = folder(tmp_path / "given")
    wide, told = load(tmp_path, hidden_size=64, num_attention_heads=4, intermediate_size=192)
    assert "2 layers of 32 became 2 of 64" in told
    assert "left out" not in told
    ids = torch.randint(5, len(WORDS), (3, 20))
    for mine, theirs in zip(answers(wide, ids), answers(given, ids), strict=True):
        assert torch.allclose(mine, theirs, atol=2e-4, rtol=1e-4)
    copies = wide.nezha.encoder.layer[0].attention.self.query.weight.chunk(2)
    assert not torch.allclose(*copies)  # else both would learn the same for ever


def test_a_deeper_network_is_a_stack_and_a_shallower_one_its_first_layers(tmp_path):
    given = folder(tmp_path / "given")
    for depth in (5, 1):
        network, _ = load(tmp_path, num_hidden_layers=depth)
        for number, layer in enumerate(network.nezha.encoder.layer):
            source = given.nezha.encoder.layer[number % 2]
            assert torch.equal(layer.output.dense.weight, source.output.dense.weight)


def test_tokens_keep_their_rows_and_new_ones_are_made_of_their_pieces(tmp_path):
    a, b, c, d = LETTERS[:4]
    given_words = [*WORDS, f"##{b}"]
    given = folder(tmp_path / "given", given_words)
    wanted = [*SPECIAL_IDS, d, a + b, c + d, "x", f"##{a}"]
    network, told = load(tmp_path, wanted)
    assert "6 tokens kept, 3 made from word pieces, 1 from the mean" in told
    at = {word: number for number, word in enumerate(given_words)}
    for of in ("nezha.embeddings.word_embeddings.weight", "cls.predictions.bias"):
        mine, theirs = network.state_dict()[of], given.state_dict()[of]
        expected = [
            theirs[at[d]],
            (theirs[at[a]] + theirs[at[f"##{b}"]]) / 2,
            (theirs[at[c]] + theirs[at[d]]) / 2,
            theirs.mean(0),
            theirs[at[a]],
        ]
        assert torch.allclose(mine[5:], torch.stack(expected))
        assert torch.equal(mine[:5], theirs[:5])
    assert network.cls.predictions.decoder.weight is network.get_input_embeddings().weight


def test_a_public_bert_is_a_start_without_its_absolute_positions(tmp_path):
    bert = folder(tmp_path / "given", kind=BertForPreTraining)
    network, told = load(tmp_path)
    assert told.endswith("left out: nezha.embeddings.position_embeddings.weight")
    assert "new weights" not in told
    for mine, theirs in zip(network.nezha.encoder.layer, bert.bert.encoder.layer, strict=True):
        assert torch.equal(mine.intermediate.dense.weight, theirs.intermediate.dense.weight)
    assert torch.equal(network.cls.predictions.bias, bert.cls.predictions.bias)


def test_absolute_positions_are_those_of_a_public_bert(tmp_path):
    bert = folder(tmp_path / "given", kind=BertForPreTraining)
    network, told = load(tmp_path, absolute_positions=True)
    assert "left out" not in told
    mine, theirs = (each.embeddings.position_embeddings for each in (network.nezha, bert.bert))
    assert torch.equal(mine.weight, theirs.weight)
    with pytest.raises(CheckpointError, match="max_position_embeddings: 512 there, 64 here"):
        load(tmp_path, absolute_positions=True, max_position_embeddings=64)


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        (dict(hidden_size=48, num_attention_heads=3), "model.hidden_size: 32 there, 48 here"),
        (dict(num_attention_heads=4), "hidden_size / num_attention_heads: 16 there, 8 here"),
        (dict(hidden_act="relu"), "model.hidden_act: gelu there, relu here"),
    ],
)
def test_what_cannot_be_made_to_fit_is_refused(tmp_path, changes, part):
    folder(tmp_path / "given")
    with pytest.raises(CheckpointError, match=part):
        load(tmp_path, **changes)


def test_an_encoder_that_was_saved_alone_is_a_start(tmp_path):
    given = folder(tmp_path / "given")
    given.nezha.save_pretrained(tmp_path / "given")
    network, told = load(tmp_path)
    assert "new weights: cls." in told
    assert "left out" not in told
    for mine, theirs in zip(network.nezha.parameters(), given.nezha.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_the_bias_may_have_the_name_of_its_tied_copy(tmp_path):
    given = folder(tmp_path / "given")
    change(
        tmp_path / "given",
        lambda weights: weights.__setitem__(
            "cls.predictions.decoder.bias", weights.pop("cls.predictions.bias")
        ),
    )
    network, told = load(tmp_path)
    assert "new weights" not in told
    assert torch.equal(network.cls.predictions.bias, given.cls.predictions.bias)


@pytest.mark.parametrize(
    ("harm", "part"),
    [
        (lambda w: w.pop("nezha.encoder.layer.1.output.dense.bias"), "dense.bias is missing"),
        (
            lambda w: w.__setitem__(QUERY, w[QUERY][:16]),
            r"query.weight is \[16, 32\], by the configuration \[32, 32\]",
        ),
        (
            lambda w: w.__setitem__("cls.predictions.decoder.weight", torch.zeros(65, 32)),
            "decoder.weight differs from nezha.embeddings.word_embeddings.weight",
        ),
    ],
)
def test_weights_that_do_not_fit_their_own_configuration_are_refused(tmp_path, harm, part):
    folder(tmp_path / "given")
    change(tmp_path / "given", harm)
    with pytest.raises(CheckpointError, match=part):
        load(tmp_path)


def test_a_vocabulary_of_another_network_is_refused(tmp_path):
    folder(tmp_path / "given")
    (tmp_path / "given" / "vocab.txt").write_text("\n".join([*WORDS, "x", "y"]), "utf-8")
    with pytest.raises(CheckpointError, match=r"vocab\.txt has 67 entries, and the network 65"):
        load(tmp_path)


def test_another_clip_distance_is_told(tmp_path):
    folder(tmp_path / "given", max_relative_position=8)
    _, told = load(tmp_path)
    assert "positions were clipped at distance 8, and are at 64" in told


def test_a_run_starts_from_weights_that_were_made_to_fit(tmp_path):
    folder(tmp_path / "given", [*SPECIAL_IDS, *reversed(LETTERS)])
    origin = f"train.init_from={tmp_path / 'given'}", "train.init_adapt=true"
    config = settings(tmp_path, "warm", *origin, "train.steps=2", "model.num_hidden_layers=3")
    assert fit(config)["step"] == 2
    (told, _) = [event["text"] for event in events.read(RunPaths.of(config).run)]
    assert "2 layers of 32 became 3 of 32; of the vocabulary 65 tokens kept" in told
