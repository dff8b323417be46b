"""What the tests' local web servers share."""

from http.server import BaseHTTPRequestHandler


class QuietHandler(BaseHTTPRequestHandler):
    """Answers HEAD and GET by one method, `answer(send_body=...)`, and logs nothing."""

    def log_message(self, *arguments):
        pass

    def do_HEAD(self):
        self.answer(send_body=False)

    def do_GET(self):
        self.answer(send_body=True)

    def answer(self, *, send_body: bool) -> None:
        raise NotImplementedError
