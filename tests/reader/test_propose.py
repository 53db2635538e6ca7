"""Goals that a language model proposes: asked here and behind an address, read, checked, counted."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from checkpoints import write_checkpoint
from kalm.cli.main import app
from kalm.data.goal_files import read_goals
from kalm.envs import make
from kalm.errors import KalmError
from kalm.reader.propose import propose_goals, sentences
from kalm.reader.reader import load_reader
from kalm.reader.writers import load_writer

LINES = [
    "1. Put the red ball on the far side of the green one.",
    '2) "Push the red ball behind the blue ball."',
    "- Get the cyan ball next to the purple ball, on its left!",
    "* get the CYAN ball next to the purple ball, on its left",
    "Here are more instructions:",
    "Yes.",
    "Once upon a time there were balls. " * 60,
]


class Server(BaseHTTPRequestHandler):
    """Answers as an OpenAI-compatible server does."""

    asked: list[dict] = []
    code, content = 200, "\n".join(LINES)

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.asked.append({**asked, "path": self.path, "key": self.headers.get("Authorization")})
        self.send_response(self.code)
        self.end_headers()
        said = self.content if self.code != 200 else json.dumps(
            {"choices": [{"message": {"role": "assistant", "content": self.content}}]}
        )  # fmt: skip
        self.wfile.write(said.encode())

    def log_message(self, *_):
        pass


@pytest.fixture
def address():
    Server.asked, Server.code, Server.content = [], 200, "\n".join(LINES)
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1"
    server.shutdown()


def test_lines_of_a_reply():
    assert sentences("\n".join(LINES)) == [
        "Put the red ball on the far side of the green one.",
        "Push the red ball behind the blue ball.",
        "Get the cyan ball next to the purple ball, on its left!",
        "get the CYAN ball next to the purple ball, on its left",
    ]


def test_a_served_model_is_asked_and_all_it_wrote_is_counted(address, sure_reader, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    world = make("clevr")
    found = propose_goals(load_writer(address, served="m"), load_reader(sure_reader), world, 5, 0)
    first = Server.asked[0]
    assert (first["path"], first["model"], first["key"]) == ("/v1/chat/completions", "m", "Bearer secret")
    assert "five balls" in first["messages"][-1]["content"]
    rounds = len(Server.asked)
    assert found.counts["written"] == 4 * rounds
    assert found.counts["in_training"] == rounds
    assert 1 <= len(found.instructions) <= 2  # however often it is asked, it says the same two
    for instruction in found.instructions:
        assert instruction.level == ("rephrase" if instruction.goal.kind == "relation" else "hard")
        assert world.parse_goal(instruction.goal.to_json()) == instruction.goal
    assert 0 <= found.expected_right <= 1


def test_servers_that_refuse_or_say_something_else(address):
    writer = load_writer(address, served="m")
    Server.code, Server.content = 401, "no key"
    with pytest.raises(KalmError, match="401.*no key"):
        writer.reply([{"role": "user", "content": "x"}], 0)
    with pytest.raises(KalmError, match="--lm-model"):
        load_writer(address)
    with pytest.raises(KalmError, match="cannot be asked"):
        load_writer("http://127.0.0.1:9/v1", served="m").reply([{"role": "user", "content": "x"}], 0)


def test_a_model_that_writes_nothing_of_use(address, sure_reader):
    Server.content = "I cannot help with that."[:9]
    with pytest.raises(KalmError, match="could be used"):
        propose_goals(load_writer(address, served="m"), load_reader(sure_reader), make("clevr"), 5, 0)


def test_a_model_that_runs_here_writes_the_same_with_the_same_seed(tmp_path):
    folder = write_checkpoint("llama", tmp_path)
    with pytest.raises(KalmError, match="chat template"):
        load_writer(str(folder))
    (folder / "chat_template.jinja").write_text(
        "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
    )
    writer = load_writer(str(folder))
    talk = [{"role": "user", "content": "hello"}]
    assert writer.reply(talk, 1) == writer.reply(talk, 1) != writer.reply(talk, 2)


def test_the_command_writes_a_goal_file(address, sure_reader, tmp_path):
    from typer.testing import CliRunner

    out = tmp_path / "goals.jsonl"
    arguments = ["goals", "propose", "--lm", address, "--lm-model", "m", "--count", "1", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--set", f"reader={sure_reader}", "--json"])
    assert done.exit_code == 0, done.output
    assert len(read_goals(out, make("clevr").parse_goal)) == 1
    assert json.loads(done.stdout[done.stdout.index("{") :])["kept"] == 1
