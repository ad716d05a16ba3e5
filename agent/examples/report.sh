#!/bin/sh
# What a robot's scripts may tell its agent. For root, the agent's own user and members of its group
# (`usermod -aG lekiwi-agent NAME`). Without this program a line of JSON does the same:
#   echo '{"battery":{"percent":80}}' | socat - UNIX:/run/lekiwi/agent.sock
# What must stop with the robot keeps a connection open: `report.py --on-stop PROGRAM` runs the program and confirms.
set -eu
agent=${LEKIWI_AGENT:-lekiwi-agent}

"$agent" report battery 80 --volts 11.8 --charging false
"$agent" report mode manual
"$agent" report operator alice
"$agent" report metric custom.gripper_n -3.5
# Events are kept until the relay has them, whatever happens; their number is printed.
"$agent" report event custom.bumped '{"x": 1}'
# Nobody drives any more.
"$agent" report operator
"$agent" report mode automatic
