"""Capabilities: who gets one, and who may make one."""

import ast
from pathlib import Path

import attrs
import pytest

from objstore.ids import BucketId, Key, Slot
from objstore.meta.values import BucketRecord, BucketState
from objstore.s3.authorize import decide
from objstore.s3.errors import S3Error
from tests.unit.objects.composition import ALICE, BOB, ROOT

PACKAGE = Path(__file__).parents[3] / "objstore"
RECORD = BucketRecord(
    name="photos",
    bucket=BucketId(7),
    owner=ALICE.canonical_id,
    created_ms=0,
    span=(Slot(1),),
    scheme="replicate:3",
    state=BucketState.OPEN,
)


def test_capabilities_are_made_in_one_place():
    makers = {
        str(path.relative_to(PACKAGE))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "Capability"
    }
    assert makers == {"s3/authorize.py"}


@pytest.mark.parametrize("principal", [ALICE, ROOT])
def test_owner_and_root_get_leave_for_exactly_what_they_asked(principal):
    leave = decide(principal, "s3:GetObject", RECORD, key=Key(b"k"))
    assert leave.record == RECORD
    assert (leave.action, leave.object_key) == ("s3:GetObject", b"k")
    leave.require("s3:GetObject")
    with pytest.raises(AssertionError):
        leave.require("s3:PutObject")


def test_strangers_get_none():
    with pytest.raises(S3Error) as caught:
        decide(BOB, "s3:GetObject", RECORD, key=Key(b"k"))
    assert caught.value.code == "AccessDenied"


def test_bucket_made_anew_by_another_is_decided_about_again():
    leave = decide(ALICE, "s3:PutObject", RECORD, key=Key(b"k"))
    same = leave.renew(attrs.evolve(RECORD, bucket=BucketId(8)))
    assert (same.record.bucket, same.object_key) == (8, b"k")
    with pytest.raises(S3Error) as caught:
        leave.renew(attrs.evolve(RECORD, bucket=BucketId(9), owner=BOB.canonical_id))
    assert caught.value.code == "AccessDenied"
