"""In a pod: asks an endpoint all the time, from its first answer on.

It ends once the file /tmp/stop is there and the endpoint has answered again since.

Short requests begin at a constant pace, each on a connection of its own, whatever became of those
before. Beside them one long answer after the other is streamed, so that some stream is always under
way. The first answer, which a NetworkPolicy may delay for a new pod, writes /tmp/answered.

given.json: url (…/v1), model, key, period (seconds between short requests), tokens (of a stream),
limit (seconds that one request may take).
Result: requests and streams, how many were begun; failed, those that got no answer, and broken, the
streams that began and did not end as they should, each [when it was begun, what went wrong]; gap,
[when, when]: the two answers to short requests that are farthest apart. Times are in seconds since
the first answer.
"""

import http.client
import itertools
import json
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any

WRONG = (OSError, http.client.HTTPException, ValueError, LookupError)
STOP, ANSWERED = Path("/tmp/stop"), Path("/tmp/answered")


class Load:
    """The requests of one endpoint, and what became of them."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.address = urllib.parse.urlsplit(given["url"])
        self.began = time.monotonic()
        self.requests = self.streams = 0
        self.failed: list[tuple[float, str]] = []
        self.broken: list[tuple[float, str]] = []
        self.answered: list[float] = []
        self.stopped = 0.0

    def now(self) -> float:
        return round(time.monotonic() - self.began, 2)

    def begin(self, body: dict[str, Any]) -> http.client.HTTPResponse:
        """Send a chat request on a new connection. Raises OSError, HTTPException."""
        host, port = str(self.address.hostname), self.address.port
        connection = http.client.HTTPConnection(host, port, timeout=self.given["limit"])
        headers = {
            "Content-Type": "application/json",
            "Authorization": f"Bearer {self.given['key']}",
        }
        asked = {"model": self.given["model"], "temperature": 0, **body}
        path = f"{self.address.path}/chat/completions"
        connection.request("POST", path, body=json.dumps(asked), headers=headers)
        answer = connection.getresponse()
        if answer.status != http.client.OK:
            raise http.client.HTTPException(f"{answer.status}: {answer.read(300)!r}")
        return answer

    def short(self) -> None:
        """Make one short request."""
        at = self.now()
        try:
            messages = [{"role": "user", "content": "What is the Debian package tmux?"}]
            document = json.load(self.begin({"messages": messages, "max_tokens": 2}))
            if not document["choices"][0]["message"]["content"]:
                raise ValueError("an empty answer")
            self.answered.append(self.now())
        except WRONG as error:
            self.failed.append((at, f"{type(error).__name__}: {error}"))

    def stream(self) -> None:
        """Stream one long answer to its end."""
        at, tokens, lost = self.now(), self.given["tokens"], self.failed
        messages = [{"role": "user", "content": "Tell me all that you know about Debian."}]
        body = {"messages": messages, "max_tokens": tokens, "ignore_eos": True, "stream": True}
        body["stream_options"] = {"include_usage": True}
        try:
            answer = self.begin(body)
            lost = self.broken
            lines = [line.decode().strip() for line in answer]
            events = [line.removeprefix("data: ") for line in lines if line.startswith("data: ")]
            if events[-1] != "[DONE]":
                raise ValueError(f"the stream broke off after {len(events)} events")
            usage = json.loads(events[-2])["usage"]
            if usage["completion_tokens"] != tokens:
                raise ValueError(f"{usage['completion_tokens']} tokens instead of {tokens}")
        except WRONG as error:
            lost.append((at, f"{type(error).__name__}: {error}"))
            time.sleep(self.given["period"])

    def over(self) -> bool:
        """Tell whether it is time to end: an answer has come after the end was asked for."""
        if not STOP.exists():
            return False
        self.stopped = self.stopped or self.now()
        return self.answered[-1] > self.stopped or self.now() > self.stopped + self.given["limit"]

    def wait(self) -> None:
        """Wait for the first answer, and forget what was refused before it."""
        while not self.answered:
            self.short()
            time.sleep(0.2)
        self.began, self.answered, self.failed = time.monotonic(), [0.0], []
        ANSWERED.touch()

    def keep_streaming(self) -> None:
        """Stream until the end."""
        while not STOP.exists():
            self.streams += 1
            self.stream()

    def run(self) -> dict[str, Any]:
        """Ask until the end; return what became of it."""
        self.wait()
        threads = [threading.Thread(target=self.keep_streaming)]
        threads[0].start()
        while not self.over():
            self.requests += 1
            threads.append(threading.Thread(target=self.short))
            threads[-1].start()
            time.sleep(self.given["period"])
        for thread in threads:
            thread.join()
        moments = sorted(self.answered)
        pairs = itertools.pairwise(moments)
        return {
            "requests": self.requests,
            "failed": self.failed,
            "streams": self.streams,
            "broken": self.broken,
            "gap": max(pairs, key=lambda pair: pair[1] - pair[0], default=(0.0, 0.0)),
        }


def main() -> None:
    """Ask until told to stop."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("RESULT " + json.dumps(Load(given).run()))


main()
