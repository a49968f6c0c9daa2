"""The HTTP/2 client and the scripted origin speak to each other."""

from __future__ import annotations

from tests.kit import payload
from tests.kit.http2_peers import H2Client, H2Origin, H2Visit, Message, echo, respond

MAX_CONCURRENT_STREAMS = 3


def test_a_request_with_everything() -> None:
    with H2Origin(echo) as origin, H2Client(origin.port) as client:
        answer = client.ask("POST", "/p", ("cookie", "a=1"), ("cookie", "b=2"), body=b"abc", trailers=[("x-t", "1")])
        assert (answer.status, answer.body, answer.trailers) == (200, b"abc", [("x-t", "1")])
        assert answer.parts == ["head", "data", "trailers", "end"]
        assert origin.last.values("cookie") == ["a=1", "b=2"]


def test_a_body_beyond_the_windows() -> None:
    body = b"".join(payload.blocks(3 * payload.MIB))
    with H2Origin(echo) as origin, H2Client(origin.port) as client:
        assert client.ask("PUT", body=body).sha256 == payload.sha256(len(body))


def test_resets_interim_responses_and_goaway() -> None:
    def script(visit: H2Visit, request: Message) -> None:
        if request[":path"] == "/reset":
            visit.reset(request.stream_id, 7)
            return
        visit.send_head(request.stream_id, [(":status", "103"), ("link", "</a>")])
        visit.go_away(request.stream_id)
        visit.answer(request, 204)  # and then the origin closes

    with H2Origin(script) as origin:
        with H2Client(origin.port) as client:
            assert client.ask(path="/reset").reset == 7
            answer = client.ask()
            assert (answer.status, answer.parts, len(answer.interim)) == (204, ["head", "end"], 1)
            assert client.goaways == [(3, 0)]
            client.read_to_end()
        assert origin.wait_for_ending() == "eof", "and it waits for the client to leave"


def test_an_answer_before_the_body() -> None:
    with H2Origin(respond(413), is_early=True, max_streams=7) as origin, H2Client(origin.port) as client:
        stream_id = client.begin("POST", end=False)
        assert client.wait_for_head(stream_id).status == 413
        client.read_until(lambda: client.peer_settings.get(MAX_CONCURRENT_STREAMS) == 7, "the limit")
