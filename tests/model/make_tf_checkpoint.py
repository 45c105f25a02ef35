"""Write golden/tensorflow/model.ckpt.*: a tiny checkpoint with the variables of Huawei's release.

TensorFlow is needed for this alone, in an environment of its own:

    python3.11 -m venv /tmp/tf && /tmp/tf/bin/pip install tensorflow-cpu==2.21.0
    /tmp/tf/bin/python tests/model/make_tf_checkpoint.py
"""

from pathlib import Path

import tensorflow as tf
from golden_cases import weight

TARGET = Path(__file__).parent / "golden" / "tensorflow" / "model.ckpt"
V, H, F = 11, 8, 12

DENSE = {
    "bert/encoder/layer_0/attention/self/query": (H, H),
    "bert/encoder/layer_0/attention/self/key": (H, H),
    "bert/encoder/layer_0/attention/self/value": (H, H),
    "bert/encoder/layer_0/attention/output/dense": (H, H),
    "bert/encoder/layer_0/intermediate/dense": (H, F),
    "bert/encoder/layer_0/output/dense": (F, H),
    "bert/pooler/dense": (H, H),
    "cls/predictions/transform/dense": (H, H),
}
NORMS = [
    "bert/embeddings/LayerNorm",
    "bert/encoder/layer_0/attention/output/LayerNorm",
    "bert/encoder/layer_0/output/LayerNorm",
    "cls/predictions/transform/LayerNorm",
]
SHAPES: dict[str, tuple[int, ...]] = {
    "bert/embeddings/word_embeddings": (V, H),
    "bert/embeddings/token_type_embeddings": (2, H),
    "cls/predictions/output_bias": (V,),
    "cls/seq_relationship/output_weights": (2, H),
    "cls/seq_relationship/output_bias": (2,),
    "bert/pooler/dense/kernel/adam_m": (H, H),
}
for dense, (inputs, outputs) in DENSE.items():
    SHAPES |= {f"{dense}/kernel": (inputs, outputs), f"{dense}/bias": (outputs,)}
for norm in NORMS:
    SHAPES |= {f"{norm}/gamma": (H,), f"{norm}/beta": (H,)}


def main() -> None:
    graph = tf.compat.v1.Graph()
    with graph.as_default(), tf.compat.v1.Session(graph=graph) as session:
        for name, shape in SHAPES.items():
            tf.compat.v1.get_variable(name, initializer=weight(name, shape), use_resource=False)
        tf.compat.v1.get_variable("global_step", initializer=tf.constant(7, tf.int64))
        session.run(tf.compat.v1.global_variables_initializer())
        saver = tf.compat.v1.train.Saver()
        saver.save(session, str(TARGET), write_meta_graph=False, write_state=False)


if __name__ == "__main__":
    main()
