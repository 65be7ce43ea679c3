"""Messages that set routes."""

from ipaddress import IPv4Address, IPv4Network

from testbed.network.routes import SingleRoute, encode_route

# What pyroute2 0.9.6 sends for route("replace", dst="10.3.0.0/16", gateway="172.16.0.2"): without
# the sequence number and the sender's port, in bytes 8 to 15.
HEADER = bytes.fromhex("2c000000 1800 0505")
ROUTE = bytes.fromhex("02100000 fe040001 00000000 08000100 0a030000 08000500 ac100002")


def test_messages_are_those_of_pyroute2() -> None:
    route = SingleRoute(IPv4Network("10.3.0.0/16"), IPv4Address("172.16.0.2"))
    number = (7).to_bytes(4, "little")
    assert encode_route(route, 7) == HEADER + number + bytes(4) + ROUTE
