#!/bin/sh
# HAProxy that ends with the process that started it: left alone after a kill it would keep the service's port.
exec setpriv --pdeathsig KILL "$NASHLOOP_HAPROXY" "$@"
