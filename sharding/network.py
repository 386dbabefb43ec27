"""Which network interface gloo should listen on."""

from __future__ import annotations

import os
import socket
import struct
import sys
from collections.abc import Iterable
from ipaddress import ip_address

_SIOCGIFADDR = 0x8915  # Linux: address of an interface.


def use_reachable_interface(peers: Iterable[str]) -> str | None:
    """Point gloo at the interface that leads to other hosts, where this host's own name would mislead it.

    Debian and Ubuntu write `127.0.1.1 myhost` into /etc/hosts, and others keep an old address there, or none;
    gloo looks its own name up and then tells the other hosts to connect to themselves. An interface that
    the user has chosen stays.

    Args:
        peers: names or addresses; this host and such as lead nowhere are passed over.

    Returns:
        The interface that was chosen, or None where nothing had to be done or could be done.
    """
    if "GLOO_SOCKET_IFNAME" in os.environ or leads_here(socket.gethostname()):
        return None
    for address in filter(None, map(_address_towards, peers)):
        interface = None if ip_address(address).is_loopback else interface_of(address)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
            return interface
    return None


def interface_of(address: str) -> str | None:
    """Return the name of the interface that has an IPv4 address, or None."""
    if sys.platform != "linux":
        return None
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                answer = fcntl.ioctl(probe.fileno(), _SIOCGIFADDR, request)
            except OSError:  # An interface without an IPv4 address.
                continue
            if socket.inet_ntoa(answer[20:24]) == address:
                return name
    return None


def leads_here(host: str) -> bool:
    """Return whether a host name stands for an address of this machine at which others can reach it."""
    try:
        address = socket.gethostbyname(host)
    except OSError:
        return False
    if ip_address(address).is_loopback:
        return False
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((address, 0))  # An interface may have several addresses.
        except OSError:
            return False
    return True


def _address_towards(peer: str) -> str | None:
    """Return the local address from which packets to a peer leave; none is sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((peer, 9))
        except OSError:
            return None
        return str(probe.getsockname()[0])
