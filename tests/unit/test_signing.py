"""Signatures: what the broker lets in, and that others who keep to Standard Webhooks agree with us."""

import base64
import time
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook

from broker.core import signing

KEY, OTHER = bytes(range(32)), bytes(range(1, 33))
BODY = b'{"type": "FILLED"}'
AT = 1_795_000_000

Headers = dict[str, str]


def headers(key: bytes = KEY, body: bytes = BODY, id_: str = "msg_1", at: int = AT) -> Headers:
    """What a sender with this key sends along."""
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(at),
        "webhook-signature": signing.sign(key, id_, at, body),
    }


def test_what_was_signed_with_a_key_of_ours_says_when() -> None:
    assert signing.verify([KEY], headers(), BODY) == AT


@pytest.mark.parametrize("keys", [[KEY, OTHER], [OTHER, KEY]])
def test_while_a_secret_is_rotated_both_are_good(keys: list[bytes]) -> None:
    assert signing.verify(keys, headers(KEY), BODY) == AT
    assert signing.verify(keys, headers(OTHER), BODY) == AT


def test_one_good_signature_among_others_is_enough() -> None:
    good, stale = headers()["webhook-signature"], headers(OTHER)["webhook-signature"]
    for offered in (f"{stale} {good}", f"{good} {stale}", f"v2,abc {good}", f"v1a,abc  {good}", f"v1, {good}"):
        assert signing.verify([KEY], headers() | {"webhook-signature": offered}, BODY) == AT


def without(name: str) -> Callable[[Headers], Headers]:
    return lambda given: {key: value for key, value in given.items() if key != name}


def changed(name: str, value: str) -> Callable[[Headers], Headers]:
    return lambda given: given | {name: value}


GOOD = headers()["webhook-signature"]
REFUSED: dict[str, Callable[[Headers], Headers]] = {
    "nothing": lambda _: {},
    "no id": without("webhook-id"),
    "no timestamp": without("webhook-timestamp"),
    "no signature": without("webhook-signature"),
    "another id": changed("webhook-id", "msg_2"),
    "an id with a dot more": changed("webhook-id", "msg_1."),
    "a later time": changed("webhook-timestamp", str(AT + 1)),
    "no time": changed("webhook-timestamp", ""),
    "a time in words": changed("webhook-timestamp", "now"),
    "a zero before the time": changed("webhook-timestamp", f"0{AT}"),
    "a fraction": changed("webhook-timestamp", f"{AT}.0"),
    "a time in other digits": changed(
        "webhook-timestamp", str(AT).translate(str.maketrans("0123456789", "٠١٢٣٤٥٦٧٨٩"))
    ),
    "a time of 5000 digits": changed("webhook-timestamp", "1" * 5000),
    "an empty signature": changed("webhook-signature", ""),
    "another version": changed("webhook-signature", GOOD.replace("v1,", "v2,")),
    "no version": changed("webhook-signature", GOOD.removeprefix("v1,")),
    "no base64": changed("webhook-signature", "v1,???"),
    "not ASCII": changed("webhook-signature", "v1,é"),
    "a lone surrogate": changed("webhook-signature", "v1,\udcff"),
    "a lone surrogate as an id": changed("webhook-id", "\udcff"),
    "a signature cut short": changed("webhook-signature", GOOD[:-5]),
    "a good one after eight others": changed("webhook-signature", "v1,x " * 8 + GOOD),
}


@pytest.mark.parametrize("change", REFUSED.values(), ids=REFUSED.keys())
def test_anything_else_is_refused(change: Callable[[Headers], Headers]) -> None:
    with pytest.raises(signing.BadSignature):
        signing.verify([KEY], change(headers()), BODY)


def test_another_body_another_key_and_no_key_are_refused() -> None:
    for keys, body in (([KEY], BODY + b" "), ([KEY], b""), ([OTHER], BODY), ([], BODY)):
        with pytest.raises(signing.BadSignature):
            signing.verify(keys, headers(), body)


@pytest.mark.parametrize("at", [10**12, 10**400, -1, -AT])
def test_a_time_that_no_clock_shows_is_refused_although_it_is_signed(at: int) -> None:
    """So that whoever compares it with a clock needs no care."""
    with pytest.raises(signing.BadSignature):
        signing.verify([KEY], headers(at=at), BODY)


def test_what_was_signed_cannot_be_cut_elsewhere() -> None:
    """Nobody may say that a part of the body was the time, and what stood before it the id."""
    body = f"{AT + 1}.{{}}".encode()
    given = headers(body=body)
    assert signing.verify([KEY], given, body) == AT
    moved = given | {"webhook-id": f"msg_1.{AT}", "webhook-timestamp": str(AT + 1)}
    with pytest.raises(signing.BadSignature):
        signing.verify([KEY], moved, b"{}")


def test_a_secret_is_its_text_and_back() -> None:
    assert signing.decode_secret(signing.encode_secret(KEY)) == KEY
    assert signing.encode_secret(KEY) == "whsec_" + base64.b64encode(KEY).decode()


@pytest.mark.parametrize(
    "text",
    [
        *("", "whsec_", "secret", "whsec_???", "whsec_" + "é" * 40, "whsec_" + "A" * 31),
        *(signing.encode_secret(KEY[:23]), signing.encode_secret(KEY) + " ", signing.encode_secret(KEY).upper()),
        base64.b64encode(KEY).decode(),
    ],
)
def test_what_is_no_secret_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        signing.decode_secret(text)


def test_the_standards_own_package_accepts_what_we_sign() -> None:
    now = int(time.time())
    theirs = Webhook(signing.encode_secret(KEY))
    assert theirs.verify(BODY, headers(at=now)) == {"type": "FILLED"}


def test_we_accept_what_the_standards_own_package_signs() -> None:
    signature = Webhook(signing.encode_secret(KEY)).sign("msg_1", datetime.fromtimestamp(AT, UTC), BODY.decode())
    assert signing.verify([KEY], headers() | {"webhook-signature": signature}, BODY) == AT
