"""Digests that clients send: which are accepted, and what is said of the others."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.http.message import Headers
from objstore.objects.requests import MD5, ExpectedDigest
from objstore.s3.checksums import (
    SIZES,
    algorithm_of,
    decode_checksum,
    encode_checksum,
    expected_digests,
    header_of,
    trailing_algorithm,
)
from objstore.s3.errors import S3Error


def refusal(function, **headers: str) -> str:
    given_headers = Headers((name.replace("_", "-"), v) for name, v in headers.items())
    with pytest.raises(S3Error) as caught:
        function(given_headers)
    return caught.value.code


@given(st.sampled_from(sorted(set(SIZES) - {MD5})), st.data())
def test_every_checksum_is_read_from_its_header(algorithm, data):
    value = data.draw(st.binary(min_size=SIZES[algorithm], max_size=SIZES[algorithm]))
    headers = Headers([(header_of(algorithm), encode_checksum(value))])
    assert expected_digests(headers) == [ExpectedDigest(algorithm, value)]
    assert decode_checksum(algorithm, encode_checksum(value)) == value
    assert algorithm_of(header_of(algorithm)) == algorithm


def test_md5_and_a_checksum_may_come_together():
    headers = Headers(
        [("Content-MD5", "XUFAKrxLKna5cZ2REBfFkg=="), ("x-amz-checksum-crc32", "NhCmhg==")]
    )
    assert [digest.algorithm for digest in expected_digests(headers)] == [MD5, "CRC32"]


@pytest.mark.parametrize(
    "value", ["", "abc", "XUFAKrxLKna5cZ2REBfFkg", "!!!!", "NhCmhg==", "ü"]
)
def test_a_content_md5_that_is_none_is_an_invalid_digest(value):
    assert refusal(expected_digests, content_md5=value) == "InvalidDigest"


@pytest.mark.parametrize("value", ["", "NhCmhg", "XUFAKrxLKna5cZ2REBfFkg==", "NhCm hg=="])
def test_a_checksum_that_is_none_is_invalid(value):
    assert refusal(expected_digests, x_amz_checksum_crc32=value) == "InvalidRequest"


def test_two_checksums_are_one_too_many():
    code = refusal(
        expected_digests, x_amz_checksum_crc32="NhCmhg==", x_amz_checksum_crc32c="NhCmhg=="
    )
    assert code == "InvalidRequest"


def test_a_checksum_that_is_not_kept_here_is_not_implemented():
    assert refusal(expected_digests, x_amz_checksum_xxhash64="a") == "NotImplemented"


def test_an_algorithm_that_does_not_exist_is_invalid():
    code = refusal(expected_digests, x_amz_sdk_checksum_algorithm="CRC16")
    assert code == "InvalidRequest"


def test_an_algorithm_that_belies_the_checksum_is_invalid():
    code = refusal(
        expected_digests,
        x_amz_sdk_checksum_algorithm="SHA256",
        x_amz_checksum_crc32="NhCmhg==",
    )
    assert code == "InvalidRequest"


def test_a_composite_checksum_is_not_of_the_body():
    assert expected_digests(Headers([("x-amz-checksum-crc32", "NhCmhg==-2")])) == []


def test_headers_about_checksums_are_not_checksums():
    headers = Headers(
        [("x-amz-checksum-mode", "ENABLED"), ("x-amz-checksum-algorithm", "CRC32"),
         ("x-amz-checksum-type", "COMPOSITE")]
    )  # fmt: skip
    assert expected_digests(headers) == []


def test_a_trailer_announces_its_checksum():
    assert (
        trailing_algorithm(Headers([("x-amz-trailer", "x-amz-checksum-crc32c")]))
        == "CRC32C"
    )
    assert trailing_algorithm(Headers()) is None


@pytest.mark.parametrize(
    "value",
    [
        "",
        "x-amz-meta-a",
        "x-amz-checksum-crc16",
        "x-amz-checksum-crc32,x-amz-checksum-sha1",
    ],
)
def test_a_trailer_that_is_no_checksum_is_invalid(value):
    assert refusal(trailing_algorithm, x_amz_trailer=value) == "InvalidRequest"


def test_a_checksum_comes_before_or_after_the_body_and_not_both():
    code = refusal(
        trailing_algorithm,
        x_amz_trailer="x-amz-checksum-crc32",
        x_amz_checksum_crc32="NhCmhg==",
    )
    assert code == "InvalidRequest"
