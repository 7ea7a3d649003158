"""Step 6: trains Wide&Deep on the stream for as long as it flows.

Step 7 starts it several times over, as the ranks of a launch: see the two scripts ``*_dist_*.sh``.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from src.cluster.settings import client_settings
from src.config import Config, ConfigError, load_config
from src.model.quick_import import leave_out_ascend
from src.process.exit_handlers import exit_in_time
from src.process.logs import configure_logging, keep_stdout_for_ourselves
from src.process.memory import collected_rarely, keep_freed_memory, use_one_heap
from src.process.stop import StopFlag, stop_on_signals
from src.ranks.placement import RankError, Role, cpu_is_meant, find_placement

if TYPE_CHECKING:
    from src.trainer.trainer import Trainer

logger = logging.getLogger("online_train")


def parse_args(argv: Sequence[str] | None = None) -> Config:
    """Reads default_config.yaml, a --config_path on top of it, and the flags on top of both."""
    return load_config(argv)


def train(config: Config, trainer: Trainer) -> None:
    """One training run until a stop, in the order and with the names of the example's page.

    Where a class does more than the page's, it is a subclass of it: ``WindowReceiver`` of
    ``DataReceiver``, ``StreamCheckpoint`` of ``ModelCheckpoint``.
    """
    from mindspore.dataset import GeneratorDataset
    from mindspore.train import CheckpointConfig, TimeMonitor
    from mindspore_rec import RecModel

    from src.model.networks import GetWideDeepNet
    from src.trainer.callbacks import LossCallBack, StreamCheckpoint
    from src.trainer.dataset import StreamingDataset

    trainer.open_checkpoints()
    receiver = trainer.link.wait()
    if receiver is None:
        return
    start = trainer.begin_session()
    stream = StreamingDataset(
        receiver,
        start,
        config.batch_size,
        trainer.stream_flag,
        trainer.link.attach_again,
        trainer.idle,
        trainer.read_again,
        config.batch_seconds,
        trainer.rows_to_train,
    )
    keys = ["key"] if config.cross_bits else []  # for the learner of crosses
    dataset = GeneratorDataset(
        stream,
        column_names=["id", "weight", "label", *keys],
        shuffle=False,
        python_multiprocessing=False,
    )
    train_net, predict_net = GetWideDeepNet(config, trainer.make_step)
    trainer.restore(train_net)
    model = RecModel(train_net)
    ledger, stop = trainer.step_callbacks(stream)
    callback = LossCallBack(trainer.progress, config.loss_file_name)
    metrics = trainer.metrics_callback()
    ckpt_config = CheckpointConfig(
        save_checkpoint_steps=config.save_checkpoint_steps,
        keep_checkpoint_max=config.keep_checkpoint_max,
    )
    ckpoint_cb = StreamCheckpoint(
        config.ckpt_prefix, config.ckpt_path, ckpt_config, trainer.progress, trainer.writer
    )
    publish = trainer.publish_callback(predict_net)
    callbacks = [TimeMonitor(1), ledger, callback, metrics]
    callbacks += [ckpoint_cb, publish, trainer.workers, trainer.timer, stop]
    with trainer.until_stopped(stream):
        model.online_train(dataset, callbacks=callbacks, dataset_sink_mode=True)
    ckpoint_cb.save_now()
    publish.publish_now()


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the trainer until it is stopped."""
    configure_logging()
    use_one_heap()
    keep_freed_memory()
    try:
        config = parse_args(argv)
        client_settings(config.bootstrap_servers, config.kafka_config).log_notes(logger)
        placement = find_placement(config.device_target, os.environ)
    except (ConfigError, RankError) as error:
        logger.error("%s", error)
        return 2
    flag = StopFlag()
    stop_on_signals(flag, placement.stop_signals)
    keep_stdout_for_ourselves()
    is_alone = placement.role is Role.ALONE
    if cpu_is_meant(config.device_target):
        leave_out_ascend()
    with collected_rarely():  # MindSpore takes seconds to import, and --help should not
        if is_alone:
            from src.trainer.service import run_trainer
        else:
            from src.trainer.many_ranks import run_rank
    return (
        run_trainer(config, flag, train) if is_alone else run_rank(config, flag, placement, train)
    )


if __name__ == "__main__":
    exit_in_time(main())
