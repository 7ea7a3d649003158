"""What shapes the model and how it learns, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import mindspore as ms
from mindspore import ops

from src.config import Config

ACTIVATIONS = {
    "relu": ops.ReLU,
    "relu6": ops.ReLU6,
    "tanh": ops.Tanh,
    "sigmoid": ops.Sigmoid,
    "elu": ops.Elu,
    "gelu": ops.GeLU,
}
TABLE_OPTIMIZERS = ("adam", "adagrad")
INITIALIZERS = (
    "normal",  # sigma 0.01
    "truncatednormal",  # sigma 0.01, cut at two sigma
    "uniform",  # -0.07 .. 0.07
    "zeros",
    "ones",
    "xavier_uniform",
    "he_uniform",
    "he_normal",
)


@dataclass(frozen=True)
class ModelConfig:
    """What shapes the model; the trainer takes every value from the configuration file.

    Only what a plain Wide & Deep lacks has a default: pairs, crosses, and batches filled up.

    Attributes:
        batch_size: rows per step, b.
        field_size: ids per row, f.
        vocab_size: rows of the wide weights and of the embedding table, v.
        emb_dim: width of an embedding, e.
        deep_layer_dim: widths of the hidden layers; the one-wide output layer is added to them.
        deep_layer_act: activation of the hidden layers, a key of `ACTIVATIONS`.
        emb_init: initializer of the embedding table, one of `INITIALIZERS`.
        wide_init: initializer of the wide weights and the wide bias.
        weight_bias_init: initializer of the dense layers' weights and biases.
        l2_coef: weight of the embedding table's L2 term in `deep_loss`; unused when `sparse`.
        keep_prob: probability that an input of a dense layer survives dropout.
        dropout_flag: whether dropout is applied while training.
        use_mixed_precision: compute the dense layers in float16 where that pays, see
            `computes_in_float16`.
        sparse: update only the embeddings that a batch has touched, and drop the L2 term.
        wide_learning_rate: of FTRL.
        wide_initial_accumulator: FTRL's squared gradients at the start; gradients are those of a
            batch's mean loss, so 1 is slow for an id that one row of a hundred has.
        deep_learning_rate: of Adam for the dense layers.
        table_optimizer: what moves the embedding table, one of `TABLE_OPTIMIZERS`; `adagrad` needs
            `sparse`.
        table_learning_rate: of that.
        deep_pairs: add the products of all pairs of embeddings to the inputs of the deep part.
        cross_bits: the learner of crosses has 2^cross_bits weights; 0 for no such learner.
        cross_fields: names of the fields whose pairs it learns; empty for all.
        cross_learning_rate: of its FTRL.
        fills_batches: a batch may hold filler rows, whose label is `FILLER_LABEL`; nothing is
            learnt from them.

    Raises:
        ValueError: naming the value that no model can be built from.
    """

    batch_size: int
    field_size: int
    vocab_size: int
    emb_dim: int
    deep_layer_dim: Sequence[int]
    deep_layer_act: str
    emb_init: str
    weight_bias_init: str
    l2_coef: float
    keep_prob: float
    dropout_flag: bool
    use_mixed_precision: bool
    sparse: bool
    wide_init: str
    wide_learning_rate: float
    wide_initial_accumulator: float
    deep_learning_rate: float
    table_optimizer: str
    table_learning_rate: float
    deep_pairs: bool = False
    cross_bits: int = 0
    cross_fields: str = ""
    cross_learning_rate: float = 4e-3
    fills_batches: bool = False

    def __post_init__(self) -> None:
        for name in ("batch_size", "field_size", "vocab_size", "emb_dim"):
            _check(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        widths = tuple(self.deep_layer_dim)
        object.__setattr__(self, "deep_layer_dim", widths)
        _check(all(width >= 1 for width in widths), "deep_layer_dim", widths, "all at least 1")
        act = self.deep_layer_act
        _check(act in ACTIVATIONS, "deep_layer_act", act, f"one of {', '.join(ACTIVATIONS)}")
        for name in ("emb_init", "weight_bias_init", "wide_init"):
            chosen = getattr(self, name)
            _check(chosen in INITIALIZERS, name, chosen, f"one of {', '.join(INITIALIZERS)}")
        # Adam's state is kept in units of l2_coef (see Adam): a tiny one would overflow it.
        l2_is_sound = self.l2_coef == 0 or 1e-12 <= self.l2_coef < float("inf")
        _check(l2_is_sound, "l2_coef", self.l2_coef, "0, or at least 1e-12")
        _check(0 < self.keep_prob <= 1, "keep_prob", self.keep_prob, "above 0 and at most 1")
        rates = ("wide_learning_rate", "deep_learning_rate", "table_learning_rate")
        for name in (*rates, "wide_initial_accumulator"):
            _check(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        table = self.table_optimizer
        known = ", ".join(TABLE_OPTIMIZERS)
        _check(table in TABLE_OPTIMIZERS, "table_optimizer", table, f"one of {known}")
        _check(self.sparse or table == "adam", "table_optimizer", table, "adam without sparse")


def _check(holds: bool, name: str, value: object, wanted: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}, but must be {wanted}")


def computes_in_float16(config: ModelConfig) -> bool:
    """Whether `use_mixed_precision` takes effect on the device that is set.

    On a GPU the dense layers multiply in float16. A CPU has no float16 units: there the casts only
    add work, so the same model is computed in float32 throughout. The caller logs which it is.
    """
    return config.use_mixed_precision and ms.get_context("device_target") == "GPU"


def model_config_of(config: Config) -> ModelConfig:
    """The part of the configuration that describes the model."""
    fields = {**asdict(config), "fills_batches": config.batch_seconds > 0}
    return ModelConfig(**{name: fields[name] for name in ModelConfig.__dataclass_fields__})


def config_to_predict(
    batch_size: int,
    field_size: int,
    vocab_size: int,
    emb_dim: int,
    deep_layer_dim: Sequence[int],
    deep_layer_act: str,
    deep_pairs: bool,
    cross_bits: int,
    cross_fields: str,
) -> ModelConfig:
    """Of a network that only predicts: how a model learns does not matter to it.

    Raises:
        ValueError: See ``ModelConfig``.
    """
    return ModelConfig(
        batch_size=batch_size,
        field_size=field_size,
        vocab_size=vocab_size,
        emb_dim=emb_dim,
        deep_layer_dim=deep_layer_dim,
        deep_layer_act=deep_layer_act,
        emb_init="zeros",
        weight_bias_init="zeros",
        l2_coef=0.0,
        keep_prob=1.0,
        dropout_flag=False,
        use_mixed_precision=False,
        sparse=False,
        wide_init="zeros",
        wide_learning_rate=1.0,
        wide_initial_accumulator=1.0,
        deep_learning_rate=1.0,
        table_optimizer="adam",
        table_learning_rate=1.0,
        deep_pairs=deep_pairs,
        cross_bits=cross_bits,
        cross_fields=cross_fields,
    )


def model_shape(config: Config) -> dict[str, object]:
    """What two runs must agree on to share a checkpoint."""
    shape: dict[str, object] = {
        "field_size": config.field_size,
        "vocab_size": config.vocab_size,
        "emb_dim": config.emb_dim,
        "deep_layer_dim": list(config.deep_layer_dim),
        "sparse": config.sparse,
        "l2_coef": config.l2_coef,
        "deep_layer_act": config.deep_layer_act,
    }
    # Only where they differ from the default: older checkpoints do not have these keys.
    if config.dense_transform != "minmax":
        shape["dense_transform"] = config.dense_transform
    if config.admit_count:
        shape["growing_vocabulary"] = True
    if config.deep_pairs:
        shape["deep_pairs"] = True
    if config.cross_bits:
        shape["cross_bits"] = config.cross_bits
        shape["cross_fields"] = config.cross_fields
    return shape
