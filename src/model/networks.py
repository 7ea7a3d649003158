"""The networks of a configuration: one that trains, and one that predicts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Union

import mindspore as ms

from src.config import Config
from src.model.crosses import CrossLearner, PredictWithCrosses, TrainStepWithCrosses
from src.model.model_config import ModelConfig, computes_in_float16, model_config_of
from src.model.train_step import TrainStepWrap
from src.model.wide_and_deep import NetWithLossClass, PredictWithSigmoid, WideDeepModel

logger = logging.getLogger(__name__)

TrainNet = Union[TrainStepWrap, TrainStepWithCrosses]
PredictNet = Union[PredictWithSigmoid, PredictWithCrosses]
MakeStep = Callable[[NetWithLossClass, ModelConfig, Union[CrossLearner, None]], TrainNet]


def make_train_step(
    network: NetWithLossClass, config: ModelConfig, crosses: CrossLearner | None
) -> TrainNet:
    """The training step of one device, with a learner of crosses if there is one."""
    step = TrainStepWrap(network, config)
    return step if crosses is None else TrainStepWithCrosses(step, crosses)


def predict_net(model: WideDeepModel, crosses: CrossLearner | None) -> PredictNet:
    """The network that predicts with a model, and with a learner of crosses if there is one."""
    return PredictWithSigmoid(model) if crosses is None else PredictWithCrosses(model, crosses)


def GetWideDeepNet(  # noqa: N802 - the name of the example's page
    config: Config, make_step: MakeStep = make_train_step
) -> tuple[TrainNet, PredictNet]:
    """The network that trains and the one that predicts; they share their parameters.

    Args:
        config: Model, optimizers and the seed of the initial weights.
        make_step: Makes the training step from the losses and the learner of crosses.

    Raises:
        ValueError: No model can be built of the configuration; the message names the value.
    """
    own = model_config_of(config)
    if own.use_mixed_precision and not computes_in_float16(own):
        logger.info("use_mixed_precision: the CPU computes in float32 all the same")
    ms.set_seed(config.seed)
    model = WideDeepModel(own)
    crosses = CrossLearner(own) if own.cross_bits else None
    train_net = make_step(NetWithLossClass(model, own), own, crosses)
    return train_net, predict_net(model, crosses)
