"""Sets MindSpore up, runs a trainer and turns its errors into one line and an exit code."""

from __future__ import annotations

import logging

from mindspore import context

from src.channel.channel import ChannelError
from src.config import Config
from src.process.exit_handlers import exit_without_handlers, keep_modules_until_exit
from src.process.stop import StopFlag
from src.ranks.group import Ranks, meet, serve_as_scheduler
from src.ranks.placement import NOT_MET_EXIT_CODE, Placement, RankError, Role, cpu_is_meant
from src.stream.kafka_source import SourceError
from src.stream.position import GapError
from src.trainer.callbacks import NonFiniteLoss
from src.trainer.checkpoint import CheckpointError
from src.trainer.dataset import DatasetError
from src.trainer.train import Trainer, TrainError, choose_device
from src.watching.line_file import OutputError
from src.watching.prometheus import MetricsServerError

logger = logging.getLogger(__name__)

EXPECTED_ERRORS = (
    ChannelError,
    CheckpointError,
    DatasetError,
    MetricsServerError,
    GapError,
    NonFiniteLoss,
    OutputError,
    RankError,
    SourceError,
    TrainError,
    ValueError,  # VocabularyError is one, and ModelConfig's word for what no model can be built of
)


def run_trainer(config: Config, flag: StopFlag, placement: Placement) -> int:
    """Runs until the flag is set, on this or on another rank; a rank on the CPU ends in it.

    Args:
        config: What the trainer was told.
        flag: The stop flag.
        placement: What this process is among others.

    Returns:
        0; 1 after an error, which is logged; ``NOT_MET_EXIT_CODE`` where the ranks did not meet.
    """
    if placement.role is Role.ALONE:
        device = choose_device(config.device_target)
    else:  # all ranks must decide the same, and before they meet
        device = "CPU" if cpu_is_meant(config.device_target) else "GPU"
    context.set_context(mode=context.GRAPH_MODE, device_target=device)
    if placement.role is Role.SCHEDULER:
        serve_as_scheduler()
    if config.admit_count and placement.size > 1:
        logger.error(
            "admit_count: only a trainer that is alone lets its vocabulary grow, "
            "this is one of %d ranks",
            placement.size,
        )
        return 1
    try:
        ranks = meet(placement)
    except RankError as error:
        logger.error("%s", error)
        return NOT_MET_EXIT_CODE
    logger.info("training on the %s", device)
    try:
        code = _train(config, flag, ranks)
    finally:
        keep_modules_until_exit()
    if device == "CPU" and placement.role is Role.WORKER:
        exit_without_handlers(code)
    return code


def _train(config: Config, flag: StopFlag, ranks: Ranks) -> int:
    trainer = None
    try:
        trainer = Trainer(config, flag, ranks)
        trainer.run()
    except EXPECTED_ERRORS as error:
        logger.error("%s", error)
        return 1
    finally:
        if trainer is not None:
            trainer.close()
    return 0
