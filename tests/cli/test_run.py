"""`agentd run --foreground` and what the configuration says about the log."""

import itertools

import pytest

from agentd import config
from agentd.cli.run import in_foreground

LEVELS, FORMATS = (None, "info", "warning"), (None, "auto", "json")
SOURCES = ("file", "environment", "flag")


@pytest.mark.parametrize(("level", "fmt", "source"), list(itertools.product(LEVELS, FORMATS, SOURCES)))
def test_foreground_changes_only_what_is_not_configured(tmp_path, level, fmt, source):
    given = {key: value for key, value in (("level", level), ("format", fmt)) if value}
    file = tmp_path / "agentd.toml"
    lines = [f'{key} = "{value}"' for key, value in given.items()] if source == "file" else []
    file.write_text("[log]\n" + "\n".join(lines))
    environ = {f"AGENTD_LOG_{key.upper()}": value for key, value in given.items()}
    flags = [f"log.{key}={value}" for key, value in given.items()]
    loaded = config.load(
        file=file,
        environ=environ if source == "environment" else {},
        flags=flags if source == "flag" else [],
    )
    found = in_foreground(loaded)
    assert (found.log.level, found.log.format) == (level or "debug", fmt or "console")
    for key in ("level", "format"):
        origin = found.origins[f"log.{key}"]
        assert origin == (loaded.origins[f"log.{key}"] if key in given else "flag --foreground")
    assert found.differences(loaded) == {f"log.{key}" for key in ("level", "format") if key not in given}
