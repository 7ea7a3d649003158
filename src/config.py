"""Configuration: default_config.yaml < the user's YAML file < flags, typed and checked."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import yaml

from src.config_values import converted, expected, flag_type
from src.process.strict_yaml import AmbiguousYamlError, read_yaml_documents

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
    topic: str
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
    device_target: str
    seed: int
    init_ckpt: str
    max_steps: int
    idle_seconds: float
    loss_file_name: str
    audit_path: str
    report_steps: int
    metrics_path: str
    metrics_window_rows: int
    metrics_port: int
    metrics_host: str
    ckpt_path: str
    ckpt_prefix: str
    save_checkpoint_steps: int
    keep_checkpoint_max: int
    fresh: bool


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
)
NOT_NEGATIVE_KEYS = (
    "l2_coef",
    "admit_count",
    "max_steps",
    "idle_seconds",
    "seed",
    "report_steps",
    "metrics_port",
    "cross_bits",
)
NOT_EMPTY_KEYS = (
    "address",
    "namespace",
    "dataset_name",
    "bootstrap_servers",
    "topic",
    "group_id",
    "ckpt_path",
)
MAX_ADMIT_COUNT = 255  # sightings are counted in bytes
MAX_CROSS_BITS = 28  # weights and squares of 2^28 pairs take 2 GB
MAX_SEED = 2**32 - 1  # the largest for NumPy, which MindSpore seeds too

# The first key of each group of flags in --help, in the order of Config.
GROUPS = {
    "address": "channel between consumer and trainer",
    "bootstrap_servers": "Kafka",
    "batch_size": "model",
    "dense_transform": "vocabulary",
    "device_target": "training",
    "report_steps": "watching",
    "ckpt_path": "checkpoints",
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
    values, help_texts, choices = _read_documents(path, count=3)
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
    _check_keys(defaults.values, str(defaults_path))
    values = _typed_values(defaults.values, str(defaults_path))
    flags = _parse_flags(make_parser(defaults), argv)
    path = flags.pop("config_path")
    if path is not None:
        _update_from_file(values, path)
    values.update({key: value for key, value in flags.items() if value is not None})
    _check_values(values, defaults.choices)
    return Config(**cast(Any, values))


def add_shared_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds flags with default and help from default_config.yaml, for the other scripts.

    A value of the wrong type is argparse's error. A parser that was made with
    ``ArgumentDefaultsHelpFormatter`` shows the defaults.

    Args:
        parser: Gets the flags.
        names: Keys of the configuration.
    """
    defaults = read_defaults()
    for name in names:
        parser.add_argument(
            f"--{name}",
            type=flag_type(KEY_TYPES[name], name in NOT_EMPTY_KEYS),
            default=defaults.values[name],
            choices=defaults.choices.get(name),
            help=defaults.help[name].replace("%", "%%"),
        )


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
        help="YAML file of online_train.py, for the flags here that are also keys there; "
        "a flag given here overrides it",
    )
    path = _config_path(argv)
    if path is not None:
        defaults = read_defaults()
        values = _typed_values(defaults.values, str(DEFAULT_CONFIG_PATH))
        _update_from_file(values, path)
        _check_values(values, defaults.choices)
        known = {action.dest for action in parser._actions}
        parser.set_defaults(**{key: value for key, value in values.items() if key in known})
    return parser.parse_args(argv)


def _config_path(argv: Sequence[str] | None) -> str | None:
    """The value of --config_path; other flags are ignored."""
    finder = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    finder.add_argument("--config_path")
    path: str | None = finder.parse_known_args(argv)[0].config_path
    return path


def _update_from_file(values: dict[str, Any], path: str) -> None:
    (user_values,) = _read_documents(Path(path), count=1)
    _check_keys(user_values, path)
    values.update(_typed_values(user_values, path))


def make_parser(defaults: Defaults) -> argparse.ArgumentParser:
    """The parser of ``online_train.py``: a flag for each key; one not given is None."""
    parser = argparse.ArgumentParser(
        description="Trains Wide&Deep on the stream for as long as it flows.",
        epilog="Precedence: default_config.yaml < --config_path FILE < flags.",
        allow_abbrev=False,
    )
    parser.add_argument("--config_path", help="YAML file with keys that differ from the defaults")
    group: Any = parser
    for key, kind in KEY_TYPES.items():
        if key in GROUPS:
            group = parser.add_argument_group(GROUPS[key])
        text = f"{defaults.help[key]} (default: {_shown(defaults.values[key])})"
        options: dict[str, Any] = {"type": flag_type(kind), "help": text.replace("%", "%%")}
        if key in defaults.choices:
            options["choices"] = defaults.choices[key]
        if kind == "bool":
            options.update(nargs="?", const=True, metavar="True|False")
        group.add_argument(f"--{key}", **options)
    return parser


def _parse_flags(parser: argparse.ArgumentParser, argv: Sequence[str] | None) -> dict[str, Any]:
    """The flags given; for an unknown flag the error also suggests a similar one."""
    flags, unknown = parser.parse_known_args(argv)
    if unknown:
        name = unknown[0].split("=")[0]
        hint = _did_you_mean(name.lstrip("-"), vars(flags), "--") if name.startswith("-") else ""
        parser.error(f"unknown argument {name}{hint}")
    return vars(flags)


def _typed_values(values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values of a file as the types of their keys."""
    typed = {}
    for key, value in values.items():
        try:
            typed[key] = converted(value, KEY_TYPES[key])
        except (OverflowError, TypeError, ValueError):
            raise ConfigError(f"{where}: {key}: {expected(KEY_TYPES[key], value)}") from None
    return typed


def _check_keys(values: Mapping[str, Any], where: str) -> None:
    for key in values:
        if key not in KEY_TYPES:
            raise ConfigError(f"{where}: unknown key {key}{_did_you_mean(str(key), KEY_TYPES)}")


def _did_you_mean(name: str, known: Iterable[str], prefix: str = "") -> str:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"; did you mean {prefix}{close[0]}?" if close else ""


def _check_values(values: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> None:
    for key, allowed in choices.items():
        if values[key] not in allowed:
            shown = ", ".join(map(str, allowed))
            raise ConfigError(f"{key}: {values[key]!r} is none of {shown}")
    for key in NOT_EMPTY_KEYS:
        if not values[key].strip():
            raise ConfigError(f"{key}: must not be empty")
    for key in POSITIVE_KEYS:
        if values[key] <= 0:
            raise ConfigError(f"{key}: must be positive, not {values[key]}")
    for key in NOT_NEGATIVE_KEYS:
        if values[key] < 0:
            raise ConfigError(f"{key}: must not be negative, not {values[key]}")
    if values["seed"] > MAX_SEED:
        raise ConfigError(f"seed: must be at most {MAX_SEED}, not {values['seed']}")
    if values["admit_count"] > MAX_ADMIT_COUNT:
        raise ConfigError(
            f"admit_count: must be at most {MAX_ADMIT_COUNT}, not {values['admit_count']}"
        )
    if values["cross_bits"] > MAX_CROSS_BITS:
        raise ConfigError(
            f"cross_bits: must be at most {MAX_CROSS_BITS}, not {values['cross_bits']}"
        )
    if not values["ckpt_prefix"] or "/" in values["ckpt_prefix"]:
        raise ConfigError(f"ckpt_prefix: {values['ckpt_prefix']!r} can't begin a file's name")
    if not 0 < values["keep_prob"] <= 1:
        raise ConfigError(f"keep_prob: must be above 0 and at most 1, not {values['keep_prob']}")


def _read_documents(path: Path, count: int) -> list[dict[str, Any]]:
    """The first ``count`` documents of a YAML file, each a mapping."""
    try:
        documents = read_yaml_documents(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except AmbiguousYamlError as error:
        raise ConfigError(f"{path}:{error.line}: {error}") from None
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    # A file of comments only has no document, and an empty document is None.
    found = [{} if document is None else document for document in documents[:count]] or [{}]
    if len(found) < count or not all(isinstance(document, dict) for document in found):
        raise ConfigError(f"{path}: expected {count} document(s) of key: value lines")
    return found


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
