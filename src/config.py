"""Configuration: default_config.yaml < a YAML file of the user's < flags, typed and checked."""

from __future__ import annotations

import argparse
import difflib
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Mapping, Optional, Sequence, cast

import yaml

DEFAULT_CONFIG_PATH = Path(__file__).resolve().parent.parent / "default_config.yaml"


class ConfigError(ValueError):
    """A key, type or value that is not allowed; one line names it."""


@dataclass(frozen=True)
class Config:
    """Everything ``online_train.py`` can be told; ``default_config.yaml`` explains each key."""

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
    device_target: str
    seed: int
    max_steps: int
    idle_seconds: float
    loss_file_name: str
    audit_path: str
    ckpt_path: str
    ckpt_prefix: str
    save_checkpoint_steps: int
    keep_checkpoint_max: int
    fresh: bool


POSITIVE_KEYS = (
    *("batch_size", "vocab_size", "emb_dim"),
    *("save_checkpoint_steps", "keep_checkpoint_max", "reconnect_seconds"),
)
NOT_NEGATIVE_KEYS = ("l2_coef", "max_steps", "idle_seconds", "seed")


@dataclass(frozen=True)
class Defaults:
    """The three documents of default_config.yaml: values, help texts and choices, by key."""

    values: Mapping[str, Any]
    help: Mapping[str, str]
    choices: Mapping[str, Sequence[Any]]


def read_defaults(path: Path = DEFAULT_CONFIG_PATH) -> Defaults:
    """Reads default_config.yaml."""
    values, help_texts, choices = _read_documents(path, count=3)
    return Defaults(values, help_texts, choices)


def load_config(
    argv: Optional[Sequence[str]] = None, defaults_path: Path = DEFAULT_CONFIG_PATH
) -> Config:
    """The configuration of ``online_train.py``.

    Args:
        argv: The flags; None takes the process's own.
        defaults_path: The file with every key's default, help and choices.

    Raises:
        ConfigError: A key is unknown or a value has the wrong type or is not allowed.
        SystemExit: argparse refused a flag, or was asked for help.
    """
    defaults = read_defaults(defaults_path)
    types = {field.name: str(field.type) for field in fields(Config)}
    _check_keys(defaults.values, types, str(defaults_path))
    flags = vars(_make_parser(defaults, types).parse_args(argv))
    path = flags.pop("config_path")
    values = dict(defaults.values)
    if path is not None:
        (user_values,) = _read_documents(Path(path), count=1)
        _check_keys(user_values, types, path)
        values.update(
            {key: _typed(value, types[key], f"{path}: {key}") for key, value in user_values.items()}
        )
    values.update({key: value for key, value in flags.items() if value is not None})
    typed = {key: _typed(values[key], types[key], key) for key in types}
    _check_values(typed, defaults.choices)
    return Config(**cast(Any, typed))


def add_shared_flags(parser: argparse.ArgumentParser, *names: str) -> None:
    """Adds flags whose default and help stand in default_config.yaml, for the other scripts."""
    defaults = read_defaults()
    types = {field.name: str(field.type) for field in fields(Config)}
    for name in names:
        parser.add_argument(
            f"--{name}",
            type=_flag_type(name, types[name]),
            default=defaults.values[name],
            help=defaults.help[name],
        )


def _make_parser(defaults: Defaults, types: Mapping[str, str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Trains Wide&Deep on the stream for as long as it flows.",
        epilog="Precedence: default_config.yaml < --config_path FILE < flags.",
    )
    parser.add_argument("--config_path", help="YAML file with keys that differ from the defaults")
    for key, kind in types.items():
        text = f"{defaults.help[key]} (default: {_shown(defaults.values[key])})"
        options: dict[str, Any] = {"type": _flag_type(key, kind), "help": text.replace("%", "%%")}
        if key in defaults.choices:
            options["choices"] = defaults.choices[key]
        if kind == "bool":
            options.update(nargs="?", const=True, metavar="{True,False}")
        parser.add_argument(f"--{key}", **options)
    return parser


def _flag_type(key: str, kind: str) -> Any:
    def convert(text: str) -> Any:
        try:
            return _typed(text, kind, key)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert


def _typed(value: Any, kind: str, where: str) -> Any:
    """The value as the key's type; text is read as YAML would, and 8e-5 is a number too."""
    try:
        if kind == "str":
            if isinstance(value, str):
                return value
        elif kind == "bool":
            return _as_bool(value)
        elif kind == "int":
            return _as_int(value)
        elif kind == "float":
            if not isinstance(value, bool):
                return float(value)
        else:
            parts = value.strip("[] ").split(",") if isinstance(value, str) else value
            numbers = tuple(_as_int(part) for part in parts)
            if numbers and min(numbers) > 0:
                return numbers
    except (TypeError, ValueError):
        pass
    expected = {"str": "text", "bool": "True or False", "int": "a whole number", "float": "a number"}
    raise ConfigError(
        f"{where}: expected {expected.get(kind, 'a list of positive whole numbers')}, "
        f"not {value!r}"
    )


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    known = {"true": True, "false": False}
    if isinstance(value, str) and value.lower() in known:
        return known[value.lower()]
    raise ValueError


def _as_int(value: Any) -> int:
    if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
        raise ValueError
    return int(value)


def _check_keys(values: Mapping[str, Any], types: Mapping[str, str], where: str) -> None:
    for key in values:
        if key not in types:
            close = difflib.get_close_matches(str(key), types, n=1)
            hint = f"; did you mean {close[0]}?" if close else ""
            raise ConfigError(f"{where}: unknown key {key}{hint}")


def _check_values(values: Mapping[str, Any], choices: Mapping[str, Sequence[Any]]) -> None:
    for key, allowed in choices.items():
        if values[key] not in allowed:
            shown = ", ".join(map(str, allowed))
            raise ConfigError(f"{key}: {values[key]!r} is none of {shown}")
    for key in POSITIVE_KEYS:
        if values[key] <= 0:
            raise ConfigError(f"{key}: must be positive, not {values[key]}")
    for key in NOT_NEGATIVE_KEYS:
        if values[key] < 0:
            raise ConfigError(f"{key}: must not be negative, not {values[key]}")
    if not 0 < values["keep_prob"] <= 1:
        raise ConfigError(f"keep_prob: must be above 0 and at most 1, not {values['keep_prob']}")


def _read_documents(path: Path, count: int) -> list[dict[str, Any]]:
    """The first ``count`` documents of a YAML file, each a mapping."""
    try:
        documents = list(yaml.safe_load_all(path.read_text()))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    found = [document or {} for document in documents[:count]] or [{}]
    if len(found) < count or not all(isinstance(document, dict) for document in found):
        raise ConfigError(f"{path}: expected {count} document(s) of key: value lines")
    return found


def _shown(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
