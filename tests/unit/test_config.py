"""Configuration: defaults, sources, and what a person is told about mistakes."""

import re
from pathlib import Path

import pytest

from objstore import config
from objstore.errors import ConfigError

CONF = Path(__file__).parents[2] / "conf" / "objstore.toml"


def test_the_shown_file_is_generated_from_the_fields() -> None:
    assert CONF.read_text() == config.render_default_file()


def test_the_shown_file_with_every_key_uncommented_is_the_defaults() -> None:
    text = re.sub(r"^# (\w+ = )", r"\1", CONF.read_text(), flags=re.MULTILINE)
    assert config.load(text) == config.Config()


def test_later_sources_win() -> None:
    loaded = config.load(
        '[s3]\naddress = "127.0.0.1:1"\nregion = "x"\n[chunks]\nchunk_size = "8MiB"',
        environment={"OBJSTORE_S3_ADDRESS": "127.0.0.1:2", "OBJSTORE_S3_DOMAINS": "a, b"},
        overrides={"chunks.chunk_size": "16MiB"},
    )
    assert loaded.s3.address == "127.0.0.1:2"
    assert loaded.s3.region == "x"
    assert loaded.s3.domains == ("a", "b")
    assert loaded.chunks.chunk_size == 16 << 20


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            '[gossip]\n\nprobe_intervl = "1s"',
            ["line 3", "probe_intervl", "'gossip.probe_interval'"],
        ),
        ("[gossip]\nprobe_timeout = 5", ["line 2", "gossip.probe_timeout", "500ms"]),
        ('[s3]\ntls = "maybe"', ["line 2", "one of off, files, cluster"]),
        ('[s3]\naddress = "nine"', ["HOST:PORT"]),
        ("loose = 1", ["line 1", "loose"]),
        ("[s3", ["not TOML"]),
        (
            '[gossip]\nprobe_timeout = "1s"',
            ["line 2", "must be below gossip.probe_interval"],
        ),
        ('[gossip]\n\nprobe_interval = "1ms"', ["line 3", "gossip.probe_timeout"]),
        ('[meta]\ninline_size_max = "1GiB"', ["line 2", "256KiB"]),
        ('[s3]\n\npart_size_min = "0B"', ["line 3", "s3.part_size_min", "1B to 5GiB"]),
        ('[auth]\nmetrics_token = "perhaps"', ["true or false"]),
    ],
)
def test_a_mistake_names_key_line_and_what_is_allowed(text: str, told: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(text, path="node.toml")
    for piece in told:
        assert piece in str(caught.value)


def test_an_unknown_environment_key_is_refused_and_others_are_left_alone() -> None:
    config.load(environment={"OBJSTORE_HOME": "/x", "PATH": "/bin"})
    with pytest.raises(ConfigError, match="OBJSTORE_S3_ADRESS"):
        config.load(environment={"OBJSTORE_S3_ADRESS": "127.0.0.1:1"})


def test_rendered_values_load_again() -> None:
    values = {
        "s3.address": "127.0.0.1:9001",
        "node.drives": ("/a", "/b"),
        "repair.grace_ms".removesuffix("_ms"): 1500,
        "auth.metrics_token": True,
    }
    loaded = config.load(config.render_file(values))
    assert loaded.repair.grace_ms == 1500
    assert loaded.node.drives == ("/a", "/b")
    assert loaded.auth.metrics_token is True


def test_set_values_are_parsed_by_their_key() -> None:
    assert config.parse_value("chunks.chunk_size", "1MiB") == 1 << 20
    with pytest.raises(ConfigError, match="unknown key"):
        config.parse_value("chunks.chunk_sise", "1MiB")
    with pytest.raises(ConfigError, match="a size"):
        config.parse_value("chunks.chunk_size", "1 potato")
