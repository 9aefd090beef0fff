"""The fault proxy itself: a fault that is not what it says would make every test over it lie."""

from __future__ import annotations

import contextlib
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from tests.support import fault_proxy
from tests.support.fault_proxy import FaultProxy, cut_after, latency, throttle
from tests.support.wait import wait_until

ProxyTo = Callable[[str, int], FaultProxy]
#: Seconds in which nothing may come, where silence is the fault.
SILENCE = 0.05


class _Echo(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        with contextlib.suppress(OSError):
            while data := self.request.recv(65536):
                self.server.heard += data  # type: ignore[attr-defined]
                self.request.sendall(data)
            self.server.ends += 1  # type: ignore[attr-defined]


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    heard = b""
    ends = 0


@pytest.fixture
def server() -> Iterator[_Server]:
    """A server that sends back what it gets."""
    with _Server(("127.0.0.1", 0), _Echo) as echo:
        thread = threading.Thread(target=echo.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield echo
        echo.shutdown()
        thread.join()


@pytest.fixture
def proxy(proxy_to: ProxyTo, server: _Server) -> FaultProxy:
    """A proxy in front of the echo."""
    return proxy_to("127.0.0.1", server.server_address[1])


@pytest.fixture
def dial(proxy: FaultProxy) -> Iterator[Callable[[], socket.socket]]:
    """Connect to the proxy; closed at the end."""
    with contextlib.ExitStack() as open_sockets:
        yield lambda: open_sockets.enter_context(socket.create_connection(("127.0.0.1", proxy.port), timeout=5))


Dial = Callable[[], socket.socket]


def echoed(sock: socket.socket, data: bytes = b"hello") -> bytes:
    """Send, and read as much."""
    sock.sendall(data)
    got = b""
    while len(got) < len(data) and (part := sock.recv(65536)):
        got += part
    return got


def is_silent(sock: socket.socket) -> bool:
    """Nothing comes, not even an end."""
    sock.settimeout(SILENCE)
    try:
        sock.recv(1)
    except TimeoutError:
        return True
    finally:
        sock.settimeout(5)
    return False


def test_pass_passes_and_counts(proxy: FaultProxy, dial: Dial) -> None:
    """Without a fault the proxy would change what it should only carry."""
    sock = dial()
    data = bytes(range(256)) * 4096
    threading.Thread(target=sock.sendall, args=(data,), daemon=True).start()
    got = b""
    while len(got) < len(data):
        got += sock.recv(65536)
    assert got == data
    seen = proxy.connections
    wait_until(lambda: (seen.accepted, seen.open, seen.to_server, seen.to_client) == (1, 1, len(data), len(data)))
    sock.close()
    wait_until(lambda: seen.open == 0)


def test_the_end_of_a_client_reaches_the_server(server: _Server, dial: Dial) -> None:
    """A server would keep the sessions of clients that have gone."""
    sock = dial()
    assert echoed(sock) == b"hello"
    sock.close()
    wait_until(lambda: server.ends == 1)


def test_refuse_refuses_new_ones_and_spares_open_ones(proxy: FaultProxy, dial: Dial) -> None:
    """ "Nobody listens" would look like another fault, or the port would be lost to another program."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = fault_proxy.REFUSE
    with pytest.raises(ConnectionRefusedError):
        dial()
    assert echoed(sock) == b"hello"
    proxy.drop_connections()
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    proxy.mode = "pass"
    assert echoed(dial()) == b"hello"


def test_reset_resets_open_and_new_ones(proxy: FaultProxy, dial: Dial) -> None:
    """A reset would come as an orderly end, which drivers treat otherwise."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = fault_proxy.RESET
    with pytest.raises(ConnectionResetError):
        sock.recv(1)
    with pytest.raises((ConnectionResetError, BrokenPipeError)):
        echoed(dial())


def test_half_close_ends_one_direction_only(proxy: FaultProxy, server: _Server, dial: Dial) -> None:
    """The client would see a full close, and the half-open connection would go untested."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = fault_proxy.HALF_CLOSE
    assert sock.recv(1) == b""
    sock.sendall(b" still here")
    wait_until(lambda: server.heard.endswith(b" still here"))


def test_black_hole_swallows_both_ways(proxy: FaultProxy, server: _Server, dial: Dial) -> None:
    """Dropped packets would be refused ones, or bytes would come out again as a broken stream."""
    old = dial()
    assert echoed(old) == b"hello"
    proxy.mode = fault_proxy.BLACK_HOLE
    new = dial()
    for sock in (old, new):
        sock.sendall(b"lost")
        assert is_silent(sock)
    proxy.mode = fault_proxy.PASS
    assert is_silent(old)
    assert is_silent(new)
    assert server.heard == b"hello"
    assert echoed(dial()) == b"hello"


def test_a_client_that_left_in_a_black_hole_is_seen_to_have_left_afterwards(
    proxy: FaultProxy, server: _Server, dial: Dial
) -> None:
    """Its session, and the locks of it, would stay in the server for ever."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = fault_proxy.BLACK_HOLE
    sock.close()
    assert echoed_nothing(server)
    proxy.mode = fault_proxy.PASS
    wait_until(lambda: server.ends == 1)


def echoed_nothing(server: _Server) -> bool:
    """The server has heard no end so far."""
    return server.ends == 0


def test_stall_delivers_late(proxy: FaultProxy, server: _Server, dial: Dial) -> None:
    """A short outage of the network would lose bytes, which TCP never does."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = fault_proxy.STALL
    new = dial()
    for one in (sock, new):
        one.sendall(b"late!")
        assert is_silent(one)
    assert server.heard == b"hello"
    proxy.mode = fault_proxy.PASS
    assert sock.recv(5) == new.recv(5) == b"late!"


def test_latency_delays_answers(proxy: FaultProxy, dial: Dial) -> None:
    """A slow server would be as quick as the real one."""
    sock = dial()
    proxy.mode = latency(0.05)
    before = time.monotonic()
    assert echoed(sock) == b"hello"
    assert time.monotonic() - before >= 0.05


def test_a_switch_ends_a_delay(proxy: FaultProxy, dial: Dial) -> None:
    """A test with a long latency could not go on."""
    sock = dial()
    proxy.mode = latency(3600)
    sock.sendall(b"hello")
    assert is_silent(sock)
    proxy.mode = fault_proxy.PASS
    assert sock.recv(5) == b"hello"


def test_throttle_limits_bytes_a_second(proxy: FaultProxy, dial: Dial) -> None:
    """A result that trickles would come at once."""
    sock = dial()
    proxy.mode = throttle(20_000)
    before = time.monotonic()
    assert len(echoed(sock, bytes(4_000))) == 4_000
    assert 0.1 <= time.monotonic() - before < 2


def test_cut_after_cuts_in_the_middle(proxy: FaultProxy, dial: Dial) -> None:
    """A result would arrive whole, or not at all."""
    sock = dial()
    assert echoed(sock) == b"hello"
    proxy.mode = cut_after(7)
    sock.sendall(b"0123456789")
    got = b""
    while part := sock.recv(100):
        got += part
    assert got == b"0123456"
    sock = dial()
    sock.sendall(b"0123456789")
    assert sock.recv(100) == b"0123456"


def test_a_dead_server_is_a_reset(proxy: FaultProxy, server: _Server, dial: Dial) -> None:
    """Behind the proxy, a killed server would look like a silent one."""
    server.server_close()
    with pytest.raises((ConnectionResetError, BrokenPipeError)):  # which may come before the greeting is over
        echoed(dial())


def test_the_end_of_the_proxy_ends_everything(server: _Server) -> None:
    """A test would leave a thread, a port and open connections behind."""
    with FaultProxy("127.0.0.1", server.server_address[1]) as proxy:
        sock = socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
        proxy.mode = fault_proxy.STALL
        assert str(proxy.port) in proxy.address
    with sock, pytest.raises(ConnectionResetError):
        sock.recv(1)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", proxy.port), timeout=5)
    assert not [thread for thread in threading.enumerate() if thread.name == "fault-proxy"]
