"""The configuration: its keys (`schema`), the formats of their values (`formats`), its sources (`load`)."""

from agentd.config.load import SYSTEM_FILE, load
from agentd.config.schema import SNAPSHOT_MAX_BYTES, Config, keys
from agentd.config.section import Key

__all__ = ["SNAPSHOT_MAX_BYTES", "SYSTEM_FILE", "Config", "Key", "keys", "load"]
