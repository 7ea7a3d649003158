"""The documented trainer as a process: DataReceiver → single rows → two backward passes a step."""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # run as a script: the repository's root is not on the path yet
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import mindspore as ms
from mindpandas.channel import DataReceiver
from mindspore_rec import RecModel

from benchmarks.documented.dataset import RowDataset, row_batches
from benchmarks.documented.step import DOCUMENTED_CONFIG, documented_step
from src.process.flags import FlagParser

SEED = 1  # online_train.py's own
CHECKPOINT_STEPS = 100
CHECKPOINTS = 5
RETRY_SECONDS = 0.5


class PrintLosses(ms.Callback):  # type: ignore[misc]
    """Prints the losses of each step."""

    def step_end(self, run_context: Any) -> None:
        """After a step."""
        parameters = run_context.original_args()
        wide, deep = (loss.asnumpy() for loss in parameters.net_outputs[:2])
        step = parameters.cur_step_num
        print(f"epoch: 1, step: {step}, wide_loss: {wide}, deep_loss: {deep}", flush=True)


def receiver_of(address: str, namespace: str, dataset_name: str) -> DataReceiver:
    """Waits for the sender."""
    while True:
        try:
            return DataReceiver(address=address, namespace=namespace, dataset_name=dataset_name)
        except RuntimeError:
            time.sleep(RETRY_SECONDS)


def main(argv: Sequence[str] | None = None) -> None:
    """Runs until it is killed."""
    parser = FlagParser(description=__doc__)
    for name in ("address", "namespace", "dataset_name", "ckpt_path"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--batch_size", type=int, required=True)
    args = parser.parse_args(argv)
    ms.set_context(mode=ms.GRAPH_MODE, device_target="CPU")
    receiver = receiver_of(args.address, args.namespace, args.dataset_name)
    dataset = row_batches(RowDataset(receiver.recv), args.batch_size)
    config = dataclasses.replace(DOCUMENTED_CONFIG, batch_size=args.batch_size)
    checkpoints = ms.CheckpointConfig(
        save_checkpoint_steps=CHECKPOINT_STEPS, keep_checkpoint_max=CHECKPOINTS
    )
    callbacks = [
        ms.TimeMonitor(1),
        PrintLosses(),
        ms.ModelCheckpoint("widedeep_train", args.ckpt_path, checkpoints),
    ]
    model = RecModel(documented_step(config, SEED))
    model.online_train(dataset, callbacks=callbacks, dataset_sink_mode=True)


if __name__ == "__main__":
    main()
