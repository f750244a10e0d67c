"""Run in a pod: ask the names of a shared endpoint, and report every answer.

A request starts at a constant interval, or whenever one of a number of callers is free. The answers
of every second turn are streamed. The script first waits until a name answers, and then writes
/tmp/answered. It ends after a number of seconds, or when the file /tmp/stop exists.

given.json: url (…/v1), body (of a request, without the model), names (asked in turn), limit
(timeout of a request in seconds), seconds (None: until /tmp/stop exists), and either callers or
period (seconds between the starts of requests).

Result: texts, and answers as [name, start, end, number of the text, error]. After an error, the
number is None. Times are those of the system clock.
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
Answer = tuple[str, float, float, str | None, str]


class Asking:
    """The requests to the endpoint, and their answers."""

    def __init__(self, given: dict[str, Any]) -> None:
        self.given = given
        self.address = urllib.parse.urlsplit(given["url"])
        self.turns = itertools.count()
        self.answers: list[Answer] = []
        self.end = float("inf")

    def run(self) -> dict[str, Any]:
        """Ask until the end; return the result."""
        while self.ask()[3] is None:
            time.sleep(0.2)
        ANSWERED.touch()
        self.end = time.time() + (self.given["seconds"] or float("inf"))
        threads = []
        if callers := self.given.get("callers"):
            threads = [threading.Thread(target=self.keep_asking) for _ in range(callers)]
            for thread in threads:
                thread.start()
        else:
            begin = time.time()
            for number in itertools.count(1):
                if self.is_over():
                    break
                threads.append(threading.Thread(target=self.take_turn))
                threads[-1].start()
                time.sleep(max(0.0, begin + number * self.given["period"] - time.time()))
        for thread in threads:
            thread.join()
        texts = sorted({text for _, _, _, text, _ in self.answers if text is not None})
        numbers = {text: number for number, text in enumerate(texts)}
        answers = [
            (name, start, end, None if text is None else numbers[text], error)
            for name, start, end, text, error in self.answers
        ]
        return {"texts": texts, "answers": answers}

    def is_over(self) -> bool:
        """Report whether no further request shall start."""
        return STOP.exists() or time.time() > self.end

    def keep_asking(self) -> None:
        """Send one request after another."""
        while not self.is_over():
            self.take_turn()

    def take_turn(self) -> None:
        """Ask the next name."""
        self.answers.append(self.ask())

    def ask(self) -> Answer:
        """Send the next request on a new connection, and return its whole answer."""
        names = self.given["names"]
        turn, position = divmod(next(self.turns), len(names))
        name, streamed, start = names[position], turn % 2 == 1, time.time()
        try:
            text, error = self.text(name, streamed), ""
        except WRONG as failure:
            text, error = None, f"{type(failure).__name__}: {failure}"
        return name, start, time.time(), text, error

    def text(self, name: str, streamed: bool) -> str:
        """Return the text of an answer. Raises one of WRONG."""
        connection = http.client.HTTPConnection(
            str(self.address.hostname), self.address.port, timeout=self.given["limit"]
        )
        try:
            body = {**self.given["body"], "model": name, "stream": streamed}
            headers = {"Content-Type": "application/json"}
            path = f"{self.address.path}/chat/completions"
            connection.request("POST", path, body=json.dumps(body), headers=headers)
            response = connection.getresponse()
            content = response.read().decode()
        finally:
            connection.close()
        if response.status != http.client.OK:
            raise http.client.HTTPException(f"{response.status}: {content[:300]}")
        if not streamed:
            return str(json.loads(content)["choices"][0]["message"]["content"])
        lines = [line for line in content.splitlines() if line.startswith("data: ")]
        if lines[-1] != "data: [DONE]":
            raise ValueError(f"the stream broke off after {len(lines)} events")
        events = [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]
        deltas = [choice["delta"] for event in events for choice in event["choices"]]
        return "".join(delta.get("content") or "" for delta in deltas)


def main() -> None:
    """Ask, and print the result."""
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    print("RESULT " + json.dumps(Asking(given).run()))


main()
