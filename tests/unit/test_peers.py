"""From which address somebody comes: the connection's, or what a proxy says that is to be believed."""

import pytest
from aiohttp.test_utils import make_mocked_request
from multidict import CIMultiDict

from broker.config import Config, ConfigError
from broker.peers import address_of, read_proxies


def seen(peer: str, *forwarded: str, proxies: str = "") -> str:
    headers = CIMultiDict([("X-Forwarded-For", each) for each in forwarded])
    request = make_mocked_request("GET", "/", headers).clone(remote=peer)
    return address_of(request, read_proxies(proxies))


def test_without_a_proxy_that_is_named_nothing_is_believed() -> None:
    assert seen("192.0.2.1", "198.51.100.7") == "192.0.2.1"
    assert seen("192.0.2.1", "198.51.100.7", proxies="10.0.0.0/8, 192.0.2.2") == "192.0.2.1"


def test_of_a_proxy_that_is_named_the_last_hop_is_believed_and_not_what_its_client_wrote_before_it() -> None:
    for forwarded in (["198.51.100.7"], ["1.1.1.1, 198.51.100.7"], ["1.1.1.1", "2.2.2.2 , 198.51.100.7 "]):
        assert seen("10.1.2.3", *forwarded, proxies="10.0.0.0/8") == "198.51.100.7"
    assert seen("10.1.2.3", "1.1.1.1, 198.51.100.7, 10.9.9.9", proxies="10.0.0.0/8") == "198.51.100.7"
    assert seen("::ffff:10.1.2.3", "198.51.100.7", proxies="10.0.0.0/8") == "198.51.100.7"
    assert seen("::1", "2001:db8:1:2:3::4", proxies="::1") == "2001:db8:1:2::/64"


@pytest.mark.parametrize("forwarded", [[], [""], ["unknown"], ["198.51.100.7, "], ["198.51.100.7, a:b"]])
def test_a_proxy_that_names_nobody_counts_itself(forwarded: list[str]) -> None:
    assert seen("10.1.2.3", *forwarded, proxies="10.0.0.0/8") == "10.1.2.3"


def test_all_addresses_of_an_ipv6_network_are_one() -> None:
    assert seen("2001:db8:1:2::1") == seen("2001:db8:1:2:ffff::9") == "2001:db8:1:2::/64"
    assert seen("2001:db8:1:3::1") == "2001:db8:1:3::/64"
    assert seen("fe80::1%eth0") == "fe80::/64"
    assert seen("::ffff:192.0.2.1") == "192.0.2.1"
    assert seen("") == ""


@pytest.mark.parametrize("text", ["proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0.1:80"])
def test_proxies_that_are_no_addresses_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^trusted_proxies cannot be used"):
        Config(trusted_proxies=text)
