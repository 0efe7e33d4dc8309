"""`buckets`: a bucket that is deleted leaves nothing behind."""

from __future__ import annotations

from objstore.meta import schema
from objstore.meta.schema import Table
from objstore.testing.cluster.evidence import Evidence
from objstore.testing.cluster.program import RunningNode

NAME = "buckets"


def check(evidence: Evidence, nodes: dict[str, RunningNode]) -> None:
    """Look for versions and uploads of buckets that no node knows.

    To be called when replicas are level.  Parts may stay a while: they go in steps.
    """
    known = {record.bucket for node in nodes.values() for record in node.view.buckets()}
    for name, node in nodes.items():
        for group in node.raft.groups():
            machine = node.meta_store.machine(group)
            for slot in machine.slots():
                for key, _ in machine.sealed_rows(slot):
                    if schema.table_of_row(key) not in (Table.VERSION, Table.UPLOAD):
                        continue
                    bucket = schema.bucket_of_row(key)
                    if bucket not in known:
                        what = (
                            f"{name} group {group} slot {slot}: {key.hex()} of {bucket:x}"
                        )
                        evidence.accuse(NAME, f"{what}, which is deleted")
