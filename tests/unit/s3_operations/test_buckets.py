"""ListBuckets, CreateBucket, HeadBucket, GetBucketLocation, DeleteBucket."""

import pytest

from tests.unit.objects.composition import BOB, ROOT
from tests.unit.s3_operations.front import front_door


def location(region):
    return (
        '<CreateBucketConfiguration xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
        f"<LocationConstraint>{region}</LocationConstraint></CreateBucketConfiguration>"
    ).encode()


async def test_bucket_is_made_found_and_deleted():
    async with front_door(bucket=None) as front:
        made = await front.put("/photos")
        assert (made.status, made.headers["location"]) == (200, "/photos")
        for _ in range(2):
            found = await front.head("/photos")
            assert found.status == 200
            assert found.headers["x-amz-bucket-region"] == "us-east-1"
        assert (await front.delete("/photos")).status == 204
        assert (await front.head("/photos")).status == 404
        assert (await front.delete("/photos")).code == "NoSuchBucket"


async def test_owner_may_make_a_bucket_again_at_home():
    async with front_door() as front:
        await front.put("/photos/k", b"x")
        assert (await front.put("/photos")).status == 200
        assert (await front.get("/photos/k")).body == b"x"
        others = await front.by(BOB).put("/photos")
        assert (others.status, others.code) == (409, "BucketAlreadyExists")
        assert (await front.by(ROOT).put("/photos")).code == "BucketAlreadyExists"


async def test_elsewhere_the_owner_is_told_that_it_has_the_bucket():
    async with front_door(region="eu-west-1") as front:
        again = await front.put("/photos", location("eu-west-1"))
        assert (again.status, again.code) == (409, "BucketAlreadyOwnedByYou")


@pytest.mark.parametrize(
    ("region", "body", "code"),
    [
        ("us-east-1", b"", None),
        ("us-east-1", b"<CreateBucketConfiguration/>", None),
        ("us-east-1", location("us-east-1"), "InvalidLocationConstraint"),
        ("us-east-1", location("eu-west-1"), "IllegalLocationConstraintException"),
        ("eu-west-1", location("eu-west-1"), None),
        ("eu-west-1", b"", "IllegalLocationConstraintException"),
        ("eu-west-1", location("us-west-2"), "IllegalLocationConstraintException"),
        ("us-east-1", b"<CreateBucketConfiguration>", "MalformedXML"),
        ("us-east-1", b"<Other/>", "MalformedXML"),
        ("us-east-1", b"<CreateBucketConfiguration><Tags/></CreateBucketConfiguration>",
         "NotImplemented"),
    ],
)  # fmt: skip
async def test_region_must_be_said_as_s3_wants_it_said(region, body, code):
    async with front_door(region=region, bucket=None) as front:
        answer = await front.put("/photos", body)
        if code is None:
            assert answer.status == 200
            found = await front.get("/photos?location")
            expected = None if region == "us-east-1" else region
            assert found.root.text == expected
        else:
            assert answer.code == code


@pytest.mark.parametrize(
    "name", ["ab", "A-b-c", "-abc", "abc-", "a..b", "1.2.3.4", "xn--abc", "a_b"]
)
async def test_bad_names_are_refused(name):
    async with front_door(bucket=None) as front:
        assert (await front.put(f"/{name}")).code == "InvalidBucketName"


@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({"x-amz-acl": "private"}, None),
        ({"x-amz-acl": "public-read"}, "InvalidBucketAclWithObjectOwnership"),
        ({"x-amz-bucket-object-lock-enabled": "true"}, "NotImplemented"),
        ({"x-amz-bucket-object-lock-enabled": "false"}, None),
        ({"x-amz-object-ownership": "BucketOwnerEnforced"}, None),
        ({"x-amz-object-ownership": "ObjectWriter"}, "NotImplemented"),
    ],
)
async def test_what_a_new_bucket_cannot_have_is_refused(headers, code):
    async with front_door(bucket=None) as front:
        answer = await front.send("PUT", "/photos", b"", headers)
        assert answer.status == 200 if code is None else answer.code == code


async def test_bucket_with_anything_in_it_stays():
    async with front_door() as front:
        await front.put("/photos/k", b"x")
        answer = await front.delete("/photos")
        assert (answer.status, answer.code) == (409, "BucketNotEmpty")
        await front.delete("/photos/k")
        await front.post("/photos/k?uploads")
        assert (await front.delete("/photos")).code == "BucketNotEmpty"


async def test_list_of_buckets_has_pages():
    async with front_door(bucket=None) as front:
        for name in ("aaa", "abb", "bbb"):
            await front.put(f"/{name}")
        everything = await front.get("/")
        assert everything.texts("Buckets/Bucket/Name") == ["aaa", "abb", "bbb"]
        assert everything.texts("Buckets/Bucket/BucketRegion") == []
        assert everything.text("Owner/ID") == "a" * 64
        page = await front.get("/?max-buckets=2")
        assert page.texts("Buckets/Bucket/Name") == ["aaa", "abb"]
        assert page.texts("Buckets/Bucket/BucketRegion") == ["us-east-1"] * 2
        token = page.text("ContinuationToken")
        rest = await front.get(f"/?max-buckets=2&continuation-token={token}")
        assert rest.texts("Buckets/Bucket/Name") == ["bbb"]
        assert rest.text("ContinuationToken") is None
        some = await front.get("/?prefix=a")
        assert some.texts("Buckets/Bucket/Name") == ["aaa", "abb"]
        assert some.text("Prefix") == "a"
        assert (await front.get("/?bucket-region=eu-west-1")).texts("Buckets/Bucket") == []
        for query in ("max-buckets=0", "max-buckets=x", "continuation-token=nonsense"):
            assert (await front.get(f"/?{query}")).code == "InvalidArgument"


async def test_strangers_see_and_touch_nothing():
    async with front_door() as front:
        stranger = front.by(BOB)
        assert (await stranger.get("/")).texts("Buckets/Bucket/Name") == []
        assert (await stranger.head("/photos")).status == 403
        assert (await stranger.get("/photos?location")).code == "AccessDenied"
        assert (await stranger.get("/photos?versioning")).code == "AccessDenied"
        assert (await stranger.delete("/photos")).code == "AccessDenied"
        assert (await front.by(None).get("/")).code == "AccessDenied"
        assert (await front.by(None).put("/mine")).code == "AccessDenied"


async def test_versioning_was_never_set():
    async with front_door() as front:
        answer = await front.get("/photos?versioning")
        assert answer.root.tag == "VersioningConfiguration"
        assert len(answer.root) == 0


async def test_expected_owner_is_compared():
    async with front_door() as front:
        for send in (front.head, front.delete):
            answer = await send("/photos", x_amz_expected_bucket_owner="b" * 64)
            assert answer.status == 403
        answer = await front.head("/photos", x_amz_expected_bucket_owner="a" * 64)
        assert answer.status == 200
