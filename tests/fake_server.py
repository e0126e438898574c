"""A local server of chat completions that answers, and fails in every way we know of."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

AT_ONCE = {"retry-after-ms": "1"}
"""Spares the tests the client's own waits."""


def text_answer(content="Done: t1", **choice):
    return {
        "choices": [{"message": {"content": content}, "finish_reason": "stop"} | choice],
        "usage": {"prompt_tokens": 30, "completion_tokens": 5},
    }


def call_answer(*calls):
    functions = [{"name": name, "arguments": arguments} for name, arguments in calls]
    message = {"content": "I look.", "tool_calls": [{"function": f} for f in functions]}
    return text_answer(message=message, finish_reason="tool_calls")


class ChatServer(ThreadingHTTPServer):
    """Answers chat completions; `faults` are used up first, one a request."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}/v1"
        self.faults = []
        """Each a function of the handler."""
        self.faults_of = {}
        """Likewise, by the model that is asked."""
        self.answer = lambda body: text_answer()
        self.requests, self.answered, self.times, self.keys = [], [], [], []
        self.most_at_once = self.now = 0
        self.lock = threading.Lock()
        self.released = threading.Event()

    def handle_error(self, request, client_address):
        pass  # clients that hang up are what is tested


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # 40 ms a request otherwise

    def log_message(self, *args):
        pass

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server
        with server.lock:
            server.requests.append(body)
            server.times.append(time.monotonic())
            server.keys.append(self.headers["authorization"])
            server.now += 1
            server.most_at_once = max(server.most_at_once, server.now)
            faults = server.faults_of.get(body["model"]) or server.faults
            fault = faults.pop(0) if faults else None
        try:
            if self.path != "/v1/chat/completions":
                fault = status(404)
            if fault is not None:
                fault(self)
                return
            answer = json.dumps(server.answer(body))
            with server.lock:
                server.answered.append(json.dumps(body))
        finally:
            with server.lock:
                server.now -= 1
        self.say(200, answer)

    def say(self, code, text, headers=()):
        data = text.encode()
        self.send_response(code)
        for name, value in {"content-length": str(len(data)), **dict(headers)}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)


def status(code, headers=AT_ONCE, text="no"):
    return lambda handler: handler.say(code, text, headers)


def body(text):
    return lambda handler: handler.say(200, text)


def slow(handler):
    handler.server.released.wait(20)
    handler.close_connection = True


def cut(handler):
    """Ends the connection in the middle of the answer."""
    handler.say(200, '{"choices": [{"mess', {"content-length": "1000"})
    handler.close_connection = True


def hang_up(handler):
    handler.close_connection = True


def echo_key(handler):
    handler.say(401, f"wrong key {handler.headers['authorization']}", {})


def judge_answer(**likely):
    """One token, with the log-probabilities of those that are named."""
    listed = [{"token": token, "logprob": logprob} for token, logprob in likely.items()]
    first = max(listed, key=lambda token: token["logprob"])
    logprobs = {"content": [first | {"top_logprobs": listed}]}
    return text_answer(first["token"], finish_reason="length", logprobs=logprobs) | {
        "usage": {"prompt_tokens": 200, "completion_tokens": 1}
    }
