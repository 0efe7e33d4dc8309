"""Errors of the rooms below in S3's words."""

import pytest

from objstore.errors import Conflict, CorruptData, InvalidRequest, OutOfSpace, Unavailable
from objstore.http.framing import Refused
from objstore.http.message import TruncatedBody
from objstore.http.ranges import RangeNotSatisfiable
from objstore.meta import errors as meta
from objstore.objects.requests import MD5, SHA256_PAYLOAD, DigestMismatch
from objstore.s3.errors import CODES, S3Error, to_s3_error


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (meta.NoSuchBucket(""), "NoSuchBucket", 404),
        (meta.NoSuchKey(""), "NoSuchKey", 404),
        (meta.NoSuchVersion(""), "NoSuchVersion", 404),
        (meta.NoSuchUpload(""), "NoSuchUpload", 404),
        (meta.BucketExists(""), "BucketAlreadyExists", 409),
        (meta.BucketNotEmpty(""), "BucketNotEmpty", 409),
        (meta.PreconditionFailed(""), "PreconditionFailed", 412),
        (meta.InvalidPart(""), "InvalidPart", 400),
        (meta.InvalidPartOrder(""), "InvalidPartOrder", 400),
        (meta.EntityTooSmall(""), "EntityTooSmall", 400),
        (meta.EntityTooLarge(""), "EntityTooLarge", 400),
        (meta.StaleBucket(""), "ServiceUnavailable", 503),
        (meta.WrongShard(""), "ServiceUnavailable", 503),
        (DigestMismatch(MD5, b"a", b"b"), "BadDigest", 400),
        (DigestMismatch("CRC32", b"a", b"b"), "BadDigest", 400),
        (DigestMismatch(SHA256_PAYLOAD, b"a", b"b"), "XAmzContentSHA256Mismatch", 400),
        (TruncatedBody(""), "IncompleteBody", 400),
        (Refused(400, ""), "BadRequest", 400),
        (RangeNotSatisfiable(7), "InvalidRange", 416),
        (InvalidRequest("why"), "InvalidRequest", 400),
        (Conflict(""), "OperationAborted", 409),
        (Unavailable(""), "ServiceUnavailable", 503),
        (OutOfSpace(""), "InsufficientStorage", 507),
        (CorruptData(""), "InternalError", 500),
        (ValueError("secret"), "InternalError", 500),
    ],
)
def test_an_error_becomes(error, code, status):
    translated = to_s3_error(error)
    assert (translated.code, translated.status) == (code, status)
    assert "secret" not in translated.message


def test_who_must_come_again_is_told_when():
    headers = to_s3_error(Unavailable("", retry_after_ms=2500)).headers
    assert headers == [("Retry-After", "3")]


def test_a_range_that_cannot_be_met_says_how_much_there_is():
    error = to_s3_error(RangeNotSatisfiable(7))
    assert error.details == {"ActualObjectSize": "7"}
    assert error.headers == [("Content-Range", "bytes */7")]


def test_a_failed_condition_is_named():
    error = to_s3_error(meta.PreconditionFailed("", condition="If-Match"))
    assert error.details == {"Condition": "If-Match"}


def test_an_s3_error_is_itself():
    error = S3Error("NoSuchKey", "gone", details={"Key": "k"}, status=405)
    assert to_s3_error(error) is error
    assert (error.status, error.message) == (405, "gone")


def test_every_code_has_a_status_and_a_sentence():
    for status, message in CODES.values():
        assert 300 <= status <= 599
        assert message
