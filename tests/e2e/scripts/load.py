"""Run in a pod: put constant load on an endpoint.

The load starts after the first answer, which a NetworkPolicy can delay for a new pod; the script
then writes /tmp/answered. The load ends when the file /tmp/stop exists and the endpoint has
answered once after that.

Short requests start at a constant interval, each on a new connection. At the same time, one long
answer after another is streamed, so that a stream is always open.

given.json: url (…/v1), model, key, period (seconds between short requests), tokens (of a stream),
limit (timeout of a request in seconds).

Result: requests and streams (numbers of started ones); failed (requests without an answer) and
broken (streams that ended early), each as [start time, error]; gap ([time, time] of the two
consecutive answers to short requests with the longest interval). Times are in seconds since the
first answer.
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
    """The requests to one endpoint, and their outcomes."""

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
        """Send one short request."""
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
        """Stream one long answer to the end."""
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
        """Report whether the load can end: the endpoint has answered after the stop request."""
        if not STOP.exists():
            return False
        self.stopped = self.stopped or self.now()
        return self.answered[-1] > self.stopped or self.now() > self.stopped + self.given["limit"]

    def wait(self) -> None:
        """Wait for the first answer, and discard earlier failures."""
        while not self.answered:
            self.short()
            time.sleep(0.2)
        self.began, self.answered, self.failed = time.monotonic(), [0.0], []
        ANSWERED.touch()

    def keep_streaming(self) -> None:
        """Stream answers until the stop is requested."""
        while not STOP.exists():
            self.streams += 1
            self.stream()

    def run(self) -> dict[str, Any]:
        """Run the load until its end; return the result."""
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
    """Run the load and print the result."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("RESULT " + json.dumps(Load(given).run()))


main()
