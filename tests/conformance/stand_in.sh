#!/bin/sh
# The suite starts a client and waits for its end. Here the test is the client; this stands in for it: it leaves word of
# what the suite asks in the folder that it was started in, and ends when the test has answered.
printf '{"url":"%s","context":%s}\n' "$1" "${MCP_CONFORMANCE_CONTEXT:-null}" >asked.part
mv asked.part asked
until [ -e answered ]; do sleep 0.02; done
