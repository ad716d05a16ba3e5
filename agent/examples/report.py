#!/usr/bin/env python3
"""Speaks to the agent of this robot. Needs nothing but Python.

    report.py '{"battery": {"percent": 80}}' '{"event": {"type": "custom.bumped"}}'
    report.py --follow state
    report.py --on-stop /opt/robot/torque-off

One connection, a line of JSON for each thing that is said, and one back. For root, the agent's own user and
members of its group (`usermod -aG lekiwi-agent NAME`). Where the socket is: $LEKIWI_SOCKET.
"""

import json
import os
import socket
import subprocess
import sys

SOCKET = os.environ.get("LEKIWI_SOCKET", "/run/lekiwi/agent.sock")


class Agent:
    """A connection to the agent, which closes it after five minutes of silence."""

    def __init__(self, path=SOCKET):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.connect(path)
        self.lines = self.socket.makefile(encoding="utf-8")

    def say(self, request):
        """Says one thing; returns the answer. Raises ValueError when the agent refuses it."""
        self.socket.sendall(json.dumps(request).encode() + b"\n")
        line = self.lines.readline()
        if not line:
            raise ConnectionError("the agent closed the connection")
        answer = json.loads(line)
        if "error" in answer:
            raise ValueError(answer["error"])
        return answer

    def follow(self, *topics):
        """Yields what the agent tells, such as {"state": …}. Whoever does not read is dropped."""
        self.say({"subscribe": topics})
        for line in self.lines:
            yield json.loads(line)

    def stops(self):
        """Yields the id of each emergency stop. Whoever stops something then says so with `confirm`."""
        for told in self.follow("control"):
            stop = told.get("control", {}).get("estop")
            if stop:
                yield stop["id"]

    def confirm(self, stop):
        """What this program drives stands still: counts within a second. The answer is among what is followed."""
        self.socket.sendall(json.dumps({"stopped": stop}).encode() + b"\n")


def main(arguments):
    agent = Agent()
    if arguments and arguments[0] == "--on-stop":
        program = arguments[1:]
        if not program:
            sys.exit("expected --on-stop PROGRAM [ARGUMENT…]")
        for stop in agent.stops():
            if subprocess.run(program).returncode == 0:
                agent.confirm(stop)
        raise ConnectionError("the agent has closed the connection")
    if arguments and arguments[0] == "--follow":
        for told in agent.follow(*arguments[1:]):
            print(json.dumps(told), flush=True)
        return
    for argument in arguments:
        print(json.dumps(agent.say(json.loads(argument))), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
