"""Contents on disk, the one door to them: look at what is to be shared, read what is shared, write what is downloaded."""

from __future__ import annotations

from p2p.content.partial import PartialContent
from p2p.content.scan import Fingerprint, Scanned, scan
from p2p.content.shared import SharedContent, fingerprints

__all__ = ["Fingerprint", "PartialContent", "Scanned", "SharedContent", "fingerprints", "scan"]
