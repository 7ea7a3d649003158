"""Step 6: trains Wide&Deep on the stream for as long as it flows."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from typing import Optional

from src.config import Config, ConfigError, load_config
from src.logs import configure_logging, keep_stdout_for_ourselves
from src.stop import StopFlag, stop_on_signals

logger = logging.getLogger("online_train")


def parse_args(argv: Optional[Sequence[str]] = None) -> Config:
    """Reads default_config.yaml, a --config_path on top of it, and the flags on top of both."""
    return load_config(argv)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Runs the trainer until it is stopped."""
    configure_logging()
    try:
        config = parse_args(argv)
    except ConfigError as error:
        logger.error("%s", error)
        return 2
    flag = StopFlag()
    stop_on_signals(flag)
    keep_stdout_for_ourselves()
    from src.trainer_service import run_trainer  # MindSpore takes seconds: --help should not

    return run_trainer(config, flag)


if __name__ == "__main__":
    sys.exit(main())
