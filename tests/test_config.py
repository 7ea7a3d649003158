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
        (["--sparse=yes"], True),
        (["--sparse=off"], False),
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
    with pytest.raises(
        ConfigError, match="user.yaml:1: unknown key batch_sise; did you mean batch"
    ):
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
    with pytest.raises(ConfigError, match=rf"user\.yaml:1: {key}: expected {expected}, "):
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
        ("batch_seconds: -0.5", "batch_seconds: must not be negative, not -0.5"),
        ("keep_prob: 0.0", "keep_prob: must be above 0 and at most 1, not 0.0"),
        ("seed: 4294967296", "seed: must be at most 4294967295, not 4294967296"),
        ("ckpt_prefix: a/b", "ckpt_prefix: 'a/b' can't begin a file's name"),
        ("topic: a b", "topic: 'a b' is no topic's name"),
        ("topic: ä", "topic: 'ä' is no topic's name"),
        ("topic: ..", "topic: '..' is no topic's name"),
        (f"topic: {'t' * 245}", "topic: a topic's name of 245 characters; at most 244"),
        ("topic: __consumer_offsets", "topic: __consumer_offsets is a topic of Kafka's own"),
        ('group_id: "a\\nb"', r"group_id: 'a\nb' holds a control character"),
        ('namespace: "\\0"', r"namespace: '\x00' holds a control character"),
        (f"group_id: {'g' * 10_001}", "group_id: a text of 10,001 characters; at most 10,000"),
        ('metrics_host: ""', "metrics_host: must not be empty"),
    ],
    ids=lambda text: text[:40],
)
def test_value_that_is_not_allowed_is_named(line: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config([user_file(tmp_path, line)])
    assert message in str(refused.value)


@pytest.mark.parametrize("topic", ["t" * 244, "a.b-c_d", "2024-01-01", "_schemas", "..."])
def test_whatever_kafka_allows_as_a_topics_name_is_taken(topic: str) -> None:
    assert load_config([f"--topic={topic}"]).topic == topic


@pytest.mark.parametrize("key", ["topic", "group_id", "address"])
def test_a_flag_with_bytes_of_no_utf8_is_refused(
    key: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        load_config([f"--{key}=a\udcff"])
    assert f"argument --{key}: 'a\\udcff' holds bytes of no UTF-8" in capsys.readouterr().err
    assert load_config(["--ckpt_path=a\udcff"]).ckpt_path == "a\udcff"  # a file's name may


def test_missing_user_file_is_one_line() -> None:
    with pytest.raises(ConfigError, match=r"^nowhere.yaml: No such file or directory$"):
        load_config(["--config_path=nowhere.yaml"])


@pytest.mark.parametrize("content", [b"a: [1, 2\n", b"\xff\xfe\x00", b"- a\n", b"just text\n"])
def test_file_that_is_no_mapping_is_one_line(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "broken.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"broken\.yaml:\d: (not YAML|expected lines)") as error:
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
        "config_path": path,
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
@pytest.mark.parametrize("value", ["''", "'  '"])
def test_an_empty_name_in_the_file_is_refused(key: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"user.yaml:1: {key}: must not be empty$"):
        load_config([user_file(tmp_path, f"{key}: {value}")])


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--topic=", "must not be empty"),
        ("--ckpt_path= ", "must not be empty"),
        ("--group_id=test ", "'test ' begins or ends with a blank"),
        ("--batch_size=0", "must be positive, not 0"),
        ("--batch_size=-5", "must be positive, not -5"),
        ("--batch_size=1e2", "expected a whole number, not '1e2'"),
        ("--batch_size=", "expected a whole number, not ''"),
        ("--batch_size=99999999999999999999", "must be at most 2147483647"),
        ("--max_steps=99999999999999999999", "must be at most 9223372036854775807"),
        ("--idle_seconds=1e300", "must be at most 1000000000"),
        ("--idle_seconds=1e999", "expected a number"),
        ("--metrics_port=65536", "must be at most 65535"),
        ("--metrics_port=-1", "must not be negative"),
        ("--sparse=2", "expected True or False, not '2'"),
    ],
)
def test_a_flag_out_of_its_range_is_one_line(
    flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        load_config([flag])
    error = capsys.readouterr().err
    assert stopped.value.code == 2
    assert f"argument {flag.split('=')[0]}: " in error and message in error
    assert error.count("\n") == 1


def test_another_script_refuses_an_empty_name_too(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--topic=")
    assert "argument --topic: must not be empty" in capsys.readouterr().err


def test_an_ambiguous_file_is_refused_with_the_line(tmp_path: Path) -> None:
    path = tmp_path / "twice.yaml"
    path.write_text("topic: one\nbatch_size: 10\ntopic: two\n")
    with pytest.raises(ConfigError, match=r"twice\.yaml:3: topic stands twice$"):
        load_config([f"--config_path={path}"])


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("batch_size: 1_000", "batch_size", 1000),
        ("batch_size: 0x10", "batch_size", 16),
        ("batch_size: 1.0e+2", "batch_size", 100),
        ("batch_size: '010'", "batch_size", 10),
        ("l2_coef: 1e-3", "l2_coef", 0.001),
        ("l2_coef: .5", "l2_coef", 0.5),
        ("sparse: yes", "sparse", True),
        ("sparse: Off", "sparse", False),
        ("sparse: 'no'", "sparse", False),
        ("topic: 2026-01-01", "topic", "2026-01-01"),
        ("topic: clicks   # of today", "topic", "clicks"),
        ("topic: clicks   ", "topic", "clicks"),
        ("deep_layer_dim: 64,32", "deep_layer_dim", (64, 32)),
        ("deep_layer_dim: [64, '32']", "deep_layer_dim", (64, 32)),
        ("\ufefftopic: clicks\r", "topic", "clicks"),
        ("--- \ntopic: clicks\n---\n", "topic", "clicks"),
        ("<<: {batch_size: 7, topic: a}\ntopic: b", "topic", "b"),
        ("topic: &name clicks\ngroup_id: *name", "group_id", "clicks"),
    ],
)
def test_other_ways_to_write_a_value_are_taken(
    line: str, key: str, value: object, tmp_path: Path
) -> None:
    found = getattr(load_config([user_file(tmp_path, line)]), key)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_a_file_with_a_byte_order_mark_is_read(encoding: str, tmp_path: Path) -> None:
    path = tmp_path / "windows.yaml"
    mark = "\ufeff" if encoding.endswith(("le", "be")) else ""
    path.write_bytes(f"{mark}topic: clicks\r\nbatch_size: 7\r\n".encode(encoding))
    config = load_config([f"--config_path={path}"])
    assert (config.topic, config.batch_size) == ("clicks", 7)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batch_size: 0o17", "1: batch_size: expected a whole number, not '0o17'"),
        ("batch_size: 1e3", "1: batch_size: expected a whole number, not '1e3'"),
        ("batch_size: 2026-01-01", "1: batch_size: expected a whole number, not '2026-01-01'"),
        ("batch_size: [1]", "1: batch_size: expected a whole number, not [1]"),
        ("batch_size: 9999999999", "1: batch_size: must be at most 2147483647"),
        ("batch_size: " + "9" * 5000, "1: a number of 5000 digits"),
        ("max_steps: .inf", "1: max_steps: expected a whole number, not inf"),
        ("idle_seconds: .nan", "1: idle_seconds: expected a number, not nan"),
        ("idle_seconds: 1e400", "1: idle_seconds: expected a number, not '1e400'"),
        ("topic: on", "1: topic: expected text, not True: put it in quotes"),
        ("topic: 123", "1: topic: expected text, not 123: put it in quotes"),
        ("topic: null", "1: topic: expected text, but there is nothing"),
        ("topic: ~", "1: topic: expected text, but there is nothing"),
        ("metrics_path:", "1: metrics_path: expected a path, but there is nothing"),
        ("ckpt_path: ~", "1: ckpt_path: expected a path, but there is nothing"),
        ("topic: [a, b]", "1: topic: expected text, not ['a', 'b']"),
        ("topic: {name: a}", "1: topic: expected text, not {'name': 'a'}"),
        ('topic: "clicks "', "1: topic: 'clicks ' begins or ends with a blank"),
        ("seed: 1\nbatch-size: 5", "2: unknown key batch-size; did you mean batch_size?"),
        ("model:\n  batch_size: 5", "1: unknown key model"),
        ("1: 2", "1: unknown key 1"),
        ("on: 2", "1: unknown key True"),
        ("? [a]\n: 1", "1: a key must be a name"),
        ("seed:\t1", "1: not YAML: found character"),
        ("\n\ttopic: a", "2: not YAML: found character"),
        ("seed: 1\n\ttopic: a", "2: not YAML"),
        ("seed: !!python/object:os.system x", "1: not YAML: could not determine a constructor"),
        ("seed: !!int ''", " not YAML"),
        ("seed: 1\n---\nseed: 2", " expected 1 document, not 2"),
        ("seed: 1\n---\nseed: 2\n---\na: 3", " expected 1 document, not 3"),
        ("topic: &a [*a, *a]", "1: topic: expected text, not [["),
        ("seed: " + "[" * 3000, " nested too deeply"),
    ],
)
def test_what_can_be_misread_is_refused_with_line_and_key(
    text: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as refused:
        load_config([user_file(tmp_path, text)])
    assert f"user.yaml:{message}" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_many_references_make_no_endless_message(tmp_path: Path) -> None:
    lines = ["<<:", "  l0: &l0 [1, 1, 1, 1, 1, 1, 1, 1, 1]"]
    lines += [f"  l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30)]
    text = "\n".join([*lines, "topic: *l29"])
    with pytest.raises(ConfigError) as refused:
        load_config([user_file(tmp_path, text)])
    assert len(str(refused.value)) < 500


def test_a_flag_that_is_given_twice_has_its_last_value() -> None:
    assert load_config(["--seed=1", "--seed", "2"]).seed == 2


@pytest.mark.parametrize("key", ["init_ckpt", "loss_file_name", "metrics_path", "ckpt_path"])
def test_home_is_meant_by_a_tilde_in_flag_and_file(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", "/home/me")
    from_flag = load_config([f"--{key}=~/x y"])
    from_file = load_config([user_file(tmp_path, f"{key}: ~/x y")])
    assert getattr(from_flag, key) == getattr(from_file, key) == "/home/me/x y"
