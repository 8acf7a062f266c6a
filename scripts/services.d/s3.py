"""moto's S3 on a port of 127.0.0.1, or of the address that comes after it: one request after the other, so that the condition of a write is asked and kept in one step, as S3 does."""

import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

run_simple(sys.argv[2] if len(sys.argv) > 2 else "127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
