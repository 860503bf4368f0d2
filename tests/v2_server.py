"""A server of the Open Inference Protocol, answered by a function."""

import contextlib
import functools
import http.server
import json
import threading

from keras_lficam.serving import _open_inference


class V2Server:
    """Serves a model `digits` by V2 on 127.0.0.1.

    Args:
        inputs: Type and shape of each input by its name.
        answer: Makes outputs from inputs, both arrays by name; a ValueError
            is refused as a bad request.

    Attributes:
        requests: Body of each request that was sent.
    """

    def __init__(self, inputs, answer, outputs=()):
        self.inputs, self.answer, self.outputs = inputs, answer, outputs
        self.requests = []
        self.http = http.server.ThreadingHTTPServer(
            ("127.0.0.1", 0), functools.partial(_Handler, self)
        )
        threading.Thread(
            target=self.http.serve_forever, args=(0.05,), daemon=True
        ).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"


@contextlib.contextmanager
def serving(inputs, answer, outputs=()):
    server = V2Server(inputs, answer, outputs)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    def __init__(self, server, *arguments):
        self.model = server
        super().__init__(*arguments)

    def log_message(self, *arguments):
        pass

    def do_GET(self):  # noqa: N802
        if self.path == "/v2/models/digits/ready":
            return self._send(200, b"")  # As Triton does.
        if self.path != "/v2/models/digits":
            return self._send(404, b'{"error": "unknown model"}')
        inputs, outputs = (
            [
                {"name": name, "datatype": datatype, "shape": shape}
                for name, (datatype, shape) in tensors.items()
            ]
            for tensors in (self.model.inputs, dict(self.model.outputs))
        )
        self._send(200, json.dumps({"inputs": inputs, "outputs": outputs}))

    def do_POST(self):  # noqa: N802
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.model.requests.append((self.path, body))
        try:
            arrays = _open_inference.to_arrays(body["inputs"])
            answers = self.model.answer(arrays)
        except ValueError as error:
            return self._send(400, json.dumps({"error": str(error)}))
        outputs = _open_inference.to_tensors(answers, {})
        self._send(200, json.dumps({"outputs": outputs}))

    def _send(self, code, content):
        content = content if isinstance(content, bytes) else content.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
