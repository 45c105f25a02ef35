"""Features and their batches."""

from hypothesis import given
from hypothesis import strategies as st

from pipeline.finetuning.examples.features import Feature, Tokens, collate, training_batches


def feature(number, *lengths):
    return Feature(number, [Tokens([7] * n, [1] * n) for n in lengths], [number], [])


@given(st.lists(st.integers(1, 50), max_size=300), st.integers(1, 7), st.integers(0, 3))
def test_an_epoch_is_every_feature_once_in_a_repeatable_order(lengths, size, epoch):
    features = [feature(i, n) for i, n in enumerate(lengths)]
    batches = list(training_batches(features, size, 1, epoch))
    assert sorted(each.example for batch in batches for each in batch) == list(range(len(features)))
    assert len(batches) == -(-len(features) // size)
    assert batches == list(training_batches(features, size, 1, epoch))


def test_epochs_and_seeds_differ_and_similar_lengths_share_a_batch():
    features = [feature(i, i % 60 + 2) for i in range(600)]
    orders = [
        [[each.example for each in batch] for batch in training_batches(features, 8, seed, epoch)]
        for seed, epoch in ((1, 0), (1, 1), (2, 0))
    ]
    assert orders[0] != orders[1] != orders[2] != orders[0]
    padding = [
        sum(max(e.length for e in batch) - e.length for e in batch)
        for batch in training_batches(features, 8, 1, 0)
    ]
    assert sum(padding) < 0.05 * sum(each.length for each in features)


def test_collate_pads_tokens_targets_and_choices():
    batch = collate([feature(0, 3, 5), feature(1, 2)], pad_id=9, multiple_choice=True)
    assert batch.inputs["input_ids"].tolist() == [
        [[7, 7, 7, 9, 9], [7, 7, 7, 7, 7]],
        [[7, 7, 9, 9, 9], [9, 9, 9, 9, 9]],
    ]
    assert batch.inputs["attention_mask"].sum(-1).tolist() == [[3, 5], [2, 1]]
    assert batch.choices.tolist() == [[True, True], [True, False]]
    flat = collate(
        [feature(0, 3), Feature(1, [Tokens([7], [0])], [4, 5], [])], pad_id=9, multiple_choice=False
    )
    assert flat.inputs["token_type_ids"].tolist() == [[1, 1, 1], [0, 0, 0]]
    assert flat.target.tolist() == [[0, -100], [4, 5]]
    assert flat.choices is None
