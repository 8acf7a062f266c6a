"""moto's S3 on a port of 127.0.0.1: one request after the other, so that the condition of a write is asked and kept in one step, as S3 does."""

import sys

from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import run_simple

run_simple("127.0.0.1", int(sys.argv[1]), DomainDispatcherApplication(create_backend_app), threaded=False)
