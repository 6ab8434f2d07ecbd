"""Embedders: the bundled model's sense of likeness, and a distrustful client for an endpoint."""

import asyncio
import subprocess
import sys

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from cluster.config import Config
from cluster.embedding_client import TEXTS_PER_REQUEST, OpenAIEmbedder, make_embedder
from cluster.errors import BadRequest, DeadlineExceeded, Unavailable
from storage.embedding import BundledEmbedder, NoEmbedding

KEY = "sk-very-secret"


@pytest.fixture(scope="module")
def bundled():
    """Return the bundled embedder; reading it takes a moment."""
    return BundledEmbedder()


def test_likeness(bundled):
    """What means the same is closer than what does not."""
    base, like, unlike = bundled.embed(
        [
            "the database migration failed because of a lock timeout",
            "schema upgrade did not finish, waiting for a table lock",
            "bake the cake for forty minutes with chocolate",
        ]
    )

    assert base @ like > 0.3 > base @ unlike


def test_vectors_are_unit_and_independent(bundled):
    """Each text has a unit float32 vector that does not depend on its company."""
    texts = ["one", "two words", "naïve café 漢字 😀", "x " * 5000]
    together = bundled.embed(texts)

    assert together.dtype == np.float32
    assert together.shape == (4, bundled.dimension) == (4, 256)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-6)
    for text, vector in zip(texts, together, strict=True):
        np.testing.assert_array_equal(bundled.embed([text])[0], vector)


def test_mean_of_tokens(bundled):
    """A text's vector is the mean of its tokens' vectors: their order and company do not count."""
    first, second = bundled.embed(["red green blue", "blue green red"])

    assert first @ second > 0.95
    assert bundled.embed([]).shape == (0, 256)


def test_texts_without_a_vector(bundled):
    """A text that has no tokens, or is no text, is refused."""
    with pytest.raises(NoEmbedding, match="text 1 has no tokens") as caught:
        bundled.embed(["good", ""])
    assert caught.value.position == 1
    with pytest.raises(ValueError, match="surrogate"):
        bundled.embed(["\ud800"])


def test_identity_is_stable(bundled):
    """The identity names the model's bytes: the same on every node and after every start."""
    known = "a2a5ee31a74b6567159a672021f54bb5d766684d13686944959987887c11df2c"

    assert BundledEmbedder().space == bundled.space == known


def test_wordllama_is_read_and_not_imported():
    """The wheel carries files; its code never runs, and nothing looks for the network."""
    script = (
        "import sys\n"
        "from storage.embedding import BundledEmbedder\n"
        "BundledEmbedder().embed(['text'])\n"
        "assert 'wordllama' not in sys.modules\n"
    )
    finished = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False)

    assert finished.returncode == 0, finished.stderr.decode()


class Endpoint:
    """A local endpoint that answers as it is told; counts what it was asked."""

    def __init__(self, dimension=4):
        self.url = ""
        self.dimension = dimension
        self.failures = []
        self.requests = []
        self.headers = []
        self.transform = lambda data: data

    async def handle(self, request):
        """Answer one request."""
        body = await request.json()
        self.requests.append(body)
        self.headers.append(request.headers)
        if self.failures:
            failure = self.failures.pop(0)
            if failure == "hang":
                await asyncio.Event().wait()
            if failure == "close":
                request.transport.close()
            status, headers = failure
            return web.Response(status=status, headers=headers, text=KEY)
        data = [
            {"object": "embedding", "index": n, "embedding": self.vector(text)}
            for n, text in enumerate(body["input"])
        ]
        return web.json_response({"data": self.transform(data), "usage": {}})

    def vector(self, text):
        """Return a vector that is not normalised."""
        return [float(len(text)), 3.0, *[0.0] * (self.dimension - 2)]


@pytest.fixture
async def endpoint():
    """Serve an endpoint at `endpoint.url`."""
    served = Endpoint()
    app = web.Application()
    app.router.add_post("/v1/embeddings", served.handle)
    async with TestServer(app, shutdown_timeout=0.1) as server:
        served.url = str(server.make_url("/v1/embeddings"))
        yield served


def client(endpoint, **options):
    """Return an embedder for an endpoint."""
    return OpenAIEmbedder(
        endpoint.url, model="some-model", dimension=4, api_key=KEY, pause_s=0.001, **options
    )


async def test_endpoint_vectors_are_normalised(endpoint):
    """Vectors come back in the order of the texts, as unit float32."""
    endpoint.transform = lambda data: data[::-1]

    vectors = await client(endpoint).embed(["four", "", "12"])

    assert vectors.dtype == np.float32
    expected = np.array([[4.0, 3.0], [0.0, 3.0], [2.0, 3.0]])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(vectors[:, :2], expected, rtol=1e-6)
    assert endpoint.requests == [
        {"model": "some-model", "input": ["four", "", "12"], "encoding_format": "float"}
    ]
    assert endpoint.headers[0]["Authorization"] == f"Bearer {KEY}"


async def test_many_texts_are_sent_in_batches(endpoint):
    """No request has more texts than endpoints accept; no text, no request."""
    embedder = client(endpoint)
    texts = [str(n) for n in range(2 * TEXTS_PER_REQUEST + 3)]

    assert (await embedder.embed(texts)).shape == (len(texts), 4)
    assert [len(body["input"]) for body in endpoint.requests] == [128, 128, 3]
    assert (await embedder.embed([])).shape == (0, 4)
    assert len(endpoint.requests) == 3


async def test_passing_failures_are_tried_again(endpoint):
    """429, 5xx and a closed connection are tried again."""
    endpoint.failures = [(429, {"Retry-After": "0.01"}), "close", (503, {"Retry-After": "soon"})]

    assert (await client(endpoint).embed(["four"])).shape == (1, 4)
    assert len(endpoint.requests) == 4


@pytest.mark.parametrize(
    ("failures", "error"),
    [
        ([(500, {})] * 4, Unavailable),
        (["close"] * 4, Unavailable),
        ([(400, {})], BadRequest),
        ([(401, {})], Unavailable),
        ([(302, {"Location": "http://127.0.0.1:1/"})], Unavailable),
        (["hang"], DeadlineExceeded),
        ([(429, {"Retry-After": "1e9"})] * 4, DeadlineExceeded),
    ],
)
async def test_lasting_failures(endpoint, failures, error, caplog):
    """What does not pass becomes one of our errors, in time, and the key is nowhere in it."""
    endpoint.failures = list(failures)

    with pytest.raises(error) as caught:
        await client(endpoint, timeout_s=20 if error is Unavailable else 0.3).embed(["four"])

    assert KEY not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text}"


async def test_unreachable_endpoint():
    """Nobody there is an error that can be tried again later."""
    url = "http://127.0.0.1:1/v1/embeddings"
    embedder = OpenAIEmbedder(url, model="m", dimension=4, pause_s=0.001)

    with pytest.raises(Unavailable, match="cannot be reached"):
        await embedder.embed(["four"])


@pytest.mark.parametrize(
    "transform",
    [
        lambda data: data[:-1],
        lambda data: [data[0], data[0]],
        lambda data: [*data, data[0]],
        lambda data: [{**item, "index": item["index"] + 1} for item in data],
        lambda data: [{**item, "embedding": item["embedding"][:-1]} for item in data],
        lambda data: [{**item, "embedding": [0.0] * 4} for item in data],
        lambda data: [{**item, "embedding": [1e308] * 4} for item in data],
        lambda data: [{**item, "embedding": ["1", 2, 3, 4]} for item in data],
        lambda data: [{**item, "embedding": None} for item in data],
        lambda data: "no list",
        lambda data: [{**item, "padding": "x" * 100_000} for item in data],
    ],
)
async def test_answers_are_checked(endpoint, transform):
    """An answer that is not one finite vector of the right length for each text is refused."""
    endpoint.transform = transform

    with pytest.raises(Unavailable):
        await client(endpoint).embed(["one", "two"])


def test_identity_of_an_endpoint():
    """The space is the model's and dimension's, wherever it is served, whoever asks."""
    spaces = {
        OpenAIEmbedder(url, model=model, dimension=dimension, api_key=key).space
        for url in ("http://a", "http://b")
        for key in ("", KEY)
        for model, dimension in (("m", 4), ("n", 4), ("m", 5))
    }

    assert len(spaces) == 3
    assert KEY not in repr(OpenAIEmbedder("http://a", model="m", dimension=4, api_key=KEY))


def test_settings_choose_the_embedder():
    """Without an endpoint the bundled model serves; an endpoint needs a dimension."""
    assert isinstance(make_embedder(Config()), BundledEmbedder)
    chosen = make_embedder(
        Config(embedding_url="http://127.0.0.1:1", embedding_model="m", embedding_dimension=8)
    )
    assert isinstance(chosen, OpenAIEmbedder)
    assert chosen.dimension == 8
    with pytest.raises(ValueError, match="embedding_dimension"):
        make_embedder(Config(embedding_url="http://127.0.0.1:1"))
