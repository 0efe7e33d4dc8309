"""Names that buckets may have (Amazon S3 User Guide, "Bucket naming rules")."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from objstore.s3.errors import S3Error
from objstore.s3.names import check_new_bucket_name, is_bucket_name


@pytest.mark.parametrize(
    "name", ["abc", "a-b", "a.b.c", "123", "my-bucket.2026", "a" * 63, "1.2.3.4.5", "a--b"]
)
def test_a_bucket_may_be_named(name):
    check_new_bucket_name(name)


@pytest.mark.parametrize(
    "name",
    ["", "-", "ab", "a" * 64, "Abc", "a_b", "a..b", ".abc", "abc.", "-abc", "abc-", "a b",
     "192.168.5.4", "a/b", "..", "...", "b\u00fccher", "abc\n", "a\0c", "\u0661\u0662\u0663"],
)  # fmt: skip
def test_no_bucket_may_be_named(name):
    assert not is_bucket_name(name)
    with pytest.raises(S3Error) as caught:
        check_new_bucket_name(name)
    assert caught.value.code == "InvalidBucketName"


@pytest.mark.parametrize(
    "name", ["xn--abc", "sthree-abc", "amzn-s3-demo-x", "abc-s3alias", "abc--ol-s3",
             "abc.mrap", "abc--x-s3", "abc--table-s3"]
)  # fmt: skip
def test_names_that_aws_keeps_for_itself_cannot_be_made(name):
    with pytest.raises(S3Error):
        check_new_bucket_name(name)


@given(st.text(max_size=70))
def test_a_bucket_name_is_plain_in_a_host_and_in_a_path(name):
    if is_bucket_name(name):
        assert name.isascii()
        assert not set(name) & set("/%?# _")
        assert ".." not in name
