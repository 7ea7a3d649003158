"""Configuration: default_config.yaml < the user's YAML file < flags, typed and checked."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

from src.config_values import PathText, TopicName, ValueProblem, converted
from src.process.flags import FlagParser, did_you_mean, path_flag
from src.process.strict_yaml import YamlFileError, YamlMapping, read_yaml_documents

DEFAULT_CONFIG_PATH = Path(__file__).resolve().parent.parent / "default_config.yaml"


class ConfigError(ValueError):
    """A key, type or value that is not allowed; one line names it."""


@dataclass(frozen=True)
class Config:
    """All settings of ``online_train.py``; ``default_config.yaml`` explains each key."""

    address: str
    namespace: str
    dataset_name: str
    bootstrap_servers: str
    kafka_config: PathText
    topic: TopicName
    group_id: str
    reconnect_seconds: float
    batch_size: int
    field_size: int
    vocab_size: int
    emb_dim: int
    deep_layer_dim: tuple[int, ...]
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
    deep_pairs: bool
    cross_bits: int
    cross_fields: str
    cross_learning_rate: float
    dense_transform: str
    admit_count: int
    expire_rows: int
    max_dict: PathText
    min_dict: PathText
    map_dict: PathText
    device_target: str
    seed: int
    init_ckpt: PathText
    batch_seconds: float
    max_steps: int
    idle_seconds: float
    loss_file_name: PathText
    audit_path: PathText
    report_steps: int
    metrics_path: PathText
    metrics_window_rows: int
    metrics_port: int
    metrics_host: str
    ckpt_path: PathText
    ckpt_prefix: str
    save_checkpoint_steps: int
    keep_checkpoint_max: int
    fresh: bool
    publish_path: PathText
    publish_seconds: float
    publish_full_every: int
    publish_keep: int
    publish_tolerance: float


KEY_TYPES: Mapping[str, str] = {field.name: str(field.type) for field in fields(Config)}
POSITIVE_KEYS = (
    "batch_size",
    "vocab_size",
    "emb_dim",
    "save_checkpoint_steps",
    "keep_checkpoint_max",
    "reconnect_seconds",
    "wide_learning_rate",
    "wide_initial_accumulator",
    "deep_learning_rate",
    "table_learning_rate",
    "cross_learning_rate",
    "metrics_window_rows",
    "expire_rows",
    "publish_full_every",
    "publish_keep",
)
NOT_NEGATIVE_KEYS = (
    "l2_coef",
    "admit_count",
    "batch_seconds",
    "max_steps",
    "idle_seconds",
    "seed",
    "report_steps",
    "metrics_port",
    "cross_bits",
    "publish_seconds",
    "publish_tolerance",
)
NOT_EMPTY_KEYS = (
    "address",
    "namespace",
    "dataset_name",
    "bootstrap_servers",
    "topic",
    "group_id",
    "max_dict",
    "min_dict",
    "map_dict",
    "ckpt_path",
    "metrics_host",
)
MAX_TABLE = 2**31 - 1  # ids are int32
MAX_SECONDS = 10**9  # about thirty years; Python's own waits end at three hundred
MAX_INT = 2**63 - 1  # for keys that are not named here
LARGEST: Mapping[str, int] = {
    "seed": 2**32 - 1,  # the largest for NumPy, which MindSpore seeds too
    "admit_count": 255,  # sightings are counted in bytes
    "cross_bits": 28,  # weights and squares of 2^28 pairs take 2 GB
    "batch_size": MAX_TABLE,
    "vocab_size": MAX_TABLE,
    "emb_dim": MAX_TABLE,
    "metrics_window_rows": MAX_TABLE,
    "metrics_port": 65535,
    "reconnect_seconds": MAX_SECONDS,
    "idle_seconds": MAX_SECONDS,
    "publish_seconds": MAX_SECONDS,
    "batch_seconds": MAX_SECONDS,
}

# The first key of each group of flags in --help, in the order of Config.
GROUPS = {
    "address": "channel between consumer and trainer",
    "bootstrap_servers": "Kafka",
    "batch_size": "model",
    "dense_transform": "vocabulary",
    "device_target": "training",
    "report_steps": "watching",
    "ckpt_path": "checkpoints",
    "publish_path": "publishing",
}


@dataclass(frozen=True)
class Defaults:
    """The three documents of default_config.yaml: values, help texts and choices, by key."""

    values: Mapping[str, Any]
    help: Mapping[str, str]
    choices: Mapping[str, Sequence[Any]]


def read_defaults(path: Path = DEFAULT_CONFIG_PATH) -> Defaults:
    """Reads default_config.yaml.

    Raises:
        ConfigError: It can't be read, or a key or its help is missing.
    """
    documents = _read_documents(path)
    if len(documents) != 3:
        raise ConfigError(f"{path}: expected 3 documents, not {len(documents)}")
    values, help_texts, choices = documents
    for key in KEY_TYPES:
        if key not in values or key not in help_texts:
            raise ConfigError(f"{path}: {key} needs a value and a help text")
    return Defaults(values, help_texts, choices)


def load_config(
    argv: Sequence[str] | None = None, defaults_path: Path = DEFAULT_CONFIG_PATH
) -> Config:
    """The configuration of ``online_train.py``.

    Args:
        argv: The flags; None takes the process's own.
        defaults_path: The file with every key's default, help and choices.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type or is not allowed.
        SystemExit: argparse refused a flag, or printed the help.
    """
    defaults = read_defaults(defaults_path)
    values = _checked_values(defaults.values, defaults.choices, defaults_path)
    flags = vars(make_parser(defaults).parse_args(argv))
    path = flags.pop("config_path")
    if path is not None:
        values.update(_read_user_file(path, defaults))
    values.update({key: value for key, value in flags.items() if value is not None})
    return Config(**cast(Any, values))


def add_shared_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds flags with default and help from default_config.yaml, for the other scripts.

    A value of the wrong type or range is argparse's error. A parser that was made with
    ``ArgumentDefaultsHelpFormatter`` shows the defaults.

    Args:
        parser: Gets the flags.
        names: Keys of the configuration.
    """
    defaults = read_defaults()
    for name in names:
        options = _flag_options(name, defaults)
        parser.add_argument(f"--{name}", default=defaults.values[name], **options)


def parse_with_config_file(
    parser: argparse.ArgumentParser, argv: Sequence[str] | None
) -> argparse.Namespace:
    """Parses flags; the file of ``--config_path`` replaces the defaults of shared flags.

    Args:
        parser: Has flags from ``add_shared_flags``; gets ``--config_path``.
        argv: The flags; None takes the process's own.

    Raises:
        ConfigError: A key of the file is unknown or a value has the wrong type or is not allowed.
        SystemExit: argparse refused a flag, or printed the help.
    """
    parser.add_argument(
        "--config_path",
        type=path_flag,
        help="YAML file of online_train.py, for the flags here that are also keys there; "
        "a flag given here overrides it",
    )
    path = _config_path(argv)
    if path is not None:
        values = _read_user_file(path, read_defaults())
        known = {action.dest for action in parser._actions}
        parser.set_defaults(**{key: value for key, value in values.items() if key in known})
    return parser.parse_args(argv)


def _config_path(argv: Sequence[str] | None) -> Path | None:
    """The value of --config_path; other flags are ignored."""
    finder = FlagParser(add_help=False)
    finder.add_argument("--config_path", type=path_flag)
    path: Path | None = finder.parse_known_args(argv)[0].config_path
    return path


def _read_user_file(path: Path, defaults: Defaults) -> dict[str, Any]:
    """The values of a user's YAML file; it may also be a changed copy of default_config.yaml."""
    documents = _read_documents(path) or [YamlMapping({}, {})]
    is_copy = len(documents) == 3 and all(isinstance(v, list) for v in documents[2].values())
    if len(documents) > 1 and not is_copy:
        raise ConfigError(
            f"{path}: expected 1 document, not {len(documents)}: what follows a "
            "line of --- would not count"
        )
    return _checked_values(documents[0], defaults.choices, path)


def make_parser(defaults: Defaults) -> argparse.ArgumentParser:
    """The parser of ``online_train.py``: a flag for each key; one not given is None."""
    parser = FlagParser(
        prog="online_train.py",
        description="Trains Wide&Deep on the stream for as long as it flows.",
        epilog="Precedence: default_config.yaml < --config_path FILE < flags.",
    )
    parser.add_argument(
        "--config_path", type=path_flag, help="YAML file with keys that differ from the defaults"
    )
    group: Any = parser
    for key, kind in KEY_TYPES.items():
        if key in GROUPS:
            group = parser.add_argument_group(GROUPS[key])
        options = _flag_options(key, defaults)
        options["help"] += f" (default: {_shown(defaults.values[key])})".replace("%", "%%")
        if kind == "bool":
            options.update(nargs="?", const=True, metavar="True|False")
        group.add_argument(f"--{key}", **options)
    return parser


def _flag_options(key: str, defaults: Defaults) -> dict[str, Any]:
    """What ``add_argument`` needs for a key: type, help and choices."""
    options: dict[str, Any] = {
        "type": _flag_type(key),
        "help": defaults.help[key].replace("%", "%%"),
    }
    if key in defaults.choices:
        options["choices"] = defaults.choices[key]
    return options


def _flag_type(key: str) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            return _checked_value(key, text)
        except ValueProblem as problem:
            raise argparse.ArgumentTypeError(str(problem)) from None

    return convert


def _checked_values(
    values: Mapping[str, Any], choices: Mapping[str, Sequence[Any]], path: Path
) -> dict[str, Any]:
    """The values of a file as the types of their keys.

    Raises:
        ConfigError: A key is unknown, or a value has the wrong type or is not allowed.
    """
    lines = values.lines if isinstance(values, YamlMapping) else {}
    checked = {}
    for key, value in values.items():
        where = f"{path}:{lines[key]}" if key in lines else f"{path}"
        if key not in KEY_TYPES:
            raise ConfigError(f"{where}: unknown key {key}{did_you_mean(str(key), KEY_TYPES)}")
        try:
            checked[key] = _checked_value(key, value)
        except ValueProblem as problem:
            raise ConfigError(f"{where}: {key}: {problem}") from None
        if checked[key] not in choices.get(key, [checked[key]]):
            shown = ", ".join(map(str, choices[key]))
            raise ConfigError(f"{where}: {key}: {checked[key]!r} is none of {shown}")
    return checked


def _checked_value(key: str, value: Any) -> Any:
    """The value as the type of its key, if it is in its range.

    Raises:
        ValueProblem: It has another type, or is not allowed.
    """
    found = converted(value, KEY_TYPES[key])
    if key in NOT_EMPTY_KEYS:
        if not found.strip():
            raise ValueProblem("must not be empty")
        if found != found.strip():
            raise ValueProblem(f"{found!r} begins or ends with a blank")
    if key in POSITIVE_KEYS and found <= 0:
        raise ValueProblem(f"must be positive, not {found}")
    if key in NOT_NEGATIVE_KEYS and found < 0:
        raise ValueProblem(f"must not be negative, not {found}")
    if key in LARGEST or isinstance(found, int):
        largest = LARGEST.get(key, MAX_INT)
        if found > largest:
            raise ValueProblem(f"must be at most {largest}, not {found}")
    if key == "ckpt_prefix" and (not found or "/" in found):
        raise ValueProblem(f"{found!r} can't begin a file's name")
    if key == "keep_prob" and not 0 < found <= 1:
        raise ValueProblem(f"must be above 0 and at most 1, not {found}")
    return found


def _read_documents(path: Path) -> list[YamlMapping]:
    """The documents of a YAML file, each a mapping."""
    try:
        return read_yaml_documents(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except YamlFileError as error:
        where = f"{path}:{error.line}" if error.line else f"{path}"
        raise ConfigError(f"{where}: {error}") from None


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
