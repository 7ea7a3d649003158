"""Sets MindSpore up, runs a trainer and turns its errors into one line and an exit code."""

from __future__ import annotations

import logging
from collections.abc import Callable

from mindspore import context
from mindspore.dataset import config as dataset_config

from src.channel.engine import ChannelError
from src.checkpoints.locking import StoppedWaiting
from src.checkpoints.unit import CheckpointError
from src.cluster.broker import SourceError
from src.config import Config
from src.model.device import choose_device
from src.process.exit_handlers import keep_modules_until_exit
from src.process.output import OutputError
from src.process.stop import StopFlag
from src.publishing.version_format import PublishingError
from src.ranks.placement import RankError
from src.stream.position import GapError
from src.trainer.admission import DatasetError
from src.trainer.callbacks import NonFiniteLoss
from src.trainer.consumer_link import TrainError
from src.trainer.session import StartError
from src.trainer.trainer import Trainer
from src.watching.prometheus import MetricsServerError

logger = logging.getLogger(__name__)

TrainFunction = Callable[[Config, Trainer], None]
READ_AHEAD_BATCHES = 4
EXPECTED_ERRORS = (
    ChannelError,
    CheckpointError,
    DatasetError,
    GapError,
    MetricsServerError,
    NonFiniteLoss,
    OutputError,
    PublishingError,
    RankError,
    SourceError,
    StartError,
    TrainError,
    ValueError,  # of dictionaries and vocabularies, and ModelConfig's refusal of a value
)


def run_trainer(config: Config, flag: StopFlag, train: TrainFunction) -> int:
    """Trains until the flag is set.

    Args:
        config: The trainer's configuration.
        flag: The stop flag.
        train: One training run.

    Returns:
        The exit code: 0, or 1 after an error, which is logged.
    """
    device = choose_device(config.device_target)
    set_up_mindspore(device)
    logger.info("training on the %s", device)
    try:
        return run_to_the_end(config, train, lambda: Trainer(config, flag))
    finally:
        keep_modules_until_exit()


def set_up_mindspore(device: str) -> None:
    """Sets what MindSpore keeps for the whole process."""
    context.set_context(mode=context.GRAPH_MODE, device_target=device)
    dataset_config.set_prefetch_size(READ_AHEAD_BATCHES)


def run_to_the_end(
    config: Config, train: TrainFunction, make_trainer: Callable[[], Trainer]
) -> int:
    """Runs a trainer and closes it; returns the exit code."""
    trainer = None
    try:
        trainer = make_trainer()
        train(config, trainer)
        if trainer.failure is not None:
            raise trainer.failure
    except StoppedWaiting as stopped:
        logger.info("stopping: %s", stopped)
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        if trainer is not None:
            trainer.close()
    return 0
