import pytest
import torch
from torch import nn
from torch.nn import functional as F

from model.tied_words import TiedWords, vectors_and_words


def tied(vocabulary: int, width: int, padding: int | None = None) -> tuple[nn.Embedding, nn.Linear]:
    torch.manual_seed(0)
    embedding, head = nn.Embedding(vocabulary, width, padding), nn.Linear(width, vocabulary)
    head.weight = embedding.weight
    return embedding, head


def gradient(weight: torch.Tensor, vectors: torch.Tensor, words: torch.Tensor) -> torch.Tensor:
    """Of a loss in which the words are looked up and are a head, too."""
    loss = F.linear(vectors.tanh(), words).logsumexp(-1).sum()
    return torch.autograd.grad(loss, weight)[0]


@pytest.mark.parametrize("padding", [None, 0])
def test_the_gradient_is_that_of_both_uses(padding: int | None) -> None:
    embedding, head = tied(31, 5, padding)
    ids = torch.randint(31, (2, 40))
    ids[0, :3] = 0
    vectors, words = vectors_and_words(embedding, head, ids)
    assert isinstance(words.grad_fn, TiedWords._backward_cls)
    found = gradient(head.weight, vectors, words)
    expected = gradient(head.weight, embedding(ids), head.weight)
    torch.testing.assert_close(found, expected)


def test_in_bfloat16_a_frequent_word_loses_no_summand() -> None:
    embedding, head = tied(31, 5)
    ids = torch.zeros(3000, dtype=torch.long)
    wide = head.weight.detach().double().requires_grad_()
    exact = gradient(wide, F.embedding(ids, wide), wide)
    embedding.bfloat16()
    head.weight = embedding.weight
    found = gradient(head.weight, *vectors_and_words(embedding, head, ids))
    plain = gradient(head.weight, embedding(ids), head.weight)
    assert (found - exact)[0].norm() <= (plain - exact)[0].norm()


def test_other_layers_are_called() -> None:
    embedding, head = tied(31, 5)
    ids = torch.arange(4)
    assert vectors_and_words(embedding, nn.Linear(5, 31), ids)[1].is_leaf
    embedding.register_forward_hook(lambda _module, _inputs, out: out * 0)
    vectors, words = vectors_and_words(embedding, head, ids)
    assert not vectors.any()
    assert words is head.weight
