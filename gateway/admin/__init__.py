"""What can be asked of a gateway from outside its data plane, each thing once.

The admin plane and the control socket serve this table; a command without a server runs the same
functions on the files. So all three mean the same by the same words.
"""

from typing import Any

from gateway.admin import backup, cache, keys, logs, teams, usage
from gateway.admin.operation import Operation, Rooms, Stream

OPERATIONS: tuple[Operation[Any], ...] = (
    *keys.OPERATIONS,
    *teams.OPERATIONS,
    *usage.OPERATIONS,
    *logs.OPERATIONS,
    *cache.OPERATIONS,
    *backup.OPERATIONS,
)

__all__ = ["OPERATIONS", "Operation", "Rooms", "Stream"]
