"""Reading and writing Hugging Face checkpoints as streams of bytes."""

from scramble.checkpoints.folder import Checkpoint, open_checkpoint
from scramble.checkpoints.source import locate, target_of
from scramble.checkpoints.staging import Staging, staging
from scramble.checkpoints.storage import STORAGES, Storage
from scramble.files import PARTIAL

__all__ = [
    "PARTIAL",
    "STORAGES",
    "Checkpoint",
    "Staging",
    "Storage",
    "locate",
    "open_checkpoint",
    "staging",
    "target_of",
]
