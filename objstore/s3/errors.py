"""S3's errors: the table of codes, and what each error of ours becomes.

    raise S3Error("NoSuchUpload")                   status and message from CODES
    raise S3Error("InvalidArgument", "why", details={"ArgumentName": "x"})
    to_s3_error(error)                              anything else, by its class

The one place where errors of the rooms below are translated (STYLE 8).  What has no
translation is a bug of ours: InternalError, and whoever answers it logs its trace.

Source: Amazon S3 API Reference, "Error responses".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from objstore import errors
from objstore.errors import ObjstoreError
from objstore.http.framing import Refused
from objstore.http.message import TruncatedBody
from objstore.http.ranges import RangeNotSatisfiable
from objstore.meta import errors as meta
from objstore.objects.budget import Overloaded as OutOfMemoryBudget
from objstore.objects.requests import MD5, SHA256_PAYLOAD, DigestMismatch
from objstore.s3.admission import Overloaded

# Code -> (status, what S3 says where nobody says more).
CODES: dict[str, tuple[int, str]] = {
    "AccessControlListNotSupported": (400, "The bucket does not allow ACLs"),
    "AccessDenied": (403, "Access Denied"),
    "AccessForbidden": (403, "CORSResponse: CORS is not enabled for this bucket."),
    "AuthorizationHeaderMalformed": (
        400,
        "The authorization header that you provided is not valid.",
    ),
    "AuthorizationQueryParametersError": (
        400,
        "The authorization query parameters that you provided are not valid.",
    ),
    "BadDigest": (
        400,
        (
            "The Content-MD5 or checksum value that you specified did not match what the "
            "server received."
        ),
    ),
    "BadRequest": (400, "The request cannot be read."),
    "BucketAlreadyExists": (
        409,
        (
            "The requested bucket name is not available. The bucket namespace is shared "
            "by all users of the system. Please select a different name and try again."
        ),
    ),
    "BucketAlreadyOwnedByYou": (
        409,
        (
            "Your previous request to create the named bucket succeeded and you already "
            "own it."
        ),
    ),
    "BucketNotEmpty": (409, "The bucket you tried to delete is not empty"),
    "ConditionalRequestConflict": (
        409,
        (
            "The conditional request cannot succeed due to a conflicting operation "
            "against this resource."
        ),
    ),
    "EntityTooLarge": (400, "Your proposed upload exceeds the maximum allowed size"),
    "EntityTooSmall": (
        400,
        "Your proposed upload is smaller than the minimum allowed size",
    ),
    "IllegalLocationConstraintException": (
        400,
        "The specified location constraint is incompatible with this endpoint's region.",
    ),
    "IncompleteBody": (
        400,
        (
            "You did not provide the number of bytes specified by the Content-Length HTTP "
            "header"
        ),
    ),
    "InsufficientStorage": (507, "There is not enough free space to store this."),
    "InternalError": (500, "We encountered an internal error. Please try again."),
    "InvalidAccessKeyId": (
        403,
        "The AWS Access Key Id you provided does not exist in our records.",
    ),
    "InvalidArgument": (400, "Invalid Argument"),
    "InvalidBucketAclWithObjectOwnership": (
        400,
        "Bucket cannot have ACLs set with ObjectOwnership's BucketOwnerEnforced setting",
    ),
    "InvalidBucketName": (400, "The specified bucket is not valid."),
    "InvalidChunkSizeError": (
        403,
        "Only the last chunk is allowed to have a size less than 8192 bytes",
    ),
    "InvalidDigest": (400, "The Content-MD5 you specified was invalid."),
    "InvalidLocationConstraint": (400, "The specified location-constraint is not valid"),
    "InvalidPart": (
        400,
        (
            "One or more of the specified parts could not be found. The part may not have "
            "been uploaded, or the specified entity tag may not match the part's entity "
            "tag."
        ),
    ),
    "InvalidPartNumber": (416, "The requested partnumber is not satisfiable"),
    "InvalidPartOrder": (
        400,
        (
            "The list of parts was not in ascending order. Parts must be ordered by part "
            "number."
        ),
    ),
    "InvalidRange": (416, "The requested range is not satisfiable"),
    "InvalidRequest": (400, "Invalid Request"),
    "InvalidStorageClass": (400, "The storage class you specified is not valid"),
    "InvalidToken": (400, "The provided token is malformed or otherwise invalid."),
    "InvalidURI": (400, "Couldn't parse the specified URI."),
    "KeyTooLongError": (400, "Your key is too long"),
    "MalformedTrailerError": (
        400,
        (
            "The request contained trailing data that was not well-formed or did not "
            "conform to our published schema."
        ),
    ),
    "MalformedXML": (
        400,
        (
            "The XML you provided was not well-formed or did not validate against our "
            "published schema"
        ),
    ),
    "MaxMessageLengthExceeded": (400, "Your request was too big."),
    "MetadataTooLarge": (
        400,
        "Your metadata headers exceed the maximum allowed metadata size",
    ),
    "MethodNotAllowed": (405, "The specified method is not allowed against this resource."),
    "MissingContentLength": (411, "You must provide the Content-Length HTTP header."),
    "MissingSecurityHeader": (400, "Your request is missing a required header."),
    "NoSuchBucket": (404, "The specified bucket does not exist"),
    "NoSuchKey": (404, "The specified key does not exist."),
    "NoSuchUpload": (
        404,
        (
            "The specified upload does not exist. The upload ID may be invalid, or the "
            "upload may have been aborted or completed."
        ),
    ),
    "NoSuchVersion": (404, "The specified version does not exist."),
    "NotImplemented": (
        501,
        "A header you provided implies functionality that is not implemented",
    ),
    "NotModified": (304, "Not Modified"),
    "OperationAborted": (
        409,
        (
            "A conflicting conditional operation is currently in progress against this "
            "resource. Please try again."
        ),
    ),
    "PreconditionFailed": (
        412,
        "At least one of the pre-conditions you specified did not hold",
    ),
    "RequestHeaderSectionTooLarge": (
        400,
        "Your request header section exceeds the maximum allowed size.",
    ),
    "RequestTimeTooSkewed": (
        403,
        "The difference between the request time and the current time is too large.",
    ),
    "RequestTimeout": (
        400,
        (
            "Your socket connection to the server was not read from or written to within "
            "the timeout period."
        ),
    ),
    "ServiceUnavailable": (503, "Please reduce your request rate."),
    "SignatureDoesNotMatch": (
        403,
        (
            "The request signature we calculated does not match the signature you "
            "provided. Check your key and signing method."
        ),
    ),
    "SlowDown": (503, "Please reduce your request rate."),
    "TooManyBuckets": (
        400,
        "You have attempted to create more buckets than allowed",
    ),
    "UserKeyMustBeSpecified": (400, "The key must not be empty"),
    "XAmzContentChecksumMismatch": (
        400,
        "The provided 'x-amz-checksum' header does not match what was computed.",
    ),
    "XAmzContentSHA256Mismatch": (
        400,
        "The provided 'x-amz-content-sha256' header does not match what was computed.",
    ),
}


class S3Error(ObjstoreError):
    """An answer that is an error, in S3's words."""

    def __init__(
        self,
        code: str,
        message: str | None = None,
        *,
        details: Mapping[str, object] | None = None,
        headers: Sequence[tuple[str, str]] = (),
        status: int | None = None,
    ) -> None:
        assert code in CODES, code
        usual_status, usual_message = CODES[code]
        self.code = code
        self.message = usual_message if message is None else message
        self.status = usual_status if status is None else status
        # Further elements of the document, such as {"BucketName": "photos"}.
        self.details = {name: str(value) for name, value in (details or {}).items()}
        self.headers = list(headers)
        super().__init__(f"{code}: {self.message}")


Translation = Callable[[Any], S3Error]
_TRANSLATIONS: dict[type[Exception], Translation] = {}


def register(kind: type[Exception], translation: Translation) -> None:
    """Say what errors of class `kind` (and below) become; the nearest class wins."""
    assert kind not in _TRANSLATIONS, kind
    _TRANSLATIONS[kind] = translation


def to_s3_error(error: BaseException) -> S3Error:
    """What `error` is in S3's words; InternalError where it should not have happened."""
    if isinstance(error, S3Error):
        return error
    for kind in type(error).__mro__:
        translation = _TRANSLATIONS.get(kind)
        if translation is not None:
            return translation(error)
    return S3Error("InternalError")


def _plain(code: str) -> Translation:
    return lambda _: S3Error(code)


def _unavailable(error: errors.Unavailable) -> S3Error:
    """503: the same request may succeed later.  The SDKs retry both codes alike."""
    seconds = max(1, -(-error.retry_after_ms // 1000))
    code = (
        "SlowDown"
        if isinstance(error, Overloaded | OutOfMemoryBudget)
        else "ServiceUnavailable"
    )
    return S3Error(code, headers=[("Retry-After", str(seconds))])


def _digest_mismatch(error: DigestMismatch) -> S3Error:
    if error.algorithm == SHA256_PAYLOAD:
        return S3Error(
            "XAmzContentSHA256Mismatch",
            details={
                "ClientComputedContentSHA256": error.expected.hex(),
                "S3ComputedContentSHA256": error.found.hex(),
            },
        )
    if error.algorithm == MD5:
        return S3Error(
            "BadDigest",
            "The Content-MD5 you specified did not match what we received.",
            details={
                "ExpectedDigest": error.expected.hex(),
                "CalculatedDigest": error.found.hex(),
            },
        )
    return S3Error(
        "BadDigest",
        f"The {error.algorithm} you specified did not match the calculated checksum.",
    )


def _range(error: RangeNotSatisfiable) -> S3Error:
    return S3Error(
        "InvalidRange",
        details={"ActualObjectSize": error.size},
        headers=[("Content-Range", f"bytes */{error.size}")],
    )


def _precondition(error: meta.PreconditionFailed) -> S3Error:
    details = {"Condition": error.condition} if error.condition else {}
    return S3Error("PreconditionFailed", details=details)


def _invalid_part(error: meta.InvalidPart) -> S3Error:
    details = {"PartNumber": error.number} if error.number else {}
    return S3Error("InvalidPart", details=details)


def _too_small(error: meta.EntityTooSmall) -> S3Error:
    details: dict[str, object] = {}
    if error.number:
        details = {
            "ProposedSize": error.size,
            "MinSizeAllowed": error.size_min,
            "PartNumber": error.number,
            "ETag": error.etag,
        }
    return S3Error("EntityTooSmall", details=details)


def _refused(error: Refused) -> S3Error:
    """A body whose HTTP framing is broken."""
    if error.status == 413:
        return S3Error("EntityTooLarge")
    return S3Error("BadRequest", str(error))


register(errors.InvalidRequest, lambda error: S3Error("InvalidRequest", str(error)))
register(errors.Conflict, _plain("OperationAborted"))
register(errors.Unavailable, _unavailable)
register(errors.OutOfSpace, _plain("InsufficientStorage"))
register(TruncatedBody, _plain("IncompleteBody"))
register(Refused, _refused)
register(RangeNotSatisfiable, _range)
register(DigestMismatch, _digest_mismatch)
register(meta.NoSuchBucket, _plain("NoSuchBucket"))
register(meta.NoSuchKey, _plain("NoSuchKey"))
register(meta.NoSuchVersion, _plain("NoSuchVersion"))
register(meta.NoSuchUpload, _plain("NoSuchUpload"))
register(meta.NoSuchAccessKey, _plain("InvalidAccessKeyId"))
register(meta.BucketExists, _plain("BucketAlreadyExists"))
register(meta.TooManyBuckets, _plain("TooManyBuckets"))
register(meta.BucketNotEmpty, _plain("BucketNotEmpty"))
register(meta.PreconditionFailed, _precondition)
# The writer lost against a change it could not foresee: the same request may succeed.
register(meta.StaleBucket, lambda _: _unavailable(errors.Unavailable("bucket changed")))
register(meta.StaleEpoch, lambda _: _unavailable(errors.Unavailable("ring changed")))
register(meta.IntentGone, _plain("RequestTimeout"))
register(meta.InvalidPart, _invalid_part)
register(meta.InvalidPartOrder, _plain("InvalidPartOrder"))
register(meta.EntityTooSmall, _too_small)
register(meta.EntityTooLarge, _plain("EntityTooLarge"))
register(meta.SizeMismatch, lambda error: S3Error("InvalidRequest", str(error)))
register(
    meta.ChecksumMismatch,
    lambda error: S3Error("BadDigest", str(error) or None),
)
