"""Documents that come as a request's body: read whole, checked, parsed.

A document is small and is acted upon, so it is read to its end, compared with every digest
its sender gave, and only then parsed.
"""

from __future__ import annotations

from collections.abc import Container

from objstore.limits import XML_SIZE_MAX
from objstore.objects.hashing import digest_of
from objstore.objects.requests import (
    CHECKSUM_ALGORITHMS,
    MD5,
    SHA256_PAYLOAD,
    hash_of,
    read_whole,
    verify,
)
from objstore.s3.call import S3Call
from objstore.s3.errors import S3Error
from objstore.s3.xml import Element, malformed, parse_xml


async def read_document(
    call: S3Call,
    root: str,
    *,
    size_max: int = XML_SIZE_MAX,
    is_optional: bool = False,
    digests: Container[str] = (MD5, SHA256_PAYLOAD, *CHECKSUM_ALGORITHMS),
) -> Element | None:
    """The root element of the call's body; None where it is optional and empty.

    digests: those that are of this body, where headers may carry others.
    Raises S3Error MalformedXML, MaxMessageLengthExceeded; DigestMismatch; Unavailable
    where there is no memory for it.
    """
    if call.body.size > size_max:
        raise S3Error("MaxMessageLengthExceeded", "Your request was too big.")
    async with call.store.budget.hold(call.body.size):
        data = await _read(call, digests)
        if not data.strip() and is_optional:
            return None
        element = parse_xml(data)
    if element.name != root:
        raise malformed()
    return element


async def _read(call: S3Call, digests: Container[str]) -> bytes:
    body = call.body
    data = await read_whole(body)
    promised = [digest for digest in body.digests if digest.algorithm in digests]
    promised += body.trailing_digests()
    if promised:
        verify(promised, digest_of(data, {hash_of(d.algorithm) for d in promised}))
    return data
