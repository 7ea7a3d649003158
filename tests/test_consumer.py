"""The consumer's flags, and what the file of --config_path makes of them."""

from __future__ import annotations

from pathlib import Path

import pytest

import consumer
from examples.services.common import ROOT
from src.config import ConfigError, load_config

ADAPTIVE = ROOT / "examples" / "adaptive.yaml"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A trainer's file, with keys that are flags of the consumer and one that is not."""
    path = tmp_path / "mine.yaml"
    path.write_text("topic: clicks\nvocab_size: 5000\nadmit_count: 2\nemb_dim: 16\n")
    return path


def test_values_of_the_file_hold_and_the_others_are_the_defaults(config: Path) -> None:
    arguments = consumer.parse_args([f"--config_path={config}"])
    assert (arguments.topic, arguments.vocab_size, arguments.admit_count) == ("clicks", 5000, 2)
    assert not hasattr(arguments, "emb_dim")
    rest = vars(arguments).keys() - {"config_path", "topic", "vocab_size", "admit_count"}
    defaults = consumer.parse_args([])
    assert {name: getattr(arguments, name) for name in rest} == {
        name: getattr(defaults, name) for name in rest
    }


@pytest.mark.parametrize("file_first", [True, False])
def test_flag_that_is_given_holds_against_the_file_wherever_it_stands(
    file_first: bool, config: Path
) -> None:
    flags = ["--config_path", str(config), "--topic", "other", "--admit_count=0"]
    arguments = consumer.parse_args(flags if file_first else [*flags[2:], *flags[:2]])
    assert (arguments.topic, arguments.admit_count, arguments.vocab_size) == ("other", 0, 5000)


def test_consumer_and_trainer_agree_on_all_they_share_when_both_read_adaptive_yaml() -> None:
    argv = [f"--config_path={ADAPTIVE}"]
    arguments, trainer = vars(consumer.parse_args(argv)), vars(load_config(argv))
    shared = arguments.keys() & trainer.keys()
    assert shared >= {"vocab_size", "dense_transform", "admit_count", "topic", "group_id"}
    assert {name: arguments[name] for name in shared} == {name: trainer[name] for name in shared}
    assert arguments["admit_count"] > 0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, ": No such file or directory"),
        ("topci: clicks\n", ":1: unknown key topci; did you mean topic?"),
        ("vocab_size: many\n", ":1: vocab_size: expected a whole number, not 'many'"),
    ],
)
def test_file_that_does_not_fit_ends_it_with_one_line_before_anything_starts(
    content: str | None,
    message: str,
    tmp_path: Path,
    own_logging: None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    flags = [f"--config_path={path}", "--bootstrap_servers=127.0.0.1:1"]
    with pytest.raises(ConfigError, match=f"^{path}:"):
        consumer.parse_args(flags)
    assert consumer.main(flags) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert line.endswith(f"{path}{message}")


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--window_seconds=0", "--window_seconds must be positive, not 0.0"),
        ("--num_shards=-1", "--num_shards must be positive, not -1"),
        ("--num_shards=99999999999", "--num_shards must be at most 10000, not 99999999999"),
        ("--max_queue_size=9999999", "--max_queue_size must be at most 1000000, not 9999999"),
        ("--window_seconds=1e12", "--window_seconds must be at most 1000000000"),
        ("--dense_transform=square", "invalid choice: 'square'"),
    ],
)
def test_flag_that_makes_no_sense_is_refused_by_name(
    flag: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        consumer.parse_args([flag])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err
