"""moto's S3 on a port of 127.0.0.1, or of the address that comes after it.

One request is answered after the other, so that the condition of a write is asked and kept in one step, as S3 does. Each is read whole before its turn
comes: a client that stops in the middle of a request holds up nobody."""

import io
import sys
import threading

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

moto, turn = DomainDispatcherApplication(create_backend_app), threading.Lock()


def application(environ, start_response):
    body = environ["wsgi.input"]
    whole = body.read() if environ.get("wsgi.input_terminated") else body.read(int(environ.get("CONTENT_LENGTH") or 0))
    environ["wsgi.input"] = io.BytesIO(whole)
    with turn:
        answer = moto(environ, start_response)
        try:
            parts = list(answer)
        finally:
            getattr(answer, "close", lambda: None)()
    return parts


run_simple(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1]), application, threaded=True)
