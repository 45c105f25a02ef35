"""What this network does better than, or beside, transformers 4.40.2."""

from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForPreTraining, BertModel
from transformers.cache_utils import DynamicCache

import model as nezha
from model.attention.definition import position_table
from model.attention.interface import NezhaAttentionInterface, eager_attention_forward

SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 37,
    "max_position_embeddings": 16,
    "max_relative_position": 6,
    "initializer_range": 0.2,
}
CLOSE = {"rtol": 1e-5, "atol": 1e-5}


def build(head: type = nezha.NezhaModel, **changes: Any) -> Any:
    torch.manual_seed(0)
    return head(nezha.NezhaConfig(**(SIZES | changes))).eval()


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(0, SIZES["vocab_size"], shape, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("cross", [False, True])
@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("cuts", [[1] * 19, [7, 1, 11], [18, 1]])
def test_cached_decoding_equals_the_full_forward(
    attention: str, cross: bool, legacy: bool, cuts: list[int]
) -> None:
    net = build(is_decoder=True, add_cross_attention=cross, attn_implementation=attention)
    tokens = ids(2, 19)
    extra = {}
    if cross:
        # Unequal lengths: 4.40.2 raised.
        extra = {
            "encoder_hidden_states": torch.randn(2, 5, 32),
            "encoder_attention_mask": torch.tensor([[1] * 5, [1, 1, 0, 1, 0]]),
        }
    mask = torch.ones(2, 19, dtype=torch.long)
    mask[1, 3] = 0
    with torch.no_grad():
        whole = net(tokens, attention_mask=mask, **extra).last_hidden_state
        past, pieces, done = None, [], 0
        for length in cuts:
            step = slice(done, done + length)
            done += length
            outputs = net(
                tokens[:, step],
                attention_mask=mask[:, :done],
                past_key_values=past,
                use_cache=True,
                **extra,
            )
            pieces.append(outputs.last_hidden_state)
            past = outputs.past_key_values
            if legacy:
                past = tuple(tuple(t for t in layer if t is not None) for layer in past)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, **CLOSE)


def test_prefix_for_an_encoder() -> None:
    """Prefix tuning hands keys and values to a model that is no decoder."""
    net = build()
    prefix = [(torch.randn(2, 4, 3, 8), torch.randn(2, 4, 3, 8)) for _ in range(2)]
    cache = DynamicCache(prefix)
    with torch.no_grad():
        one = net(ids(2, 5), attention_mask=torch.ones(2, 8), past_key_values=cache)
        other = net(ids(2, 5), past_key_values=tuple(prefix))
    torch.testing.assert_close(one.last_hidden_state, other.last_hidden_state)
    assert not torch.allclose(one.last_hidden_state, net(ids(2, 5)).last_hidden_state, atol=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_longer_than_max_position_embeddings(attention: str) -> None:
    """Only the distance counts: far from the ends, shifting a text shifts its vectors."""
    net = build(attn_implementation=attention, num_hidden_layers=1)
    tokens = ids(1, 100)
    window = torch.zeros(1, 100, 100)
    for i in range(100):
        window[0, i, max(0, i - 9) : i + 10] = 1
    with torch.no_grad():
        here = net(tokens, attention_mask=window).last_hidden_state
        there = net(tokens.roll(30, 1), attention_mask=window).last_hidden_state
    torch.testing.assert_close(here[:, 10:60], there[:, 40:90], **CLOSE)


def test_an_unknown_attention_is_refused() -> None:
    with pytest.raises(ValueError, match="Nezha has: eager, sdpa"):
        build(attn_implementation="flash_attention_2")


def test_a_registered_attention_gets_the_causal_mask_of_a_decoder() -> None:
    NezhaAttentionInterface.register("registered", eager_attention_forward)
    found, expected = (
        build(is_decoder=True, attn_implementation=name)(ids(2, 6)).last_hidden_state
        for name in ("registered", "eager")
    )
    torch.testing.assert_close(found, expected, **CLOSE)


def test_gradient_checkpointing_refuses_a_cache() -> None:
    """Its layers would drop it, and count positions from its end nevertheless."""
    net = build(is_decoder=True).eval()
    past = net(ids(2, 3), use_cache=True).past_key_values
    net.train().gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="past_key_values"):
        net(ids(2, 5), past_key_values=past)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(attention: str, reentrant: bool) -> None:
    net = build(nezha.NezhaForMaskedLM, attn_implementation=attention).train()
    found = []
    for checkpointing in [False, True]:
        if checkpointing:
            net.gradient_checkpointing_enable({"use_reentrant": reentrant})
        net.zero_grad()
        torch.manual_seed(3)
        net(ids(2, 9), labels=ids(2, 9)).loss.backward()
        found.append([p.grad.clone() for p in net.parameters()])
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed)


def test_resize_token_embeddings() -> None:
    net = build(nezha.NezhaForPreTraining)
    before = net(ids(1, 5)).prediction_logits
    net.resize_token_embeddings(70)
    after = net(ids(1, 5)).prediction_logits
    assert after.shape == (1, 5, 70)
    torch.testing.assert_close(before, after[..., :61])
    predictions = net.cls.predictions
    assert predictions.decoder.weight is net.get_input_embeddings().weight
    assert predictions.decoder.bias is predictions.bias
    assert predictions.bias.shape == (70,)


def test_save_and_load(tmp_path: Any) -> None:
    net = build(nezha.NezhaForPreTraining)
    net.save_pretrained(tmp_path)
    again = nezha.NezhaForPreTraining.from_pretrained(tmp_path).eval()
    for one, other in zip(net(ids(2, 9)).to_tuple(), again(ids(2, 9)).to_tuple(), strict=True):
        assert torch.equal(one, other)
    assert torch.equal(again.nezha.encoder.position_table, position_table(8, 6))


@pytest.mark.parametrize(
    "convert",
    [
        lambda net: net.bfloat16().float(),
        lambda net: net.half(),
        lambda net: net.to("meta", torch.float16).to_empty(device="cpu").double(),
    ],
)
def test_the_position_table_is_never_rounded(convert: Any) -> None:
    """Half precision would round it for good, since no file holds it."""
    assert torch.equal(convert(build()).encoder.position_table, position_table(8, 6))


@pytest.mark.parametrize("assign", [False, True])
def test_a_network_that_was_built_without_memory_computes_the_same(assign: bool) -> None:
    net = build()
    with torch.device("meta"):
        empty = type(net)(net.config)
    if not assign:
        empty.to_empty(device="cpu")
    empty.load_state_dict(net.state_dict(), assign=assign)
    ids = torch.tensor([[1, 2, 3]])
    expected = net.eval()(ids).last_hidden_state
    assert torch.equal(empty.eval()(ids).last_hidden_state, expected)


def test_initial_weights() -> None:
    net = build(nezha.NezhaForPreTraining, initializer_range=0.02, vocab_size=5000, hidden_size=128)
    for name, value in net.named_parameters():
        if "LayerNorm" in name or name.endswith("bias"):
            assert torch.all(value == (1.0 if name.endswith("LayerNorm.weight") else 0.0)), name
        else:
            assert abs(value.std().item() - 0.02) < 0.004, name
    assert torch.all(net.nezha.embeddings.word_embeddings.weight[0] == 0)


def test_base_size_holds_no_more_than_bert() -> None:
    def held(net: torch.nn.Module) -> int:
        storages = {
            t.untyped_storage().data_ptr() or id(t): t.untyped_storage().nbytes()
            for t in [*net.parameters(), *net.buffers()]
        }
        return sum(storages.values())

    bert = held(BertForPreTraining(BertConfig(vocab_size=21128)))
    assert held(nezha.NezhaForPreTraining(nezha.NezhaConfig())) <= bert + 2**20


def test_both_or_no_inputs() -> None:
    net = build()
    with pytest.raises(ValueError, match="either"):
        net(ids(1, 5), inputs_embeds=torch.zeros(1, 5, 32))
    with pytest.raises(ValueError, match="either"):
        net()
    with pytest.raises(ValueError, match="2 to 4 dimensions"):
        net(ids(1, 5), attention_mask=torch.ones(5))
    with pytest.raises(ValueError, match=r"got torch\.int64: give mask\.bool\(\)"):
        net(ids(1, 5), attention_mask=torch.ones(1, 1, 1, 5, dtype=torch.int64))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("decoder", [False, True])
def test_masks_of_four_dimensions(attention: str, decoder: bool) -> None:
    """True where attention may look, or numbers to add: the same as a mask of three dimensions."""
    net = build(attn_implementation=attention, is_decoder=decoder)
    allowed = torch.rand(2, 9, 9, generator=torch.Generator().manual_seed(1)) < 0.5
    numbers = torch.zeros(2, 1, 9, 9).masked_fill(~allowed[:, None], torch.finfo(torch.float32).min)
    with torch.no_grad():
        expected = net(ids(2, 9), attention_mask=allowed.long()).last_hidden_state
        for mask in (allowed[:, None], numbers):
            found = net(ids(2, 9), attention_mask=mask).last_hidden_state
            torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_a_decoder_may_look_ahead(attention: str) -> None:
    """With is_causal=False, as everywhere in transformers."""
    decoder = build(is_decoder=True, attn_implementation=attention)
    encoder = build(attn_implementation=attention)
    with torch.no_grad():
        found = decoder(ids(2, 9), is_causal=False).last_hidden_state
        torch.testing.assert_close(found, encoder(ids(2, 9)).last_hidden_state, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_no_positions(attention: str) -> None:
    """With max_relative_position=0 the order of the other tokens makes no difference."""
    net = build(attn_implementation=attention, max_relative_position=0)
    tokens = ids(2, 9)
    with torch.no_grad():
        found = net(tokens.flip(1)).last_hidden_state
        torch.testing.assert_close(found.flip(1), net(tokens).last_hidden_state, **CLOSE)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_absolute_positions_are_those_of_bert(attention: str) -> None:
    """Without relative positions and with the same weights, BERT gives the same."""
    shape = {"max_relative_position": 0, "absolute_positions": True}
    net = build(attn_implementation=attention, **shape)
    fields = BertConfig().to_dict().keys() - {"model_type", "architectures"}
    bert = BertModel(BertConfig(**{key: getattr(net.config, key) for key in fields})).eval()
    bert.load_state_dict(net.state_dict())
    with torch.no_grad():
        # The vector that all distances share is added to all values, and to all keys alike.
        for layer in bert.encoder.layer:
            layer.attention.self.value.bias += net.encoder.position_table[0].repeat(
                net.config.num_attention_heads
            )
        found = net(ids(2, 9)).last_hidden_state
        torch.testing.assert_close(found, bert(ids(2, 9)).last_hidden_state, **CLOSE)
        with pytest.raises(ValueError, match="more than max_position_embeddings"):
            net(ids(1, net.config.max_position_embeddings + 1))


def test_position_ids_have_no_effect() -> None:
    net = build(nezha.NezhaForMaskedLM)
    with torch.no_grad():
        found = net(ids(2, 9), position_ids=torch.arange(9).flip(0)[None]).logits
        assert torch.equal(found, net(ids(2, 9)).logits)


WORDS = ids(4, 9).masked_fill(torch.tensor([[1] + [0] * 8, *[[1, 0] * 4 + [0]] * 3]) == 0, -100)
CHOSEN = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    ("head", "labels"),
    [
        (nezha.NezhaForPreTraining, {"labels": WORDS, "next_sentence_label": CHOSEN}),
        (nezha.NezhaForMaskedLM, {"labels": WORDS}),
        (nezha.NezhaForTokenClassification, {"labels": WORDS.clamp(max=1)}),
        (nezha.NezhaForSequenceClassification, {"labels": CHOSEN}),
        (nezha.NezhaForSequenceClassification, {"labels": torch.rand(4, 2)}),
        (nezha.NezhaForNextSentencePrediction, {"labels": CHOSEN}),
        (nezha.NezhaForMultipleChoice, {"labels": CHOSEN}),
    ],
)
def test_parts_of_a_batch_add_up_to_it(head: type, labels: dict[str, torch.Tensor]) -> None:
    """With num_items_in_batch as the Trainer counts it, wherever the labels are."""
    net = build(head)
    tokens = ids(4, 2, 9) if head is nezha.NezhaForMultipleChoice else ids(4, 9)
    items = labels["labels"].ne(-100).sum()

    def loss_and_gradients(*parts: slice) -> list[torch.Tensor]:
        net.zero_grad()
        losses = []
        for part in parts:
            targets = {name: value[part] for name, value in labels.items()}
            losses.append(net(tokens[part], **targets, num_items_in_batch=items).loss)
            losses[-1].backward()
        gradients = [x.grad.clone() for x in net.parameters() if x.grad is not None]
        return [torch.stack(losses).sum(), *gradients]

    whole = loss_and_gradients(slice(0, 4))
    divided = loss_and_gradients(slice(0, 1), slice(1, 4))
    for one, other in zip(divided, whole, strict=True):
        torch.testing.assert_close(one, other, **CLOSE)
    if head is not nezha.NezhaForPreTraining:
        torch.testing.assert_close(whole[0], net(tokens, **labels).loss)


def test_encoder_states_need_cross_attention() -> None:
    with pytest.raises(ValueError, match="add_cross_attention"):
        build(is_decoder=True)(ids(1, 5), encoder_hidden_states=torch.zeros(1, 5, 32))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("absolute", [False, True])
def test_packed_sequences_do_not_see_each_other(attention: str, absolute: bool) -> None:
    shape = {"absolute_positions": absolute, "max_position_embeddings": 40}
    net = build(nezha.NezhaForPreTraining, attn_implementation=attention, **shape)
    texts = [ids(1, length) + shift for shift, length in enumerate([7, 1, 30, 7])]
    texts = [text % SIZES["vocab_size"] for text in texts]
    types = [torch.ones_like(text) for text in texts]
    packed = net.nezha(
        torch.cat(texts, 1),
        token_type_ids=torch.cat(types, 1),
        cu_seq_lens_q=torch.tensor([0, 7, 8, 38, 45], dtype=torch.int32),
        cu_seq_lens_k=torch.tensor([0, 7, 8, 38, 45], dtype=torch.int32),
        max_length_q=30,
        max_length_k=30,
    )
    alone = [net.nezha(text, token_type_ids=t) for text, t in zip(texts, types, strict=True)]
    hidden = torch.cat([out.last_hidden_state for out in alone], 1)
    torch.testing.assert_close(packed.last_hidden_state, hidden, **CLOSE)
    pooled = torch.cat([out.pooler_output for out in alone])
    torch.testing.assert_close(packed.pooler_output, pooled, **CLOSE)

    parameters = list(net.nezha.parameters())
    one = torch.autograd.grad(packed.last_hidden_state.pow(3).sum(), parameters, allow_unused=True)
    two = torch.autograd.grad(hidden.pow(3).sum(), parameters, allow_unused=True)
    for first, second in zip(one, two, strict=True):
        if first is not None:
            torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "also",
    [
        {"attention_mask": torch.ones(1, 5)},
        {"output_attentions": True},
        {"cu_seq_lens_k": torch.tensor([0, 3, 5])},
        {"max_length_q": 3, "max_length_k": 4},
    ],
    ids=lambda also: next(iter(also)),
)
def test_what_packed_sequences_do_not_take(also: dict) -> None:
    with pytest.raises(ValueError, match=r"cu_seq_lens_q|max_length_q"):
        build()(ids(1, 5), cu_seq_lens_q=torch.tensor([0, 2, 5]), **also)


def test_an_answer_has_a_start_and_an_end() -> None:
    with pytest.raises(ValueError, match="num_labels is 3, but an answer has a start and an end"):
        build(nezha.NezhaForQuestionAnswering, num_labels=3)


@pytest.mark.parametrize("starts", [[0, 2, 4], [1, 2, 5], [0, 3, 2, 5], [0, 2, 2, 5], [0, 1, 5]])
def test_sequences_that_do_not_part_the_tokens_are_refused(starts: list[int]) -> None:
    with pytest.raises(RuntimeError, match="cu_seq_lens_q must rise from 0"):
        build()(ids(1, 5), cu_seq_lens_q=torch.tensor(starts), max_length_q=3)
