"""All fuzz targets, one a parser."""

from __future__ import annotations

from typing import Final

from tests.fuzz import content_targets, service_targets, wire_targets
from tests.fuzz.target import Target

TARGETS: Final[dict[str, Target]] = {
    target.name: target
    for target in (*wire_targets.TARGETS, *content_targets.TARGETS, *service_targets.TARGETS)
}
