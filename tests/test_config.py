"""Configuration: precedence, types, choices and the errors that name what is wrong."""

from __future__ import annotations

import argparse
import re
from dataclasses import FrozenInstanceError, fields
from pathlib import Path
from typing import Any

import pytest

from src.config import (
    DEFAULT_CONFIG_PATH,
    GROUPS,
    Config,
    ConfigError,
    add_shared_flags,
    load_config,
    parse_with_config_file,
    read_defaults,
)

KEYS = [field.name for field in fields(Config)]


def user_file(folder: Path, text: str) -> str:
    path = folder / "user.yaml"
    path.write_text(text)
    return f"--config_path={path}"


def test_documented_defaults_come_without_any_flag() -> None:
    config = load_config([])
    assert (config.topic, config.group_id, config.namespace) == ("python_test1", "test", "demo")
    assert config.bootstrap_servers == "localhost:9092"
    assert config.dataset_name == "criteo"
    assert (config.batch_size, config.field_size) == (100, 39)
    assert (config.vocab_size, config.emb_dim) == (200000, 80)
    assert config.deep_layer_dim == (1024, 512, 256, 128)
    assert config.l2_coef == 8e-5
    assert (config.keep_prob, config.dropout_flag) == (1.0, False)
    assert (config.use_mixed_precision, config.sparse) == (True, False)
    assert (config.save_checkpoint_steps, config.keep_checkpoint_max) == (100, 5)
    assert (config.ckpt_prefix, config.ckpt_path) == ("widedeep_train", "./ckpt")
    assert (config.loss_file_name, config.audit_path) == ("loss.log", "")


def test_default_file_holds_exactly_the_keys_of_config_each_with_help() -> None:
    defaults = read_defaults()
    assert set(defaults.values) == set(KEYS)
    assert set(defaults.help) == set(KEYS)
    assert set(defaults.choices) <= set(KEYS)


def test_every_default_is_among_its_choices() -> None:
    defaults = read_defaults()
    for key, choices in defaults.choices.items():
        assert defaults.values[key] in choices


def test_config_cannot_be_changed() -> None:
    config = load_config([])
    with pytest.raises(FrozenInstanceError):
        config.topic = "other"  # type: ignore[misc]


def test_user_file_beats_defaults_and_flag_beats_user_file(tmp_path: Path) -> None:
    path = user_file(tmp_path, "batch_size: 32\nemb_dim: 16\n")
    config = load_config([path, "--emb_dim=8"])
    assert (config.batch_size, config.emb_dim, config.vocab_size) == (32, 8, 200000)


def test_flag_that_equals_the_default_still_beats_the_user_file(tmp_path: Path) -> None:
    path = user_file(tmp_path, "batch_size: 32\nsparse: True\n")
    config = load_config([path, "--batch_size=100", "--sparse=False"])
    assert (config.batch_size, config.sparse) == (100, False)


def test_empty_user_file_changes_nothing(tmp_path: Path) -> None:
    assert load_config([user_file(tmp_path, "# nothing yet\n")]) == load_config([])


def test_copy_of_the_default_file_can_be_the_user_file() -> None:
    assert load_config([f"--config_path={DEFAULT_CONFIG_PATH}"]) == load_config([])


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--deep_layer_dim", "64,32"], (64, 32)),
        (["--deep_layer_dim", "[64, 32]"], (64, 32)),
        (["--deep_layer_dim=64"], (64,)),
    ],
)
def test_list_flags(flags: list[str], expected: tuple[int, ...]) -> None:
    assert load_config(flags).deep_layer_dim == expected


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--sparse"], True),
        (["--sparse=True"], True),
        (["--sparse", "true"], True),
        (["--sparse=False"], False),
        (["--sparse", "--batch_size=5"], True),
    ],
)
def test_boolean_flags(flags: list[str], expected: bool) -> None:
    assert load_config(flags).sparse is expected


def test_float_in_scientific_notation_is_a_number_in_flag_and_file(tmp_path: Path) -> None:
    assert load_config(["--l2_coef=8e-5"]).l2_coef == 8e-5
    assert load_config([user_file(tmp_path, "l2_coef: 1e-3\n")]).l2_coef == 1e-3


def test_whole_number_in_the_file_is_taken_for_a_float(tmp_path: Path) -> None:
    seconds = load_config([user_file(tmp_path, "idle_seconds: 5\n")]).idle_seconds
    assert (seconds, type(seconds)) == (5.0, float)


def test_unknown_key_of_the_file_is_named_with_the_close_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="user.yaml: unknown key batch_sise; did you mean batch"):
        load_config([user_file(tmp_path, "batch_sise: 32\n")])


def test_unknown_flag_is_named_with_the_close_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_config(["--batch_sise=32"])
    assert stopped.value.code == 2
    assert "unknown argument --batch_sise; did you mean --batch_size?" in capsys.readouterr().err


@pytest.mark.parametrize("flag", ["--batch=32", "stray", "--Batch_size=32"])
def test_abbreviated_and_stray_arguments_are_refused(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_config([flag])
    assert f"unknown argument {flag.split('=')[0]}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("batch_size: many", "a whole number"),
        ("batch_size: 1.5", "a whole number"),
        ("batch_size: True", "a whole number"),
        ("batch_size: .inf", "a whole number"),
        ("l2_coef: small", "a number"),
        ("l2_coef: .nan", "a number"),
        ("l2_coef: True", "a number"),
        ("sparse: 1", "True or False"),
        ("topic: 7", "text"),
        ("topic:", "text"),
        ("deep_layer_dim: 64", "a list of positive whole numbers"),
        ("deep_layer_dim: [64, 0]", "a list of positive whole numbers"),
        ("deep_layer_dim: []", "a list of positive whole numbers"),
        ("deep_layer_dim: {64: 32}", "a list of positive whole numbers"),
        ("deep_layer_dim: 64,,32", "a list of positive whole numbers"),
    ],
)
def test_wrong_type_is_named_with_file_key_and_value(
    line: str, expected: str, tmp_path: Path
) -> None:
    key = line.split(":")[0]
    with pytest.raises(ConfigError, match=rf"user\.yaml: {key}: expected {expected}, not "):
        load_config([user_file(tmp_path, line)])


@pytest.mark.parametrize("flag", ["--batch_size=x", "--l2_coef=nan", "--sparse=maybe"])
def test_wrong_type_of_a_flag_is_an_argparse_error(
    flag: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_config([flag])
    assert stopped.value.code == 2
    name, value = flag.split("=")
    error = capsys.readouterr().err
    assert f"argument {name}: expected" in error and f"not '{value}'" in error


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("device_target: TPU", "device_target: 'TPU' is none of auto, GPU, CPU"),
        ("field_size: 40", "field_size: 40 is none of 39"),
        ("batch_size: 0", "batch_size: must be positive, not 0"),
        ("keep_checkpoint_max: 0", "keep_checkpoint_max: must be positive, not 0"),
        ("max_steps: -1", "max_steps: must not be negative, not -1"),
        ("keep_prob: 0.0", "keep_prob: must be above 0 and at most 1, not 0.0"),
        ("seed: 4294967296", "seed: must be at most 4294967295, not 4294967296"),
        ("ckpt_prefix: a/b", "ckpt_prefix: 'a/b' can't begin a file's name"),
    ],
)
def test_value_that_is_not_allowed_is_named(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config([user_file(tmp_path, line)])
    assert message in str(refused.value)


def test_missing_user_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere.yaml: No such file or directory$"):
        load_config(["--config_path=nowhere.yaml"])


@pytest.mark.parametrize("content", [b"a: [1, 2\n", b"\xff\xfe\x00", b"- a\n", b"just text\n"])
def test_file_that_is_no_mapping_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml: (not YAML|expected 1 document)") as error:
        load_config([f"--config_path={path}"])
    assert "\n" not in str(error.value)


def test_help_shows_text_default_and_choices_in_groups(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_config(["--help"])
    assert stopped.value.code == 0
    shown = " ".join(capsys.readouterr().out.split())
    for key, text in read_defaults().help.items():
        assert f"--{key}" in shown
        # argparse may break a line after a hyphen
        assert text.replace(" ", "") in shown.replace(" ", "")
    assert "(default: 1024,512,256,128)" in shown
    assert "{auto,GPU,CPU}" in shown
    for title in GROUPS.values():
        assert f"{title}:" in shown


def shared_parser(*names: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_shared_flags(parser, *names)
    return parser


def test_shared_flags_have_the_defaults_and_types_of_the_file() -> None:
    parser = shared_parser("topic", "reconnect_seconds")
    assert vars(parser.parse_args([])) == {"topic": "python_test1", "reconnect_seconds": 60.0}
    given = parser.parse_args(["--topic=t", "--reconnect_seconds=5"])
    assert vars(given) == {"topic": "t", "reconnect_seconds": 5.0}


def test_shared_flags_show_their_help_and_default() -> None:
    shown = " ".join(shared_parser("topic").format_help().split())
    assert "Kafka topic of the click rows (default: python_test1)" in shown


def test_key_missing_from_the_default_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "short.yaml"
    text = DEFAULT_CONFIG_PATH.read_text()
    path.write_text(text.replace("batch_size: 100\n", ""))
    with pytest.raises(ConfigError, match=r"short\.yaml: batch_size needs a value and a help text"):
        load_config([], path)


def test_choices_are_among_those_of_the_model() -> None:
    model: Any = pytest.importorskip("src.model.model_config")
    choices = read_defaults().choices
    assert set(choices["deep_layer_act"]) <= set(model.ACTIVATIONS)
    for key in ("emb_init", "weight_bias_init"):
        assert set(choices[key]) <= set(model.INITIALIZERS)


def parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_shared_flags(parser, "topic", "admit_count", "dense_transform")
    return parse_with_config_file(parser, argv)


def test_another_script_takes_its_shared_flags_from_the_file_unless_they_are_given(
    tmp_path: Path,
) -> None:
    path = tmp_path / "adaptive.yaml"
    path.write_text("admit_count: 2\ndense_transform: log\nemb_dim: 16\n")
    both = parsed(f"--config_path={path}", "--dense_transform=bucket")
    assert vars(both) == {
        "config_path": str(path),
        "topic": "python_test1",
        "admit_count": 2,
        "dense_transform": "bucket",
    }
    assert parsed("--topic=t").admit_count == 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("admit_cuont: 2", "unknown key admit_cuont; did you mean admit_count"),
        ("admit_count: 256", "admit_count: must be at most 255"),
        ("dense_transform: square", "'square' is none of minmax, log, bucket"),
    ],
)
def test_a_file_that_is_wrong_is_named_to_another_script_too(
    line: str, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(line)
    with pytest.raises(ConfigError, match=re.escape(message)):
        parsed(f"--config_path={path}")


@pytest.mark.parametrize("key", ["topic", "group_id", "namespace", "bootstrap_servers"])
@pytest.mark.parametrize("value", ["", "  "])
def test_an_empty_name_is_refused(key: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: must not be empty$"):
        load_config([f"--{key}={value}"])


def test_another_script_refuses_an_empty_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--topic=")
    assert "argument --topic: must not be empty" in capsys.readouterr().err


def test_an_ambiguous_file_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("topic: one\nbatch_size: 10\ntopic: two\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml:3: topic stands twice$"):
        load_config([f"--config_path={path}"])
