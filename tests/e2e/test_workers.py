"""Guarantee: with ``--concurrency N`` several processes do what one does, and each ends alone.

They share the ports, run the same plan, are counted as one and drain together; one that is killed takes its own
connections with it and no others, and is replaced.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.upstreams import serving
from tests.kit import client, peers, poll, yamlkit
from tests.kit import koguma as harness
from tests.kit.koguma import Koguma
from tests.kit.origins import Origin, always, ok
from tests.kit.peers import Peer
from tests.kit.rawhttp import Wire

LISTEN, ESTABLISHED = "0A", "01"
CONNECTIONS = 24
"""With fewer, all might go to one worker by chance; with these, once in eight million runs."""


@pytest.fixture
def koguma(tmp_path: Path) -> Koguma:
    return Koguma(tmp_path / "koguma", args=["--concurrency", "2"])


def workers(koguma: Koguma) -> list[int]:
    """Process ids."""
    pid = koguma.program.pid
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def sockets(port: int, state: str) -> list[tuple[int, str]]:
    """The sockets of this host at a local port: the port of the other side, and what ``/proc`` calls the socket."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    return [
        (int(row[2].rpartition(":")[2], 16), f"socket:[{row[9]}]")
        for row in rows
        if int(row[1].rpartition(":")[2], 16) == port and row[3] == state
    ]


def open_files(pid: int) -> set[str]:
    folder = Path(f"/proc/{pid}/fd")
    found = set()
    for name in os.listdir(folder):
        try:
            found.add(os.readlink(folder / name))
        except FileNotFoundError:
            continue  # closed meanwhile
    return found


def by_owner(koguma: Koguma, apps: Iterable[socket.socket]) -> dict[int, list[socket.socket]]:
    """Which worker serves each of these connections."""
    held = {pid: open_files(pid) for pid in workers(koguma)}
    there = dict(sockets(koguma.port("app"), ESTABLISHED))
    owned: dict[int, list[socket.socket]] = {pid: [] for pid in held}
    for app in apps:
        (owner,) = [pid for pid, files in held.items() if there[app.getsockname()[1]] in files]
        owned[owner].append(app)
    return owned


def connected(stack: ExitStack, koguma: Koguma, count: int = CONNECTIONS) -> list[socket.socket]:
    """Open conversations with an echo behind ``app``."""
    apps = [stack.enter_context(client.connect(koguma.port("app"))) for _ in range(count)]
    for app in apps:
        assert echoes(app)
    return apps


def echoes(app: socket.socket) -> bool:
    try:
        app.sendall(b"x")
        return client.read_exactly(app, 1) == b"x"
    except (OSError, EOFError):
        return False


def kill(pid: int) -> Callable[[], None]:
    return lambda: os.kill(pid, signal.SIGKILL)


def wait_for_workers(koguma: Koguma, count: int = 2) -> None:
    poll.until(lambda: koguma.stats()["koguma.workers.running"] == count, f"{count} workers", within_s=20)


def test_ready_means_that_all_listen(koguma: Koguma) -> None:
    with serving(koguma, peers.echo):
        pids = workers(koguma)
        assert len(pids) == 2
        listening = {name for _, name in sockets(koguma.port("app"), LISTEN)}
        assert len(listening) == 2
        assert all(len(open_files(pid) & listening) == 1 for pid in pids)
        assert koguma.admin("/server_info").json()["command_line_options"]["concurrency"] == 2
        assert koguma.stats()["koguma.workers.running"] == koguma.stats()["server.concurrency"] == 2


def test_no_worker_is_told_anything_by_its_arguments_or_environment(koguma: Koguma) -> None:
    secret = koguma.secret("key", "only-in-the-plan")
    assert secret
    with serving(koguma, peers.echo):
        for pid in workers(koguma):
            assert len(Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")) <= 6
            assert b"only-in-the-plan" not in Path(f"/proc/{pid}/environ").read_bytes()


def test_both_serve_and_are_counted_as_one(koguma: Koguma) -> None:
    with serving(koguma, peers.echo) as peer, ExitStack() as stack:
        apps = connected(stack, koguma)
        assert all(by_owner(koguma, apps).values())
        cluster, listener = f"cluster.{koguma.cluster('app')}", f"listener.127.0.0.1_{koguma.port('app')}"
        stats = koguma.stats()
        assert stats[f"{cluster}.upstream_cx_active"] == stats[f"{cluster}.upstream_cx_total"] == CONNECTIONS
        assert stats[f"{cluster}.upstream_cx_tx_bytes_total"] == CONNECTIONS
        assert stats[f"{cluster}.membership_total"] == stats[f"{cluster}.membership_healthy"] == 1
        assert stats[f"{cluster}.circuit_breakers.default.remaining_cx"] == 1024 - CONNECTIONS
        assert stats[f"{listener}.downstream_cx_active"] == stats["server.total_connections"] == CONNECTIONS
        assert stats["listener_manager.total_listeners_active"] == 1
        (host,) = koguma.clusters_json()[koguma.cluster("app")]["host_statuses"]
        assert {one["name"]: one.get("value") for one in host["stats"]}["cx_active"] == str(CONNECTIONS)
        (endpoint,) = koguma.resource("app")["status"]["endpoints"]
        assert (endpoint["address"], endpoint["connections"]) == (f"127.0.0.1:{peer.port}", CONNECTIONS)
        family = koguma.admin("/stats/prometheus?filter=upstream_cx_connect_ms").text
        assert f'upstream_cx_connect_ms_count{{envoy_cluster_name="{koguma.cluster("app")}"}} {CONNECTIONS}' in family


def test_a_killed_worker_takes_its_own_connections_and_no_others(koguma: Koguma) -> None:
    with serving(koguma, peers.echo), ExitStack() as stack:
        apps = connected(stack, koguma)
        victim, survivor = by_owner(koguma, apps).items()
        before = koguma.stat("app", "upstream_cx_total")
        event = koguma.changing(kill(victim[0]), "worker_ended")
        assert "SIGKILL" in event["message"]
        assert [echoes(app) for app in victim[1]] == [False] * len(victim[1])
        assert all(echoes(app) for app in survivor[1])
        assert client.ask(koguma.port("app")) == b"ping"
        assert koguma.admin("/ready").text == "LIVE\n"
        wait_for_workers(koguma)
        assert koguma.stats()["koguma.workers.crashed"] == 1
        assert all(echoes(app) for app in survivor[1])
        assert koguma.stat("app", "upstream_cx_total") == before + 1
        assert koguma.stat("app", "upstream_cx_active") == len(survivor[1])
        fresh = connected(stack, koguma)
        assert all(by_owner(koguma, fresh).values())


def test_one_that_keeps_dying_is_restarted_ever_more_slowly(koguma: Koguma) -> None:
    with serving(koguma, peers.echo):
        waits = []
        for _ in range(3):
            before, mark = workers(koguma), len(koguma.log)
            waits.append(koguma.changing(kill(before[-1]), "worker_ended")["restart_in_s"])
            assert client.ask(koguma.port("app")) == b"ping"
            koguma.wait_for_event("worker_started", since=mark, within_s=20)
        assert len(set(workers(koguma)) & set(before)) == 1
        assert waits == sorted(waits)
        assert waits[0] == 0
        assert waits[-1] > 0


def test_a_replacement_runs_the_plan_of_today(koguma: Koguma) -> None:
    with Peer(peers.banner(b"old")) as old, Peer(peers.banner(b"new")) as new:
        koguma.service("app", [old.endpoint])
        with koguma:
            koguma.rewrite("app.yaml", yamlkit.mes("app", 80, [new.endpoint]))
            for pid in workers(koguma):
                mark = len(koguma.log)
                os.kill(pid, signal.SIGKILL)
                koguma.wait_for_event("worker_started", since=mark, within_s=20)
            wait_for_workers(koguma)
            assert {client.ask(koguma.port("app"), b"")[:3] for _ in range(CONNECTIONS)} == {b"new"}


def test_a_reload_reaches_all_and_costs_no_request(koguma: Koguma) -> None:
    failures: list[int | None] = []
    stop = threading.Event()

    def keep_asking() -> None:
        while not stop.is_set():
            with Wire(koguma.port("app")) as wire:
                statuses = [wire.get().status for _ in range(20)]
                failures.extend(status for status in statuses if status != 200)

    with Origin(always(ok(b"old"))) as old, Origin(always(ok(b"new"))) as new:
        koguma.service("app", [old.endpoint], protocol="http")
        with koguma:
            threads = [threading.Thread(target=keep_asking, daemon=True) for _ in range(4)]
            for thread in threads:
                thread.start()
            mark = len(koguma.log)
            for origin in (new, old, new):
                koguma.rewrite("app.yaml", yamlkit.mes("app", 80, [origin.endpoint], protocol="http"))
            bodies = set()
            for _ in range(CONNECTIONS):
                with Wire(koguma.port("app")) as wire:
                    bodies.add(wire.get().body)
            stop.set()
            for thread in threads:
                thread.join(20)
            assert bodies == {b"new"}
            assert failures == []
            assert len(koguma.events("reloaded", since=mark)) == 3


def test_listeners_come_go_and_swap(koguma: Koguma) -> None:
    with Peer(peers.banner(b"one")) as one, Peer(peers.banner(b"two")) as two:
        koguma.service("one", [one.endpoint])
        with koguma:
            port = koguma.service("two", [two.endpoint])
            poll.until(lambda: client.ask(port, b"") == b"two", "the new listener")
            swapped = [yamlkit.outbound(port, "one"), yamlkit.outbound(koguma.port("one"), "two")]
            text, mark = yamlkit.render(yamlkit.dataplane(swapped)), len(koguma.log)
            koguma.dataplane_file.write_text(text)
            poll.until(lambda: any(one["changed"] for one in koguma.events("reloaded", since=mark)), "the swap")
            for _ in range(CONNECTIONS // 2):
                assert client.ask(port, b"") == b"one"
                assert client.ask(koguma.port("one"), b"") == b"two"
            assert not koguma.events("listener_failed")


@pytest.mark.parametrize("shares", [False, True], ids=["alone", "with SO_REUSEPORT"])
def test_a_port_that_another_program_holds_is_not_shared(koguma: Koguma, shares: bool) -> None:
    port = koguma.service("app", [{"address": "127.0.0.1", "port": 80}])
    koguma.write_dataplane()
    with socket.create_server(("127.0.0.1", port), reuse_port=shares):
        finished = harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)
    assert finished.exit_code == 3, finished.output
    assert f"127.0.0.1:{port}: the port is taken" in finished.output
    assert "Traceback" not in finished.output


def test_a_taken_port_at_a_reload_is_that_listeners_alone(koguma: Koguma) -> None:
    with Peer(peers.echo) as peer:
        koguma.service("app", [peer.endpoint])
        with koguma:
            with socket.socket() as foreign:
                foreign.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                foreign.bind(("127.0.0.1", 0))
                foreign.listen()
                both = [
                    yamlkit.outbound(koguma.port("app"), "app"),
                    yamlkit.outbound(foreign.getsockname()[1], "app"),
                ]
                text = yamlkit.render(yamlkit.dataplane(both))
                koguma.changing(lambda: koguma.dataplane_file.write_text(text), "listener_failed")
                assert client.ask(koguma.port("app")) == b"ping"
                assert koguma.stats()["listener_manager.listener_create_failure"] == 1
                port = foreign.getsockname()[1]
            koguma.changing(koguma.hang_up)
            assert client.ask(port) == b"ping"
            assert koguma.stats()["listener_manager.listener_create_failure"] == 0


def test_a_log_that_cannot_be_written_ends_the_start_with_3(koguma: Koguma) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": 80}])
    koguma.write_dataplane()
    koguma.args += ["--access-log", str(koguma.directory / "no such folder" / "log")]
    finished = harness.run_to_end(*koguma.command[len(harness.KOGUMA) :], cwd=koguma.directory)
    assert finished.exit_code == 3, finished.output
    assert "cannot write the access log" in finished.output
    assert "Traceback" not in finished.output


def gone(pids: Iterable[int]) -> bool:
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_all_drain_together(koguma: Koguma) -> None:
    koguma.drain_time = "30s"
    with serving(koguma, peers.echo), ExitStack() as stack:
        apps = connected(stack, koguma)
        pids = workers(koguma)
        koguma.terminate()
        for pid in pids:
            os.kill(pid, signal.SIGTERM)  # as an init system does, to the whole group
        poll.until(lambda: client.gets_nowhere(koguma.port("app")), "the ports to close")
        assert all(echoes(app) for app in apps)
        assert koguma.admin("/ready").status == 503
        assert koguma.stat("app", "upstream_cx_active") == CONNECTIONS
        for app in apps:
            app.close()
        assert koguma.wait_for_exit() == 0
        assert gone(pids)


def test_a_second_sigterm_ends_all_at_once(koguma: Koguma) -> None:
    koguma.drain_time = "30s"
    with serving(koguma, peers.echo), ExitStack() as stack:
        connected(stack, koguma, 4)
        pids = workers(koguma)
        koguma.terminate()
        poll.until(lambda: koguma.admin("/ready").status == 503, "the drain to begin")
        koguma.terminate()
        assert koguma.wait_for_exit(within_s=5) == 0
        poll.until(lambda: gone(pids), "the workers to end", within_s=5)


def test_workers_without_a_supervisor_drain_and_end(koguma: Koguma) -> None:
    koguma.drain_time = "30s"
    with Peer(peers.echo) as peer, ExitStack() as stack:
        koguma.service("app", [peer.endpoint])
        koguma.start()
        apps = connected(stack, koguma)
        pids = workers(koguma)
        try:
            os.kill(koguma.program.pid, signal.SIGKILL)
            poll.until(lambda: client.gets_nowhere(koguma.port("app")), "the ports to close")
            assert all(echoes(app) for app in apps)
            for app in apps:
                app.close()
            poll.until(lambda: gone(pids), "the workers to end")
        finally:
            for pid in pids:
                if Path(f"/proc/{pid}").exists():
                    os.kill(pid, signal.SIGKILL)
            koguma.program.close()


def test_requests_that_act_reach_all(koguma: Koguma) -> None:
    with serving(koguma, peers.echo), ExitStack() as stack:
        apps = connected(stack, koguma)
        assert koguma.admin("/reset_counters", method="POST").text == "OK\n"
        assert koguma.stat("app", "upstream_cx_total") == 0
        assert koguma.stat("app", "upstream_cx_active") == CONNECTIONS
        assert koguma.admin("/drain_listeners", method="POST").text == "OK\n"
        assert client.gets_nowhere(koguma.port("app"))
        assert all(echoes(app) for app in apps)


def test_log_lines_carry_the_worker_and_levels_reach_it(koguma: Koguma) -> None:
    koguma.service("app", [{"address": "127.0.0.1", "port": 1}])
    with koguma:
        koguma.admin("/logging?level=off", method="POST")
        assert client.gets_nowhere(koguma.port("app"))
        assert not koguma.events("upstream_failed")
        koguma.admin("/logging?level=info", method="POST")
        for _ in range(CONNECTIONS):
            client.gets_nowhere(koguma.port("app"))
        line = koguma.wait_for_event("upstream_failed")
        assert line["worker"] in (1, 2)
        assert all("worker" not in line for line in koguma.log if line.get("event") == "ready")


def test_the_lines_of_the_access_log_are_whole(koguma: Koguma) -> None:
    """Longer than what a pipe takes in one piece, from both workers at the same time."""
    koguma.args += ["--access-log", "-"]
    clients, requests, path = 6, 30, "/" + 6000 * "p"

    def ask() -> None:
        for _ in range(requests // 5):
            with Wire(koguma.port("app")) as wire:
                for _ in range(5):
                    wire.get(path)

    with Origin(always(ok())) as origin:
        koguma.service("app", [origin.endpoint], protocol="http")
        with koguma:
            threads = [threading.Thread(target=ask, daemon=True) for _ in range(clients)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            poll.until(lambda: len(koguma.program.stdout) >= clients * requests, "all lines")
        lines = [json.loads(line) for line in koguma.program.stdout]
    assert len(lines) == clients * requests
    assert {line["path"] for line in lines} == {path}
